"""REINFORCE leave-one-out with ``trl.RLOOTrainer``: PPO's reward, and no critic.

Each of the k responses to a prompt is judged against the mean of the other k − 1 (Ahmadian et al.
2024, equation 8). The divergence from sft is taken off the reward, as a whole response's.

TRL would tokenize prompts as text, in which nothing marks where the prompt ends: it is given ids.
Responses go to the reward model as the ids that were sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer

from pipeline.alternatives_config import RlooSection
from pipeline.errors import UserError
from pipeline.hugging_face import context_tokens_of
from pipeline.language_model import LanguageModel
from pipeline.measurement import finite_scores
from pipeline.ppo.seeds import prompt_indices
from pipeline.reward import RewardModel
from pipeline.tokenizer import Tokenizer
from pipeline.trainer_run import (
    Run,
    arguments_of,
    common_arguments,
    model_to_train,
    train_to_its_end,
    trained_model,
)

# What the trainer logs, and the names it has here: those of PPO where it has one.
LOGGED_METRICS = {
    "reward": "objective/scores",
    "kl": "objective/kl_per_token",
    "entropy": "policy/entropy_avg",
    "completions/mean_length": "rollout/mean_length",
    "completions/clipped_ratio": "rollout/unfinished",
    "clip_ratio/region_mean": "policy/clipfrac_avg",
    "frac_reward_zero_std": "rollout/prompts_without_signal",
    "loss": "loss/policy_avg",
    "learning_rate": "lr",
    "grad_norm": "grad_norm",
}


class _OnOurIds(RLOOTrainer):
    """TRL's trainer with prompts in this project's format, instead of as text."""

    def __init__(self, tokenizer: Tokenizer, *args: Any, **kwargs: Any) -> None:
        self.own_tokenizer = tokenizer
        super().__init__(*args, **kwargs)

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self.own_tokenizer.encode_prompt(prompt) for prompt in prompts], None, {}


class Reward:
    """What a response is worth, as TRL's trainer asks for it.

    Args:
        missing_eos_penalty: taken off where a response did not end by itself.
    """

    __name__ = "reward_model"

    def __init__(
        self, model: RewardModel, tokenizer: Tokenizer, missing_eos_penalty: float
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.missing_eos_penalty = missing_eos_penalty

    def __call__(
        self, prompts: Sequence[str], completion_ids: Sequence[Sequence[int]], **_: Any
    ) -> list[float]:
        """One number for each response, from the ids that were sampled.

        Raises:
            UserError: a score is not finite.
        """
        encoded = [self.tokenizer.encode_prompt(prompt) for prompt in prompts]
        scores = finite_scores(self.model, encoded, completion_ids, self.tokenizer.pad_id)
        ended = [ids[-1] == self.tokenizer.eos_id for ids in completion_ids]
        return [
            score if end else score - self.missing_eos_penalty
            for score, end in zip(scores, ended, strict=True)
        ]


def step_count(section: RlooSection) -> int:
    """Optimizer steps of a run."""
    updates = section.total_episodes // section.batch_size
    return updates * section.num_iterations * section.num_mini_batches


def make_trainer(
    sft_folder: Path,
    prompts: Sequence[str],
    reward: Reward,
    tokenizer: Tokenizer,
    section: RlooSection,
    run: Run,
) -> RLOOTrainer:
    """The trainer of policy and reference, both of ``sft_folder``, ready to go."""
    steps = step_count(section)
    steps_an_update = section.num_iterations * section.num_mini_batches
    # Checkpoints between updates only: responses that were sampled are not part of one.
    save_steps = section.checkpoint_every_updates * steps_an_update
    common = common_arguments(run, section.learning_rate, steps, 1, save_steps)
    schedule = {"eval_strategy": "no", "lr_scheduler_type": "linear", "max_steps": steps}
    schedule |= {"logging_steps": steps_an_update, "shuffle_dataset": False}
    # The whole run as one pass: the trainer's own second pass is another one once it was resumed.
    groups = section.total_episodes // section.num_generations
    order = prompt_indices(run.seed, 0, groups, len(prompts))
    arguments = arguments_of(
        RLOOConfig,
        beta=section.beta,
        num_generations=section.num_generations,
        num_iterations=section.num_iterations,
        per_device_train_batch_size=section.batch_size // section.num_mini_batches,
        steps_per_generation=section.num_mini_batches,
        epsilon=section.epsilon,
        max_completion_length=section.response_length,
        temperature=section.temperature,
        top_k=0,
        normalize_advantages=section.normalize_advantages,
        max_grad_norm=section.max_grad_norm,
        disable_dropout=True,
        generation_kwargs={"suppress_tokens": list(tokenizer.never_sampled_ids)},
        **(common | schedule),
    )
    return _OnOurIds(
        tokenizer,
        model=model_to_train(sft_folder, run.bf16),
        reward_funcs=reward,
        args=arguments,
        train_dataset=datasets.Dataset.from_list([{"prompt": prompts[i]} for i in order]),
        processing_class=tokenizer.hf,
    )


def check_prompts(
    prompts: Sequence[str], tokenizer: Tokenizer, section: RlooSection, context_tokens: int
) -> None:
    """Raises UserError where there are too few prompts, or one leaves no room for a response."""
    needed = section.batch_size // section.num_generations
    if len(prompts) < needed:
        raise UserError(
            "rloo.batch_size",
            f"asks for {needed} prompts at a time, there are {len(prompts)} of split ppo.",
            "lower it, or give the data stage more prompts.",
        )
    longest = max(len(tokenizer.encode_prompt(prompt)) for prompt in prompts)
    if longest + section.response_length > context_tokens:
        raise UserError(
            "rloo.response_length",
            f"{section.response_length} and the longest prompt ({longest} tokens) exceed the "
            f"model's context of {context_tokens}.",
            "lower it, or leave long prompts out.",
        )


def optimize_policy(
    sft_folder: Path,
    prompts: Sequence[str],
    reward: Reward,
    tokenizer: Tokenizer,
    section: RlooSection,
    run: Run,
    *,
    on_metrics: Callable[[int, dict[str, float]], None],
    on_step: Callable[[int], None],
) -> LanguageModel:
    """The model of ``sft_folder`` after RLOO against ``reward``, in fp32 on the CPU.

    Killed and started again, it ends in the same weights, bit for bit on a CPU.

    Args:
        on_metrics: told the number of updates done and the metrics (``LOGGED_METRICS``) there.
        on_step: told the number of optimizer steps done after each of them.

    Raises:
        UserError: a prompt does not fit, a score is not finite, or training diverged.
    """
    check_prompts(prompts, tokenizer, section, context_tokens_of(sft_folder))
    trainer = make_trainer(sft_folder, prompts, reward, tokenizer, section, run)
    steps_an_update = section.num_iterations * section.num_mini_batches

    def on_logged(step: int, metrics: dict[str, float]) -> None:
        named = {LOGGED_METRICS[name]: value for name, value in metrics.items()}
        on_metrics(step // steps_an_update, named)

    names = tuple(LOGGED_METRICS)
    model = train_to_its_end(trainer, run, names, on_metrics=on_logged, on_step=on_step)
    return trained_model(model, "rloo", section.learning_rate)
