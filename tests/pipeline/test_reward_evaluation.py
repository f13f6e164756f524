"""The reward model's report against tables worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from pipeline.evaluation import Leaf
from pipeline.preferences import PromptComparisons
from pipeline.records import RankedResponse
from pipeline.reward_evaluation import (
    accuracy,
    evaluate_pairs,
    length_baseline,
    scored_pairs,
)


def comparisons(prompt: str, size: int, pairs: list[tuple[int, int, int]]) -> PromptComparisons:
    """``pairs`` are (better, worse, rating gap)."""
    responses = [RankedResponse(response_id=f"r{i}", text="", policy="sft") for i in range(size)]
    return PromptComparisons(
        prompt, tuple(responses), tuple((b, w) for b, w, _ in pairs), tuple(g for *_, g in pairs)
    )


TWO_PROMPTS = [
    comparisons("p", 3, [(0, 1, 2), (0, 2, 5), (2, 1, -1)]),
    comparisons("tied", 2, []),
    comparisons("q", 2, [(1, 0, 2)]),
]
SCORES = [1.0, 0.0, 1.0, 9.0, 9.0, 2.0, 0.5]
LENGTHS = [10, 12, 10, 1, 1, 5, 8]


def test_pairs_are_taken_from_the_right_rows() -> None:
    pairs = scored_pairs(TWO_PROMPTS, SCORES, LENGTHS)
    assert pairs.margins.tolist() == [1.0, 0.0, 1.0, -1.5]
    assert pairs.length_margins.tolist() == [-2, 0, -2, 3]
    assert pairs.rating_gaps.tolist() == [2, 5, -1, 2]
    assert pairs.prompts.tolist() == [0, 0, 0, 2]


def test_scores_that_do_not_fit_the_responses_are_an_error() -> None:
    with pytest.raises(ValueError, match="6 scores, 7 lengths, 7 responses"):
        scored_pairs(TWO_PROMPTS, SCORES[:-1], LENGTHS)


def test_accuracy_counts_equal_scores_as_half_and_has_wilsons_interval() -> None:
    leaf = accuracy(np.array([1.0, 0.0, 0.0, -1.5, 2.0]))
    assert (leaf["mean"], leaf["n"]) == (0.6, 5)
    expected = binomtest(3, 5).proportion_ci(method="wilson")
    assert leaf["ci95"] == pytest.approx([expected.low, expected.high])
    assert accuracy(np.array([])) == Leaf(mean=None, ci95=None, n=0)


def test_report_by_hand() -> None:
    report = evaluate_pairs(scored_pairs(TWO_PROMPTS, SCORES, LENGTHS))
    # Margins 1, 0, 1 | −1.5: right 2.5 of 4; −log σ(m) = log(1 + e^−m).
    accuracy_leaf, log_loss = report["accuracy"], report["log_loss"]
    assert isinstance(accuracy_leaf, dict)
    assert isinstance(log_loss, dict)
    assert (accuracy_leaf["mean"], accuracy_leaf["n"]) == (2.5 / 4, 4)
    losses = [math.log1p(math.exp(-margin)) for margin in (1, 0, 1, -1.5)]
    assert log_loss["mean"] == pytest.approx(sum(losses) / 4)
    assert log_loss["n"] == 2  # prompts are the independent units
    by_gap = report["accuracy_by_rating_gap"]
    assert isinstance(by_gap, dict)
    assert {gap: (leaf["mean"], leaf["n"]) for gap, leaf in by_gap.items()} == {
        "-1": (1.0, 1),
        "2": (0.5, 2),
        "5": (0.5, 1),
    }
    by_prompt = report["accuracy_by_prompt"]
    assert isinstance(by_prompt, dict)
    # Two prompts are too few to tell: Student's interval is cut to what a share can be.
    assert by_prompt == {"mean": 2.5 / 4, "ci95": [0.0, 1.0], "n": 2}


def test_extreme_margins_have_a_finite_loss() -> None:
    report = evaluate_pairs(scored_pairs([TWO_PROMPTS[2]], [1e4, -1e4], [1, 1]))
    assert report["log_loss"] == Leaf(mean=2e4, ci95=None, n=1)


def test_length_baseline_takes_its_direction_from_the_training_pairs() -> None:
    shorter = scored_pairs(TWO_PROMPTS, SCORES, LENGTHS)  # length margins −2, 0, −2, 3
    longer = scored_pairs([TWO_PROMPTS[2]], [0.0, 0.0], [4, 9])
    assert length_baseline(shorter, longer) == {
        "prefers": "shorter",
        "accuracy": accuracy(np.array([-1.0])),
    }
    baseline = length_baseline(longer, shorter)
    assert baseline["prefers"] == "longer"
    assert baseline["accuracy"] == accuracy(np.array([-1.0, 0.0, -1.0, 1.0]))
