"""What ``reward/report.json`` says: how well the reward model does, and what its labels were."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from pipeline.agreement import PairwiseAgreement, agreement_on, pairwise_agreement
from pipeline.preferences import (
    comparisons_by_prompt,
    contradiction_count,
    pairs_from_ranks,
    tie_count,
)
from pipeline.question_evaluation import question_metrics
from pipeline.records import Ranking
from pipeline.reward import RewardModel, disagreement, normalize, score_and_ask, score_rows
from pipeline.reward_data import Side
from pipeline.reward_evaluation import (
    accuracy,
    accuracy_by_prompt,
    difference,
    evaluate_pairs,
    length_baseline,
)


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


def members_report(
    model: RewardModel, pad_id: int, training: Side, validation: Side
) -> dict[str, object]:
    """How far the members disagree, and whether pairs on which they do come out right less often.

    Sets ``model.member_means`` from the training responses. Empty for a single head.
    """
    if model.members is None:
        return {}
    model.member_means = disagreement(model, training.rows, pad_id).mean(0)
    beyond = disagreement(model, validation.rows, pad_id)
    firsts = np.cumsum([0, *(len(one.responses) for one in validation.comparisons)])
    pairs = np.array(
        [(first + better, first + worse)
         for one, first in zip(validation.comparisons, firsts, strict=False)
         for better, worse in one.pairs]
    )  # fmt: skip
    spreads = (beyond[pairs[:, 0]] - beyond[pairs[:, 1]]).std(1, correction=0).double().numpy()
    scores = score_rows(model, validation.rows, pad_id)
    margins = validation.scored(scores.tolist()).margins
    thirds = np.array_split(np.argsort(spreads, kind="stable"), 3)
    names = ("least", "middle", "most")
    return {
        "ensemble": {
            "members": model.members.out_features,
            "spread_of_scores": float(beyond.std(1, correction=0).mean()),
            "accuracy_by_disagreement": {
                name: accuracy(margins[third]) for name, third in zip(names, thirds, strict=True)
            },
        }
    }


def strangers_report(
    model: RewardModel, pad_id: int, validation: Side, strangers: Side
) -> dict[str, object]:
    """How far the model agrees with labelers it did not learn from, and how that differs.

    InstructGPT (section 4.1) had 69.6% there and 72.4% on the labelers it learned from. Empty where
    no labeler is held out.
    """
    if not strangers.comparisons:
        return {}
    both = [
        side.scored(score_rows(model, side.rows, pad_id).tolist())
        for side in (validation, strangers)
    ]
    known, unknown = map(accuracy_by_prompt, both)
    return {
        "held_out_labelers": {
            "names": sorted({name for one in strangers.comparisons for name in one.labelers}),
            "accuracy_by_prompt": unknown,
            "less_than_of_the_others": difference(known, unknown),
            "accuracy_by_labeler": evaluate_pairs(both[1])["accuracy_by_labeler"],
        }
    }


def epoch_rows(metrics: Path) -> list[dict[str, float]]:
    """What was measured after each epoch, and how much worse the held-out log-loss was."""
    if not metrics.exists():
        return []
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    kinds = ("accuracy", "log_loss", "pairs")
    names = [f"{side}_{kind}" for side in ("training", "validation") for kind in kinds]
    measured = [row for row in rows if "validation_log_loss" in row]
    return [
        {"epoch": epoch, "step": row["step"]}
        | {name: row[name] for name in names}
        | {"log_loss_gap": row["validation_log_loss"] - row["training_log_loss"]}
        for epoch, row in enumerate(measured, start=1)
    ]


def label_report(
    rankings: Sequence[Ranking], left_out: Sequence[str], training: Side, validation: Side
) -> dict[str, object]:
    """How far labelers agree with one another, and what the labels consist of.

    Agreement is None where no two labelers can be compared. On the validation prompts alone it is
    what the model's accuracy there can be held against: ``left_out`` are the labelers that it does
    not learn from, and on whom that accuracy is not measured.
    """
    held_out = {one.prompt for one in validation.comparisons}
    learned_from = [ranking for ranking in rankings if ranking.labeler not in left_out]
    return {
        "labeler_agreement": as_values(pairwise_agreement(learned_from)),
        "validation_labeler_agreement": as_values(agreement_on(learned_from, held_out)),
        "counts": counts(rankings, training, validation),
    }


def as_values(measured: PairwiseAgreement | None) -> dict[str, object] | None:
    """The agreement as JSON values; None where no two labelers can be compared."""
    return None if measured is None else asdict(measured)


def counts(rankings: Sequence[Ranking], training: Side, validation: Side) -> dict[str, object]:
    """What is learned from and measured on, and what the run's own labels consist of."""
    return {
        "training_prompts": len(training.comparisons),
        "validation_prompts": len(validation.comparisons),
        "training_pairs": sum(len(one.pairs) for one in training.comparisons),
        "validation_pairs": sum(len(one.pairs) for one in validation.comparisons),
        "own_labels": own_counts(rankings),
    }


def own_counts(rankings: Sequence[Ranking]) -> dict[str, int]:
    """The run's own rankings, those of held-out labelers included."""
    return {
        "rankings": len(rankings),
        "prompts": len({ranking.prompt for ranking in rankings}),
        "pairs": sum(len(pairs_from_ranks(ranking.ranks)) for ranking in rankings),
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
