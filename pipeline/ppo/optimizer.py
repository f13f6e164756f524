"""The optimizer of policy and of critic: one each, so that neither shrinks the other's steps."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.optim import AdamW

from pipeline.training import Schedule


def make_optimizer(model: nn.Module, learning_rate: float, epsilon: float) -> AdamW:
    """AdamW without weight decay; ``learning_rate`` is the peak that ``clip_and_step`` decays."""
    parameters = list(model.parameters())
    fused = parameters[0].device.type in ("cpu", "cuda")
    return AdamW(parameters, lr=learning_rate, eps=epsilon, weight_decay=0.0, fused=fused)


def clip_and_step(optimizer: AdamW, max_grad_norm: float, decay: float) -> Tensor:
    """Clips, steps at ``decay`` times the peak learning rate, and clears the gradients.

    Returns the norm before clipping. With a decay of 0 nothing moves, the moments included.
    """
    group = optimizer.param_groups[0]
    norm = nn.utils.clip_grad_norm_(group["params"], max_grad_norm)
    if decay > 0:
        group["lr"] = optimizer.defaults["lr"] * decay
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def decay_at(step: int, steps: int, shape: Literal["linear", "constant"]) -> float:
    """What the learning rates are multiplied by at ``step`` (0 is the first of ``steps``).

    1 at first; linear decay ends at 0, and the last step is the one before 0 is reached.
    """
    return 1.0 if shape == "constant" else Schedule(steps, shape="linear").factor(step)
