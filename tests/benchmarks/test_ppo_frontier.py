"""The benchmark on one tiny world, without TRL; the point at a divergence by hand."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from benchmarks.ppo_frontier import Point, at_divergence

QuickRun = Callable[[str], list[str]]


@pytest.mark.slow
def test_the_last_line_holds_the_figures(quick_run: QuickRun) -> None:
    figures = json.loads(quick_run("ppo_frontier")[-1])
    (points,) = figures["seeds"].values()
    assert list(points)[:2] == ["sft", "ours 0.05"]
    assert points["sft"]["kl"] == 0
    assert points["ours 0.05"]["kl"] != 0
    assert all(set(point) == {"kl", "score", "rating"} for point in points.values())


def test_between_two_policies_by_hand() -> None:
    points = [Point(2.0, 1.0, 6.0), Point(0.0, 0.0, 4.0), Point(1.0, 0.75, 5.0)]
    assert at_divergence(points, 1.5) == Point(1.5, 0.875, 5.5)
    assert at_divergence(points, 0.25) == Point(0.25, 0.1875, 4.25)
    assert at_divergence(points, 2.0) == points[0]
    assert at_divergence(points, 2.1) is None
