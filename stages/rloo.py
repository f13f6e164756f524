"""Optimizes the fine-tuned policy against the reward model with REINFORCE leave-one-out.

    python -m stages.rloo configs/quickstart.yaml rloo={}
    accelerate launch -m stages.rloo configs/quickstart.yaml rloo={}

Reads sft, reward and the prompts of split ppo; writes rloo/: the model, and ``metrics.jsonl`` by
update. Killed and started again, it goes on from its newest checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.config import RunConfig
from pipeline.hugging_face import save_language_model
from pipeline.precision import forget_accelerate
from pipeline.reward_files import load_reward_model
from pipeline.rloo import Reward, optimize_policy
from pipeline.stage_context import open_stage
from pipeline.trainer_run import Run
from stages.cli import stage_main
from stages.ppo import ppo_prompts, shared_tokenizer

VERSION = 1


def run(config: RunConfig, run_folder: Path) -> None:
    """Trains and publishes ``rloo/``.

    Raises:
        UserError: there are no prompts of split ppo or one is too long, the two models' tokenizers
            differ, a score is not finite, or training diverged.
    """
    with open_stage("rloo", config, run_folder) as stage:
        section, sft = stage.section, stage.input("sft")
        tokenizer = shared_tokenizer(sft, stage.input("reward"))
        prompts, _ = ppo_prompts(stage.input("data") / "prompts.jsonl", 0)
        reward_model = load_reward_model(stage.input("reward")).to(stage.device).eval()
        updates = section.total_episodes // section.batch_size
        steps_an_update = section.num_iterations * section.num_mini_batches
        forget_accelerate()
        with stage.progress(updates, "updates") as progress:

            def on_update(update: int, metrics: dict[str, float]) -> None:
                stage.log(update, **metrics)
                length = metrics.get("rollout/mean_length", 0.0)
                tokens = round(length * section.batch_size)
                score = metrics.get("objective/scores", 0.0)
                progress.advance_to(update, tokens=tokens, score=score)

            model = optimize_policy(
                sft,
                prompts,
                Reward(reward_model, tokenizer, section.missing_eos_penalty),
                tokenizer,
                section,
                Run.of(stage),
                on_metrics=on_update,
                on_step=lambda step: progress.advance_to(step // steps_an_update),
            )
        save_language_model(model, stage.output, tokenizer)


if __name__ == "__main__":
    stage_main("rloo")
