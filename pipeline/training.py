"""The one supervised loop: pretraining and the reward model both run it.

A step is a pure function of its number and the weights (batches are looked up by step, never drawn
from a stream), so a run is reproduced by its seed, and a killed one goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.checkpoints import Checkpoints, restore_training_state, training_state
from pipeline.errors import UserError

Metrics = Mapping[str, float]
PartMetrics = Mapping[str, float | Tensor]


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
    loss_at: Callable[[int, int], tuple[Tensor, PartMetrics]],
    *,
    schedule: Schedule,
    max_grad_norm: float,
    autocast: Callable[[], AbstractContextManager[None]],
    on_step: Callable[[int, Metrics], bool | None],
    accumulation: int = 1,
    checkpoints: Checkpoints | None = None,
    checkpoint_every_steps: int | None = None,
) -> None:
    """Trains ``model`` in place for ``schedule.steps`` optimizer steps, from the newest checkpoint.

    Args:
        model: as ``accelerator.prepare_model`` gave it, so that processes share their gradients.
        loss_at: the mean loss of part p of step i, and its metrics; called under ``autocast``. A
            step has ``accumulation`` equal parts a process. A pure function of its arguments and
            the weights, so that a resumed run is the same run.
        on_step: told the number of steps done and the step's metrics, averaged over parts and
            processes (loss, gradient norm and learning-rate factor among them). True ends the
            training there, which all processes have to decide alike.

    Raises:
        UserError: the loss is not finite; no step is taken with it.
    """
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    weights = accelerator.unwrap_model(model)
    snapshot = checkpoints.latest() if checkpoints else None
    if snapshot is not None:
        restore_training_state(snapshot, weights, optimizers)
    model.train()
    for step in range(snapshot.step if snapshot else 0, schedule.steps):
        factor = schedule.factor(step)
        for optimizer, rates in zip(optimizers, peaks, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor

        metrics = backward(accelerator, model, loss_at, step, accumulation, autocast)
        norm = accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
        assert norm is not None  # only under a DeepSpeed engine, which clips by itself
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        if on_step(step + 1, {**metrics, "grad_norm": float(norm), "lr_factor": factor}):
            return
        due = checkpoint_every_steps and (step + 1) % checkpoint_every_steps == 0
        if checkpoints and due and step + 1 < schedule.steps and accelerator.is_main_process:
            checkpoints.save(step + 1, *training_state(weights, optimizers))


def backward(
    accelerator: Accelerator,
    model: nn.Module,
    loss_at: Callable[[int, int], tuple[Tensor, PartMetrics]],
    step: int,
    parts: int,
    autocast: Callable[[], AbstractContextManager[None]],
) -> dict[str, float]:
    """The step's loss and metrics; its gradients, averaged over parts and processes, are in place.

    Raises:
        UserError: the loss is not finite.
    """
    sums: dict[str, Tensor] = {}
    for part in range(parts):
        last = part == parts - 1  # processes exchange gradients once a step
        with nullcontext() if last else accelerator.no_sync(model):
            with autocast():
                loss, metrics = loss_at(step, part)
            accelerator.backward(loss / parts)
        for name, value in {"loss": loss.detach(), **metrics}.items():
            share = torch.as_tensor(value, dtype=torch.float32, device=loss.device) / parts
            sums[name] = sums[name] + share if name in sums else share
    means: Any = accelerator.reduce(torch.stack(list(sums.values())), "mean")
    result: dict[str, float] = dict(zip(sums, means.tolist(), strict=True))
    if not math.isfinite(result["loss"]):
        problem = f"the loss is {result['loss']} at step {step + 1}: training diverged."
        raise UserError("training", problem, "lower the stage's learning rate.")
    return result


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
