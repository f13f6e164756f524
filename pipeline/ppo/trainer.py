"""PPO from a reward model. Read ``PPOTrainer.train`` first: it is the paper's box.

Sources: Ziegler et al. 2019 (arXiv 1909.08593) and Ouyang et al. 2022 (arXiv 2203.02155) for the
method; Huang et al. 2024 (arXiv 2403.17031) for its details.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from pipeline.checkpoints import Checkpoints
from pipeline.config import PPOConfig
from pipeline.errors import UserError
from pipeline.language_model import LanguageModel
from pipeline.ppo.check import check_arguments, check_before_training
from pipeline.ppo.experience import Experience
from pipeline.ppo.logprobs import response_logprobs, response_values
from pipeline.ppo.losses import (
    adapted_kl_coef,
    answer_weights,
    compute_rewards,
    gae,
    masked_scale_to_unit_variance,
    masked_sum,
    masked_whiten,
    penalize_answers,
    penalize_missing_eos,
    policy_loss,
    value_loss,
)
from pipeline.ppo.metrics import Stopwatch, experience_metrics
from pipeline.ppo.optimizer import clip_and_step, make_optimizer
from pipeline.ppo.resume import Progress, restore_progress, save_progress
from pipeline.ppo.rollout import Rollout, respond
from pipeline.ppo.seeds import episode_seeds, minibatches, prompt_indices
from pipeline.reward import RewardModel
from pipeline.sampling import SamplingSettings
from pipeline.tokenizer import Tokenizer
from pipeline.training import Schedule

Metrics = dict[str, float]
StepMetrics = dict[str, Tensor]


class PPOTrainer:
    """Trains ``model`` in place to please ``reward_model`` while staying near ``ref_model``.

    Policy and critic are separate networks with an optimizer, a learning rate and a gradient norm
    each. All models run in evaluation mode throughout: dropout would make the policy that is
    trained another one than the policy that acted.

    Args:
        args: the section ``ppo``.
        processing_class: the tokenizer of all models.
        model: the policy.
        ref_model: what the policy is held close to; frozen here. A copy of ``model`` by default.
        reward_model: scores whole responses, in fp32; frozen here.
        train_dataset: the prompts, as text.
        value_model: the critic. A copy of ``reward_model``, trunk and head, by default.
        seed: with it and the weights, a run is reproduced (bit for bit on a CPU).
        device: where all models are moved to.
        autocast: makes the context of the training and scoring forwards. Sampling, the reward
            model, log-softmax and all of ``losses`` stay in fp32.
        on_update: called after each update with its number (from 1) and its metrics.
        checkpoints: where snapshots are kept, and gone on from; none by default.

    Raises:
        UserError: no prompt, a prompt without room for a response, one model in two roles, or a
            pad that is the end token.
    """

    def __init__(
        self,
        args: PPOConfig,
        processing_class: Tokenizer,
        model: LanguageModel,
        ref_model: LanguageModel | None,
        reward_model: RewardModel,
        train_dataset: Sequence[str],
        value_model: RewardModel | None = None,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        on_update: Callable[[int, Metrics], None] | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.args = args
        self.tokenizer = processing_class
        self.seed = seed
        self.device = torch.device(device)
        self.autocast = autocast
        self.on_update = on_update
        self.checkpoints = checkpoints
        self.prompt_ids = [self.tokenizer.encode_prompt(prompt) for prompt in train_dataset]

        self.policy = model.to(self.device)
        self.ref_policy = (ref_model or copy.deepcopy(model)).to(self.device)
        self.reward_model = reward_model.to(self.device)
        self.critic = (value_model or copy.deepcopy(reward_model)).to(self.device)
        check_arguments(
            self.tokenizer,
            self.prompt_ids,
            args.response_length,
            self.policy,
            [self.ref_policy, self.reward_model, self.critic],
        )
        self.answer_weights = answer_weights(args.question_penalties, reward_model.question_names)
        for trained in (self.policy, self.critic):
            trained.eval().requires_grad_(True)
        for frozen in (self.ref_policy, self.reward_model):
            frozen.eval().requires_grad_(False)

        self.sampling = SamplingSettings(args.response_length, temperature=args.temperature)
        eps = args.adam_epsilon
        self.policy_optimizer = make_optimizer(self.policy, args.learning_rate, eps)
        self.critic_optimizer = make_optimizer(self.critic, args.critic_learning_rate, eps)
        self.updates = args.total_episodes // args.batch_size
        self.optimizer_steps = self.updates * args.num_ppo_epochs * args.num_mini_batches
        self.steps_done = 0
        self.kl_coef = args.kl_coef

    def train(self) -> None:
        """Runs all updates; afterwards ``policy`` and ``critic`` are trained.

        Goes on after the newest snapshot, with the bits that it would have had on a CPU.

        Raises:
            UserError: the self-check fails, or scores or losses are not finite.
        """
        args, started = self.args, time.perf_counter()
        first_update = self.resume()
        for update in range(first_update, self.updates):
            watch = Stopwatch()

            # Sample prompts, and the policy's responses to them.
            prompt_ids = self.sample_prompts(update)
            seeds = episode_seeds(self.seed, update, args.batch_size)
            rollout = respond(self.policy, prompt_ids, seeds, self.sampling, self.tokenizer)
            watch.lap("rollout")

            # Score them; log-probs under the policy and the reference; the critic's values.
            scores = self.score(rollout)
            logprobs = self.logprobs_of(self.policy, rollout)
            ref_logprobs = self.logprobs_of(self.ref_policy, rollout)
            values = self.values_of(rollout)
            watch.lap("score")

            # Rewards per token, then advantages, whitened over the whole batch.
            mask = rollout.response_mask
            rewards = compute_rewards(logprobs, ref_logprobs, scores, mask, self.kl_coef)
            if args.whiten_rewards:
                rewards = masked_scale_to_unit_variance(rewards, mask)
            advantages, returns = gae(rewards, values, mask, args.gamma, args.lam)
            experience = Experience(
                **vars(rollout),
                scores=scores,
                logprobs=logprobs,
                ref_logprobs=ref_logprobs,
                values=values,
                rewards=rewards,
                advantages=masked_whiten(advantages, mask),
                returns=returns,
            )
            if update == 0:
                self.check(experience)

            # Several passes over the batch, an optimizer step per minibatch.
            learning_rate = args.learning_rate * self.decay()
            step_metrics = self.optimize(experience, update)
            watch.lap("update")

            # Statistics.
            episode = (update + 1) * args.batch_size
            metrics = experience_metrics(experience, self.kl_coef) | step_metrics | watch.seconds()
            metrics |= {"lr": learning_rate, "episode": episode, "objective/kl_coef": self.kl_coef}
            self.adapt_kl_coef(metrics["objective/kl"])
            episodes_now = episode - first_update * args.batch_size
            metrics["eps"] = episodes_now / (time.perf_counter() - started)
            if self.on_update is not None:
                self.on_update(update + 1, metrics)
            self.keep(update + 1)

    # --- rollout ----------------------------------------------------------------------------------

    def sample_prompts(self, update: int) -> list[list[int]]:
        """The ids of an update's prompts: a pure function of the seed and the update's number."""
        size = self.args.batch_size
        indices = prompt_indices(self.seed, update * size, size, len(self.prompt_ids))
        return [self.prompt_ids[index] for index in indices]

    @torch.no_grad()
    def score(self, rollout: Rollout) -> Tensor:
        """(B,) scores of the responses as they were sampled, less the penalties."""
        parts = [self._score_part(part) for part in self._parts(rollout)]
        scores = torch.cat(parts).float()
        if not bool(scores.isfinite().all()):
            raise UserError(
                "the reward model",
                f"gave {int((~scores.isfinite()).sum())} of {len(scores)} responses a score that "
                "is not a finite number.",
                "train it again with a lower reward.learning_rate.",
            )
        penalty = self.args.missing_eos_penalty
        return penalize_missing_eos(scores, rollout.finished, penalty) if penalty else scores

    def _score_part(self, part: Rollout) -> Tensor:
        """(B,) scores, less what yes to the questions with a penalty costs."""
        if not self.args.question_penalties:
            return self.reward_model(part.input_ids, part.lengths)
        scores, answers = self.reward_model.scores_and_answers(part.input_ids, part.lengths)
        return penalize_answers(scores, answers, self.answer_weights)

    @torch.no_grad()
    def logprobs_of(self, model: LanguageModel, rollout: Rollout) -> Tensor:
        """(B, R) log-probabilities of the responses, by the forward that the loss uses."""
        return _join([self._logprobs(model, part)[0] for part in self._parts(rollout)], rollout)

    @torch.no_grad()
    def values_of(self, rollout: Rollout) -> Tensor:
        """(B, R) the critic's values of the states before each response token."""
        return _join([self._values(part) for part in self._parts(rollout)], rollout)

    # --- updates ----------------------------------------------------------------------------------

    def optimize(self, experience: Experience, update: int) -> Metrics:
        """All epochs and minibatches over one batch of episodes; the mean of the steps' metrics."""
        steps: list[StepMetrics] = []
        for epoch in range(self.args.num_ppo_epochs):
            for indices in self._minibatches(update, epoch):
                steps.append(self.step(experience.select(indices), update))
        series = {name: torch.stack([step[name] for step in steps]) for name in steps[0]}
        metrics = {name: float(values.mean()) for name, values in series.items()}
        metrics["val/ratio_var"] = float(series["val/ratio"].var(correction=0))
        if not all(math.isfinite(value) for value in metrics.values()):
            raise UserError(
                "ppo",
                f"the loss or its gradient is not finite in update {update + 1}.",
                "lower ppo.learning_rate and ppo.critic_learning_rate.",
            )
        return metrics

    def step(self, minibatch: Experience, update: int) -> StepMetrics:
        """One optimizer step of policy and critic on a minibatch, in as many parts as fit."""
        token_count = minibatch.response_lengths.sum()  # of the whole: parts weigh by their tokens
        parts = [self.backward(part, token_count) for part in self._train_parts(minibatch)]
        metrics = {name: torch.stack([part[name] for part in parts]).sum() for name in parts[0]}
        limit, decay = self.args.max_grad_norm, self.decay()
        policy_decay = decay if update >= self.args.value_warmup_updates else 0.0
        metrics["policy/grad_norm"] = clip_and_step(self.policy_optimizer, limit, policy_decay)
        metrics["val/grad_norm"] = clip_and_step(self.critic_optimizer, limit, decay)
        self.steps_done += 1
        return metrics

    def backward(self, part: Experience, token_count: Tensor) -> StepMetrics:
        """Adds the gradients of some of a minibatch's rows; their share of its metrics."""
        args, mask = self.args, part.response_mask
        logprobs, entropies = self._logprobs(self.policy, part)
        policy = policy_loss(
            logprobs, part.logprobs, part.advantages, mask, args.cliprange, token_count
        )
        policy.loss.backward()
        values = self._values(part)
        value = value_loss(
            values, part.values, part.returns, mask, args.cliprange_value, token_count
        )
        (args.vf_coef * value.loss).backward()
        return {
            "loss/policy_avg": policy.loss.detach(),
            "loss/value_avg": value.loss.detach(),
            "policy/approxkl_avg": policy.approx_kl,
            "policy/clipfrac_avg": policy.clip_fraction,
            "policy/entropy_avg": masked_sum(entropies, mask) / token_count,
            "val/clipfrac_avg": value.clip_fraction,
            "val/ratio": policy.ratio.detach(),
        }

    def decay(self) -> float:
        """What both learning rates are multiplied by now: 1 at first; linear decay ends at 0.

        The last step is the one before 0 is reached.
        """
        if self.args.lr_scheduler_type == "constant":
            return 1.0
        return Schedule(self.optimizer_steps, shape="linear").factor(self.steps_done)

    def resume(self) -> int:
        """The number of updates that an earlier process made; everything stands as after them."""
        if self.checkpoints is None:
            return 0
        optimizers = [self.policy_optimizer, self.critic_optimizer]
        progress = restore_progress(self.checkpoints, self.policy, self.critic, optimizers)
        if progress is None:
            return 0
        self.steps_done, self.kl_coef = progress.steps_done, progress.kl_coef
        return progress.updates_done

    def adapt_kl_coef(self, kl: float) -> None:
        """Moves the coefficient towards what holds the divergence at its target, if one is set."""
        args = self.args
        if args.kl_target is not None:
            self.kl_coef = adapted_kl_coef(
                self.kl_coef, kl, args.kl_target, args.batch_size, args.kl_horizon
            )

    def keep(self, updates_done: int) -> None:
        """Keeps a snapshot where one is due."""
        due = updates_done % self.args.checkpoint_every_updates == 0
        if self.checkpoints is not None and due and updates_done < self.updates:
            optimizers = [self.policy_optimizer, self.critic_optimizer]
            progress = Progress(updates_done, self.steps_done, self.kl_coef)
            save_progress(self.checkpoints, progress, self.policy, self.critic, optimizers)

    def check(self, experience: Experience) -> None:
        """The self-check before the first optimizer step; see ``check_before_training``."""
        minibatch = experience.select(self._minibatches(update=0, epoch=0)[0])
        part = self._train_parts(minibatch)[0]
        with self.autocast():
            low_precision = torch.is_autocast_enabled(self.device.type)
        check_before_training(
            experience,
            part,
            self._logprobs(self.policy, part)[0],
            tokenizer=self.tokenizer,
            ref_model=self.ref_policy,
            reward_model=self.reward_model,
            low_precision=low_precision,
        )

    # --- inside -----------------------------------------------------------------------------------

    def _logprobs(self, model: LanguageModel, rollout: Rollout) -> tuple[Tensor, Tensor]:
        with self.autocast():
            return response_logprobs(
                model,
                rollout.input_ids,
                rollout.prompt_lengths,
                rollout.response_lengths,
                self.args.temperature,
                self.tokenizer.never_sampled_ids,
            )

    def _values(self, rollout: Rollout) -> Tensor:
        with self.autocast():
            return response_values(
                self.critic, rollout.input_ids, rollout.prompt_lengths, rollout.response_lengths
            )

    def _parts(self, rollout: Rollout) -> list[Rollout]:
        return rollout.batches(self.args.local_rollout_forward_batch_size)

    def _train_parts(self, minibatch: Experience) -> list[Experience]:
        return minibatch.batches(self.args.per_device_train_batch_size or len(minibatch))

    def _minibatches(self, update: int, epoch: int) -> tuple[Tensor, ...]:
        size, parts = self.args.batch_size, self.args.num_mini_batches
        return minibatches(self.seed, update, epoch, size, parts)


def _join(parts: Sequence[Tensor], rollout: Rollout) -> Tensor:
    """(B, R) from parts of some rows each, whose R may be smaller."""
    R = rollout.response_mask.shape[1]
    return torch.cat([nn.functional.pad(part, (0, R - part.shape[1])) for part in parts])
