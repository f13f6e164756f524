"""Where the response tokens are: the one owner of PPO's index conventions.

Sequences are left-aligned: ``prompt (Q tokens), response (L tokens), padding``. Response token t
(0 <= t < L) stands at index Q + t; what predicts it, and the value of the state before it, are both
read at index Q + t - 1. Masks come from lengths, never from token ids.

Shapes: B sequences, T tokens, R tokens of the longest response, N response tokens in all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def response_mask(response_lengths: Tensor, size: int) -> Tensor:
    """(B, size) bool: True = a real response token, the end token included."""
    return torch.arange(size, device=response_lengths.device) < response_lengths[:, None]


@dataclass(frozen=True)
class ResponseTokens:
    """The N real response tokens of a batch, row by row.

    ``mask`` (B, R) is True at them; ``rows`` (N,) is the sequence each belongs to and
    ``predicting_index`` (N,) the index Q + t - 1 in it; the token itself is at the index after.
    """

    mask: Tensor
    rows: Tensor
    predicting_index: Tensor

    @classmethod
    def locate(cls, prompt_lengths: Tensor, response_lengths: Tensor) -> ResponseTokens:
        """The response tokens of sequences with these lengths, each (B,)."""
        mask = response_mask(response_lengths, int(response_lengths.max()))
        rows, steps = mask.nonzero(as_tuple=True)
        return cls(mask, rows, prompt_lengths[rows] + steps - 1)

    def to_rows(self, flat: Tensor) -> Tensor:
        """(B, R) with the N values of ``flat`` where ``mask`` is True, and 0 elsewhere."""
        return flat.new_zeros(self.mask.shape).masked_scatter(self.mask, flat)
