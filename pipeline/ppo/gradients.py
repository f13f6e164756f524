"""The gradients of some of a minibatch's rows: of policy and critic apart, or of both in one pass.

A critic with a trunk of its own needs a forward and a backward of its own. One that is a head on
the policy's hidden states needs neither: both losses come from one forward, and their sum goes back
through the trunk together (Ziegler et al. 2019, arXiv 1909.08593, train both heads so).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.language_model import LanguageModel
from pipeline.ppo.experience import Experience
from pipeline.ppo.forwards import Forwards
from pipeline.ppo.losses import PolicyLoss, ValueLoss, masked_sum, policy_loss, value_loss
from pipeline.ppo_config import PPOConfig
from pipeline.reward import RewardModel

StepMetrics = dict[str, Tensor]


def add_gradients_apart(
    policy: LanguageModel,
    critic: RewardModel,
    part: Experience,
    token_count: Tensor,
    args: PPOConfig,
    forwards: Forwards,
) -> StepMetrics:
    """The rows' share of the minibatch's metrics; their gradients are added to both models'.

    What the policy's forward keeps is free again before the critic's begins.

    Args:
        part: some of a minibatch's rows.
        token_count: response tokens of the whole minibatch.
    """
    logprobs, entropies = forwards.logprobs_and_entropies(policy, part)
    acting = loss_of_policy(logprobs, part, token_count, args)
    acting.loss.backward()
    valuing = loss_of_critic(forwards.values(critic, part), part, token_count, args)
    (args.vf_coef * valuing.loss).backward()
    return metrics_of(acting, valuing, entropies, part, token_count)


def add_gradients_together(
    policy: LanguageModel,
    value_head: nn.Linear,
    part: Experience,
    token_count: Tensor,
    args: PPOConfig,
    forwards: Forwards,
) -> StepMetrics:
    """As ``add_gradients_apart``, by one forward and one backward of policy and value head."""
    logprobs, entropies, values = forwards.logprobs_entropies_and_values(policy, value_head, part)
    acting = loss_of_policy(logprobs, part, token_count, args)
    valuing = loss_of_critic(values, part, token_count, args)
    (acting.loss + args.vf_coef * valuing.loss).backward()
    return metrics_of(acting, valuing, entropies, part, token_count)


def loss_of_policy(
    logprobs: Tensor, part: Experience, token_count: Tensor, args: PPOConfig
) -> PolicyLoss:
    """The clipped objective of new log-probabilities (B, R)."""
    old, advantages, mask = part.logprobs, part.advantages, part.response_mask
    return policy_loss(logprobs, old, advantages, mask, args.cliprange, token_count)


def loss_of_critic(
    values: Tensor, part: Experience, token_count: Tensor, args: PPOConfig
) -> ValueLoss:
    """The clipped error of new values (B, R)."""
    old, returns, mask = part.values, part.returns, part.response_mask
    return value_loss(values, old, returns, mask, args.cliprange_value, token_count)


def metrics_of(
    acting: PolicyLoss, valuing: ValueLoss, entropies: Tensor, part: Experience, token_count: Tensor
) -> StepMetrics:
    """What the parts of a minibatch add up to."""
    return {
        "loss/policy_avg": acting.loss.detach(),
        "loss/value_avg": valuing.loss.detach(),
        "policy/approxkl_avg": acting.approx_kl,
        "policy/clipfrac_avg": acting.clip_fraction,
        "policy/entropy_avg": masked_sum(entropies, part.response_mask) / token_count,
        "val/clipfrac_avg": valuing.clip_fraction,
        "val/ratio": acting.ratio.detach(),
    }


def mean_over_steps(steps: Sequence[StepMetrics]) -> dict[str, float]:
    """An update's metrics: means over its optimizer steps, the ratio's variance, how many steps."""
    series = {name: torch.stack([step[name] for step in steps]) for name in steps[0]}
    metrics = {name: float(values.mean()) for name, values in series.items()}
    metrics["val/ratio_var"] = float(series["val/ratio"].var(correction=0))
    return metrics | {"policy/steps": len(steps)}
