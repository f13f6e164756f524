"""Runs of TRL's trainers that end in the middle, as when killed, and that go on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.language_model import LanguageModel
from pipeline.trainer_run import Run


class KilledError(Exception):
    pass


def make_run(folder: Path, seed: int = 0, key: str = "key") -> Run:
    folder.mkdir(exist_ok=True)
    return Run(folder / "checkpoints", key, folder / "metrics.jsonl", seed=seed, bf16=False)


def train_until(
    last_step: int | None, run: Run, train: Callable[..., LanguageModel]
) -> tuple[LanguageModel | None, list[int], list[dict[str, Any]]]:
    """The model (None if killed after ``last_step``), the steps run, and what was logged.

    ``train`` is called with ``on_metrics`` and ``on_step``.
    """
    if not run.checkpoints.exists() or last_step is None:
        run.log.unlink(missing_ok=True)  # a stage starts in an empty folder
    steps: list[int] = []

    def on_step(step: int) -> None:
        steps.append(step)
        if step == last_step:
            raise KilledError

    def on_metrics(step: int, values: dict[str, float]) -> None:
        with run.log.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    model = None
    with contextlib.suppress(KilledError):
        model = train(on_metrics=on_metrics, on_step=on_step)
    lines = run.log.read_text().splitlines() if run.log.exists() else []
    return model, steps, [json.loads(line) for line in lines]


def same(ours: LanguageModel | None, theirs: LanguageModel | None) -> bool:
    """Whether both were trained to the end, and have the same weights, bit for bit."""
    assert ours is not None
    assert theirs is not None
    weights = theirs.state_dict()
    return all(torch.equal(weight, weights[name]) for name, weight in ours.state_dict().items())
