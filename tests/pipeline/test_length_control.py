"""A planted preference for length is taken out; without one the win rate stays as it is."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation import win_rate
from pipeline.length_control import length_controlled_win_rate


def _draw(
    rng: np.random.Generator, n: int, intercept: float, slope: float
) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes from the model itself, a's responses being 20 tokens longer on average."""
    differences = rng.normal(20, 30, n)
    signal = np.tanh(differences / differences.std())
    probability = 1 / (1 + np.exp(-(intercept + slope * signal)))
    return (rng.random(n) < probability).astype(float), differences


def test_a_planted_length_bias_is_removed() -> None:
    results, differences = _draw(np.random.default_rng(0), 4000, intercept=0.0, slope=2.0)
    assert results.mean() > 0.6
    leaf = length_controlled_win_rate(results, differences)
    assert leaf["mean"] == pytest.approx(0.5, abs=0.03)
    assert leaf["n"] == 4000


def test_a_true_advantage_stays() -> None:
    results, differences = _draw(np.random.default_rng(1), 4000, intercept=1.0, slope=0.0)
    leaf = length_controlled_win_rate(results, differences)
    assert leaf["mean"] == pytest.approx(1 / (1 + np.exp(-1.0)), abs=0.03)


def test_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        interval = length_controlled_win_rate(*_draw(rng, 300, 0.5, 1.5))["ci95"]
        assert interval is not None
        hits += interval[0] <= 1 / (1 + np.exp(-0.5)) <= interval[1]
    assert 0.90 <= hits / 200 <= 0.99


def test_swapping_sides_gives_the_complement() -> None:
    results, differences = _draw(np.random.default_rng(3), 200, 0.4, 1.0)
    results[::7] = 0.5
    one = length_controlled_win_rate(results, differences)
    other = length_controlled_win_rate(1 - results, -differences)
    assert one["mean"] is not None
    assert other["mean"] == pytest.approx(1 - one["mean"], abs=1e-6)


@pytest.mark.parametrize(
    ("results", "differences"),
    [
        ([1.0, 0.0, 0.5, 1.0], [3.0, 3.0, 3.0, 3.0]),  # lengths that do not vary
        ([1.0, 1.0, 1.0, 1.0], [1.0, -2.0, 5.0, 0.0]),  # nothing but wins
        ([0.5, 0.5, 0.5, 0.5], [1.0, -2.0, 5.0, 0.0]),  # nothing but ties
        ([1.0, 0.0], [1.0, 2.0]),
        ([], []),
    ],
)
def test_nothing_to_control_for_is_the_plain_win_rate(
    results: list[float], differences: list[float]
) -> None:
    leaf = length_controlled_win_rate(results, differences)
    plain = win_rate(results, [1 - result for result in results])
    assert leaf["mean"] == plain["win_rate"]
    assert leaf["ci95"] == plain["ci95"]


def test_separation_by_length_stays_finite_and_fair() -> None:
    differences = np.concatenate([np.linspace(1, 30, 50), -np.linspace(1, 30, 50)])
    leaf = length_controlled_win_rate(differences > 0, differences)
    assert leaf["mean"] == pytest.approx(0.5, abs=1e-6)
    assert leaf["ci95"] is not None
    assert 0.2 < leaf["ci95"][0] < 0.5 < leaf["ci95"][1] < 0.8
