"""The figures of each labeler, against plain counts."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from benchmarks.label_simulation import HONEST, Habits, simulate
from pipeline.judgments import Judgments, of_submissions
from pipeline.label_quality import quality_report

LABELERS = [HONEST, Habits(severity=1, step=0.7), Habits(one_rating=0.5, slip=0.4, per_place=0.4)]


def judged(seed: int = 3, gold: int = 5) -> Judgments:
    rng = np.random.default_rng(seed)
    judgments = simulate(rng, LABELERS, own_tasks=4, shared_tasks=9, gold_tasks=gold)
    contradicts = rng.random(len(judgments.task)) < 0.3
    seconds = np.where(rng.random(len(judgments.task)) < 0.3, np.nan, judgments.seconds)
    return replace(judgments, contradicts=contradicts, seconds=seconds)


def split(judgments: Judgments) -> tuple[Judgments, Judgments]:
    """Of the run's tasks, and of gold tasks."""
    is_gold = np.isfinite(judgments.known_rating[::5])
    return of_submissions(judgments, ~is_gold), of_submissions(judgments, is_gold)


def tables(judgments: Judgments, column: np.ndarray) -> np.ndarray:
    """(labelers, tasks, 5) of a column, NaN where a labeler has not judged a task."""
    found = np.full((len(judgments.labelers), len(judgments.tasks), 5), np.nan)
    rows = judgments.submission
    found[judgments.labeler[rows], judgments.task[rows], judgments.response] = column
    return found


def test_counts_and_shares_are_those_of_a_plain_count() -> None:
    judgments = judged()
    run, gold = split(judgments)
    rating, rank = tables(run, run.rating), tables(run, run.rank)
    gold_rank, known = tables(gold, gold.rank), tables(gold, gold.known_rank)
    report = quality_report(judgments)
    assert [found.labeler for found in report.labelers] == list(judgments.labelers)
    for number, found in enumerate(report.labelers):
        mine = np.flatnonzero(np.isfinite(rating[number, :, 0]))
        assert found.submissions == len(mine) == 13
        assert found.one_rating == np.mean([len(set(rating[number, t])) == 1 for t in mine])
        pairs = list(combinations(range(5), 2))
        ties = [rank[number, t, a] == rank[number, t, b] for t in mine for a, b in pairs]
        assert found.tied == pytest.approx(np.mean(ties))
        alike: list[bool] = []
        for other in range(3):
            for t in mine:
                for a, b in pairs if other != number else []:
                    orders = np.sign(rank[[number, other], t, a] - rank[[number, other], t, b])
                    if np.isfinite(orders).all() and orders.all():
                        alike.append(orders[0] == orders[1])
        assert found.agreement is not None
        assert (found.agreement.value, found.agreement.n) == (np.mean(alike), len(alike))
        right: list[float] = []
        for t in np.flatnonzero(np.isfinite(known[number, :, 0])):
            for a, b in pairs:
                said = np.sign(gold_rank[number, t, a] - gold_rank[number, t, b])
                right.append(0.5 + said * np.sign(known[number, t, a] - known[number, t, b]) / 2)
        assert found.gold_agreement is not None
        assert found.gold_agreement.value == pytest.approx(np.mean(right))
        assert found.gold_agreement.n == len(right) == 50
        own = run.labeler == number
        assert found.confirmed == run.contradicts[own].mean()
        assert found.median_seconds == pytest.approx(np.nanmedian(run.seconds[own]))
        yes = found.yes["bad"]
        assert yes is not None
        assert yes.value == pytest.approx(run.answers["bad"][own[run.submission]].mean())
        assert yes.n == 65


