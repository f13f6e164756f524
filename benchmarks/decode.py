"""How fast the sampler is, against ``generate`` of transformers and the memory's bandwidth.

    python -m benchmarks.decode
    python -m benchmarks.decode --quick

The model is the quickstart's base in size, with random weights; on a GPU also GPT-2's 124M. Both
samplers draw the same number of tokens (the end token is forbidden) from the same prompts of mixed
length at temperature 1, in turns, in the same precision, each in a process of its own: ours set up
as a stage is, the peer's as Python starts it. ``of_bandwidth`` is the share of the device's reading
speed that one pass over the weights and the keys and values for each step would take: the least
that decoding can do. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
import transformers

from pipeline.environment import keep_freed_memory
from pipeline.flops import parameter_count, synchronize
from pipeline.gpt2_format import save_gpt
from pipeline.model import GPT, GPTConfig
from pipeline.sampling import SamplingSettings, generate
from pipeline.tokenizer import Tokenizer, train_tokenizer

RUNS = 5
QUICKSTART = GPTConfig(vocab_size=1024, context_tokens=128, layers=4, heads=4, width=192)
GPT2 = GPTConfig(vocab_size=50257, context_tokens=1024, layers=12, heads=12, width=768)
TEXT = "the old fox and the owl sit by the mill near a river with a red lantern and sing"


@dataclass(frozen=True)
class Case:
    """One comparison: a model's size, rows in a batch, tokens in and out."""

    name: str
    config: GPTConfig
    rows: int
    prompt_tokens: tuple[int, int]  # shortest and longest
    response_tokens: int


def cases(quick: bool) -> list[Case]:
    """What is compared on this machine."""
    if quick:
        tiny = GPTConfig(vocab_size=300, context_tokens=32, layers=1, heads=2, width=32)
        return [Case("b4", tiny, 4, (3, 6), 8)]
    listed = [Case(f"b{rows}", QUICKSTART, rows, (16, 40), 56) for rows in (64, 128)]
    if torch.cuda.is_available():
        listed.append(Case("gpt2_b128", GPT2, 128, (64, 256), 256))
    return listed


def endless_tokenizer(vocab_size: int) -> Tokenizer:
    """A tokenizer whose end token is never drawn, so that every response has its full length."""
    tokenizer = train_tokenizer([TEXT] * 3, min(vocab_size, 300))
    tokenizer.eos_id = -1
    return tokenizer


def compare(case: Case, runs: int) -> dict[str, float]:
    """Tokens per second of both samplers (medians), their ratio, and the bandwidth's share."""
    seconds = in_turns(case, runs)
    tokens = case.rows * case.response_tokens
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "tokens_per_second": tokens / seconds["ours"],
        "generate_tokens_per_second": tokens / seconds["generate"],
        "ratio_vs_generate": seconds["generate"] / seconds["ours"],
        "of_bandwidth": least_seconds(case, device) / seconds["ours"],
    }


def in_turns(case: Case, runs: int) -> dict[str, float]:
    """The median seconds of each sampler, run in turns after one round that does not count."""
    context = multiprocessing.get_context("spawn")
    workers: dict[str, Connection] = {}
    for name in CONTESTANTS:
        workers[name], theirs = context.Pipe()
        context.Process(target=work, args=(name, case, theirs), daemon=True).start()
        theirs.close()
    times: dict[str, list[float]] = {name: [] for name in workers}
    for run in range(runs + 1):
        for name, worker in workers.items():
            worker.send("once more")
            seconds = worker.recv()
            if run:
                times[name].append(seconds)
    for worker in workers.values():
        worker.close()
    return {name: statistics.median(taken) for name, taken in times.items()}


