"""Responses of the policy to a batch of prompts, in the trainer's layout.

Shapes: B sequences, T tokens of the longest row, R tokens of the longest response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from pipeline.language_model import LanguageModel
from pipeline.ppo.masks import response_mask
from pipeline.sampling import Generation, SamplingSettings, generate
from pipeline.tokenizer import Tokenizer


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

    def batches(self, size: int) -> list[Self]:
        """All rows in order, at most ``size`` at a time, each batch cut to its longest row."""
        return [self.select(indices) for indices in torch.arange(len(self)).split(size)]


def respond(
    policy: LanguageModel,
    prompt_ids: Sequence[Sequence[int]],
    seeds: Sequence[int],
    settings: SamplingSettings,
    tokenizer: Tokenizer,
) -> Rollout:
    """One response to each prompt; row i depends on prompt i and ``seeds[i]`` only."""
    generation = generate(policy, prompt_ids, seeds, settings, tokenizer)
    return left_align(prompt_ids, generation, tokenizer.pad_id)


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
