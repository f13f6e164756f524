"""Stopping when held-out data say so: the weights that did best are kept on disk meanwhile.

What is decided at a step depends on the steps before it alone, so a killed run that goes on from an
earlier checkpoint decides as it did before.
"""

from __future__ import annotations

from torch import nn

from pipeline.checkpoints import Checkpoints


def is_best_yet(best: Checkpoints, step: int, loss: float, model: nn.Module) -> bool:
    """Whether ``loss`` is below that of every step before; if so, the weights are kept.

    Of equal losses the first is the best, and one that is no number is none.
    """
    kept = best.latest()
    if kept is not None and kept.step < step and not loss < kept.values["loss"]:
        return False
    best.save(step, model.state_dict(), {"loss": loss})
    return True


def restore_best(best: Checkpoints, model: nn.Module) -> int:
    """The step whose weights were the best; ``model`` has them again."""
    kept = best.latest()
    if kept is None:
        raise ValueError("no weights were kept")
    model.load_state_dict(kept.tensors)
    return kept.step
