"""Who plays which role: policy, reference, reward model, critic."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch

from pipeline.errors import UserError
from pipeline.language_model import LanguageModel
from pipeline.ppo.check import check_arguments
from pipeline.ppo.value_head import critic_on
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
        UserError: as ``check_arguments``; or a critic is given though it shall be the policy's.
    """
    if given.critic is not None and args.critic_trunk == "policy":
        raise UserError(
            "ppo.critic_trunk",
            "policy makes the critic from the policy, and a critic was given.",
            "leave value_model out, or set it to own.",
        )
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
    """A critic on the policy itself, or a copy: of the reward model, or of the policy's trunk.

    Only a copy of the reward model starts with a head that is not zeros.
    """
    if args.critic_trunk == "policy":
        return critic_on(policy)
    if args.critic_init != "policy":
        return copy.deepcopy(reward_model)
    return critic_on(copy.deepcopy(policy))
