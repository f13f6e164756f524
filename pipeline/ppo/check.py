"""The self-check before the first update: PPO that starts wrong must not start.

Each of these mistakes leaves a run that trains, logs and learns something else. At the first
update the right answers are known, because policy, sampler and reference are still one model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.language_model import LanguageModel
from pipeline.ppo.experience import Experience
from pipeline.ppo.rollout import Rollout
from pipeline.ppo_config import PPOConfig
from pipeline.reward import RewardModel
from pipeline.sampling import check_context
from pipeline.tokenizer import Tokenizer

# Nats per token. The same rows in batches of other shapes differ by rounding alone; the mistakes
# that are looked for cost ten times these limits and more.
FP32_MEAN_LIMIT, FP32_MAX_LIMIT = 1e-5, 1e-4
BF16_MEAN_LIMIT = 1e-3
EXACT_SAMPLER_LIMIT = 1e-4
STALE_SAMPLER_LIMIT = 1e-6  # half the mean squared gap
REFERENCE_MEAN_LIMIT = 1e-6  # equal weights, equal batches: not even rounding differs
SAMPLER_MEAN_LIMIT = 0.1  # the sampler runs in fp32, so this holds the error of bf16 too


def check_arguments(
    tokenizer: Tokenizer,
    prompt_ids: Sequence[Sequence[int]],
    response_tokens: int,
    policy: LanguageModel,
    other_models: Sequence[nn.Module],
) -> None:
    """Raises UserError for what is wrong before anything runs.

    Args:
        tokenizer, prompt_ids, policy: the trainer's.
        response_tokens: the most that a response may have.
        other_models: those of the other roles; no two roles share an object.
    """
    check_tokens(tokenizer)
    if not prompt_ids:
        raise UserError("ppo", "there is no prompt to train on.", "supply at least one prompt.")
    check_context(policy, prompt_ids, response_tokens)
    models = [policy, *other_models]
    for model in models:
        ids = getattr(model, "trunk", model).vocab_size
        if ids != policy.vocab_size or ids < tokenizer.vocab_size:
            raise UserError(
                "ppo",
                f"a model has {ids} token ids, the policy {policy.vocab_size} and the tokenizer "
                f"{tokenizer.vocab_size}.",
                "train the reward model from the policy: all models share one tokenizer.",
            )
    if len({id(model) for model in models}) < len(models):
        raise UserError(
            "ppo",
            "one model stands in two roles: training one would change the other.",
            "pass copies, or leave ref_model and value_model out.",
        )


def check_before_training(
    experience: Experience,
    first_minibatch: Experience,
    first_logprobs: Tensor,
    *,
    tokenizer: Tokenizer,
    ref_model: nn.Module,
    reward_model: RewardModel,
    low_precision: bool,
) -> bool:
    """Whether the sampler's log-probabilities may stand for the trainer's from now on.

    They may where none of the first batch's differs by more than rounding in fp32: later updates
    then save a forward pass.

    Args:
        experience: the first batch of episodes.
        first_minibatch: the rows of the first optimizer step.
        first_logprobs: their log-probabilities, by the forward that the loss will use.
        tokenizer, ref_model, reward_model: the trainer's.
        low_precision: forwards run under autocast; agreement is then asked of the mean only.

    Raises:
        UserError: the first update is not what PPO's derivation assumes.
    """
    check_tokens(tokenizer)
    check_frozen(ref_model, "the reference model")
    check_frozen(reward_model, "the reward model")
    check_finite(experience)
    check_first_ratio(first_minibatch, first_logprobs, low_precision)
    check_reference(experience)
    check_sampler(experience)
    check_score_position(experience, reward_model)
    gap = (experience.sampler_logprobs - experience.logprobs).abs()[experience.response_mask]
    return bool(gap.max() <= EXACT_SAMPLER_LIMIT)


def check_shares(
    args: PPOConfig, processes: int, eval_prompts: int, has_pretraining_rows: bool
) -> None:
    """Raises UserError where a process would have nothing to do, or PPO-ptx no text."""
    size = args.batch_size // args.num_mini_batches
    if size < processes:
        raise UserError(
            "ppo.num_mini_batches",
            f"leaves {size} episodes to a minibatch, fewer than the {processes} processes.",
            "lower it, or raise ppo.batch_size.",
        )
    if 0 < eval_prompts < processes:
        raise UserError(
            "ppo.eval_prompts",
            f"is {eval_prompts}, fewer than the {processes} processes.",
            "raise it, or set it to 0.",
        )
    if args.ptx_coef and not has_pretraining_rows:
        raise UserError(
            "ppo.ptx_coef",
            "needs text of the kind that the base was pretrained on, and there is none.",
            "give data.corpus, or set it to 0.",
        )


def check_scores(scores: Tensor) -> None:
    """Raises UserError unless all scores are finite numbers."""
    if not bool(scores.isfinite().all()):
        raise UserError(
            "the reward model",
            f"and the reward functions gave {int((~scores.isfinite()).sum())} of {len(scores)} "
            "responses a score that is not a finite number.",
            "train it again with a lower reward.learning_rate, or correct the functions.",
        )


def check_losses(metrics: Mapping[str, float], update: int) -> None:
    """Raises UserError unless all that an update's steps measured are finite numbers."""
    if not all(math.isfinite(value) for value in metrics.values()):
        raise UserError(
            "ppo",
            f"the loss or its gradient is not finite in update {update + 1}.",
            "lower ppo.learning_rate and ppo.critic_learning_rate.",
        )