def work(name: str, case: Case, caller: Connection) -> None:
    """A process that samples each time it is asked to, and answers with the seconds it took."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sample = CONTESTANTS[name](case, device)
    with suppress(EOFError):
        while caller.recv():
            synchronize(device)
            started = time.perf_counter()
            sample()
            synchronize(device)
            caller.send(time.perf_counter() - started)


def same_model(case: Case) -> tuple[GPT, Tokenizer, list[torch.Tensor]]:
    """The case's model, tokenizer and prompts: equal in every process."""
    torch.manual_seed(0)
    tokenizer = endless_tokenizer(case.config.vocab_size)
    model = GPT(case.config).eval()
    low, high = case.prompt_tokens
    lengths = [low + i * (high - low) // (case.rows - 1) for i in range(case.rows)]
    return model, tokenizer, [torch.randint(4, 260, (length,)) for length in lengths]


def our_sampler(case: Case, device: torch.device) -> Callable[[], None]:
    """This project's sampler, in a process set up as a stage's is."""
    keep_freed_memory()
    model, tokenizer, prompts = same_model(case)
    model = model.to(device)
    settings = SamplingSettings(case.response_tokens, batch_rows=case.rows)
    ids = [prompt.tolist() for prompt in prompts]

    def sample() -> None:
        drawn = generate(model, ids, list(range(case.rows)), settings, tokenizer)
        assert bool((drawn.lengths == case.response_tokens).all())

    return sample


def their_sampler(case: Case, device: torch.device) -> Callable[[], None]:
    """``generate`` of transformers, in a process as Python starts it."""
    model, tokenizer, prompts = same_model(case)
    theirs: Any = as_transformers(model, tokenizer)
    theirs.to(device).eval()
    batch, mask = left_padded(prompts, device)
    options = transformers.GenerationConfig(
        do_sample=True, top_k=0, top_p=1.0, temperature=1.0, pad_token_id=tokenizer.pad_id,
        eos_token_id=None, max_new_tokens=case.response_tokens,
        min_new_tokens=case.response_tokens, suppress_tokens=list(tokenizer.never_sampled_ids),
    )  # fmt: skip

    def sample() -> None:
        with torch.inference_mode():
            drawn = theirs.generate(batch, attention_mask=mask, generation_config=options)
        assert drawn.shape[1] == batch.shape[1] + case.response_tokens

    return sample


CONTESTANTS = {"ours": our_sampler, "generate": their_sampler}


def as_transformers(model: GPT, tokenizer: Tokenizer) -> Any:
    """The same weights as Hugging Face's class."""
    eos = tokenizer.eos_id
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.eos_id = 0
        save_gpt(model, folder, tokenizer)
        tokenizer.eos_id = eos
        return transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)


def left_padded(
    prompts: Sequence[torch.Tensor], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask (B, Q), as ``generate`` wants them."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def least_seconds(case: Case, device: torch.device) -> float:
    """The time to read, once a step, all weights and the keys and values so far."""
    weights = parameter_count(case.config) * 4  # bytes
    per_token = 2 * case.config.layers * case.config.width * 4  # bytes of a row's k and v
    mean_length = sum(case.prompt_tokens) / 2 + case.response_tokens / 2
    read = weights + case.rows * mean_length * per_token
    return case.response_tokens * read / read_speed(device)


def read_speed(device: torch.device) -> float:
    """Bytes per second that are read: the fastest of a few sums over 256 MB."""
    data = torch.ones(64 * 2**20, device=device)
    best = 0.0
    for _ in range(5):
        synchronize(device)
        started = time.perf_counter()
        data.sum()
        synchronize(device)
        best = max(best, data.numel() * 4 / (time.perf_counter() - started))
    return best


def main(arguments: Sequence[str] | None = None) -> dict[str, object]:
    """Runs the comparisons, prints the table and the JSON line, and returns what it holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="show only that it runs")
    parser.add_argument("--runs", type=int, default=RUNS)
    options = parser.parse_args(arguments)
    runs = 1 if options.quick else options.runs
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    result: dict[str, object] = {}
    print("| case | tokens/s | generate | ratio | of bandwidth |")
    print("|---|---|---|---|---|")
    for case in cases(options.quick):
        figures = compare(case, runs)
        speed, peer, ratio, bound = figures.values()
        print(f"| {case.name} | {speed:,.0f} | {peer:,.0f} | {ratio:.2f} | {bound:.0%} |")
        result |= {f"{name}_{case.name}": value for name, value in figures.items()}
    result |= {
        "n": runs,
        "precision": "fp32",
        "device": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
