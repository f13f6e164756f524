"""The benchmark end to end on a tiny world; how it knows what is true, by hand."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

QuickRun = Callable[[str], list[str]]
ROOT = Path(__file__).parents[2]
# Benchmarks are run from the repository and not installed, so there is nothing to import.
WORLD = runpy.run_path(str(ROOT / "benchmarks" / "labeled_world.py"))
share_right, true_pairs = WORLD["share_right"], WORLD["true_pairs"]


@pytest.mark.slow
def test_the_last_line_holds_the_figures(quick_run: QuickRun) -> None:
    last = json.loads(quick_run("reward_truth")[-1])
    assert last["n"] == 1
    assert set(last["ceilings"]) == {
        "rubric_on_labels", "labeler_on_labeler", "labeler_on_true_pairs"
    }  # fmt: skip
    assert {"as the quickstart", "surprisal before"} <= set(last["settings"])
    assert all(0 <= one["true_pairs_right"] <= 1 for one in last["settings"].values())
    for name in ("labels_1x", "labels_2x", "with_likelihoods", "grouping", "labelers"):
        for leaf in last[name].values():
            assert leaf["least"] <= leaf["mean"] <= leaf["most"]
    grouping = {"grouped_log_loss", "shuffled_log_loss"}
    assert grouping <= set(last["grouping"])
    assert set(last["labelers"]) == {"learned_from", "left_out"}


def test_equal_scores_are_half_right() -> None:
    scores = np.array([3.0, 1.0, 2.0, 2.0])
    pairs = np.array([[0, 1], [1, 2], [2, 0], [2, 3]])
    assert share_right(scores, pairs) == (1 + 0 + 0 + 0.5) / 4
    assert share_right(scores, np.zeros((0, 2), dtype=int)) == 0.5


def test_true_pairs_are_those_that_the_rubric_tells_apart() -> None:
    rated = {("p", "a"): 7.0, ("p", "b"): 3.0, ("p", "c"): 7.0, ("q", "a"): 1.0, ("q", "b"): 2.0}
    verdicts = {key: SimpleNamespace(score=score) for key, score in rated.items()}
    prompts = {"p": "abc", "q": "ab"}
    comparisons = [
        SimpleNamespace(prompt=name, responses=[SimpleNamespace(response_id=i) for i in ids])
        for name, ids in prompts.items()
    ]
    world, side = SimpleNamespace(verdicts=verdicts), SimpleNamespace(comparisons=comparisons)
    assert true_pairs(world, side).tolist() == [[0, 1], [2, 1], [4, 3]]
