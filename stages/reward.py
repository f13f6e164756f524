"""Trains the reward model on rankings: one score for any response, for PPO to raise.

    python -m stages.reward configs/quickstart.yaml
    accelerate launch -m stages.reward configs/quickstart.yaml

Reads sft, labels and data; writes reward/: the model, whose scores have mean 0 and standard
deviation 1 over the ranked responses, ``metrics.jsonl`` and ``report.json`` (accuracy on prompts
that were held out, by rating gap and against length alone, log-loss, counts). The labelers'
agreement stands beside the accuracy, for no model can be measured to be much better than that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from pipeline.config import RewardSection, RunConfig
from pipeline.errors import UserError
from pipeline.gpt2_format import load_gpt
from pipeline.preferences import (
    PromptComparisons,
    comparisons_by_prompt,
    contradiction_count,
    pairs_from_ranks,
    pairwise_agreement,
    split_by_prompt,
    tie_count,
)
from pipeline.records import Ranking, read_rows
from pipeline.reward import (
    EncodedComparisons,
    RewardModel,
    batch_schedule,
    collate,
    encode_comparisons,
    kwise_loss_sum,
    normalize,
    pair_margins,
    save_reward_model,
    score_rows,
)
from pipeline.reward_evaluation import (
    ScoredPairs,
    accuracy,
    evaluate_pairs,
    length_baseline,
    log_losses,
    scored_pairs,
)
from pipeline.stage_context import StageContext, open_stage
from pipeline.tokenizer import Tokenizer
from pipeline.training import Metrics, Schedule, fit
from stages.cli import stage_main

VERSION = 1
FINAL_LEARNING_RATE_FRACTION = 0.1  # cosine to 10% (InstructGPT, appendix C.2)
ADAM_BETAS = (0.9, 0.95)


@dataclass(frozen=True)
class Side:
    """The prompts on one side of the split, as read and as ids."""

    comparisons: list[PromptComparisons]
    encoded: list[EncodedComparisons]

    @property
    def rows(self) -> list[tuple[int, ...]]:
        """The ids of all responses, prompt after prompt."""
        return [row for one in self.encoded for row in one.rows]

    def scored(self, scores: Sequence[float]) -> ScoredPairs:
        """The pairs, given the scores of ``rows``."""
        return scored_pairs(self.comparisons, scores, [len(row) for row in self.rows])


def run(config: RunConfig, run_folder: Path) -> None:
    """Trains and publishes ``reward/``.

    Raises:
        UserError: the rankings hold no two prompts with pairs, a response does not fit into the
            model's context, or training diverged.
    """
    section = config.reward
    with open_stage("reward", config, run_folder) as stage:
        path = stage.input("labels") / "rankings.jsonl"
        rankings = read_rows(path, Ranking)
        tokenizer = Tokenizer.load(stage.input("sft"))
        trunk = load_gpt(stage.input("sft"))
        training, validation, tied = [
            encode(side, tokenizer, trunk.config.context_tokens)
            for side in divide(rankings, section, stage.seed, path)
        ]
        generator = torch.Generator().manual_seed(stage.seed)
        model = RewardModel(trunk, generator).to(stage.device)
        train(stage, section, model, tokenizer.pad_id, training, validation)
        report = finish(model, tokenizer.pad_id, training, validation, tied)
        report["labeler_agreement"] = agreement(rankings)
        report["counts"] = counts(rankings, training, validation)
        text = json.dumps(report, indent=2) + "\n"
        (stage.output / "report.json").write_text(text, encoding="utf-8")
        save_reward_model(model, stage.output, tokenizer)


def divide(
    rankings: Sequence[Ranking], section: RewardSection, seed: int, path: Path
) -> tuple[list[PromptComparisons], list[PromptComparisons], list[PromptComparisons]]:
    """``(training, validation, tied)``: prompts to learn from, to measure on, and without pairs.

    Raises:
        UserError: fewer than two prompts have a pair.
    """
    comparisons = comparisons_by_prompt(rankings)
    usable = {one.prompt for one in comparisons if one.pairs}
    if len(usable) < 2:
        raise UserError(
            path,
            f"{len(usable)} of {len(comparisons)} prompts have responses that are not tied.",
            "rank the responses of at least 2 prompts, one to train on and one to validate on.",
        )
    ranked = [ranking for ranking in rankings if ranking.prompt in usable]
    training, validation = split_by_prompt(ranked, section.validation_fraction, seed)
    tied = [one for one in comparisons if not one.pairs]
    return comparisons_by_prompt(training), comparisons_by_prompt(validation), tied


def encode(comparisons: list[PromptComparisons], tokenizer: Tokenizer, context_tokens: int) -> Side:
    """One side of the split with its ids."""
    encoded = [encode_comparisons(one, tokenizer, context_tokens) for one in comparisons]
    return Side(comparisons, encoded)


def train(
    stage: StageContext,
    section: RewardSection,
    model: RewardModel,
    pad_id: int,
    training: Side,
    validation: Side,
) -> None:
    """The training steps; after each epoch the validation prompts are measured and logged.

    Raises:
        UserError: training diverged.
    """
    batches = batch_schedule(
        len(training.encoded), section.batch_prompts, section.epochs, stage.seed
    )
    steps, epoch_steps = len(batches), len(batches) // section.epochs

    def loss_at(step: int, part: int) -> tuple[torch.Tensor, Metrics]:
        batch = collate([training.encoded[i] for i in batches[step]], pad_id).to(stage.device)
        scores = model(batch.input_ids, batch.lengths)
        loss_sum = kwise_loss_sum(scores, batch.pair_indices, batch.pair_weights)
        right = (pair_margins(scores, batch.pair_indices) > 0).float().mean()
        return loss_sum / batch.prompt_count, {"accuracy": float(right)}

    with stage.progress(steps, "reward model") as progress:

        def on_step(step: int, metrics: Metrics) -> None:
            rows = [row for i in batches[step - 1] for row in training.encoded[i].rows]
            progress.advance(tokens=sum(len(row) for row in rows), loss=metrics["loss"])
            if step % epoch_steps == 0:
                metrics = {**metrics, **validate(stage, model, pad_id, validation)}
            stage.log(step, **metrics)

        fit(
            stage.accelerator,
            model,
            [make_optimizer(model, section)],
            loss_at,
            schedule=Schedule(
                steps, round(section.warmup_fraction * steps), FINAL_LEARNING_RATE_FRACTION
            ),
            max_grad_norm=section.max_grad_norm,
            autocast=stage.autocast,
            on_step=on_step,
        )


def make_optimizer(model: RewardModel, section: RewardSection) -> torch.optim.Optimizer:
    """AdamW on all weights, trunk and head."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=section.learning_rate,
        betas=ADAM_BETAS,
        weight_decay=section.weight_decay,
        fused=True,
    )


