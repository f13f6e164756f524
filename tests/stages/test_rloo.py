"""The stage rloo on a tiny model: what it publishes, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.stages.conftest import (
    RLOO,
    alternatives_config,
    assert_published_and_learned,
    read_rows_of,
)


def test_publishes_a_policy_that_has_learned(optimized: Path) -> None:
    assert_published_and_learned(optimized, "rloo")


def test_metrics_have_one_row_per_update(optimized: Path) -> None:
    rows = read_rows_of(optimized / "rloo" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert all(math.isfinite(row["objective/scores"]) for row in rows)
    assert rows[0]["objective/kl_per_token"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"num_generations": 3}, "batch_size 8 is not divisible by num_gen"),
        ({"total_episodes": 20}, "total_episodes 20 is not divisible"),
        ({"num_generations": 1}, "greater than or equal to 2"),
    ],
)
def test_impossible_sizes_are_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        alternatives_config(rloo=RLOO | values)
