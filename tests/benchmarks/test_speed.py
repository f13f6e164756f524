"""The speed benchmarks run end to end and their last line holds the figures that are promised."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.slow

QuickRun = Callable[[str], list[str]]


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("decode", {"tokens_per_second_b4", "ratio_vs_generate_b4", "of_bandwidth_b4"}),
        ("pretrain", {"tokens_per_second", "ratio_vs_trainer", "mfu"}),
        ("reward", {"prompts_per_second_k4", "ratio_vs_trl_k4"}),
    ],
)
def test_the_last_line_holds_the_figures(quick_run: QuickRun, name: str, figures: set[str]) -> None:
    lines = quick_run(name)
    last = json.loads(lines[-1])
    assert figures <= last.keys()
    assert all(last[figure] > 0 for figure in figures)
    assert last["n"] >= 1
