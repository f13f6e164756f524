"""Optimizes the fine-tuned policy against the reward model with PPO.

    python -m stages.ppo configs/quickstart.yaml
    accelerate launch -m stages.ppo configs/quickstart.yaml

Reads sft, reward, the prompts of split ppo and, for PPO-ptx, the corpus; writes ppo/ (the policy),
ppo/critic/ and ``ppo/training.json`` (alarms, evaluations, why the run ended). The reference is the
sft model, frozen; the critic starts from the reward model, or is a head on the policy. The
algorithm is ``PPOTrainer.train`` in ``pipeline/ppo/trainer.py``.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from pipeline.config import RunConfig
from pipeline.data import (
    TOKENS_CACHE,
    Cache,
    load_sources,
    mixture_schedule,
    tokenize_sources,
)
from pipeline.errors import UserError
from pipeline.hugging_face import load_language_model, save_language_model
from pipeline.language_model import LanguageModel
from pipeline.ppo import PPOConfig, PPOTrainer
from pipeline.ppo.pretraining import RowsOfStep
from pipeline.ppo.reward_functions import load_reward_functions
from pipeline.ppo.roles import Roles
from pipeline.ppo.rollout import RolloutEngine
from pipeline.pretraining import batch_of
from pipeline.records import Prompt, read_rows
from pipeline.reward_files import load_reward_model, save_reward_model
from pipeline.stage_context import StageContext, derive_seed, open_stage
from pipeline.tokenizer import Tokenizer
from stages.cli import stage_main

VERSION = 4
IMPORTED_ROW_TOKENS = 256  # of pretraining text, where the config says none


def run(config: RunConfig, run_folder: Path) -> None:
    """Trains and publishes ``ppo/``.

    Raises:
        UserError: there are no prompts of split ppo, the two models' tokenizers differ, or the
            trainer refuses (a prompt too long, a failed self-check, scores that are not finite).
    """
    with open_stage("ppo", config, run_folder) as stage:
        sft, reward = stage.input("sft"), stage.input("reward")
        tokenizer = shared_tokenizer(sft, reward)
        training, evaluation = ppo_prompts(
            stage.input("data") / "prompts.jsonl", config.ppo.eval_prompts
        )
        stage.accelerator.wait_for_everyone()  # brings the processes together
        policy = load_language_model(sft)
        text = pretraining_rows(stage, tokenizer, policy) if config.ppo.ptx_coef else None
        roles = make_roles(stage, policy, reward)
        updates = config.ppo.total_episodes // config.ppo.batch_size
        with stage.progress(updates, "updates") as progress:

            def on_update(update: int, metrics: dict[str, float]) -> None:
                tokens = metrics["rollout/response_tokens"] * config.ppo.batch_size
                progress.advance_to(
                    update,
                    tokens=round(tokens),
                    score=metrics["objective/scores"],
                    kl=metrics["objective/kl"],
                )
                stage.log(update, **metrics)
                for alarm in trainer.monitor.raised:
                    if alarm.update == update and stage.is_leader:
                        progress.say(f"ALARM, update {update}: {alarm.message}; {alarm.advice}")

            trainer = PPOTrainer(
                config.ppo,
                tokenizer,
                model=roles.policy,
                ref_model=roles.reference,
                reward_model=roles.reward_model,
                train_dataset=training,
                value_model=roles.critic,
                rollout_engine=sampler_of(roles.policy, tokenizer, config.ppo),
                eval_dataset=evaluation,
                reward_funcs=load_reward_functions(config.ppo.reward_funcs, stage.data_root),
                pretraining_rows=text,
                seed=stage.seed,
                device=stage.device,
                autocast=stage.autocast,
                on_update=on_update,
                checkpoints=stage.checkpoints,
            )
            trainer.train()
            if trainer.stopped:
                progress.say(f"stopped: {trainer.stopped}")
        write_training(stage, trainer)
        save_models(stage, trainer, tokenizer)


def make_roles(stage: StageContext, policy: LanguageModel, reward: Path) -> Roles:
    """The four models: separate ones, or adapters on shared weights.

    Raises:
        UserError: the reward model's adapters are not of this policy.
    """
    lora, reward_model = stage.config.ppo.lora, load_reward_model(reward)
    if lora is None:
        return Roles(policy, None, reward_model, None)
    from pipeline.ppo.shared_trunk import share_trunks  # PEFT loads for seconds

    adapter = reward / "adapter"
    kept = adapter if adapter.is_dir() else None
    own = stage.config.ppo.critic_trunk == "own"
    return share_trunks(policy, reward_model, kept, lora, stage.seed, stage.device, with_critic=own)


def sampler_of(
    policy: LanguageModel, tokenizer: Tokenizer, section: PPOConfig
) -> RolloutEngine | None:
    """What samples; None for the trainer's own choice."""
    if section.lora is None:
        return None
    from pipeline.ppo.shared_trunk import MergedEngine

    return MergedEngine(policy, tokenizer)


