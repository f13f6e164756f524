"""The stage dpo on a tiny model: what it publishes, and what decides it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pipeline.chain import section_values
from tests.stages.conftest import alternatives_config, assert_published_and_learned, read_rows_of


def test_publishes_a_policy_that_has_learned(optimized: Path) -> None:
    assert_published_and_learned(optimized, "dpo")


def test_metrics_tell_how_it_went(optimized: Path) -> None:
    rows = read_rows_of(optimized / "dpo" / "metrics.jsonl")
    evaluated = [row for row in rows if "eval_loss" in row]
    assert evaluated[0]["step"] == 0
    assert evaluated[0]["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert "eval_rewards/accuracies" in evaluated[-1]


def test_which_rankings_there_are_is_in_the_key() -> None:
    config = alternatives_config(reward={"validation_fraction": 0.2})
    assert section_values("dpo", config) != section_values("dpo", alternatives_config())
    same = alternatives_config(reward={"learning_rate": 1e-9})
    assert section_values("dpo", same) == section_values("dpo", alternatives_config())


def test_pairs_that_processes_cannot_share_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_pairs 3 is not divisible by 2"):
        alternatives_config(dpo={"batch_pairs": 3}, processes=2)
