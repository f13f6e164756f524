"""Where PPO stands after an update, on disk: what a killed run goes on from.

Prompts, seeds of responses and the order of episodes are functions of the seed and the update's
number, so the weights, what the optimizers remember and the count of steps are all there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn
from torch.optim import Optimizer

from pipeline.checkpoints import Checkpoints, restore_training_state, training_state


def save_progress(
    checkpoints: Checkpoints,
    updates_done: int,
    steps_done: int,
    policy: nn.Module,
    critic: nn.Module,
    optimizers: Sequence[Optimizer],
) -> None:
    """Writes a snapshot: whole or not at all."""
    tensors, values = training_state(nn.ModuleList([policy, critic]), optimizers)
    checkpoints.save(updates_done, tensors, {"optimizers": values, "steps_done": steps_done})


def restore_progress(
    checkpoints: Checkpoints, policy: nn.Module, critic: nn.Module, optimizers: Sequence[Optimizer]
) -> tuple[int, int]:
    """The updates and the optimizer steps done, with all else put back in place; (0, 0) if none."""
    snapshot = checkpoints.latest()
    if snapshot is None:
        return 0, 0
    state = replace(snapshot, values=snapshot.values["optimizers"])
    restore_training_state(state, nn.ModuleList([policy, critic]), optimizers)
    return snapshot.step, snapshot.values["steps_done"]
