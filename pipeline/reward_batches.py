"""Comparisons as tensors: a prompt with all its responses is one element of a batch.

Shapes: N responses and P pairs of all prompts in a batch, T tokens, Q questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.preferences import Pair, PromptComparisons
from pipeline.tokenizer import Tokenizer

LARGEST_GAP = 6  # between the ratings 1 and 7


@dataclass(frozen=True)
class EncodedComparisons:
    """One prompt as ids: ``rows`` are prompt + response, ``pairs`` (better, worse) index them.

    Attributes:
        targets: for each pair, how likely the first is the better one: 1, or 0.5 for a tie;
            empty where all are 1.
        margins: for each pair, by how much the better one has to lead; empty where all are 0.
        answers: for each row the share of yes to each question, NaN where nobody answered; empty
            where there are no questions.
    """

    rows: tuple[tuple[int, ...], ...]
    pairs: tuple[Pair, ...]
    targets: tuple[float, ...] = ()
    margins: tuple[float, ...] = ()
    answers: tuple[tuple[float, ...], ...] = ()

    @property
    def decided_pairs(self) -> int:
        """How many of the pairs are no ties."""
        return sum(target == 1 for target in self.targets) if self.targets else len(self.pairs)


@dataclass(frozen=True)
class RewardBatch:
    """Several prompts with all their responses.

    Attributes:
        input_ids: (N, T) int64, right-padded.
        lengths: (N,) real tokens of each row.
        pair_indices: (P, 2) rows of the better and the worse response, or of two tied ones.
        pair_targets: (P,) how likely the first is the better one: 1, or 0.5 for a tie.
        pair_margins: (P,) by how much the better one has to lead.
        pair_prompts: (P,) the index of the pair's prompt within the batch.
        pair_weights: (P,) one over the number of pairs of the pair's prompt: they sum to
            ``prompt_count``.
        row_weights: (N,) one over the number of responses of the row's prompt, 0 where the prompt
            has no pair: they sum to ``prompt_count`` too.
        answers: (N, Q) share of yes, NaN where nobody answered.
        prompt_count: prompts that have at least one pair.
    """

    input_ids: Tensor
    lengths: Tensor
    pair_indices: Tensor
    pair_targets: Tensor
    pair_margins: Tensor
    pair_prompts: Tensor
    pair_weights: Tensor
    row_weights: Tensor
    answers: Tensor
    prompt_count: int

    def to(self, device: torch.device | str) -> RewardBatch:
        """The same batch on another device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            self, **{name: v.to(device) for name, v in values.items() if isinstance(v, Tensor)}
        )


def encode_comparisons(
    comparisons: PromptComparisons,
    tokenizer: Tokenizer,
    context_tokens: int,
    *,
    questions: Sequence[str] = (),
    with_ties: bool = False,
    margin: float = 0.0,
) -> EncodedComparisons:
    """A prompt's responses as the ids that PPO will have to score: prompt, response, end token.

    A response that was cut off has no end token here, because it has none there.

    Args:
        questions: the yes/no questions whose answers are kept, in this order.
        with_ties: tied responses are pairs as well, of target 0.5.
        margin: of a pair as far apart as ratings can be; other gaps have their share of it.

    Raises:
        UserError: a prompt and response do not fit into ``context_tokens``.
    """
    prompt_ids = tokenizer.encode_prompt(comparisons.prompt)
    rows: list[tuple[int, ...]] = []
    for response in comparisons.responses:
        ids = (*prompt_ids, *tokenizer.encode_response(response.text, response.finished))
        if len(ids) > context_tokens:
            raise UserError(
                f"rankings: response {response.response_id}",
                f"has {len(ids)} tokens with its prompt, the model reads at most {context_tokens}.",
                "label shorter ones, set max_characters of preferences, or use a longer context.",
            )
        rows.append(ids)
    ties = comparisons.ties if with_ties else ()
    # A labeler who confirmed a contradiction gives a negative gap, and no margin.
    gaps = [max(gap or 0, 0) for gap in comparisons.rating_gaps] + [0] * len(ties)
    return EncodedComparisons(
        rows=tuple(rows),
        pairs=(*comparisons.pairs, *ties),
        targets=(1.0,) * len(comparisons.pairs) + (0.5,) * len(ties),
        margins=tuple(margin * gap / LARGEST_GAP for gap in gaps),
        answers=tuple(
            tuple(answers.get(question, math.nan) for question in questions)
            for answers in comparisons.answers
        ),
    )


def pad_rows(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Right-padded ids (N, T) and lengths (N,), both int64."""
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=pad_id), lengths


def collate(elements: Sequence[EncodedComparisons], pad_id: int) -> RewardBatch:
    """One batch from any number of prompts, each with any number of responses."""
    input_ids, lengths = pad_rows([row for element in elements for row in element.rows], pad_id)
    pairs: list[Pair] = []
    targets: list[float] = []
    margins: list[float] = []
    prompts: list[int] = []
    weights: list[float] = []
    row_weights: list[float] = []
    answers: list[tuple[float, ...]] = []
    for number, element in enumerate(elements):
        first, size, count = len(row_weights), len(element.rows), len(element.pairs)
        pairs += [(first + better, first + worse) for better, worse in element.pairs]
        targets += element.targets or [1.0] * count
        margins += element.margins or [0.0] * count
        prompts += [number] * count
        weights += [1 / max(count, 1)] * count
        row_weights += [bool(count) / size] * size
        answers += element.answers or [()] * size
    return RewardBatch(
        input_ids=input_ids,
        lengths=lengths,
        pair_indices=torch.tensor(pairs, dtype=torch.long).view(-1, 2),
        pair_targets=torch.tensor(targets),
        pair_margins=torch.tensor(margins),
        pair_prompts=torch.tensor(prompts, dtype=torch.long),
        pair_weights=torch.tensor(weights),
        row_weights=torch.tensor(row_weights),
        answers=torch.tensor(answers),
        prompt_count=sum(bool(element.pairs) for element in elements),
    )


def batch_schedule(count: int, batch_prompts: int, epochs: int, seed: int) -> list[list[int]]:
    """The prompts (below ``count``) of every batch: each epoch has each of them exactly once.

    The order of an epoch is a function of the seed and its number. An epoch's last batch is
    smaller where ``batch_prompts`` does not divide ``count``.
    """
    orders = [np.random.default_rng([seed, epoch]).permutation(count) for epoch in range(epochs)]
    starts = range(0, count, batch_prompts)
    return [order[start : start + batch_prompts].tolist() for order in orders for start in starts]
