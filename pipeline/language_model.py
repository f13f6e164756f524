"""What the pipeline asks of a model of language, whatever its architecture.

Two kinds meet it: this project's ``GPT``, and any causal model of ``transformers`` behind
``HuggingFaceLM``. Everything else, from sampling to PPO, is written against these two classes.

Shapes: B rows, T tokens, C width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn


class Decoder(Protocol):
    """Texts that grow by a token a row, each token at the cost of one position's work.

    ``logits`` (rows, V) are over the next token of each row.
    """

    logits: Tensor

    def append(self, tokens: Tensor) -> None:
        """Adds one token to each row: ids (rows,). ``logits`` are then those after it."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but those indexed (ascending). ``logits`` are void until ``append``."""
        ...


class LanguageModel(nn.Module):
    """Ids in, logits over the next id out."""

    vocab_size: int
    context_tokens: int  # the longest sequence it can read
    width: int  # of its hidden states

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T, C) after the final norm, for ids (B, T).

        ``attention_mask`` (B, T) is True at real tokens; positions count from the first of them.
        Rows padded on the right need none: attention is causal.
        """
        raise NotImplementedError

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., V) for hidden states (..., C)."""
        raise NotImplementedError

    def decoder(self, prompt_ids: Sequence[Sequence[int]], new_tokens: int) -> Decoder:
        """The prompts, read and ready to grow by up to ``new_tokens`` tokens."""
        raise NotImplementedError

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits (B, T, V): at index t, over the token at t + 1."""
        return self.logits(self.hidden_states(input_ids, attention_mask))

    @property
    def final_bias(self) -> Tensor | None:
        """(C,) what the final norm adds to every hidden state; None where it adds nothing."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def parameter_count(self) -> int:
        """All parameters, tied ones once."""
        return sum(parameter.numel() for parameter in self.parameters())
