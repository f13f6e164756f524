"""Pretrains the base from scratch: tokenizer, mixture, GPT.

    python -m stages.pretrain configs/quickstart.yaml
    accelerate launch -m stages.pretrain configs/quickstart.yaml

Reads data; writes base/: the model, its tokenizer, ``mixture.json`` (what each source gave) and
``pretraining.json`` (held-out loss and perplexity per source, copy accuracy, a sample).
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch

from pipeline.config import PretrainSection, RunConfig
from pipeline.data import (
    Rows,
    SourceTexts,
    load_sources,
    mixture_schedule,
    mixture_table,
    pack_rows,
)
from pipeline.errors import UserError
from pipeline.model import GPT, GPTConfig, save_gpt
from pipeline.pretraining import batch_of, copy_accuracy, heldout_loss, next_token_loss
from pipeline.records import CopyProbe, read_rows
from pipeline.sampling import SamplingSettings, generate, response_texts
from pipeline.stage_context import StageContext, open_stage
from pipeline.tokenizer import Tokenizer, train_tokenizer
from pipeline.training import Metrics, Schedule, fit, make_optimizers
from stages.cli import stage_main

VERSION = 1


def run(config: RunConfig, run_folder: Path) -> None:
    """Trains and publishes ``base/``.

    Raises:
        UserError: the corpus is unusable, or the base did not learn to copy (the copy probe).
    """
    section = config.pretrain
    assert section is not None, "the configuration imports its base"
    with open_stage("pretrain", config, run_folder) as stage:
        sources = load_sources(stage.input("data"), stage.data_root)
        tokenizer = train_tokenizer(
            (text for source in sources for text in source.train), section.vocab_size
        )
        packed = [pack_rows(source.train, tokenizer, section.row_tokens) for source in sources]
        heldout = {
            source.name: pack_rows(source.heldout, tokenizer, section.row_tokens)
            for source in sources
            if source.heldout
        }
        schedule = mixture_schedule(
            [len(rows) for rows in packed],
            [source.proportion for source in sources],
            section.steps * section.batch_rows,
            stage.seed,
        )
        write_mixture(stage.output, sources, packed, schedule[0])

        model = GPT(
            GPTConfig(
                tokenizer.vocab_size,
                section.context_tokens,
                section.layers,
                section.heads,
                section.width,
            )
        ).to(stage.device)
        train(stage, section, model, packed, schedule)
        results = evaluate(stage, section, model, tokenizer, heldout)
        (stage.output / "pretraining.json").write_text(json.dumps(results, indent=2) + "\n")
        save_gpt(model, stage.output, tokenizer)
        check_copying(results.get("copy_accuracy"), section.copy_probe_minimum)


def train(
    stage: StageContext,
    section: PretrainSection,
    model: GPT,
    packed: list[Rows],
    schedule: tuple[np.ndarray, np.ndarray],
) -> None:
    """The training steps: step i takes the i-th batch of rows of the mixture's schedule."""

    def loss_at(step: int) -> tuple[torch.Tensor, Metrics]:
        ids = batch_of(packed, schedule, step, section.batch_rows)
        return next_token_loss(model, ids.to(stage.device)), {}

    optimizers = make_optimizers(
        model,
        learning_rate=section.learning_rate,
        muon_learning_rate=section.muon_learning_rate,
        weight_decay=section.weight_decay,
    )
    with stage.progress(section.steps, "pretrain") as progress:

        def on_step(step: int, metrics: Metrics) -> None:
            progress.advance(loss=metrics["loss"], tokens=section.batch_rows * section.row_tokens)
            if step % section.log_every_steps == 0 or step == section.steps:
                stage.log(step, **metrics)

        fit(
            stage.accelerator,
            model,
            optimizers,
            loss_at,
            schedule=Schedule(
                section.steps, section.warmup_steps, section.final_learning_rate_fraction
            ),
            max_grad_norm=section.max_grad_norm,
            autocast=stage.autocast,
            on_step=on_step,
        )


def evaluate(
    stage: StageContext,
    section: PretrainSection,
    model: GPT,
    tokenizer: Tokenizer,
    heldout: dict[str, Rows],
) -> dict[str, object]:
    """Held-out loss and perplexity per source, copy accuracy where there are probes, a sample."""
    model.eval()
    losses = {name: heldout_loss(model, rows, section.batch_rows) for name, rows in heldout.items()}
    results: dict[str, object] = {
        "parameters": model.parameter_count(),
        "heldout_loss": losses,
        "heldout_perplexity": {name: math.exp(loss) for name, loss in losses.items()},
    }
    probes_path = stage.input("data") / "copy_probes.jsonl"
    if probes_path.exists():
        results["copy_accuracy"] = copy_accuracy(
            model, read_rows(probes_path, CopyProbe), tokenizer
        )
    settings = SamplingSettings(section.row_tokens - 1, temperature=0.8)
    sample = generate(model, [[tokenizer.eos_id]], [stage.seed], settings, tokenizer)
    results["sample"] = response_texts(sample, tokenizer)[0]
    return results


def write_mixture(
    folder: Path, sources: list[SourceTexts], packed: list[Rows], drawn: np.ndarray
) -> None:
    """Stores the mixture table beside the model."""
    used = [int((drawn == index).sum()) for index in range(len(sources))]
    table = mixture_table(sources, packed, used)
    (folder / "mixture.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


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
