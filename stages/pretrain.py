"""Pretrains the base from scratch: tokenizer, mixture, GPT.

    python -m stages.pretrain configs/quickstart.yaml
    accelerate launch -m stages.pretrain configs/quickstart.yaml

Reads data; writes base/: the model, its tokenizer, ``mixture.json`` (what each source gave) and
``pretraining.json`` (held-out loss, perplexity and bits per byte by source, copy accuracy, a
sample). Killed and started again, it goes on from its newest checkpoint.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config import PretrainSection, RunConfig
from pipeline.data import (
    TOKENS_CACHE,
    Cache,
    Rows,
    format_mixture,
    load_sources,
    mixture_schedule,
    mixture_table,
    tokenize_sources,
    trained_tokenizer,
)
from pipeline.errors import UserError
from pipeline.flops import Speedometer, peak_flops, training_flops_per_token
from pipeline.gpt2_format import save_gpt
from pipeline.model import GPT
from pipeline.planning import part_rows, size_of
from pipeline.pretraining import batch_of, evaluate, flat_metrics, next_token_loss
from pipeline.records import CopyProbe, read_rows
from pipeline.stage_context import StageContext, open_stage
from pipeline.training import Metrics, Schedule, fit, make_optimizers
from stages.cli import stage_main

VERSION = 2


def run(config: RunConfig, run_folder: Path) -> None:
    """Trains and publishes ``base/``.

    Raises:
        UserError: the corpus is unusable, or the base did not learn to copy (the copy probe).
    """
    section = config.pretrain
    assert section is not None, "the configuration imports its base"
    with open_stage("pretrain", config, run_folder) as stage:
        cache = Cache(run_folder / TOKENS_CACHE)
        sources = load_sources(stage.input("data"), stage.data_root)
        tokenizer = trained_tokenizer(sources, section.vocab_size, cache)
        tokenized = tokenize_sources(sources, tokenizer, section.row_tokens, cache)
        packed = [source.train.rows for source in tokenized]
        heldout = {
            source.name: source.heldout.rows for source in tokenized if source.heldout.documents
        }
        schedule = mixture_schedule(
            [len(rows) for rows in packed],
            [source.proportion for source in tokenized],
            section.steps * section.batch_rows,
            stage.seed,
        )
        write_mixture(stage, mixture_table(tokenized, schedule))

        model = GPT(size_of(section, tokenizer.vocab_size)).to(stage.device)
        probes = read_probes(stage)
        measure = functools.partial(
            evaluate, model, tokenizer, heldout, probes, section.row_tokens, stage.seed
        )
        train(stage, section, model, packed, schedule, measure)
        if not stage.is_leader:
            return
        results = measure()
        (stage.output / "pretraining.json").write_text(json.dumps(results, indent=2) + "\n")
        save_gpt(model, stage.output, tokenizer)
        check_copying(results.get("copy_accuracy"), section.copy_probe_minimum)
        cache.remove_unused()


def train(
    stage: StageContext,
    section: PretrainSection,
    model: GPT,
    packed: list[Rows],
    schedule: tuple[np.ndarray, np.ndarray],
    measure: Callable[[], dict[str, Any]],
) -> None:
    """The training steps: step i takes the i-th batch of rows of the mixture's schedule."""
    accelerator = stage.accelerator
    processes, process = accelerator.num_processes, accelerator.process_index
    rows = part_rows(section, processes)
    accumulation = section.batch_rows // (rows * processes)
    loss_of = torch.compile(next_token_loss) if section.compile else next_token_loss
    shared = accelerator.prepare_model(model)  # processes share their gradients

    def loss_at(step: int, part: int) -> tuple[torch.Tensor, Metrics]:
        index = (step * accumulation + part) * processes + process
        ids = batch_of(packed, schedule, index, rows).to(stage.device)
        return loss_of(shared, ids), {}

    optimizers = make_optimizers(
        model,
        learning_rate=section.learning_rate,
        muon_learning_rate=section.muon_learning_rate,
        weight_decay=section.weight_decay,
    )
    speed = Speedometer(
        section.batch_rows * section.row_tokens,
        training_flops_per_token(model.config, section.row_tokens),
        peak_flops(stage.device, stage.precision)[0] * processes,
    )
    with stage.progress(section.steps, "pretrain") as progress:

        def on_step(step: int, metrics: Metrics) -> None:
            progress.advance_to(step, loss=metrics["loss"], tokens=speed.tokens_per_step)
            if step % section.log_every_steps == 0 or step == section.steps:
                stage.log(step, **metrics, **speed.measure(step))
            due = section.evaluate_every_steps and step % section.evaluate_every_steps == 0
            if due and step < section.steps and stage.is_leader:
                results = measure()
                stage.log(step, **flat_metrics(results))
                progress.say(f"step {step}: {results['sample']!r}")
                model.train()

        fit(
            accelerator,
            shared,
            optimizers,
            loss_at,
            schedule=Schedule(
                section.steps, section.warmup_steps, section.final_learning_rate_fraction
            ),
            max_grad_norm=section.max_grad_norm,
            autocast=stage.autocast,
            on_step=on_step,
            accumulation=accumulation,
            checkpoints=stage.checkpoints,
            checkpoint_every_steps=section.checkpoint_every_steps,
        )


def read_probes(stage: StageContext) -> list[CopyProbe]:
    """The world's copy probes; none for text of another kind."""
    path = stage.input("data") / "copy_probes.jsonl"
    return read_rows(path, CopyProbe) if path.exists() else []


def write_mixture(stage: StageContext, table: list[dict[str, Any]]) -> None:
    """Stores the mixture table beside the model, and shows it."""
    text = json.dumps(table, indent=2) + "\n"
    (stage.output / "mixture.json").write_text(text, encoding="utf-8")
    if stage.is_leader:
        print(format_mixture(table))


def check_copying(accuracy: object, minimum: float | None) -> None:
    """Stops a run whose base cannot repeat a name from a title.

    Raises:
        UserError: the accuracy is below the configured minimum.
    """
    if minimum is None:
        return
    if not isinstance(accuracy, float):
        raise UserError(
            "pretrain.copy_probe_minimum",
            "is set, but the data has no copy probes.",
            "remove it, or use the embedded world.",
        )
    if accuracy < minimum:
        raise UserError(
            "pretrain",
            f"the base copies names from titles in {accuracy:.0%} of the probes, less than "
            f"copy_probe_minimum {minimum:.0%}, so fine-tuning would miss its prompts' subjects.",
            "raise pretrain.steps, or lower copy_probe_minimum to go on anyway.",
        )


if __name__ == "__main__":
    stage_main("pretrain")