def save_models(stage: StageContext, trainer: PPOTrainer, tokenizer: Tokenizer) -> None:
    """The policy and its critic as plain models; adapters are merged, and the policy's kept."""
    lora, critic = stage.config.ppo.lora, stage.output / "critic"
    if lora is None:
        save_language_model(trainer.policy, stage.output, tokenizer)
        save_reward_model(trainer.critic, critic, tokenizer)
        return
    from pipeline.ppo.shared_trunk import merged_critic, merged_policy, save_adapter

    save_adapter(trainer.policy, lora, stage.output / "adapter")
    with merged_policy(trainer.policy) as plain:
        save_language_model(plain, stage.output, tokenizer)
    with merged_critic(trainer.critic) as plain:
        save_reward_model(plain, critic, tokenizer)


def write_training(stage: StageContext, trainer: PPOTrainer) -> None:
    """Says how the run went: how it ended, its alarms, and the fixed prompts before and after."""
    lines = stage.metrics_path.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    evaluations = [
        {"update": row["step"] - 1} | {k: v for k, v in row.items() if k.startswith("eval/")}
        for row in rows
        if "eval/scores" in row
    ]
    if trainer.eval_prompts:
        evaluations.append({"update": trainer.updates_done} | trainer.evaluate())
    record = {
        "updates": trainer.updates_done,
        "stopped": trainer.stopped,
        "alarms": [asdict(alarm) for alarm in trainer.monitor.raised],
        "evaluations": evaluations,
        "old_logprobs": "of the sampler" if trainer.sampler_is_exact else "computed anew",
    }
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    (stage.output / "training.json").write_text(text, encoding="utf-8")


def pretraining_rows(
    stage: StageContext, tokenizer: Tokenizer, policy: LanguageModel
) -> RowsOfStep | None:
    """The corpus in the order of the mixture, for PPO-ptx; None where there is none."""
    ppo, pretrain = stage.config.ppo, stage.config.pretrain
    row_tokens = min(IMPORTED_ROW_TOKENS, policy.context_tokens)
    if pretrain is not None and stage.config.import_base is None:
        row_tokens = pretrain.row_tokens
    sources = load_sources(stage.input("data"), stage.data_root)
    if not sources:
        return None
    cache = Cache(stage.run_folder / TOKENS_CACHE)
    tokenized = tokenize_sources(sources, tokenizer, row_tokens, cache)
    packed = [source.train.rows for source in tokenized]
    steps = ppo.total_episodes // ppo.batch_size * ppo.num_ppo_epochs * ppo.num_mini_batches
    rows_a_step = max(1, round(ppo.ptx_ratio * (ppo.batch_size // ppo.num_mini_batches)))
    schedule = mixture_schedule(
        [len(rows) for rows in packed],
        [source.proportion for source in tokenized],
        steps * rows_a_step,
        stage.seed,
    )

    def rows_of_step(step: int, rows: int) -> torch.Tensor:
        return batch_of(packed, schedule, step, rows)

    return rows_of_step


def shared_tokenizer(sft: Path, reward: Path) -> Tokenizer:
    """The tokenizer of both folders.

    Raises:
        UserError: they differ, so that the reward model would read other text than was sampled.
    """
    tokenizer = Tokenizer.load(sft)
    if tokenizer.backend.to_str() != Tokenizer.load(reward).backend.to_str():
        raise UserError(
            reward,
            "has another tokenizer than the policy.",
            "train the reward model from this run's sft model.",
        )
    return tokenizer


def ppo_prompts(path: Path, evaluation: int) -> tuple[list[str], list[str]]:
    """The prompts of split ppo: those to train on, and ``evaluation`` that are kept from it.

    Which are kept is decided by their ids, whatever their order.

    Raises:
        UserError: the file is unusable, or holds too few such prompts.
    """
    rows = [row for row in read_rows(path, Prompt) if row.split == "ppo"]
    if len(rows) <= evaluation:
        raise UserError(
            path,
            f"holds {len(rows)} prompts of split ppo; ppo.eval_prompts keeps {evaluation} of them.",
            "give the data stage more prompts, or lower it.",
        )
    kept = {
        row.prompt_id
        for row in sorted(rows, key=lambda row: derive_seed(0, row.prompt_id))[:evaluation]
    }
    training = [row.prompt for row in rows if row.prompt_id not in kept]
    return training, [row.prompt for row in rows if row.prompt_id in kept]


if __name__ == "__main__":
    stage_main("ppo")
