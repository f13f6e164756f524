"""Responses of the policy to a batch of prompts, in the trainer's layout.

Shapes: B sequences, T tokens of the longest row, R tokens of the longest response.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from pipeline.language_model import LanguageModel
from pipeline.ppo.masks import response_mask
from pipeline.sampling import Generation, SamplingSettings, generate
from pipeline.tokenizer import Tokenizer

# What a forward costs beside its tokens, in tokens. On a CPU padding costs more than another part;
# elsewhere parts are as large as their limits allow.
PART_COSTS = {"cpu": 100.0}


@dataclass(frozen=True)
class Rollout:
    """Prompts with the responses drawn for them. The ids are those sampled, never re-encoded.

    All tensors are on one device and hold B rows; those over response tokens are (B, R).
    """

    input_ids: Tensor  # (B, T) prompt, response, padding
    prompt_lengths: Tensor  # (B,)
    response_lengths: Tensor  # (B,) end token included; at least 1
    finished: Tensor  # (B,) bool: the response has its end token
    sampler_logprobs: Tensor  # (B, R) as the sampler saw them

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def lengths(self) -> Tensor:
        """(B,) tokens of each row, prompt and response."""
        return self.prompt_lengths + self.response_lengths

    @property
    def response_mask(self) -> Tensor:
        """(B, R) bool: True = a real response token, the end token included."""
        return response_mask(self.response_lengths, self.sampler_logprobs.shape[1])

    def select(self, indices: Tensor) -> Self:
        """The rows at ``indices``, cut to the longest row and the longest response among them."""
        indices = indices.to(self.input_ids.device)
        T = int(self.lengths[indices].max())
        R = int(self.response_lengths[indices].max())
        rows: dict[str, Tensor] = {}
        for field in fields(self):
            tensor = getattr(self, field.name)[indices]
            if tensor.dim() == 2:
                tensor = tensor[:, : T if field.name == "input_ids" else R]
            rows[field.name] = tensor
        return replace(self, **rows)

    def response_ids(self) -> list[list[int]]:
        """The ids of each response, its end token included."""
        rows = zip(
            self.input_ids.tolist(),
            self.prompt_lengths.tolist(),
            self.lengths.tolist(),
            strict=True,
        )
        return [ids[start:end] for ids, start, end in rows]

    def micro_batches(self, rows: int, tokens: int) -> list[Self]:
        """All rows, the longest first, in parts of similar length: little is padding.

        Where they are cut changes no result but for rounding (``part_sizes``).

        A part holds at most ``rows`` rows and, padding included, ``tokens`` tokens; but one row.
        """
        return [self.select(part) for part in self._parts(rows, tokens)]

    def in_parts(
        self, function: Callable[[Self], tuple[Tensor, ...]], rows: int
    ) -> tuple[Tensor, ...]:
        """What ``function`` gives for all rows in order, though it is given a few at a time.

        Its tensors have a row for each of the part's; those over response tokens are padded with 0.
        """
        parts = self._parts(rows, tokens=None)
        given = [function(self.select(part)) for part in parts]
        back = torch.cat(parts).argsort().to(self.input_ids.device)
        return tuple(_stack(tensors)[back] for tensors in zip(*given, strict=True))

    def _parts(self, rows: int, tokens: int | None) -> list[Tensor]:
        lengths = self.lengths.cpu()
        order = lengths.argsort(descending=True, stable=True)
        device = self.input_ids.device.type
        sizes = part_sizes(lengths[order].tolist(), rows, tokens, PART_COSTS.get(device, math.inf))
        return list(order.split(sizes))


def part_sizes(
    lengths: Sequence[int], rows: int, tokens: int | None, part_cost: float
) -> list[int]:
    """How many rows each part takes of rows sorted by length, the longest first.

    The cheapest division into neighbors: a part costs its tokens, padding included, and
    ``part_cost`` tokens more, and holds at most ``rows`` rows of ``tokens`` tokens; but one row.
    At infinite cost as few parts as there can be. By dynamic programming, from the end.
    """
    fits = [rows if tokens is None else min(rows, max(1, tokens // length)) for length in lengths]
    if math.isinf(part_cost):
        sizes: list[int] = []
        while (start := sum(sizes)) < len(lengths):
            sizes.append(min(fits[start], len(lengths) - start))
        return sizes
    cost, size = [0.0] * (len(lengths) + 1), [0] * len(lengths)
    for start in reversed(range(len(lengths))):
        cost[start], size[start] = min(
            (count * lengths[start] + part_cost + cost[start + count], count)
            for count in range(1, min(fits[start], len(lengths) - start) + 1)
        )
    sizes = []
    while (start := sum(sizes)) < len(lengths):
        sizes.append(size[start])
    return sizes


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """The rows of all tensors, (B, ...), those of (B, R) padded with 0 to the largest R."""
    if tensors[0].dim() == 1:
        return torch.cat(list(tensors))
    R = max(tensor.shape[1] for tensor in tensors)
    return torch.cat([nn.functional.pad(t, (0, R - t.shape[1])) for t in tensors])


class RolloutEngine(Protocol):
    """Whatever draws the responses: this project's decoder, or a server that has the weights."""

    def generate(
        self,
        prompt_ids: Sequence[Sequence[int]],
        seeds: Sequence[int],
        settings: SamplingSettings,
    ) -> Generation:
        """One response to each prompt, from the distribution of ``sampling.policy_logits``."""
        ...

    def sync_weights(self, policy: LanguageModel) -> None:
        """Called before each batch of episodes: the responses must come from these weights."""
        ...


class InProcessEngine:
    """A ``RolloutEngine`` that decodes with the policy itself."""

    def __init__(self, policy: LanguageModel, tokenizer: Tokenizer) -> None:
        self.policy = policy
        self.tokenizer = tokenizer

    def generate(
        self,
        prompt_ids: Sequence[Sequence[int]],
        seeds: Sequence[int],
        settings: SamplingSettings,
    ) -> Generation:
        """One response to each prompt; row i depends on prompt i and ``seeds[i]`` only."""
        return generate(self.policy, prompt_ids, seeds, settings, self.tokenizer)

    def sync_weights(self, policy: LanguageModel) -> None:
        """The policy is the one that was given."""
        self.policy = policy


def respond(
    engine: RolloutEngine,
    prompt_ids: Sequence[Sequence[int]],
    seeds: Sequence[int],
    settings: SamplingSettings,
    pad_id: int,
) -> Rollout:
    """One response to each prompt; row i depends on prompt i and ``seeds[i]`` only."""
    return left_align(prompt_ids, engine.generate(prompt_ids, seeds, settings), pad_id)


def left_align(prompt_ids: Sequence[Sequence[int]], generation: Generation, pad_id: int) -> Rollout:
    """The rollout of these prompts and their responses: prompt, response, padding in each row."""
    device = generation.ids.device
    prompt_lengths = torch.tensor([len(ids) for ids in prompt_ids], device=device)
    response_lengths = generation.lengths
    T = int((prompt_lengths + response_lengths).max())
    R = int(response_lengths.max())
    input_ids = torch.full((len(prompt_ids), T), pad_id, dtype=torch.long, device=device)
    for row, ids in enumerate(prompt_ids):
        Q, L = len(ids), int(response_lengths[row])
        input_ids[row, :Q] = torch.tensor(ids, device=device)
        input_ids[row, Q : Q + L] = generation.ids[row, :L]
    return Rollout(
        input_ids=input_ids,
        prompt_lengths=prompt_lengths,
        response_lengths=response_lengths,
        finished=generation.finished,
        sampler_logprobs=generation.logprobs[:, :R],
    )