def validate(
    stage: StageContext, model: RewardModel, pad_id: int, validation: Side
) -> dict[str, float]:
    """Accuracy and log-loss on the held-out prompts, in the precision of training."""
    with stage.autocast():
        scores = score_rows(model, validation.rows, pad_id)
    margins = validation.scored(scores.tolist()).margins
    return {
        "validation_accuracy": accuracy(margins)["mean"] or 0.0,
        "validation_log_loss": float(log_losses(margins).mean()),
        "validation_pairs": margins.size,
    }


def finish(
    model: RewardModel, pad_id: int, training: Side, validation: Side, tied: Side
) -> dict[str, object]:
    """Normalizes the model's scores over all ranked responses; the report's numbers, in fp32.

    Raises:
        UserError: the scores cannot be normalized.
    """
    model.eval()
    sides = (training, validation, tied)
    scores = [score_rows(model, side.rows, pad_id) for side in sides]
    everything = torch.cat(scores).double()
    mean, std = float(everything.mean()), float(everything.std(correction=0))
    normalize(model, mean, std)
    normalized = score_rows(model, validation.rows, pad_id).double()
    error = float((normalized - (scores[1].double() - mean) / std).abs().max())
    if error > 1e-3:
        raise RuntimeError(f"normalization changed a score by {error:g} standard deviations")
    on_training, on_validation = (
        side.scored(values.tolist()) for side, values in zip(sides[:2], scores[:2], strict=True)
    )
    return {
        "validation": evaluate_pairs(on_validation),
        "training": evaluate_pairs(on_training),
        "length_baseline": length_baseline(on_training, on_validation),
        "scores": {
            "before_normalization": {"mean": mean, "std": std, "n": len(everything)},
            "validation": {
                "mean": float(normalized.mean()),
                "std": float(normalized.std(correction=0)),
                "n": len(normalized),
            },
        },
    }


def agreement(rankings: Sequence[Ranking]) -> dict[str, float] | None:
    """How far labelers agree with one another, or None where no two of them can be compared."""
    measured = pairwise_agreement(rankings)
    return None if measured is None else asdict(measured)


def counts(rankings: Sequence[Ranking], training: Side, validation: Side) -> dict[str, int]:
    """What the labels consist of."""
    return {
        "rankings": len(rankings),
        "prompts": len({ranking.prompt for ranking in rankings}),
        "training_prompts": len(training.comparisons),
        "validation_prompts": len(validation.comparisons),
        "pairs": sum(len(pairs_from_ranks(ranking.ranks)) for ranking in rankings),
        "training_pairs": sum(len(one.pairs) for one in training.comparisons),
        "validation_pairs": sum(len(one.pairs) for one in validation.comparisons),
        "ties": sum(tie_count(ranking.ranks) for ranking in rankings),
        "contradictions": sum(
            contradiction_count(ranking.ratings, ranking.ranks) for ranking in rankings
        ),
        "unfinished_responses": sum(
            not response.finished
            for one in comparisons_by_prompt(rankings)
            for response in one.responses
        ),
    }


if __name__ == "__main__":
    stage_main("reward")
