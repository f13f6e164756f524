"""The optimizer of policy and of critic: one each, with a learning rate of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from pipeline.training import Schedule


def make_optimizer(model: nn.Module, learning_rate: float, epsilon: float) -> AdamW:
    """AdamW without weight decay; ``learning_rate`` is the peak that ``clip_and_step`` decays."""
    parameters = list(model.parameters())
    fused = parameters[0].device.type in ("cpu", "cuda")
    return AdamW(parameters, lr=learning_rate, eps=epsilon, weight_decay=0.0, fused=fused)


def clip_and_step(
    optimizers: Sequence[AdamW], max_grad_norm: float, decays: Sequence[float]
) -> list[Tensor]:
    """Clips the gradients of each, steps at its decay times its peak learning rate, clears them.

    Returns each one's norm before clipping. With a decay of 0 nothing moves, the moments included.
    """
    norms: list[Tensor] = []
    for optimizer, decay in zip(optimizers, decays, strict=True):
        weights = optimizer.param_groups[0]["params"]
        norms.append(nn.utils.clip_grad_norm_(weights, max_grad_norm))
        step_and_clear(optimizer, decay)
    return norms


def clip_together_and_step(
    optimizers: Sequence[AdamW], max_grad_norm: float, decays: Sequence[float]
) -> list[Tensor]:
    """``clip_and_step`` of optimizers whose gradients come from one loss: scaled by one factor.

    The norm that is clipped is over all weights that move: those of a decay of 0 do not count.
    Returns each optimizer's own norm before clipping.
    """
    weights = [optimizer.param_groups[0]["params"] for optimizer in optimizers]
    gradients = [[w.grad for w in own if w.grad is not None] for own in weights]
    norms = [nn.utils.get_total_norm(own) for own in gradients]
    moving = [norm for norm, decay in zip(norms, decays, strict=True) if decay > 0]
    if moving:
        together = torch.stack(moving).norm()
        for own in weights:
            nn.utils.clip_grads_with_norm_(own, max_grad_norm, together)
    for optimizer, decay in zip(optimizers, decays, strict=True):
        step_and_clear(optimizer, decay)
    return norms


def step_and_clear(optimizer: AdamW, decay: float) -> None:
    """Steps at ``decay`` times the peak learning rate, if that is not 0; clears the gradients."""
    if decay > 0:
        optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * decay
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def decay_at(step: int, steps: int, shape: Literal["linear", "constant"]) -> float:
    """What the learning rates are multiplied by at ``step`` (0 is the first of ``steps``).

    1 at first; linear decay ends at 0, and the last step is the one before 0 is reached.
    """
    return 1.0 if shape == "constant" else Schedule(steps, shape="linear").factor(step)
