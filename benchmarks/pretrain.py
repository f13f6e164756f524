"""How fast pretraining is, against ``transformers.Trainer``, and how soon the base learns to copy.

    python -m benchmarks.pretrain
    python -m benchmarks.pretrain --quick

First the quickstart's base in size (on a GPU also GPT-2's 124M) is trained for a few steps by our
loop, with Muon and AdamW, and by ``GPT2LMHeadModel`` under ``transformers.Trainer`` with AdamW:
same size, batch and precision, random rows, in turns. Then the stage pretrain makes the base of a
quickstart, asked every 25 steps whether it copies names from titles; the seconds until it does in
60% of the probes are those of the training steps at their median speed, without the asking. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator

from pipeline.config import RunConfig
from pipeline.config_file import load_config
from pipeline.flops import peak_flops, synchronize, training_flops_per_token
from pipeline.model import GPT, GPTConfig
from pipeline.precision import autocast_of, forget_accelerate, precision_of
from pipeline.pretraining import next_token_loss
from pipeline.training import Schedule, fit, make_optimizers
from stages.cli import run_folder_of
from stages.run import run_chain

CONFIG = Path(__file__).parent.parent / "configs" / "quickstart.yaml"
ROUNDS, STEPS, WARM_UP = 5, 12, 2
PROBED = 0.6
FULL = (
    "name=benchmark-pretrain",
    "seed=1000",
    "pretrain.evaluate_every_steps=25",
    "data.heldout_document_fraction=0.01",  # measured at every probe
)
QUICK = (
    "name=benchmark-pretrain-quick",
    "data.tinyworld.documents=300",
    "pretrain.steps=50",
    "pretrain.evaluate_every_steps=20",
    "pretrain.copy_probe_minimum=null",
)


@dataclass(frozen=True)
class Case:
    """One comparison: a model's size and a batch of rows."""

    name: str
    config: GPTConfig
    rows: int
    row_tokens: int


def cases(quick: bool) -> list[Case]:
    """What is compared on this machine."""
    if quick:
        return [Case("tiny", GPTConfig(300, 32, 1, 2, 32), 4, 16)]
    listed = [Case("quickstart", GPTConfig(1024, 128, 4, 4, 192), 32, 72)]
    if torch.cuda.is_available():
        listed.append(Case("gpt2", GPTConfig(50257, 1024, 12, 12, 768), 16, 1024))
    return listed


def our_step_seconds(case: Case, ids: torch.Tensor, precision: str) -> list[float]:
    """The seconds of each step of our loop."""
    device = ids.device
    model = GPT(case.config).to(device)
    optimizers = make_optimizers(
        model, learning_rate=1e-3, muon_learning_rate=0.02, weight_decay=0.0
    )
    ends: list[float] = []

    def on_step(step: int, metrics: object) -> None:
        synchronize(device)
        ends.append(time.perf_counter())

    fit(
        Accelerator(cpu=device.type == "cpu"),
        model,
        optimizers,
        lambda step, part: (next_token_loss(model, ids), {}),
        schedule=Schedule(STEPS),
        max_grad_norm=1.0,
        autocast=autocast_of(device, precision),
        on_step=on_step,
    )
    return between(ends)


class Stopwatch(transformers.TrainerCallback):
    """Notes when each step of the trainer ends."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        synchronize(self.device)
        self.ends.append(time.perf_counter())


def trainer_step_seconds(case: Case, ids: torch.Tensor, precision: str) -> list[float]:
    """The seconds of each step of ``transformers.Trainer`` on the same rows."""
    size = case.config
    model_config = transformers.GPT2Config(
        vocab_size=size.vocab_size,
        n_positions=size.context_tokens,
        n_layer=size.layers,
        n_head=size.heads,
        n_embd=size.width,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    rows: Any = [{"input_ids": row[:-1], "labels": row[:-1]} for row in ids.cpu()] * STEPS
    watch = Stopwatch(ids.device)
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            max_steps=STEPS,
            per_device_train_batch_size=case.rows,
            bf16=precision == "bf16",
            use_cpu=ids.device.type == "cpu",
            max_grad_norm=1.0,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = transformers.Trainer(
            model=transformers.GPT2LMHeadModel(model_config),
            args=arguments,
            train_dataset=rows,
            callbacks=[watch],
        )
        trainer.train()
    return between(watch.ends)


def between(ends: Sequence[float]) -> list[float]:
    """The time from each end to the next, warm-up left out."""
    return [b - a for a, b in zip(ends[WARM_UP - 1 :], ends[WARM_UP:], strict=False)]


def compare(case: Case, rounds: int) -> dict[str, float]:
    """Tokens per second of both (medians over all rounds), their ratio, and our MFU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = precision_of(load_config(CONFIG), device)
    ids = torch.randint(0, case.config.vocab_size, (case.rows, case.row_tokens + 1), device=device)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        forget_accelerate()
        ours += our_step_seconds(case, ids, precision)
        forget_accelerate()
        theirs += trainer_step_seconds(case, ids, precision)
    tokens = case.rows * case.row_tokens
    seconds, peer = statistics.median(ours), statistics.median(theirs)
    flops = tokens * training_flops_per_token(case.config, case.row_tokens)
    return {
        "tokens_per_second": tokens / seconds,
        "trainer_tokens_per_second": tokens / peer,
        "ratio_vs_trainer": peer / seconds,
        "mfu": flops / seconds / peak_flops(device, precision)[0],
    }


def copy_probe(config: RunConfig) -> tuple[float, int, float]:
    """When the stage's base first copies in 60% of the probes: training seconds, steps, accuracy.

    If it never does, the figures are those of its last step.
    """
    section = config.pretrain
    assert section is not None, "the quickstart pretrains its base"
    run_chain(config, run_folder_of(config), last="pretrain", say=lambda line: None)
    lines = (run_folder_of(config) / "base" / "metrics.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    speed = statistics.median(r["tokens_per_second"] for r in rows if "tokens_per_second" in r)
    probed = [row for row in rows if "copy_accuracy" in row]
    reached = next((row for row in probed if row["copy_accuracy"] >= PROBED), probed[-1])
    tokens = reached["step"] * section.batch_rows * section.row_tokens
    return tokens / speed, reached["step"], reached["copy_accuracy"]


def main() -> None:
    """Runs the comparisons and the probe, prints the table and the JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="show only that it runs")
    quick = parser.parse_args().quick
    result: dict[str, object] = {}
    print("| case | tokens/s | Trainer | ratio | MFU |")
    print("|---|---|---|---|---|")
    for case in cases(quick):
        figures = compare(case, 1 if quick else ROUNDS)
        speed, peer, ratio, mfu = figures.values()
        print(f"| {case.name} | {speed:,.0f} | {peer:,.0f} | {ratio:.2f} | {mfu:.0%} |", flush=True)
        suffix = "" if case.name in ("quickstart", "tiny") else f"_{case.name}"
        result |= {f"{name}{suffix}": value for name, value in figures.items()}
    seconds, steps, accuracy = copy_probe(load_config(CONFIG, QUICK if quick else FULL))
    print(f"\ncopies in {accuracy:.0%} of the probes after {steps} steps, {seconds:.0f} s")
    result |= {
        "copy_probe_seconds": seconds if accuracy >= PROBED else None,
        "copy_probe_steps": steps,
        "copy_accuracy": accuracy,
        "n": (1 if quick else ROUNDS) * (STEPS - WARM_UP),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
