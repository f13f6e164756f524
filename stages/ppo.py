"""Optimizes the fine-tuned policy against the reward model with PPO.

    python -m stages.ppo configs/quickstart.yaml
    accelerate launch -m stages.ppo configs/quickstart.yaml

Reads sft, reward and the prompts of split ppo; writes ppo/ (the policy) and ppo/critic/. The
reference is the sft model, frozen; the critic starts from the reward model. The algorithm is
``PPOTrainer.train`` in ``pipeline/ppo/trainer.py``.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.hugging_face import load_language_model, save_language_model
from pipeline.ppo import PPOTrainer
from pipeline.records import Prompt, read_rows
from pipeline.reward_files import load_reward_model, save_reward_model
from pipeline.stage_context import open_stage
from pipeline.tokenizer import Tokenizer
from stages.cli import stage_main

VERSION = 2


def run(config: RunConfig, run_folder: Path) -> None:
    """Trains and publishes ``ppo/``.

    Raises:
        UserError: there are no prompts of split ppo, the two models' tokenizers differ, or the
            trainer refuses (a prompt too long, a failed self-check, scores that are not finite).
    """
    with open_stage("ppo", config, run_folder) as stage:
        sft, reward = stage.input("sft"), stage.input("reward")
        tokenizer = shared_tokenizer(sft, reward)
        prompts = ppo_prompts(stage.input("data") / "prompts.jsonl")
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

            trainer = PPOTrainer(
                config.ppo,
                tokenizer,
                model=load_language_model(sft),
                ref_model=load_language_model(sft),
                reward_model=load_reward_model(reward),
                train_dataset=prompts,
                value_model=load_reward_model(reward),
                seed=stage.seed,
                device=stage.device,
                autocast=stage.autocast,
                on_update=on_update,
                checkpoints=stage.checkpoints,
            )
            trainer.train()
        save_language_model(trainer.policy, stage.output, tokenizer)
        save_reward_model(trainer.critic, stage.output / "critic", tokenizer)


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


def ppo_prompts(path: Path) -> list[str]:
    """The text of the prompts of split ppo.

    Raises:
        UserError: the file is unusable, or holds no such prompt.
    """
    prompts = [row.prompt for row in read_rows(path, Prompt) if row.split == "ppo"]
    if not prompts:
        raise UserError(path, "holds no prompt of split ppo.", "give the data stage more prompts.")
    return prompts


if __name__ == "__main__":
    stage_main("ppo")
