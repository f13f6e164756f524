"""A rollout with everything the updates need: log-probs, values, rewards, advantages."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pipeline.ppo.rollout import Rollout


@dataclass(frozen=True)
class Experience(Rollout):
    """One batch of episodes. Tensors over response tokens are (B, R) fp32, 0 beyond the end.

    ``select`` (of ``Rollout``) takes rows of all of them together and cuts them alike.
    """

    scores: Tensor  # (B,) of the reward model, less the penalty for a missing end token
    logprobs: Tensor  # of the policy that sampled, by the trainer's own forward
    ref_logprobs: Tensor
    values: Tensor  # of the state before each token
    rewards: Tensor  # per token: the divergence's price, and the score at the last one
    advantages: Tensor  # whitened over the whole batch
    returns: Tensor  # advantage before whitening, plus value
