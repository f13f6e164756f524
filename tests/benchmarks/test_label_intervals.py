"""Coverage of the intervals in 200 runs, and the truth that they are held against."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations

import krippendorff
import numpy as np
import pytest

from benchmarks import label_truth
from benchmarks.label_intervals import LABELERS, NOISY, SEVERE, SWAYED, TASKS, truth
from benchmarks.label_simulation import WORTH, Habits, K, simulate
from pipeline.judgments import Judgments

QuickRun = Callable[[str], list[str]]


def test_the_intervals_hold_the_truth(quick_run: QuickRun) -> None:
    """Where 95% of intervals hold it, 200 runs give less than 90% once in a thousand times, and
    100% hardly ever. The mean of the 27 figures is steadier."""
    figures = json.loads(quick_run("label_intervals")[-1])
    assert figures["n"] == 200
    assert list(figures["coverage"]) == [str(tasks) for tasks in TASKS]
    each = [share for shares in figures["coverage"].values() for share in shares.values()]
    assert len(each) == 27
    assert (min(each), max(each)) == (figures["least"], figures["most"])
    assert 0.9 <= figures["least"] <= figures["most"] < 1
    assert 0.93 <= figures["mean"] <= 0.97
    # What percentile bootstraps over few tasks are known for.
    assert figures["bootstrap"]["30"]["agreement"] < figures["coverage"]["30"]["agreement"]


def table(judgments: Judgments, values: np.ndarray) -> np.ndarray:
    """(labelers, tasks, K), where all have judged all."""
    found = np.empty((len(judgments.labelers), len(judgments.tasks), K))
    rows = judgments.submission
    found[judgments.labeler[rows], judgments.task[rows], judgments.response] = values
    return found


def test_the_truth_is_what_many_tasks_come_to() -> None:
    """50,000 tasks, counted plainly; bounds of four standard errors and more."""
    judgments = simulate(np.random.default_rng(0), LABELERS, 0, 0, gold_tasks=50_000)
    rank, rating = table(judgments, judgments.rank), table(judgments, judgments.rating)
    first, second = np.triu_indices(K, 1)
    order = np.sign(rank[:, :, second] - rank[:, :, first])
    known = table(judgments, judgments.known_rank)
    known_order = np.sign(known[:, :, second] - known[:, :, first])
    alike = {pair: np.sum(order[pair[0]] * order[pair[1]] > 0) for pair in PAIRS}
    decided = {pair: np.sum(order[pair[0]] * order[pair[1]] != 0) for pair in PAIRS}
    of_noisy = [pair for pair in PAIRS if NOISY in pair]
    bad = table(judgments, judgments.answers["bad"])
    place = table(judgments, judgments.shown_at)[SWAYED] - (K - 1) / 2
    others = np.delete(rating, SEVERE, axis=0)
    counted = {
        "agreement": sum(alike.values()) / sum(decided.values()),
        "rating_alpha": krippendorff.alpha(
            rating.reshape(len(LABELERS), -1), level_of_measurement="ordinal"
        ),
        "answer_alpha": krippendorff.alpha(
            bad.reshape(len(LABELERS), -1), level_of_measurement="nominal"
        ),
        "gold_agreement": np.mean((order * known_order + 1) / 2),
        "labeler_agreement": sum(alike[p] for p in of_noisy) / sum(decided[p] for p in of_noisy),
        "labeler_gold_agreement": np.mean((order * known_order)[NOISY] + 1) / 2,
        "rating_bias": np.mean(rating[SEVERE] - others.mean(axis=0)),
        "order_bias": np.sum(place * rating[SWAYED]) / np.sum(place**2),
        "rank_order_bias": -np.sum(place * rank[SWAYED]) / np.sum(place**2),
    }
    assert counted == pytest.approx(truth(), abs=0.01)
    for name in ("agreement", "rating_alpha", "gold_agreement", "labeler_agreement"):
        assert counted[name] == pytest.approx(truth()[name], abs=0.003)


PAIRS = list(combinations(range(len(LABELERS)), 2))


@pytest.mark.parametrize("noise", [0.4, 0.8, 1.5])
def test_without_ties_it_is_the_arc_sine(noise: float) -> None:
    """Two normal differences of correlation r have one sign in 1/2 + arcsin(r)/π of the cases."""
    spread = WORTH[1]
    labelers = [Habits(noise=noise), Habits(noise=0.8)]
    correlation = spread**2 / np.hypot(spread, noise) / np.hypot(spread, 0.8)
    expected = 0.5 + np.arcsin(correlation) / np.pi
    assert label_truth.agreement(labelers, [(0, 1)]) == pytest.approx(expected, abs=1e-6)
    expected = 0.5 + np.arcsin(spread / np.hypot(spread, noise)) / np.pi
    assert label_truth.gold_agreement(labelers[0]) == pytest.approx(expected, abs=1e-3)


def test_fine_steps_tie_nearly_nothing() -> None:
    fine, none = Habits(step=0.02), Habits()
    found = label_truth.agreement([fine, fine], [(0, 1)])
    assert found == pytest.approx(label_truth.agreement([none, none], [(0, 1)]), abs=0.01)
