"""The reward model's losses, as sums: parts of a batch add up to the whole.

Divided by the number of prompts that have pairs, each is a mean over prompts.

Shapes: N responses and P pairs of all prompts in a batch, Q questions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.reward_batches import RewardBatch


def pair_margins(scores: Tensor, pair_indices: Tensor) -> Tensor:
    """(P,): by how much each better response outscores the worse one."""
    return scores[pair_indices[:, 0]] - scores[pair_indices[:, 1]]


def kwise_loss_sum(
    scores: Tensor,
    pair_indices: Tensor,
    pair_weights: Tensor,
    pair_targets: Tensor | None = None,
    required_margins: Tensor | None = None,
) -> Tensor:
    """The sum over prompts of the mean over a prompt's pairs of −log σ(better − worse).

    InstructGPT's equation 1 (arXiv:2203.02155), past which it goes where asked: a pair of target t
    costs −t·log σ(d) − (1 − t)·log σ(−d), least at d = 0 for a tie (t = 1/2), and a pair of
    required margin m has d = better − worse − m (Llama 2, arXiv:2307.09288, equation 2).

    Args:
        scores: (N,) of all responses.
        pair_indices: (P, 2) rows of the better and the worse response.
        pair_weights: (P,) one over the number of pairs of the pair's prompt.
        pair_targets: (P,) how likely the first is the better one; 1 by default.
        required_margins: (P,) by how much the better one has to lead; 0 by default.
    """
    lead = pair_margins(scores, pair_indices)
    if required_margins is not None:
        lead = lead - required_margins.to(lead.dtype)
    losses = F.softplus(-lead)
    if pair_targets is not None:  # softplus(d) = softplus(-d) + d
        losses = losses + (1 - pair_targets.to(lead.dtype)) * lead
    return (losses * pair_weights.to(losses.dtype)).sum()


def members_loss_sum(
    scores: Tensor, batch: RewardBatch, draws: Sequence[NDArray[np.int_] | None]
) -> Tensor:
    """The mean over heads of ``kwise_loss_sum``, each with its own draw of the prompts.

    A prompt that a head drew n times counts n times for it: a bootstrap without storing one
    (Oza and Russell 2001).

    Args:
        scores: (N, M).
        draws: for each head (prompts,) how often it drew each prompt of the batch; None: once each.
    """
    losses: list[Tensor] = []
    for head, draw in zip(scores.unbind(1), draws, strict=True):
        weights = batch.pair_weights
        if draw is not None and len(draw):
            counts = torch.as_tensor(draw, dtype=weights.dtype, device=weights.device)
            weights = weights * counts[batch.pair_prompts]
        losses.append(
            kwise_loss_sum(
                head, batch.pair_indices, weights, batch.pair_targets, batch.pair_margins
            )
        )
    return torch.stack(losses).mean() if len(losses) > 1 else losses[0]


def centering_sum(scores: Tensor, row_weights: Tensor) -> Tensor:
    """The sum over prompts of the mean over a prompt's responses of the squared score.

    The pairs say nothing of a prompt's mean score; a little of this keeps it near 0 (Eisenstein et
    al. 2023, arXiv:2312.09244, section 2.2, for pairs).

    Args:
        scores: (N,).
        row_weights: (N,) one over the number of responses of the row's prompt.
    """
    return (scores.square() * row_weights.to(scores.dtype)).sum()


def question_loss_sum(logits: Tensor, answers: Tensor, row_weights: Tensor) -> Tensor:
    """The sum over prompts of the mean over responses of the mean cross-entropy of the answers.

    Args:
        logits: (N, Q) of yes.
        answers: (N, Q) share of yes, NaN where nobody answered: no part in the loss.
        row_weights: (N,) one over the number of responses of the row's prompt.
    """
    answered = answers.isfinite()
    targets = answers.where(answered, 0.5).to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    share = answered / answered.sum(1, keepdim=True).clamp(min=1)  # a row's questions average
    return ((losses * share).sum(1) * row_weights.to(losses.dtype)).sum()
