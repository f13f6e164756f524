"""Who plays which role: policy, reference, reward model, critic."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from pipeline.hugging_face import trunk_of
from pipeline.language_model import LanguageModel
from pipeline.ppo.check import check_arguments
from pipeline.ppo_config import PPOConfig
from pipeline.reward import RewardModel
from pipeline.tokenizer import Tokenizer


class Roles(NamedTuple):
    """The four models as the caller gave them; None for what is made from another."""

    policy: LanguageModel
    reference: LanguageModel | None
    reward_model: RewardModel
    critic: RewardModel | None


def make_roles(
    given: Roles,
    args: PPOConfig,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    device: torch.device,
) -> tuple[LanguageModel, LanguageModel, RewardModel, RewardModel]:
    """Policy, reference, reward model and critic on the device, in evaluation mode; all weights of
    policy and critic take gradients, none of the others.

    Raises:
        UserError: as ``check_arguments``.
    """
    policy = given.policy.to(device)
    reference = (given.reference or copy.deepcopy(policy)).to(device)
    reward_model = given.reward_model.to(device)
    critic = (given.critic or new_critic(args, policy, reward_model)).to(device)
    check_arguments(
        tokenizer,
        [tokenizer.encode_prompt(prompt) for prompt in prompts],
        args.response_length,
        policy,
        [reference, reward_model, critic],
    )
    for trained in (policy, critic):
        trained.eval().requires_grad_(True)
    for frozen in (reference, reward_model):
        frozen.eval().requires_grad_(False)
    return policy, reference, reward_model, critic


def new_critic(args: PPOConfig, policy: LanguageModel, reward_model: RewardModel) -> RewardModel:
    """A critic that starts as the reward model, or as the policy under a head of zeros."""
    if args.critic_init == "reward":
        return copy.deepcopy(reward_model)
    critic = RewardModel(trunk_of(copy.deepcopy(policy)))
    nn.init.zeros_(critic.score.weight)
    return critic
