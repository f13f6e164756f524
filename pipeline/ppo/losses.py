"""The maths of PPO as pure functions of tensors: rewards, advantages, losses, divergences.

Every tensor over tokens is (B, R) and comes with ``response_mask`` (B, R), True at real response
tokens. Whatever stands elsewhere, NaN included, influences neither a result nor a gradient. All
functions keep the precision they are given.

Sources: Schulman et al. 2017 (arXiv 1707.06347) for the clipped objective; Schulman et al. 2016
(arXiv 1506.02438) for the advantages; Ziegler et al. 2019 (arXiv 1909.08593) for the rewards and
the clipped value loss; http://joschu.net/blog/kl-approx.html for the names k1 and k3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import UserError

LOG_RATIO_LIMIT = 20.0
WHITENING_EPSILON = 1e-8


# --- reductions ---------------------------------------------------------------------------------


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """The sum of ``values`` where ``mask`` is True."""
    return values.masked_fill(~mask, 0).sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of ``values`` where ``mask`` is True; 0 if it is True nowhere."""
    return masked_sum(values, mask) / mask.sum().clamp(min=1)


def masked_variance(values: Tensor, mask: Tensor) -> Tensor:
    """The biased variance of ``values`` where ``mask`` is True."""
    return masked_mean((values - masked_mean(values, mask)).square(), mask)


def masked_whiten(values: Tensor, mask: Tensor) -> Tensor:
    """``values`` brought to mean 0 and variance 1 over the mask; 0 elsewhere.

    The variance is biased and 1e-8 is added to it, so that equal values become 0 and not NaN.
    """
    centered = values - masked_mean(values, mask)
    scale = torch.rsqrt(masked_variance(values, mask) + WHITENING_EPSILON)
    return (centered * scale).masked_fill(~mask, 0)


def masked_scale_to_unit_variance(values: Tensor, mask: Tensor) -> Tensor:
    """``values`` brought to variance 1 about the mean they had (OpenAI's reward whitening)."""
    return (masked_whiten(values, mask) + masked_mean(values, mask)).masked_fill(~mask, 0)


# --- rewards and advantages ---------------------------------------------------------------------


def penalize_missing_eos(scores: Tensor, finished: Tensor, penalty: float) -> Tensor:
    """(B,) scores, less ``penalty`` for each response that ``finished`` (B,) says never ended."""
    return torch.where(finished, scores, scores - penalty)


def answer_weights(penalties: Mapping[str, float], questions: Sequence[str]) -> Tensor:
    """(Q,) what a yes to each of a reward model's questions costs; 0 where nothing is said.

    Raises:
        UserError: a penalty is for a question that the model has no head for.
    """
    unknown = sorted(penalties.keys() - set(questions))
    if unknown:
        known = ", ".join(questions) or "none: it was trained with reward.question_weight 0"
        raise UserError(
            "ppo.question_penalties",
            f"names {unknown[0]!r}; the reward model's questions are {known}.",
            "correct the name, or train the reward model with its questions.",
        )
    return torch.tensor([penalties.get(name, 0.0) for name in questions])


def penalize_answers(scores: Tensor, answers: Tensor, weights: Tensor) -> Tensor:
    """(B,) scores, less the weights (Q,) of the questions times the probabilities of a yes.

    Args:
        answers: (B, Q) logits of yes.
    """
    return scores - answers.sigmoid() @ weights.to(scores)


