"""Several processes that train one policy: each runs its share of the rows, all know all of them.

Every process samples and scores its share of a batch of episodes. The shares are then gathered, so
that rewards, advantages, whitening, metrics and every decision come from the same numbers in every
process, and none can leave a loop that others wait in. In an optimizer step each process adds the
gradients of its share of the minibatch, and the sums are added up. Losses are divided by the token
count of the whole minibatch, so the number of processes changes nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.ppo.rollout import Rollout

R = TypeVar("R", bound=Rollout)


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    index: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Processes:
        """Those of ``torch.distributed`` where a launcher started it; else this one alone."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def leads(self) -> bool:
        """Whether this process writes what one must write."""
        return self.index == 0

    def share(self, size: int) -> list[int]:
        """The places among ``size`` rows that are this process': as many as any other's, or one
        more."""
        return list(range(self.index, size, self.count))

    def gather(self, own: R, pad_id: int) -> R:
        """All processes' rows in the order that ``share`` dealt them."""
        if self.count == 1:
            return own
        device = own.input_ids.device
        parts: list[R | None] = [None] * self.count
        dist.all_gather_object(parts, moved(own, torch.device("cpu")))
        found = [part for part in parts if part is not None]
        together = concatenate(found, pad_id)
        dealt = torch.cat(
            [torch.arange(rank, len(together), self.count) for rank in range(self.count)]
        )
        return moved(together.select(dealt.argsort()), device)

    @torch.no_grad()
    def add_gradients(self, modules: Iterable[nn.Module]) -> None:
        """Replaces each gradient by its sum over the processes, in one exchange a dtype."""
        if self.count == 1:
            return
        weights = [w for module in modules for w in module.parameters() if w.grad is not None]
        for dtype in {weight.dtype for weight in weights}:
            gradients = [w.grad for w in weights if w.grad is not None and w.dtype == dtype]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            pieces = flat.split([gradient.numel() for gradient in gradients])
            for gradient, piece in zip(gradients, pieces, strict=True):
                gradient.copy_(piece.view_as(gradient))

    def add(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sums over the processes of what each has under the same names."""
        if self.count == 1 or not values:
            return values
        stacked = torch.stack(list(values.values()))
        dist.all_reduce(stacked)
        return dict(zip(values, stacked.unbind(), strict=True))

    def mean(self, values: dict[str, float], device: torch.device) -> dict[str, float]:
        """The means over the processes of what each has under the same names."""
        tensors = {
            name: torch.tensor(value / self.count, dtype=torch.float64, device=device)
            for name, value in values.items()
        }
        return {name: float(value) for name, value in self.add(tensors).items()}

    def wait(self) -> None:
        """Returns when all processes have come here: what one wrote, all can read."""
        if self.count > 1:
            dist.barrier()


def moved(rollout: R, device: torch.device) -> R:
    """The same rows on another device."""
    tensors = {field.name: getattr(rollout, field.name) for field in fields(rollout)}
    return replace(rollout, **{name: tensor.to(device) for name, tensor in tensors.items()})


def concatenate(parts: Sequence[R], pad_id: int) -> R:
    """The rows of all parts, padded to the longest row and the longest response among them."""
    columns: dict[str, Tensor] = {}
    for field in fields(parts[0]):
        tensors: list[Tensor] = [getattr(part, field.name) for part in parts]
        if tensors[0].dim() == 2:
            width = max(tensor.shape[1] for tensor in tensors)
            fill = pad_id if field.name == "input_ids" else 0
            tensors = [
                nn.functional.pad(tensor, (0, width - tensor.shape[1]), value=fill)
                for tensor in tensors
            ]
        columns[field.name] = torch.cat(tensors)
    return replace(parts[0], **columns)
