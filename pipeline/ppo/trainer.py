"""PPO from a reward model. Read ``PPOTrainer.train`` first: it is the paper's box.

Sources: Ziegler et al. 2019 (arXiv 1909.08593) and Ouyang et al. 2022 (arXiv 2203.02155) for the
method; Huang et al. 2024 (arXiv 2403.17031) for its details.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from pipeline.checkpoints import Checkpoints
from pipeline.language_model import LanguageModel
from pipeline.ppo.check import (
    check_before_training,
    check_losses,
    check_sampler,
    check_sampler_weights,
    check_scores,
    check_shares,
)
from pipeline.ppo.experience import Experience, ScoredRollout, with_advantages
from pipeline.ppo.forwards import Forwards
from pipeline.ppo.gradients import (
    StepMetrics,
    add_gradients_apart,
    add_gradients_together,
    mean_over_steps,
)
from pipeline.ppo.losses import adapted_kl_coef
from pipeline.ppo.metrics import Stopwatch, evaluation_metrics, experience_metrics
from pipeline.ppo.monitor import Monitor
from pipeline.ppo.optimizer import (
    clip_and_step,
    clip_together_and_step,
    decay_at,
    make_optimizer,
)
from pipeline.ppo.pretraining import RowsOfStep, add_pretraining_gradient
from pipeline.ppo.processes import Processes
from pipeline.ppo.resume import Keeper, Progress
from pipeline.ppo.roles import Roles, make_roles
from pipeline.ppo.rollout import InProcessEngine, Rollout, RolloutEngine, respond
from pipeline.ppo.scoring import RewardFunction, Scorer
from pipeline.ppo.seeds import episode_seeds, evaluation_seeds, minibatches, prompt_indices
from pipeline.ppo_config import PPOConfig
from pipeline.reward import RewardModel
from pipeline.sampling import SamplingSettings
from pipeline.tokenizer import Tokenizer

Metrics = dict[str, float]


class PPOTrainer:
    """Trains ``model`` in place to please ``reward_model`` while staying near ``ref_model``.

    Policy and critic have an optimizer, a learning rate and a gradient norm each; a critic that is
    a head on the policy (``args.critic_trunk``) shares its norm. All models run in evaluation mode
    throughout: dropout would make the policy that is trained another one than the policy that
    acted. Where a launcher started several processes, they train together.

    Args:
        args: the section ``ppo``. Of what stands in files, ``reward_funcs``, and of how many
            prompts are kept for evaluation the caller takes care.
        processing_class: the tokenizer of all models.
        model: the policy.
        ref_model: what the policy is held close to; frozen here. A copy of ``model`` by default.
        reward_model: scores whole responses, in fp32; frozen here.
        train_dataset: the prompts, as text.
        value_model: the critic. By default a copy of ``reward_model``, trunk and head, or of the
            policy's trunk under a head of zeros, as ``args.critic_init`` says. None where it is a
            head on the policy.
        eval_dataset: prompts that are answered now and then, and never trained on.
        reward_funcs: functions of text whose weighted scores are added.
        rollout_engine: what samples; by default the policy itself.
        pretraining_rows: rows (n, T + 1) of pretraining text for an optimizer step, from its number
            and n; needed where ``args.ptx_coef`` is not 0.
        seed: with it and the weights, a run is reproduced (bit for bit on a CPU).
        device: where all models are moved to.
        autocast: makes the context of the training and scoring forwards. Sampling, the reward
            model, logits and all of ``losses`` stay in fp32.
        on_update: called after each update with its number (from 1) and its metrics.
        checkpoints: where snapshots are kept, and gone on from; none by default. The weights that
            did best lie beside them, for a run that collapses.

    Raises:
        UserError: no prompt, a prompt without room for a response, one model in two roles, a
            critic beside one that is a head on the policy, or a pad that is the end token.
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
        eval_dataset: Sequence[str] = (),
        *,
        reward_funcs: Sequence[RewardFunction] = (),
        rollout_engine: RolloutEngine | None = None,
        pretraining_rows: RowsOfStep | None = None,
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
        self.prompts, self.eval_prompts = list(train_dataset), list(eval_dataset)
        self.prompt_ids = [self.tokenizer.encode_prompt(prompt) for prompt in self.prompts]
        self.pretraining_rows = pretraining_rows
        self.processes = Processes.here()
        check_shares(
            args, self.processes.count, len(self.eval_prompts), pretraining_rows is not None
        )

        roles = Roles(model, ref_model, reward_model, value_model)
        self.policy, self.ref_policy, self.reward_model, self.critic = make_roles(
            roles, args, self.tokenizer, [*self.prompts, *self.eval_prompts], self.device
        )
        # What learns: the policy, and the critic or what it has of its own.
        self.value_head = self.critic.score if args.critic_trunk == "policy" else None
        self.learners = (self.policy, self.value_head or self.critic)
        self.engine: RolloutEngine = rollout_engine or InProcessEngine(self.policy, self.tokenizer)
        self.forwards = Forwards(args, self.tokenizer, autocast)
        self.scorer = Scorer(args, self.tokenizer, self.reward_model, reward_funcs)

        self.sampling = SamplingSettings(args.response_length, temperature=args.temperature)
        eps = args.adam_epsilon
        self.policy_optimizer = make_optimizer(self.learners[0], args.learning_rate, eps)
        self.critic_optimizer = make_optimizer(self.learners[1], args.critic_learning_rate, eps)
        self.updates = args.total_episodes // args.batch_size
        self.optimizer_steps = self.updates * args.num_ppo_epochs * args.num_mini_batches
        self.steps_done = 0  # places in the schedule; those that max_approx_kl left out count
        self.kl_coef = args.kl_coef
        self.sampler_is_exact = False
        self.monitor = Monitor(args.alarms, args.batch_size)
        self.stopped: str | None = None  # why the run ended before its last update
        self.updates_done = 0  # those that made the policy what it is
        self.optimizers = [self.policy_optimizer, self.critic_optimizer]
        self.keeper = Keeper(checkpoints, self.learners, self.optimizers, self.processes)

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
            evaluation = self.evaluate() if update % args.eval_every_updates == 0 else {}
            watch.lap("evaluation")

            # Sample prompts, and the policy's responses to them: this process its share.
            prompts, seeds = self.sample_prompts(update), self.episode_seeds(update)
            rollout = self.respond([self.prompt_ids[i] for i in prompts], seeds)
            watch.lap("rollout")

            # Score them; log-probs under the policy and the reference; the critic's values.
            scores, score_parts = self.scorer(rollout, [self.prompts[i] for i in prompts])
            logprobs, values = self.logprobs_and_values(rollout)
            scored = ScoredRollout(
                **vars(rollout),
                scores=scores,
                logprobs=logprobs,
                ref_logprobs=self.forwards.logprobs_of(self.ref_policy, rollout),
                values=values,
            )
            batch = self.processes.gather(scored, self.tokenizer.pad_id)
            check_scores(batch.scores)
            watch.lap("score")

            # Rewards per token, then advantages, whitened over the whole batch.
            experience = with_advantages(batch, args, self.kl_coef)
            self.check(experience) if update == 0 else check_sampler(experience)
            metrics = experience_metrics(experience, self.kl_coef) | evaluation
            if not self.monitor.is_sick(metrics):
                self.keeper.keep_best(update, metrics, args)

            # Several passes over the batch, an optimizer step per minibatch.
            learning_rate = args.learning_rate * self.decay()
            step_metrics = self.optimize(experience, update)
            watch.lap("update")

            # Statistics, the divergence's price, alarms.
            metrics |= step_metrics | self.processes.mean(score_parts, self.device)
            metrics |= watch.seconds()
            episode = (update + 1) * args.batch_size
            metrics |= {"lr": learning_rate, "episode": episode, "objective/kl_coef": self.kl_coef}
            episodes_now = episode - first_update * args.batch_size
            metrics["eps"] = episodes_now / (time.perf_counter() - started)
            self.updates_done = update + 1
            self.adapt_kl_coef(metrics["objective/kl"])
            self.stopped = self.reason_to_stop(update + 1, metrics)
            if self.on_update is not None:
                self.on_update(update + 1, metrics)
            if self.stopped:
                return
            self.keep(update + 1)

    # --- rollout ----------------------------------------------------------------------------------

    def sample_prompts(self, update: int) -> list[int]:
        """The places of the prompts of this process' episodes: a function of seed and update."""
        size = self.args.batch_size
        indices = prompt_indices(self.seed, update * size, size, len(self.prompt_ids))
        return [indices[place] for place in self.processes.share(size)]

    def episode_seeds(self, update: int) -> list[int]:
        """The sampling seeds of this process' episodes."""
        seeds = episode_seeds(self.seed, update, self.args.batch_size)
        return [seeds[place] for place in self.processes.share(len(seeds))]

    def respond(self, prompt_ids: Sequence[Sequence[int]], seeds: Sequence[int]) -> Rollout:
        """The present policy's responses."""
        self.engine.sync_weights(self.policy)
        return respond(self.engine, prompt_ids, seeds, self.sampling, self.tokenizer.pad_id)

    def logprobs_and_values(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """(B, R) each: what the policy, which acted, and the critic say of the responses."""
        forwards = self.forwards
        if self.sampler_is_exact:
            return rollout.sampler_logprobs, forwards.values_of(self.critic, rollout)
        if self.value_head is not None:
            return forwards.logprobs_and_values_of(self.policy, self.value_head, rollout)
        logprobs = forwards.logprobs_of(self.policy, rollout)
        return logprobs, forwards.values_of(self.critic, rollout)

    @torch.no_grad()
    def evaluate(self) -> Metrics:
        """What the policy makes of the fixed prompts, always with the same seeds."""
        if not self.eval_prompts:
            return {}
        own = self.processes.share(len(self.eval_prompts))
        prompts = [self.eval_prompts[i] for i in own]
        seeds = evaluation_seeds(self.seed, len(self.eval_prompts))
        prompt_ids = [self.tokenizer.encode_prompt(prompt) for prompt in prompts]
        rollout = self.respond(prompt_ids, [seeds[i] for i in own])
        scores, _ = self.scorer(rollout, prompts)
        scored = ScoredRollout(
            **vars(rollout),
            scores=scores,
            logprobs=self.forwards.logprobs_of(self.policy, rollout),
            ref_logprobs=self.forwards.logprobs_of(self.ref_policy, rollout),
            values=torch.zeros_like(rollout.sampler_logprobs),  # nobody asks for them
        )
        batch = self.processes.gather(scored, self.tokenizer.pad_id)
        check_scores(batch.scores)
        return evaluation_metrics(batch, self.args.kl_coef)

    # --- updates ----------------------------------------------------------------------------------

    def optimize(self, experience: Experience, update: int) -> Metrics:
        """All epochs and minibatches over one batch of episodes; the mean of the steps' metrics."""
        args = self.args
        steps: list[StepMetrics] = []
        order = self.minibatches(update)
        for index, indices in enumerate(order):
            self.steps_done = update * len(order) + index
            steps.append(self.step(experience.select(indices), update))
            moved = float(steps[-1]["policy/approxkl_avg"])
            if index == 0 and self.sampler_is_exact:
                check_sampler_weights(moved, update)
            if args.max_approx_kl is not None and moved > args.max_approx_kl:
                break
        self.steps_done = (update + 1) * len(order)
        metrics = mean_over_steps(steps)
        check_losses(metrics, update)
        return metrics

    def minibatches(self, update: int) -> list[Tensor]:
        """The rows of each optimizer step of an update, epoch after epoch."""
        size, parts = self.args.batch_size, self.args.num_mini_batches
        epochs = range(self.args.num_ppo_epochs)
        return [rows for e in epochs for rows in minibatches(self.seed, update, e, size, parts)]

    def step(self, minibatch: Experience, update: int) -> StepMetrics:
        """One optimizer step of policy and critic on a minibatch, in as many parts as fit.

        Each process takes its share of the rows; the gradients of all are added up.
        """
        args = self.args
        token_count = minibatch.response_lengths.sum()  # of the whole: parts weigh by their tokens
        own = minibatch.select(torch.tensor(self.processes.share(len(minibatch))))
        parts = [self.backward(part, token_count) for part in self._parts(own)]
        metrics = {name: torch.stack([part[name] for part in parts]).sum() for name in parts[0]}
        if self.pretraining_rows is not None and args.ptx_coef:
            count = max(1, round(args.ptx_ratio * len(minibatch)))
            pretraining = self.pretraining_rows(self.steps_done, count).to(self.device)
            metrics["loss/ptx"] = add_pretraining_gradient(
                self.policy, pretraining, args, self.processes, self.autocast
            )
        self.processes.add_gradients(self.learners)
        metrics = self.processes.add(metrics)
        decays = [self.decay() if update >= args.value_warmup_updates else 0.0, self.decay()]
        clip = clip_and_step if self.value_head is None else clip_together_and_step
        norms = clip(self.optimizers, args.max_grad_norm, decays)
        return metrics | {"policy/grad_norm": norms[0], "val/grad_norm": norms[1]}

    def backward(self, part: Experience, token_count: Tensor) -> StepMetrics:
        """Adds the gradients of some of a minibatch's rows; their share of its metrics."""
        args, forwards = self.args, self.forwards
        if self.value_head is not None:
            return add_gradients_together(
                self.policy, self.value_head, part, token_count, args, forwards
            )
        return add_gradients_apart(self.policy, self.critic, part, token_count, args, forwards)

    def decay(self) -> float:
        """What both learning rates are multiplied by now."""
        return decay_at(self.steps_done, self.optimizer_steps, self.args.lr_scheduler_type)

    # --- where the run stands ---------------------------------------------------------------------

    def resume(self) -> int:
        """The number of updates that an earlier process made; everything stands as after them."""
        progress = self.keeper.restore()
        if progress is None:
            return 0
        self.steps_done = progress.updates_done * (self.optimizer_steps // self.updates)
        self.kl_coef = progress.kl_coef
        self.sampler_is_exact = progress.sampler_is_exact
        self.monitor.restore(progress.monitor)
        return progress.updates_done

    def keep(self, updates_done: int) -> None:
        """Keeps a snapshot where one is due."""
        due = updates_done % self.args.checkpoint_every_updates == 0
        if due and updates_done < self.updates:
            state = self.monitor.state()
            self.keeper.save(Progress(updates_done, self.kl_coef, self.sampler_is_exact, state))

    def adapt_kl_coef(self, kl: float) -> None:
        """Moves the coefficient towards what holds the divergence at its target, if one is set."""
        args = self.args
        if args.kl_target is not None:
            self.kl_coef = adapted_kl_coef(
                self.kl_coef, kl, args.kl_target, args.batch_size, args.kl_horizon
            )

    def reason_to_stop(self, update: int, metrics: Metrics) -> str | None:
        """Why no further update is made; None to go on. All processes decide by equal numbers.

        After a collapse policy and critic are those that did best.
        """
        alarms = self.monitor.watch(update, metrics)
        collapse = next((alarm for alarm in alarms if alarm.is_collapse), None)
        if collapse is not None:
            back = self.keeper.restore_best()
            self.updates_done = update if back is None else back
            went = f"; back to the weights after update {back}" if back is not None else ""
            return f"collapsed at update {update}: {collapse.message}{went}"
        limit, kl = self.args.stop_kl, metrics["objective/kl"]
        if limit is not None and kl > limit:
            return f"reached stop_kl at update {update}: {kl:.3g} nats a response"
        return None

    def check(self, experience: Experience) -> None:
        """The self-check before the first optimizer step; see ``check_before_training``."""
        minibatch = experience.select(self.minibatches(update=0)[0])
        part = self._parts(minibatch)[0]
        logprobs = self.forwards.logprobs(self.policy, part)
        self.sampler_is_exact = check_before_training(
            experience,
            part,
            logprobs,
            tokenizer=self.tokenizer,
            ref_model=self.ref_policy,
            reward_model=self.reward_model,
            low_precision=self.forwards.in_low_precision(self.device),
        )

    def _parts(self, rows: Experience) -> list[Experience]:
        """What goes through a training forward at once."""
        most = self.args.per_device_train_batch_size or len(rows)
        return rows.micro_batches(most, self.args.max_tokens_per_microbatch)
