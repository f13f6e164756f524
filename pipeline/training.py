"""The one supervised loop: pretraining and the reward model both run it.

A step is a pure function of its number (batches are looked up by step, never drawn from a stream),
so a run is reproduced by its seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.errors import UserError

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Schedule:
    """Learning rate over a run: linear warm-up to 1, then a decay to ``final_fraction``."""

    steps: int
    warmup_steps: int = 0
    final_fraction: float = 0.0
    shape: Literal["cosine", "linear"] = "cosine"

    def factor(self, step: int) -> float:
        """What the peak learning rate is multiplied by at ``step`` (0 is the first)."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        decay = 1 - progress if self.shape == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return self.final_fraction + (1 - self.final_fraction) * decay


def fit(
    accelerator: Accelerator,
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    loss_at: Callable[[int], tuple[Tensor, Metrics]],
    *,
    schedule: Schedule,
    max_grad_norm: float,
    autocast: Callable[[], AbstractContextManager[None]],
    on_step: Callable[[int, Metrics], None],
) -> None:
    """Trains ``model`` in place for ``schedule.steps`` optimizer steps.

    Args:
        loss_at: the loss of step i (0 is the first) and its metrics; called under ``autocast``.
        on_step: told the number of steps done and the step's metrics (loss, gradient norm and
            learning-rate factor among them); evaluates and logs.

    Raises:
        UserError: the loss is not finite; no step is taken with it.
    """
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    model.train()
    for step in range(schedule.steps):
        factor = schedule.factor(step)
        for optimizer, rates in zip(optimizers, peaks, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor

        with autocast():
            loss, metrics = loss_at(step)
        value = float(loss.detach())
        if not math.isfinite(value):
            problem = f"the loss is {value} at step {step + 1}: training diverged."
            raise UserError("training", problem, "lower the stage's learning rate.")
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
        assert norm is not None  # only under a DeepSpeed engine, which clips by itself
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        on_step(step + 1, {"loss": value, "grad_norm": float(norm), "lr_factor": factor, **metrics})


def make_optimizers(
    model: nn.Module, *, learning_rate: float, muon_learning_rate: float, weight_decay: float
) -> list[Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for embeddings, norms and biases.

    Embeddings (and the output matrix tied to them) stay with AdamW, as Muon's author advises
    (Jordan et al. 2024). Muon's own weight decay default of 0.1 is overridden.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and not is_embedding(name)]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or is_embedding(name)]
    muon = torch.optim.Muon(
        matrices, lr=muon_learning_rate, weight_decay=weight_decay, adjust_lr_fn="original"
    )
    adamw = torch.optim.AdamW(
        others, lr=learning_rate, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True
    )
    return [muon, adamw]


def is_embedding(name: str) -> bool:
    """True for GPT's token and position tables."""
    return name.endswith(("wte.weight", "wpe.weight"))