def test_the_bias_is_the_mean_difference_to_the_mean_of_the_others() -> None:
    judgments = judged(gold=0)
    rating = tables(judgments, judgments.rating)
    for number, found in enumerate(quality_report(judgments).labelers):
        bias: list[float] = []
        for task in range(len(judgments.tasks)):
            for response in range(5):
                column = rating[:, task, response]
                others = np.delete(column, number)
                if np.isfinite(column[number]) and np.isfinite(others).any():
                    bias.append(column[number] - np.nanmean(others))
        assert found.rating_bias is not None
        assert found.rating_bias.value == pytest.approx(np.mean(bias))
        assert found.rating_bias.n == len(bias) == 45


def test_the_order_bias_is_weighted_least_squares_on_the_place() -> None:
    """Of what a response has above the others where there are any, and of what it has in itself
    elsewhere, with a mean for each submission; both weighted by one over their variance."""
    judgments = judged(gold=0)
    place = tables(judgments, judgments.shown_at)
    for name, sign, column in (
        ("order_bias", 1, tables(judgments, judgments.rating)),
        ("rank_order_bias", -1, tables(judgments, judgments.rank)),
    ):
        shared = np.isfinite(column.sum(axis=(0, 2)))
        rest = column.copy()
        for labeler in range(3):
            others = np.delete(column, labeler, axis=0)[:, shared].mean(axis=0)
            rest[labeler, shared] = column[labeler, shared] - others
        rest = sign * (rest - rest.mean(axis=2, keepdims=True))
        weight = np.where(shared, np.nanvar(rest[:, shared]), np.nanvar(rest[:, ~shared])) ** -1.0
        for number, found in enumerate(quality_report(judgments).labelers):
            mine = np.flatnonzero(np.isfinite(rest[number, :, 0]))
            expected = np.polyfit(
                (place[number, mine] - 2).ravel(),
                rest[number, mine].ravel(),
                1,
                w=np.sqrt(np.repeat(weight[mine], 5)),
            )[0]
            estimate = getattr(found, name)
            assert estimate.value == pytest.approx(expected)
            assert estimate.n == 65


def test_what_is_not_known_of_a_labeler_says_why() -> None:
    judgments = simulate(np.random.default_rng(0), [HONEST, HONEST, HONEST], 5, 0)
    unknown = np.full(len(judgments.task), np.nan)
    rows = np.full(len(judgments.rating), np.nan)
    blank = replace(judgments, seconds=unknown, shown_at=rows, answers={"bad": rows})
    for found in quality_report(blank).labelers:
        assert found.median_seconds is None
        assert found.yes == {"bad": None}
        shared, places = (
            "no task shared with another labeler",
            "the order of responses is not known",
        )
        assert found.why_not == {
            "agreement": shared,
            "rating_bias": shared,
            "gold_agreement": "no gold task judged",
            "order_bias": places,
            "rank_order_bias": places,
            "median_seconds": "times are not known",
            "question:bad": "not answered",
        }
        assert all(getattr(found, name) is None for name in found.why_not if ":" not in name)


def test_who_has_judged_gold_tasks_alone_has_a_report_too() -> None:
    judgments = simulate(np.random.default_rng(0), [HONEST, HONEST], 3, 0, 4)
    _, gold = split(judgments)
    run_of_first = (judgments.labeler == 0) | np.isin(judgments.task, gold.task)
    first, second = quality_report(of_submissions(judgments, run_of_first)).labelers
    assert (first.submissions, second.submissions) == (3, 0)
    assert second.gold_agreement is not None
    assert (second.agreement, second.confirmed, second.tied) == (None, 0.0, 0.0)


def test_one_unknown_place_leaves_a_submission_out() -> None:
    judgments = simulate(np.random.default_rng(0), [HONEST, HONEST], 0, 9)
    some = judgments.submission == 4
    holed = np.where(some & (judgments.response == 2), np.nan, judgments.shown_at)
    without = np.where(some, np.nan, judgments.shown_at)
    first, second = (
        quality_report(replace(judgments, shown_at=places)).labelers[0].order_bias
        for places in (holed, without)
    )
    assert first == second
    assert first is not None
    assert first.n == 40
