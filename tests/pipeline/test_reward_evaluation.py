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
    accuracy_by_length_difference,
    difference,
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


def of_texts(texts: list[str], labelers: list[str]) -> PromptComparisons:
    """Each text is better than the next one, says one labeler each."""
    responses = [
        RankedResponse(response_id=f"r{i}", text=text, policy="sft") for i, text in enumerate(texts)
    ]
    pairs = tuple((i, i + 1) for i in range(len(texts) - 1))
    return PromptComparisons("p", tuple(responses), pairs, (None,) * len(pairs), tuple(labelers))


def test_accuracy_by_which_response_is_longer() -> None:
    # Characters 8, 10, 8, 0: a quarter longer counts as longer, also the other way round.
    pairs = scored_pairs(
        [of_texts(["x" * 8, "y" * 10, "z" * 8, ""], ["a"] * 3)], [0, 1, 3, 2], [1] * 4
    )
    assert pairs.length_ratios.tolist() == [0.8, 1.25, math.inf]
    by_length = accuracy_by_length_difference(pairs)
    shares = {name: (leaf["mean"], leaf["n"]) for name, leaf in by_length.items()}
    assert shares == {
        "better_is_longer": (0.5, 2),
        "similar_length": (None, 0),
        "better_is_shorter": (0.0, 1),
    }
    similar = scored_pairs(
        [of_texts(["x" * 99, "y" * 80, "", ""], ["a"] * 3)], [3, 2, 1, 0], [1] * 4
    )
    assert similar.length_ratios.tolist() == [99 / 80, math.inf, 1.0]


def test_accuracy_by_labeler_and_pairs_without_ratings() -> None:
    pairs = scored_pairs([of_texts(list("abcd"), ["ann", "ben", "ann"])], [4, 3, 5, 1], [1] * 4)
    report = evaluate_pairs(pairs)
    by_labeler = report["accuracy_by_labeler"]
    assert isinstance(by_labeler, dict)
    shares = {name: (leaf["mean"], leaf["n"]) for name, leaf in by_labeler.items()}
    assert shares == {"ann": (1.0, 2), "ben": (0.0, 1)}
    assert report["accuracy_by_rating_gap"] == {}
    brier = report["brier"]
    assert isinstance(brier, dict)
    wrong = [1 / (1 + math.exp(margin)) for margin in (1, -2, 4)]  # the worse one's probability
    assert brier["mean"] == pytest.approx(sum(share**2 for share in wrong) / 3)


def test_the_interval_of_a_difference_is_the_closed_form() -> None:
    first = Leaf(mean=0.8, ci95=[0.7, 0.86], n=50)
    second = Leaf(mean=0.6, ci95=[0.5, 0.72], n=40)
    leaf = difference(first, second)
    assert leaf["mean"] == pytest.approx(0.2)
    # Zou and Donner: the lower end takes the first's lower and the second's upper half-width.
    expected = [0.2 - math.hypot(0.1, 0.12), 0.2 + math.hypot(0.06, 0.1)]
    assert leaf["ci95"] == pytest.approx(expected)
    assert leaf["n"] == 90
    assert difference(first, Leaf(mean=None, ci95=None, n=0))["mean"] is None
    unknown = difference(first, Leaf(mean=0.5, ci95=None, n=1))
    assert (unknown["mean"], unknown["ci95"], unknown["n"]) == (pytest.approx(0.3), None, 51)
