"""A rollout with what is known of it, and with everything that the updates need."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pipeline.ppo.losses import (
    compute_rewards,
    gae,
    masked_scale_to_unit_variance,
    masked_whiten,
)
from pipeline.ppo.rollout import Rollout
from pipeline.ppo_config import PPOConfig


@dataclass(frozen=True)
class ScoredRollout(Rollout):
    """What the four models say of a batch of episodes. Tensors over response tokens are (B, R)
    fp32, 0 beyond the end.

    ``select`` (of ``Rollout``) takes rows of all of them together and cuts them alike.
    """

    scores: Tensor  # (B,) of the reward model, with all that is added to it and taken off
    logprobs: Tensor  # of the policy that sampled, by the trainer's own forward
    ref_logprobs: Tensor
    values: Tensor  # of the state before each token


@dataclass(frozen=True)
class Experience(ScoredRollout):
    """One batch of episodes, ready to learn from."""

    rewards: Tensor  # per token: the divergence's price, and the score at the last one
    advantages: Tensor  # whitened over the whole batch
    returns: Tensor  # advantage before whitening, plus value


def with_advantages(batch: ScoredRollout, args: PPOConfig, kl_coef: float) -> Experience:
    """The batch with rewards per token, returns, and advantages whitened over the whole batch."""
    mask = batch.response_mask
    rewards = compute_rewards(batch.logprobs, batch.ref_logprobs, batch.scores, mask, kl_coef)
    if args.whiten_rewards:
        rewards = masked_scale_to_unit_variance(rewards, mask)
    advantages, returns = gae(rewards, batch.values, mask, args.gamma, args.lam)
    whitened = masked_whiten(advantages, mask)
    return Experience(**vars(batch), rewards=rewards, advantages=whitened, returns=returns)
