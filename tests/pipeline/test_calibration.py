"""Calibration of pairwise probabilities against closed forms, loops and simulated choices."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, norm, t

from pipeline.calibration import (
    brier,
    calibration_slope,
    expected_calibration_error,
    reliability,
)

Vector = NDArray[np.float64]


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def simulated(
    slope: float, prompts: int, responses: int, rng: np.random.Generator
) -> tuple[Vector, list[int]]:
    """Margins of all pairs of each prompt, and the prompts.

    One labeler ranks all responses of a prompt by slope · score + Gumbel noise, whose differences
    are logistic: each pair by itself follows Bradley and Terry, the pairs of a prompt together do
    not choose independently.
    """
    scores = rng.normal(0, 1.5, (prompts, responses))
    seen = slope * scores + rng.gumbel(size=scores.shape)
    first, second = np.triu_indices(responses, 1)
    sign = np.sign(seen[:, first] - seen[:, second])
    margins = (scores[:, first] - scores[:, second]) * sign
    return margins.ravel(), np.repeat(np.arange(prompts), len(first)).tolist()


def two_sided_bins(margins: Vector, bins: int) -> list[tuple[float, float, float]]:
    """(mean probability, share that won, weight) of 2 · bins bins on [0, 1], by a loop.

    Every pair is seen from the better and from the worse response's side. Edges belong to the bin
    that is farther from ½, as they do in the folded table.
    """
    rows = [(sigma(m), 1.0 if m else 0.5) for m in margins]
    rows += [(sigma(-m), 0.0 if m else 0.5) for m in margins]
    table = []
    for index in range(bins):
        low, high = 0.5 + index / (2 * bins), 0.5 + (index + 1) / (2 * bins)
        last = index == bins - 1
        # At ½ itself both sides of an equal pair meet; one goes up, one goes down.
        above = [(p, y) for p, y in rows if p > 0.5 and low <= p and (p < high or last)]
        below = [(p, y) for p, y in rows if p < 0.5 and low <= 1 - p and (1 - p < high or last)]
        if index == 0:
            equal = [row for row in rows if row[0] == 0.5]
            above, below = above + equal[::2], below + equal[1::2]
        for side in (above, below):
            if side:
                chances, wins = np.array(side).T
                table.append((chances.mean(), wins.mean(), len(side) / len(rows)))
    return table


MARGINS = np.array([3.0, 0.2, -0.2, 0.0, 1.1, -1.4, 60.0, 0.7, 0.0, -4.0, 2.2, 0.3, 1.2])


# --- reliability ----------------------------------------------------------------------------------


def test_a_table_by_hand() -> None:
    # σ(log 9) = 0.9, on the edge of bin 8 of 10 or in bin 7: so margins a little off it.
    up, down = math.log(9) + 1e-6, math.log(1.5)  # confidences just above 0.9, and 0.6
    table = reliability([up, up, up, -up, down + 1e-6, -down - 1e-6, 0.0], bins=5)
    assert [(row["lower"], row["upper"], row["n"]) for row in table] == [
        (pytest.approx(0.5), pytest.approx(0.6), 1),
        (pytest.approx(0.6), pytest.approx(0.7), 2),
        (pytest.approx(0.9), pytest.approx(1.0), 4),
    ]
    assert [row["accuracy"] for row in table] == [0.5, 0.5, 0.75]
    assert [row["mean_confidence"] for row in table] == pytest.approx([0.5, 0.6, 0.9], abs=1e-5)
    expected = binomtest(3, 4).proportion_ci(method="wilson")
    assert table[2]["ci95"] == pytest.approx([expected.low, expected.high])


def test_a_certain_confidence_is_in_the_last_bin() -> None:
    [row] = reliability([800.0, -800.0])
    assert (row["lower"], row["upper"]) == (pytest.approx(0.95), 1.0)
    assert (row["mean_confidence"], row["accuracy"], row["n"]) == (1.0, 0.5, 2)


def test_the_folded_table_is_the_two_sided_one_and_its_mirror_image() -> None:
    bins = 7
    table = two_sided_bins(MARGINS, bins)
    above, below = table[::2], table[1::2]
    rows = reliability(MARGINS, bins)
    assert len(rows) == len(above) == len(below)
    for row, (chance, share, weight), (mirror_chance, mirror_share, mirror_weight) in zip(
        rows, above, below, strict=True
    ):
        assert row["n"] / len(MARGINS) == pytest.approx(weight + mirror_weight)
        assert row["mean_confidence"] == pytest.approx(chance) == pytest.approx(1 - mirror_chance)
        assert row["accuracy"] == pytest.approx(share) == pytest.approx(1 - mirror_share)


# --- expected calibration error -------------------------------------------------------------------


@pytest.mark.parametrize("bins", [1, 2, 7, 10])
def test_the_error_is_that_of_a_loop_over_both_sides(bins: int) -> None:
    for margins in (MARGINS, simulated(0.5, 30, 4, np.random.default_rng(3))[0]):
        expected = sum(
            weight * abs(share - chance) for chance, share, weight in two_sided_bins(margins, bins)
        )
        leaf = expected_calibration_error(margins, bins)
        assert leaf["mean"] == pytest.approx(expected, abs=1e-12)
        assert leaf["n"] == len(margins)


def test_errors_of_different_bins_do_not_cancel() -> None:
    # Ten pairs at confidence 0.95, all wrong; ten at 0.55, all right: 0.95 and −0.45.
    margins = [-logit(0.95)] * 10 + [logit(0.55)] * 10
    assert expected_calibration_error(margins)["mean"] == pytest.approx((0.95 + 0.45) / 2)
    assert expected_calibration_error(margins, 1)["mean"] == pytest.approx(abs(0.5 - 0.75))


def test_what_chance_gives_a_calibrated_model_is_what_one_shows() -> None:
    rng = np.random.default_rng(0)
    for responses in (2, 6):
        errors, chances = [], []
        for _ in range(60):
            margins, prompts = simulated(1.0, 80, responses, rng)
            leaf = expected_calibration_error(margins, clusters=prompts)
            assert leaf["mean"] is not None
            assert leaf["expected_if_calibrated"] is not None
            errors.append(leaf["mean"])
            chances.append(leaf["expected_if_calibrated"])
        error = float(np.std(errors)) / math.sqrt(len(errors))
        assert abs(np.mean(errors) - np.mean(chances)) < 4 * error + 0.04 * np.mean(errors)


def test_what_chance_gives_by_hand() -> None:
    """One bin: confidence c, three of four right. Errors from their mean ¾ − c: ¼, ¼ | ¼, −¾.

    Sums by prompt ½ and −½, squares ½; alone the squares are ¾: no prompt hangs together. Turned,
    ¼, ¼, ¼ | −¾: 9/16 + 9/16 against ¾ is 1.5.
    """
    c = 0.8
    margins = [logit(c), logit(c), logit(c), -logit(c)]
    mean_of_half_normal = 2 * norm.pdf(0)
    for prompts, effect in (("ppqq", 1.0), ("pppq", 1.5)):
        leaf = expected_calibration_error(margins, clusters=prompts)
        deviation = math.sqrt(effect * 4 * c * (1 - c))
        expected = mean_of_half_normal * deviation / 4
        assert leaf["expected_if_calibrated"] == pytest.approx(expected)
    one = expected_calibration_error(margins, clusters=["p"] * 4)
    assert one["expected_if_calibrated"] is None
    assert one["mean"] == pytest.approx(0.8 - 0.75)


@pytest.mark.parametrize("pairs", [1, 6])
def test_a_model_too_sure_of_itself_does_not_raise_what_chance_gives(pairs: int) -> None:
    """Confidence σ(5), right in 60%: a calibrated model would err by √(2/π · c(1 − c)/n)."""
    rng = np.random.default_rng(0)
    right = np.repeat(rng.random(600 // pairs) < 0.6, pairs) if pairs > 1 else rng.random(600) < 0.6
    margins = np.where(right, 5.0, -5.0)
    leaf = expected_calibration_error(margins, clusters=[i // pairs for i in range(600)])
    c = sigma(5.0)
    expected = math.sqrt(2 / math.pi * pairs * c * (1 - c) / 600)
    assert leaf["expected_if_calibrated"] == pytest.approx(expected, rel=0.1)
    assert leaf["mean"] is not None
    assert leaf["mean"] > 0.3


# --- Brier score ----------------------------------------------------------------------------------


def test_brier_is_the_mean_over_both_sides() -> None:
    both = [(1 - sigma(m)) ** 2 for m in MARGINS] + [(0 - sigma(-m)) ** 2 for m in MARGINS]
    leaf = brier(MARGINS)
    assert leaf["mean"] == pytest.approx(np.mean(both))
    assert leaf["n"] == len(MARGINS)


def test_brier_of_known_models() -> None:
    assert brier([0.0, 0.0, 0.0])["mean"] == 0.25
    assert brier([900.0])["mean"] == 0.0
    assert brier([-900.0, 900.0])["mean"] == 0.5
    # Student's t of (1, 0) reaches far beyond what a mean of squares in [0, 1] can be.
    assert brier([-900.0, 900.0])["ci95"] == [0.0, 1.0]


def test_the_interval_of_brier_takes_prompts_as_units() -> None:
    margins = np.array([1.0, -1.0, 2.0, 0.5])
    repeated = brier(np.repeat(margins, 5), np.repeat(np.arange(4), 5).tolist())
    once = brier(margins)
    assert repeated["n"] == once["n"] == 4
    assert repeated["ci95"] == pytest.approx(once["ci95"])


# --- calibration slope ----------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "wrong", "margin"), [(3, 1, 1.0), (9, 1, 0.02), (2, 5, 40.0)])
def test_slope_and_interval_of_two_point_margins(right: int, wrong: int, margin: float) -> None:
    """The slope is logit(share right) / margin, its error that of a logit: 1 / √(n p (1 − p))."""
    leaf = calibration_slope([margin] * right + [-margin] * wrong)
    n, p = right + wrong, right / (right + wrong)
    assert leaf["mean"] == pytest.approx(logit(p) / margin)
    half = t.ppf(0.975, n - 1) * math.sqrt(n / (n - 1)) / math.sqrt(n * p * (1 - p)) / margin
    assert leaf["ci95"] == pytest.approx([logit(p) / margin - half, logit(p) / margin + half])
    assert leaf["n"] == n


def test_no_other_slope_is_more_likely() -> None:
    rng = np.random.default_rng(1)
    for size in (5, 40, 400):
        margins = rng.normal(0.4, 1, size) * rng.choice([0.01, 1, 30], size)
        slope = calibration_slope(margins)["mean"]
        assert slope is not None
        losses = [
            np.logaddexp(0, -b * margins).sum()
            for b in slope + np.array([-1, -1e-3, 0, 1e-3, 1]) * abs(slope)
        ]
        assert int(np.argmin(losses)) == 2


def test_scaling_the_margins_divides_the_slope() -> None:
    margins, prompts = simulated(0.7, 25, 3, np.random.default_rng(2))
    once = calibration_slope(margins, prompts)
    assert once["mean"] is not None
    assert once["ci95"] is not None
    for factor in (1e-6, 0.5, 1e5):
        scaled = calibration_slope(factor * margins, prompts)
        assert scaled["mean"] == pytest.approx(once["mean"] / factor)
        assert scaled["ci95"] == pytest.approx([end / factor for end in once["ci95"]])
    assert calibration_slope(-margins, prompts)["mean"] == pytest.approx(-once["mean"])
    assert calibration_slope([*margins, 0.0])["mean"] == pytest.approx(once["mean"])


@pytest.mark.parametrize(("slope", "responses"), [(1.0, 2), (0.4, 4), (2.0, 4)])
def test_the_slope_of_simulated_choices_lies_in_the_interval(slope: float, responses: int) -> None:
    """In 95% of samples: of 200, fewer than 180 or all would be a chance of about 1 in 1,000."""
    rng = np.random.default_rng(int(10 * slope))
    inside = 0
    for _ in range(200):
        margins, prompts = simulated(slope, 60, responses, rng)
        ends = calibration_slope(margins, prompts)["ci95"]
        assert ends is not None
        inside += ends[0] <= slope <= ends[1]
    assert 180 <= inside < 200


def test_repeated_pairs_of_a_prompt_do_not_narrow_the_interval() -> None:
    margins = np.array([1.0, -0.5, 2.0, -1.0, 0.3])
    once = calibration_slope(margins)
    repeated = calibration_slope(np.repeat(margins, 7), np.repeat(np.arange(5), 7).tolist())
    assert repeated["mean"] == pytest.approx(once["mean"])
    assert repeated["ci95"] == pytest.approx(once["ci95"])


@pytest.mark.parametrize(
    "margins", [[1.0, 2.0], [-1.0, -2.0], [0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], []]
)
def test_a_slope_that_would_be_infinite_or_anything_is_none(margins: list[float]) -> None:
    leaf = calibration_slope(margins)
    assert (leaf["mean"], leaf["ci95"], leaf["n"]) == (None, None, len(margins))


def test_one_prompt_has_a_slope_without_an_interval() -> None:
    leaf = calibration_slope([1.0, 1.0, -1.0], ["p", "p", "p"])
    assert leaf["mean"] == pytest.approx(logit(2 / 3))
    assert (leaf["ci95"], leaf["n"]) == (None, 1)


def test_margins_of_very_different_size_have_a_finite_slope() -> None:
    for margins in ([1.0] * 1000 + [-1e-9], [1e-9, -1.0, -500.0], [1e6, -1e-6]):
        slope = calibration_slope(margins)["mean"]
        assert slope is not None
        x = np.array(margins)
        # Σ x σ(−b x) is 0 between 0.999 b and 1.001 b, and it falls with b.
        with np.errstate(over="ignore"):
            below, above = ((x / (1 + np.exp(c * slope * x))).sum() for c in (0.999, 1.001))
        assert below * above < 0


# --- edges ----------------------------------------------------------------------------------------


def test_no_pairs_have_no_calibration() -> None:
    assert reliability([]) == []
    error = expected_calibration_error([])
    assert error == {"mean": None, "expected_if_calibrated": None, "n": 0}
    assert brier([]) == {"mean": None, "ci95": None, "n": 0}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_margins_that_are_no_numbers_are_an_error(value: float) -> None:
    for function in (reliability, expected_calibration_error, brier, calibration_slope):
        with pytest.raises(ValueError, match="finite"):
            function([1.0, value, -1.0])