def adapted_kl_coef(coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """The next coefficient: higher where the divergence is above its target, lower where below.

    Ziegler et al. 2019, section 2.2: coef · (1 + clip(kl / target − 1, ±0.2) · episodes / horizon).

    Args:
        kl: nats per response, of the update's ``episodes``.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coef * (1 + error * episodes / horizon)


def compute_rewards(
    logprobs: Tensor, ref_logprobs: Tensor, scores: Tensor, response_mask: Tensor, kl_coef: float
) -> Tensor:
    """(B, R) rewards: -kl_coef (log pi - log pi_ref) at each token, the score added at the last.

    The end token pays its divergence like any other. A row sums to score - kl_coef * (k1 of row).
    """
    rewards = (-kl_coef * (logprobs - ref_logprobs)).masked_fill(~response_mask, 0)
    is_last = response_mask & ~F.pad(response_mask[:, 1:], (0, 1), value=False)
    return rewards + torch.where(is_last, scores[:, None], 0)


def gae(
    rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimates and returns (advantage + value), each (B, R), 0 elsewhere.

    ``values[:, t]`` is that of the state before token t. A response's last token ends its episode,
    cut off or not: the value after it is 0.
    """
    rewards = rewards.masked_fill(~response_mask, 0)
    values = values.masked_fill(~response_mask, 0)
    next_values = F.pad(values[:, 1:], (0, 1))
    deltas = rewards + gamma * next_values - values
    advantages = torch.zeros_like(deltas)
    running = torch.zeros_like(deltas[:, 0])
    for t in reversed(range(deltas.shape[1])):
        running = deltas[:, t] + gamma * lam * running
        advantages[:, t] = running
    return advantages, advantages + values


# --- losses -------------------------------------------------------------------------------------


class PolicyLoss(NamedTuple):
    """Sums over tokens divided by ``token_count``: those of a minibatch's parts add up."""

    loss: Tensor
    approx_kl: Tensor  # half the mean squared log-ratio
    clip_fraction: Tensor  # share of tokens where clipping lowered the objective
    ratio: Tensor


class ValueLoss(NamedTuple):
    """Sums over tokens divided by ``token_count``: those of a minibatch's parts add up."""

    loss: Tensor
    clip_fraction: Tensor


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    cliprange: float,
    token_count: Tensor | int,
) -> PolicyLoss:
    """-min(ratio A, clip(ratio, 1 - cliprange, 1 + cliprange) A), summed over ``token_count``.

    ``token_count`` counts the response tokens of the whole minibatch, of which these rows may be a
    part; so the loss is a mean over tokens however the minibatch is split.
    """
    # Masked before exp: exp(NaN) times 0 is NaN, and so is its gradient.
    log_ratio = (logprobs - old_logprobs).masked_fill(~response_mask, 0)
    ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    advantages = advantages.masked_fill(~response_mask, 0)
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - cliprange, 1 + cliprange) * advantages
    with torch.no_grad():
        was_clipped = (clipped < unclipped).to(ratio.dtype)
        approx_kl = 0.5 * masked_sum(log_ratio.square(), response_mask) / token_count
        clip_fraction = masked_sum(was_clipped, response_mask) / token_count
        mean_ratio = masked_sum(ratio, response_mask) / token_count
    loss = -torch.minimum(unclipped, clipped).sum() / token_count
    return PolicyLoss(loss, approx_kl, clip_fraction, mean_ratio)


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    response_mask: Tensor,
    cliprange_value: float,
    token_count: Tensor | int,
) -> ValueLoss:
    """Half the greater of (v - R)^2 and (v clipped to old v +- cliprange - R)^2, as a token mean.

    ``old_values`` are the rollout's and ``returns`` stay fixed over the epochs. ``token_count`` as
    in ``policy_loss``.
    """
    error = (values - returns).masked_fill(~response_mask, 0)
    moved = (values - old_values).clamp(-cliprange_value, cliprange_value)
    clipped_error = (old_values + moved - returns).masked_fill(~response_mask, 0)
    unclipped, clipped = error.square(), clipped_error.square()
    with torch.no_grad():
        was_clipped = (clipped > unclipped).to(unclipped.dtype)
        clip_fraction = masked_sum(was_clipped, response_mask) / token_count
    loss = 0.5 * torch.maximum(unclipped, clipped).sum() / token_count
    return ValueLoss(loss, clip_fraction)


# --- for the log --------------------------------------------------------------------------------


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor, response_mask: Tensor) -> Tensor:
    """(B,) nats: the sum of log pi - log pi_ref over each response; unbiased, may be negative."""
    return (logprobs - ref_logprobs).masked_fill(~response_mask, 0).sum(dim=1)


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor, response_mask: Tensor) -> Tensor:
    """(B,) nats: the sum of q - 1 - log q, q = pi_ref / pi, over each response.

    Never negative and less noisy than k1, but for the log only: in a reward or a loss its gradient
    is not that of the divergence.
    """
    log_q = (ref_logprobs - logprobs).masked_fill(~response_mask, 0)
    log_q = log_q.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return (log_q.exp() - 1 - log_q).sum(dim=1)


def explained_variance(values: Tensor, returns: Tensor, response_mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns): 1 is a perfect critic, 0 is one that knows nothing.

    0 if the returns do not vary.
    """
    variance = masked_variance(returns, response_mask)
    unexplained = masked_variance(returns - values, response_mask)
    return torch.where(variance > 0, 1 - unexplained / variance, torch.zeros_like(variance))
