"""What ``reward/report.json`` says: how well the reward model does, and what its labels were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from pipeline.preferences import (
    PromptComparisons,
    comparisons_by_prompt,
    contradiction_count,
    pairs_from_ranks,
    pairwise_agreement,
    tie_count,
)
from pipeline.question_evaluation import question_metrics
from pipeline.records import Ranking
from pipeline.reward import RewardModel, normalize, score_and_ask
from pipeline.reward_batches import EncodedComparisons
from pipeline.reward_evaluation import (
    ScoredPairs,
    evaluate_pairs,
    length_baseline,
    scored_pairs,
)


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


def normalize_and_measure(
    model: RewardModel, pad_id: int, training: Side, validation: Side, tied: Side
) -> dict[str, object]:
    """Normalizes the model's scores over all ranked responses; the report's numbers, in fp32.

    Raises:
        UserError: the scores cannot be normalized.
    """
    model.eval()
    measured = [score_and_ask(model, side.rows, pad_id) for side in (training, validation, tied)]
    everything = torch.cat([scores for scores, _ in measured]).double()
    mean, std = float(everything.mean()), float(everything.std(correction=0))
    offset = normalize(model, mean, std)
    normalized, logits = score_and_ask(model, validation.rows, pad_id)
    expected = (measured[1][0].double() - mean) / std + offset
    error = float((normalized.double() - expected).abs().max())
    moved = float((logits - measured[1][1]).abs().max()) if logits.numel() else 0.0
    if max(error, moved) > 1e-3:
        raise RuntimeError(f"normalization changed a score by {error:g}, an answer by {moved:g}")
    # Margins as the loss saw them: normalization would change their scale, and the log-loss.
    on_training, on_validation = (
        side.scored(scores.tolist())
        for side, (scores, _) in zip((training, validation), measured[:2], strict=True)
    )
    return {
        "validation": evaluate_pairs(on_validation),
        "training": evaluate_pairs(on_training),
        "length_baseline": length_baseline(on_training, on_validation),
        "questions": answers_report(model, logits, validation),
        "scores": {
            "before_normalization": {"mean": mean, "std": std, "n": len(everything)},
            "validation": {
                "mean": float(normalized.mean()),
                "std": float(normalized.std(correction=0)),
                "n": len(normalized),
            },
        },
    }


def answers_report(
    model: RewardModel, logits: torch.Tensor, validation: Side
) -> dict[str, dict[str, object]]:
    """For each question, how well its head answers on the held-out prompts."""
    answers = np.array([row for one in validation.encoded for row in one.answers])
    report: dict[str, dict[str, object]] = {}
    for column, name in enumerate(model.question_names):
        answered = np.isfinite(answers[:, column])
        predicted = logits[:, column].double().numpy()[answered]
        report[name] = question_metrics(predicted, answers[answered, column])
    return report


def label_report(
    rankings: Sequence[Ranking], training: Side, validation: Side
) -> dict[str, object]:
    """How far labelers agree with one another, and what the labels consist of.

    Agreement is None where no two labelers can be compared. On the validation prompts alone it is
    what the model's accuracy there can be held against.
    """
    held_out = {one.prompt for one in validation.comparisons}
    on_validation = [ranking for ranking in rankings if ranking.prompt in held_out]
    return {
        "labeler_agreement": agreement(rankings),
        "validation_labeler_agreement": agreement(on_validation),
        "counts": counts(rankings, training, validation),
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
