"""Early stopping: which weights are kept, also when a killed run does some steps again."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.checkpoints import Checkpoints
from pipeline.early_stopping import is_best_yet, restore_best


def model_of(value: float) -> torch.nn.Linear:
    model = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(model.weight, value)
    return model


def test_the_first_of_the_least_losses_is_kept(tmp_path: Path) -> None:
    best = Checkpoints(tmp_path / "best", "key", log=None)
    losses = {10: 0.7, 20: 0.5, 30: 0.5, 40: float("nan")}
    decisions = [is_best_yet(best, step, loss, model_of(step)) for step, loss in losses.items()]
    assert decisions == [True, True, False, False]
    model = model_of(0)
    assert restore_best(best, model) == 20
    assert model.weight.item() == 20


def test_steps_done_again_decide_as_before(tmp_path: Path) -> None:
    best = Checkpoints(tmp_path / "best", "key", log=None)
    for again in range(2):
        assert is_best_yet(best, 10, 0.7, model_of(10)), again
        assert is_best_yet(best, 20, 0.5, model_of(20)), again
        assert not is_best_yet(best, 30, 0.6, model_of(30)), again
    assert restore_best(best, model_of(0)) == 20
    assert is_best_yet(Checkpoints(tmp_path / "best", "another run", None), 10, 9.0, model_of(1))
