"""Shares and times of labelers against counting by hand."""

from __future__ import annotations

import random
import statistics
from typing import Any

import numpy as np
import pytest

from pipeline.judgments import Judgments
from pipeline.label_spread import label_spread
from pipeline.preferences import clustered_wilson_interval

Row = dict[str, Any]


def columns(rows: list[Row]) -> Judgments:
    """Rows of judged responses as columns; each submission of a task by a labeler once."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    labelers = sorted({row["labeler"] for row in rows})
    submissions = list(dict.fromkeys((row["task"], row["labeler"]) for row in rows))
    seconds = {(row["task"], row["labeler"]): row["seconds"] for row in rows}

    def of(name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=float)

    none = np.full(len(submissions), np.nan)
    return Judgments(
        labelers=labelers,
        tasks=tasks,
        task=np.array([tasks.index(task) for task, _ in submissions], dtype=np.int64),
        labeler=np.array([labelers.index(who) for _, who in submissions], dtype=np.int64),
        at=none,
        seconds=np.array([seconds[one] for one in submissions], dtype=float),
        contradicts=np.zeros(len(submissions), dtype=bool),
        submission=np.array(
            [submissions.index((row["task"], row["labeler"])) for row in rows], dtype=np.int64
        ),
        response=of("response").astype(np.int64),
        shown_at=np.full(len(rows), np.nan),
        rating=of("rating").astype(np.int64),
        rank=of("response").astype(np.int64) + 1,
        answers={"rude": of("rude"), "nobody": np.full(len(rows), np.nan)},
        known_rating=of("known"),
        known_rank=of("known"),
    )


@pytest.fixture
def rows() -> list[Row]:
    rng = random.Random(0)
    found: list[Row] = []
    for task in range(40):
        for labeler in rng.sample("abc", rng.randint(1, 3)):
            seconds = None if rng.random() < 0.1 else round(rng.lognormvariate(4, 1), 1)
            for response in range(rng.randint(2, 5)):
                row = {"task": f"t{task}", "labeler": labeler, "response": response}
                row |= {"rating": rng.randint(2, 7), "seconds": seconds}
                row |= {"rude": rng.choice([1.0, 0.0, None]), "known": 4.0 if task < 5 else None}
                found.append(row)
    return found


def test_shares_have_tasks_as_units_and_leave_gold_tasks_out(rows: list[Row]) -> None:
    spread = label_spread(columns(rows))
    of_run = [row for row in rows if row["known"] is None]

    def clusters(rated: list[Row], hit: Any) -> list[tuple[int, int]]:
        by_task = {row["task"]: [0, 0] for row in rated}
        for row in rated:
            by_task[row["task"]][0] += hit(row)
            by_task[row["task"]][1] += 1
        return [(yes, of) for yes, of in by_task.values()]

    for rating, share in enumerate(spread.ratings, start=1):
        units = clusters(of_run, lambda row, rating=rating: row["rating"] == rating)
        assert share.n == len(of_run)
        assert share.value == pytest.approx(sum(yes for yes, _ in units) / len(of_run))
        assert share.ci95 == pytest.approx(clustered_wilson_interval(units))
    answered = [row for row in of_run if row["rude"] is not None]
    rude, units = spread.yes["rude"], clusters(answered, lambda row: row["rude"] == 1)
    assert rude is not None
    assert (rude.n, rude.ci95) == (len(answered), pytest.approx(clustered_wilson_interval(units)))
    assert spread.yes["nobody"] is None
    for labeler, counts in spread.counts.items():
        own = [row["rating"] for row in of_run if row["labeler"] == labeler]
        assert list(counts) == [own.count(rating) for rating in range(1, 8)]


def test_times_are_of_tasks_and_where_unknown_left_out(rows: list[Row]) -> None:
    spread = label_spread(columns(rows))
    known = [row for row in rows if row["known"] is None and row["seconds"] is not None]
    for labeler in ("a", "b", "c", None):
        tasks = {
            (row["task"], row["labeler"]): row["seconds"]
            for row in known
            if labeler in (None, row["labeler"])
        }
        times = spread.times[labeler]
        assert times.median.value == pytest.approx(statistics.median(tasks.values()))
        assert times.median.n == times.p90.n == len(tasks)
        low, high = times.median.ci95 or (0.0, 0.0)
        assert low < times.median.value < high
        below = sum(seconds <= times.p90.value for seconds in tasks.values())
        assert below / len(tasks) == pytest.approx(0.9, abs=0.05)


def test_quantiles_of_many_samples_lie_in_their_intervals() -> None:
    rng = np.random.default_rng(0)
    truth = {0.5: 1.0, 0.9: float(np.exp(1.2815515655446004))}  # of the lognormal distribution
    inside = dict.fromkeys(truth, 0)
    for _ in range(400):
        drawn = [
            {"task": f"t{i}", "labeler": "a", "response": 0, "rating": 4, "rude": 0.0}
            | {"seconds": float(value), "known": None}
            for i, value in enumerate(rng.lognormal(0, 1, 60))
        ]
        times = label_spread(columns(drawn)).times["a"]
        for share, found in ((0.5, times.median), (0.9, times.p90)):
            assert found.ci95 is not None
            inside[share] += found.ci95[0] <= truth[share] <= found.ci95[1]
    for count in inside.values():
        assert 0.92 <= count / 400 <= 0.99


def test_few_times_have_no_interval_and_none_no_figure() -> None:
    row = {"task": "t", "labeler": "a", "response": 0, "rating": 4, "rude": None, "known": None}
    times = label_spread(columns([row | {"seconds": 7.0}])).times
    assert (times["a"].median.value, times["a"].median.ci95) == (7.0, None)
    assert label_spread(columns([row | {"seconds": None}])).times == {}
    nothing = label_spread(columns([]))
    assert (nothing.ratings, nothing.times, nothing.counts) == ((), {}, {})