def check_tokens(tokenizer: Tokenizer) -> None:
    """The pad is a token of its own: with pad = end, stopping is neither rewarded nor learned."""
    if tokenizer.pad_id == tokenizer.eos_id:
        raise UserError(
            "tokenizer",
            f"pad and end token are the same id {tokenizer.eos_id}.",
            "give the tokenizer a pad token of its own.",
        )


def check_frozen(model: nn.Module, name: str) -> None:
    """No parameter of the model takes a gradient."""
    if any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(
            name, "has parameters that would be trained.", "call requires_grad_(False) on it."
        )


def check_finite(experience: Experience) -> None:
    """Log-probabilities and values are numbers."""
    for name in ("logprobs", "ref_logprobs", "values"):
        if not bool(getattr(experience, name).isfinite().all()):
            raise UserError(
                "ppo",
                f"{name} of the first responses are not finite.",
                "look for NaN in the weights, and for sampled ids that the policy excludes.",
            )


def check_first_ratio(minibatch: Experience, logprobs: Tensor, low_precision: bool) -> None:
    """The ratio of new to old policy is 1 before the first step."""
    gap = (logprobs.detach() - minibatch.logprobs).abs()[minibatch.response_mask]
    if low_precision:
        agrees = bool(gap.mean() <= BF16_MEAN_LIMIT)
    else:
        agrees = bool(gap.mean() <= FP32_MEAN_LIMIT) and bool(gap.max() <= FP32_MAX_LIMIT)
    if not agrees:
        raise UserError(
            "ppo",
            f"the same policy gave its responses two probabilities (log-ratio mean "
            f"{float(gap.mean()):.2g}, max {float(gap.max()):.2g}) before the first step.",
            "look for dropout, for padding that real tokens see, and for a temperature applied "
            "in one place only.",
        )


def check_reference(experience: Experience) -> None:
    """Policy and reference are one model at first, run on one batch: their divergence is 0."""
    gap = (experience.logprobs - experience.ref_logprobs).abs()[experience.response_mask].mean()
    if not bool(gap <= REFERENCE_MEAN_LIMIT):
        raise UserError(
            "ppo",
            f"policy and reference differ by {float(gap):.2g} nats a token before the first step.",
            "start the policy from the reference: both are the sft model.",
        )


def check_sampler(experience: Experience) -> None:
    """The sampler drew from the distribution that is trained."""
    gap = (experience.sampler_logprobs - experience.logprobs).abs()[experience.response_mask]
    if not bool(gap.mean() <= SAMPLER_MEAN_LIMIT):
        raise UserError(
            "ppo",
            f"sampler and trainer differ by {float(gap.mean()):.2g} nats a token.",
            "sample with the same temperature, without top-k or top-p, from the same weights.",
        )


def check_sampler_weights(first_approx_kl: float, update: int) -> None:
    """Raises UserError where the sampler, whose log-probabilities are used, has fallen behind.

    Args:
        first_approx_kl: of an update's first step: half the mean squared gap between what the
            sampler said and what the policy says, which is 0 if they are one.
    """
    if not first_approx_kl <= STALE_SAMPLER_LIMIT:
        raise UserError(
            "ppo",
            f"the responses of update {update + 1} were not drawn from the present policy.",
            "make the rollout engine's sync_weights take over the policy's weights.",
        )


@torch.no_grad()
def check_score_position(rollout: Rollout, reward_model: RewardModel) -> None:
    """The score is read at the last real token, and the end token changes it."""
    rollout = rollout.select(torch.arange(min(len(rollout), 16)))
    scores = reward_model(rollout.input_ids, rollout.lengths)
    rows = torch.arange(len(rollout), device=scores.device)
    by_hand = reward_model.token_scores(rollout.input_ids)[rows, rollout.lengths - 1]
    if not torch.allclose(scores, by_hand, rtol=1e-4, atol=1e-4):
        raise UserError(
            "the reward model",
            "does not read its score at the last real token of a response.",
            "index its token scores with lengths - 1.",
        )
    finished = rollout.finished
    without_end = reward_model(rollout.input_ids, rollout.lengths - 1)
    if bool(finished.any()) and torch.equal(scores[finished], without_end[finished]):
        raise UserError(
            "the reward model",
            "gives the same scores with and without the end token.",
            "train it on responses that carry their end token, with a pad that is not it.",
        )
