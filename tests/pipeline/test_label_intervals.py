"""Intervals against scipy, closed forms and plain loops; whether they hold the truth is measured by
benchmarks/label_intervals.py."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipeline.label_intervals import (
    deviation_of,
    difference_of,
    holm,
    jackknife,
    ratio_of,
    share_of,
)
from pipeline.preferences import clustered_wilson_interval

RNG = np.random.default_rng(0)


def test_a_mean_has_students_interval() -> None:
    values = RNG.normal(3, 2, 17)
    found = ratio_of(values, np.ones(17), 17)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found is not None
    assert found.value == pytest.approx(values.mean())
    assert found.ci95 == pytest.approx((expected.low, expected.high))
    assert found.n == 17


def test_the_variance_of_a_ratio_is_that_of_its_linear_form() -> None:
    top, bottom = RNG.normal(3, 2, 40), RNG.uniform(1, 5, 40)
    found = ratio_of(top, bottom, 40)
    ratio = top.sum() / bottom.sum()
    linear = (top - ratio * bottom) / bottom.mean()  # its mean is 0, its spread the ratio's
    half = stats.t.ppf(0.975, 39) * linear.std(ddof=1) / np.sqrt(40)
    assert found is not None
    assert found.ci95 == pytest.approx((ratio - half, ratio + half))


def test_units_that_say_nothing_change_nothing() -> None:
    top, bottom = RNG.integers(0, 5, 9).astype(float), np.full(9, 5.0)
    more, longer = (np.concatenate([column, np.zeros(6)]) for column in (top, bottom))
    assert share_of(more, longer) == share_of(top, bottom)
    assert ratio_of(more, longer, 9) == ratio_of(top, bottom, 9)
    assert deviation_of(more, longer, 0.5) == deviation_of(top, bottom, 0.5)


def test_a_share_has_the_clustered_wilson_interval() -> None:
    trials = RNG.integers(1, 9, 25)
    yes = RNG.integers(0, trials + 1)
    found = share_of(yes.astype(float), trials.astype(float))
    assert found is not None
    expected = clustered_wilson_interval(list(zip(yes.tolist(), trials.tolist(), strict=True)))
    assert found.ci95 == pytest.approx(expected)
    assert found.n == trials.sum()


def test_nothing_is_none_and_one_unit_has_no_interval() -> None:
    assert share_of(np.zeros(3), np.zeros(3)) is None
    assert ratio_of(np.zeros(0), np.zeros(0), 0) is None
    found = share_of(np.array([2.0]), np.array([3.0]))
    assert found is not None
    assert found.ci95 is None
    found = ratio_of(np.array([2.0]), np.array([4.0]), 1)
    assert found is not None
    assert (found.value, found.ci95) == (0.5, None)


def test_a_deviation_is_a_t_test() -> None:
    values = RNG.normal(0.3, 1, 12)
    found = deviation_of(values, np.ones(12), 0.1)
    expected = stats.ttest_1samp(values, 0.1)
    assert found is not None
    assert found.value == pytest.approx(values.mean() - 0.1)
    assert found.p_value == pytest.approx(expected.pvalue)  # pyright: ignore[reportAttributeAccessIssue]
    assert deviation_of(values[:2], np.ones(2), 0.1) is None


def test_a_difference_of_shares_over_the_same_units_is_a_paired_t_test() -> None:
    yes, others = RNG.integers(0, 11, (2, 14)).astype(float)
    ten = np.full(14, 10.0)
    found = difference_of(yes, ten, others, ten)
    expected = stats.ttest_rel(yes / 10, others / 10)
    assert found.value == pytest.approx((yes - others).mean() / 10)
    assert found.p_value == pytest.approx(expected.pvalue)


def test_a_difference_of_shares_over_other_units_adds_their_variances() -> None:
    yes, others = RNG.integers(0, 11, (2, 14)).astype(float)
    ten, none = np.full(14, 10.0), np.zeros(14)
    found = difference_of(
        np.concatenate([yes, none]),
        np.concatenate([ten, none]),
        np.concatenate([none, others]),
        np.concatenate([none, ten]),
    )
    error = np.sqrt((yes.var(ddof=1) + others.var(ddof=1)) / 14) / 10
    value = (yes - others).mean() / 10
    assert found.value == pytest.approx(value)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(value) / error, 13))


def test_no_spread_is_certain() -> None:
    ten = np.full(9, 10.0)
    assert difference_of(0.5 * ten, ten, 0.5 * ten, ten).p_value == 1.0
    assert difference_of(0.5 * ten, ten, 0.7 * ten, ten).p_value == 0.0
    found = deviation_of(0.3 * ten, ten, 0.3)
    assert found is not None
    assert found.p_value == 1.0


def test_the_jackknife_leaves_one_unit_out_at_a_time() -> None:
    counts = RNG.uniform(1, 3, (15, 2))

    def disagreement(sums: np.ndarray) -> np.ndarray:
        return sums[..., 0] / sums[..., 1] / 2

    found = jackknife(counts, disagreement, 15)
    logarithms = np.array(
        [
            np.log(
                np.delete(counts, unit, 0)[:, 0].sum() / np.delete(counts, unit, 0)[:, 1].sum() / 2
            )
            for unit in range(15)
        ]
    )
    error = np.sqrt(14 / 15 * ((logarithms - logarithms.mean()) ** 2).sum())
    observed = counts[:, 0].sum() / counts[:, 1].sum() / 2
    factor = np.exp(stats.t.ppf(0.975, 14) * error)
    assert found is not None
    assert found.value == pytest.approx(1 - observed)
    assert found.ci95 == pytest.approx((1 - observed * factor, 1 - observed / factor))


def test_the_jackknife_says_nothing_where_one_unit_holds_all_disagreement() -> None:
    counts = np.array([[0.0, 3.0], [0.0, 3.0], [1 / 3, 3.0]])
    found = jackknife(counts, lambda sums: sums[..., 0] / sums[..., 1], 3)
    assert found is not None
    assert found.value == pytest.approx(1 - 1 / 27)
    assert found.ci95 is None


def test_holm_steps_down() -> None:
    # 0.01 ≤ 0.05/4, 0.015 ≤ 0.05/3, 0.03 > 0.05/2: the third and all above it stay.
    assert holm([0.04, 0.01, 0.03, 0.015]).tolist() == [False, True, False, True]
    assert holm([]).tolist() == []
    assert holm([0.06]).tolist() == [False]
