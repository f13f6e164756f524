"""Where PPO stands after an update, on disk: what a killed run goes on from.

Prompts, seeds of responses and the order of episodes are functions of the seed and the update's
number, so the weights, what the optimizers remember and the count of steps are all there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from torch import nn
from torch.optim import Optimizer

from pipeline.checkpoints import Checkpoints, restore_training_state, training_state


@dataclass(frozen=True)
class Progress:
    """How far a run is, and what its controller has come to."""

    updates_done: int
    steps_done: int
    kl_coef: float


def save_progress(
    checkpoints: Checkpoints,
    progress: Progress,
    policy: nn.Module,
    critic: nn.Module,
    optimizers: Sequence[Optimizer],
) -> None:
    """Writes a snapshot: whole or not at all."""
    tensors, memories = training_state(nn.ModuleList([policy, critic]), optimizers)
    values = {"progress": asdict(progress), "optimizers": memories}
    checkpoints.save(progress.updates_done, tensors, values)


def restore_progress(
    checkpoints: Checkpoints, policy: nn.Module, critic: nn.Module, optimizers: Sequence[Optimizer]
) -> Progress | None:
    """How far an earlier process came; weights and optimizers stand as then. None: it did not."""
    snapshot = checkpoints.latest()
    if snapshot is None:
        return None
    state = replace(snapshot, values=snapshot.values["optimizers"])
    restore_training_state(state, nn.ModuleList([policy, critic]), optimizers)
    return Progress(**snapshot.values["progress"])
