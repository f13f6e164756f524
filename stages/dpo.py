"""Optimizes the fine-tuned policy on the rankings themselves, without a reward model: DPO.

    python -m stages.dpo configs/quickstart.yaml dpo={}
    accelerate launch -m stages.dpo configs/quickstart.yaml dpo={}

Reads sft, labels, data and the preferences that the reward model learns from, and holds out the
same prompts; writes dpo/: the model, and in ``metrics.jsonl`` how often it prefers what labelers
did. Killed and started again, it goes on from its newest checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.config import RunConfig
from pipeline.dpo import optimize_preferences, preference_pairs, step_count, token_count
from pipeline.hugging_face import context_tokens_of, save_language_model
from pipeline.precision import forget_accelerate
from pipeline.records import Ranking, read_rows
from pipeline.reward_data import divide, encode_side, read_sources
from pipeline.stage_context import derive_seed, open_stage
from pipeline.tokenizer import Tokenizer
from pipeline.trainer_run import Run
from stages.cli import stage_main

VERSION = 1
SHOWN = ("loss", "rewards/accuracies")


def run(config: RunConfig, run_folder: Path) -> None:
    """Trains and publishes ``dpo/``.

    Raises:
        UserError: no two prompts have pairs, a response does not fit into the model's context, or
            training diverged.
    """
    with open_stage("dpo", config, run_folder) as stage:
        section, rewards = stage.section, config.reward
        rankings: list[Ranking] = []
        if rewards.own_labels:
            rankings = read_rows(stage.input("labels") / "rankings.jsonl", Ranking)
        others, _ = read_sources(rewards, stage.data_root, stage.input("data") / "prompts.jsonl")
        # The reward model's seed: what it holds out is held out here, too.
        division = divide(rankings, others, rewards, derive_seed(config.seed, "reward"), "labels")
        sft = stage.input("sft")
        tokenizer = Tokenizer.load(sft)
        training, validation = (
            preference_pairs(
                encode_side(side, tokenizer, context_tokens_of(sft), rewards, []), tokenizer
            )
            for side in (division.training, division.validation)
        )
        steps = step_count(len(training), section)
        tokens = token_count(training) // len(training)
        forget_accelerate()
        with stage.progress(steps, "preferences") as progress:

            def on_metrics(step: int, metrics: dict[str, float]) -> None:
                stage.log(step, **metrics)
                progress.show(**{name: metrics[name] for name in SHOWN if name in metrics})

            model = optimize_preferences(
                sft,
                training,
                validation,
                tokenizer,
                section,
                Run.of(stage),
                on_metrics=on_metrics,
                on_step=lambda step: progress.advance_to(step, tokens=tokens * section.batch_pairs),
            )
        if stage.is_leader:
            save_language_model(model, stage.output, tokenizer)


if __name__ == "__main__":
    stage_main("dpo")
