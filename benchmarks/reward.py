"""How fast the reward model trains, in prompts a second, against ``trl.RewardTrainer``.

    python -m benchmarks.reward
    python -m benchmarks.reward --quick

The model is the quickstart's base in size (on a GPU GPT-2's 124M), with random weights. Both train
on the same prompts, each with K ranked responses: ours runs each response once, TRL, which knows
pairs alone, each pair's two, so a response K − 1 times. Same batch of prompts, same precision,
AdamW, in turns. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import datasets
import torch
import transformers
import trl
from accelerate import Accelerator
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from benchmarks.pretrain import STEPS, Stopwatch, between
from pipeline.config_file import load_config
from pipeline.flops import synchronize
from pipeline.model import GPT, GPTConfig
from pipeline.precision import autocast_of, forget_accelerate, precision_of
from pipeline.reward import RewardModel
from pipeline.reward_batches import EncodedComparisons, collate
from pipeline.reward_files import save_reward_model
from pipeline.reward_loss import kwise_loss_sum
from pipeline.tokenizer import Tokenizer, train_tokenizer
from pipeline.training import Schedule, fit

CONFIG = Path(__file__).parent.parent / "configs" / "quickstart.yaml"
ROUNDS = 5
BATCH_PROMPTS = 8
PROMPT_TOKENS, RESPONSE_TOKENS = 20, (12, 44)
SIZES = {
    "tiny": GPTConfig(300, 64, 1, 2, 32),
    "quickstart": GPTConfig(1024, 128, 4, 4, 192),
    "gpt2": GPTConfig(50257, 1024, 12, 12, 768),
}


def make_batch(responses: int, vocab_size: int) -> list[EncodedComparisons]:
    """Prompts whose responses are ranked without ties: random ids, lengths as they are sampled."""
    generator = torch.Generator().manual_seed(responses)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(
            torch.randint(4, min(260, vocab_size), (length,), generator=generator).tolist()
        )

    def element() -> EncodedComparisons:
        prompt = ids(PROMPT_TOKENS)
        lengths = torch.randint(*RESPONSE_TOKENS, (responses,), generator=generator).tolist()
        rows = tuple(prompt + ids(length) for length in lengths)
        pairs = tuple((a, b) for a in range(responses) for b in range(a + 1, responses))
        return EncodedComparisons(rows, pairs)

    return [element() for _ in range(BATCH_PROMPTS)]


def our_step_seconds(
    model: RewardModel, elements: Sequence[EncodedComparisons], tokenizer: Tokenizer, precision: str
) -> list[float]:
    """The seconds of each step of our loop."""
    device = model.score.weight.device
    ends: list[float] = []

    def loss_at(step: int, part: int) -> tuple[torch.Tensor, dict[str, float]]:
        batch = collate(elements, tokenizer.pad_id).to(device)
        scores = model(batch.input_ids, batch.lengths)
        loss = kwise_loss_sum(scores, batch.pair_indices, batch.pair_weights)
        return loss / batch.prompt_count, {}

    def on_step(step: int, metrics: object) -> None:
        synchronize(device)
        ends.append(time.perf_counter())

    fit(
        Accelerator(cpu=device.type == "cpu"),
        model,
        [torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)],
        loss_at,
        schedule=Schedule(STEPS),
        max_grad_norm=1.0,
        autocast=autocast_of(device, precision),
        on_step=on_step,
    )
    return between(ends)


def trl_step_seconds(
    folder: Path, elements: Sequence[EncodedComparisons], tokenizer: Tokenizer, precision: str
) -> list[float]:
    """The seconds of each step of TRL's trainer, whose batch is all pairs of the same prompts."""
    gpu = torch.cuda.is_available()
    pairs = [
        {"chosen_ids": list(one.rows[better]), "rejected_ids": list(one.rows[worse])}
        for one in elements
        for better, worse in one.pairs
    ]
    watch = Stopwatch(torch.device("cuda" if gpu else "cpu"))
    with tempfile.TemporaryDirectory() as output, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        arguments = RewardConfig(
            output_dir=output,
            max_steps=STEPS,
            per_device_train_batch_size=len(pairs),
            learning_rate=1e-5,
            bf16=precision == "bf16",
            use_cpu=not gpu,
            max_grad_norm=1.0,
            gradient_checkpointing=False,  # TRL's default trades time for memory
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = RewardTrainer(
            model=transformers.AutoModelForSequenceClassification.from_pretrained(folder),
            args=arguments,
            train_dataset=datasets.Dataset.from_list(pairs * STEPS),
            processing_class=tokenizer.hf,
            callbacks=[watch],
        )
        trainer.train()
    return between(watch.ends)


def compare(responses: int, size: str, rounds: int) -> dict[str, float]:
    """Prompts per second of both (medians over all rounds' steps), and their ratio."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = precision_of(load_config(CONFIG), device)
    tokenizer = train_tokenizer(["the old fox and the owl"] * 3, 300)
    elements = make_batch(responses, SIZES[size].vocab_size)
    torch.manual_seed(0)
    model = RewardModel(GPT(SIZES[size])).to(device)
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        save_reward_model(model, folder, tokenizer)
        for _ in range(rounds):
            forget_accelerate()
            ours += our_step_seconds(model, elements, tokenizer, precision)
            forget_accelerate()
            theirs += trl_step_seconds(Path(folder), elements, tokenizer, precision)
    seconds, peer = statistics.median(ours), statistics.median(theirs)
    return {
        "prompts_per_second": BATCH_PROMPTS / seconds,
        "trl_prompts_per_second": BATCH_PROMPTS / peer,
        "ratio_vs_trl": peer / seconds,
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, object]:
    """Runs the comparisons, prints the table and the JSON line, and returns what it holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="show only that it runs")
    options = parser.parse_args(arguments)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rounds = 1 if options.quick else ROUNDS
    size = "tiny" if options.quick else "gpt2" if torch.cuda.is_available() else "quickstart"
    result: dict[str, object] = {}
    print("| responses | prompts/s | trl | ratio |")
    print("|---|---|---|---|")
    for responses in (4,) if options.quick else (4, 5, 9):
        figures = compare(responses, size, rounds)
        speed, peer, ratio = figures.values()
        print(f"| {responses} | {speed:,.1f} | {peer:,.1f} | {ratio:.2f} |")
        result |= {f"{name}_k{responses}": value for name, value in figures.items()}
    result |= {
        "n": rounds * (STEPS - 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "trl": trl.__version__,
    }
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
