"""Drift: planted it is named, none is not; what looks like it and is none; periods."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.label_simulation import HONEST, Habits, simulate
from pipeline.judgments import Judgments, of_submissions
from pipeline.label_agreement import compare, pair_orders
from pipeline.label_quality import QualityReport, quality_report

SEEDS = 60
DAY = 86_400.0
NAME = "labeler-03"


def drifting(report: QualityReport) -> set[str | None]:
    found = {one.labeler for one in report.findings if one.kind == "drift"}
    assert found == {one.labeler for one in report.drift if one.finding is not None}
    return found


def reports(labelers: list[Habits], shared: int = 40, gold: int = 20) -> list[QualityReport]:
    return [
        quality_report(simulate(np.random.default_rng(seed), labelers, 10, shared, gold))
        for seed in range(SEEDS)
    ]


def test_none_is_named_where_there_is_none() -> None:
    found = reports([HONEST, HONEST, Habits(severity=0.5), Habits(noise=1.2)])
    assert sum(bool(drifting(report)) for report in found) <= 0.05 * SEEDS


@pytest.mark.parametrize(("drift", "word"), [(1.5, "higher"), (-1.5, "lower")])
def test_a_level_that_moves_is_named(drift: float, word: str) -> None:
    found = reports([HONEST, HONEST, HONEST, Habits(drift=drift)])
    texts = [f.text for r in found for f in r.findings if (f.kind, f.labeler) == ("drift", NAME)]
    assert len(texts) >= 0.95 * SEEDS
    assert all(word in text for text in texts)


def test_all_moving_together_is_named_by_gold_tasks() -> None:
    found = reports([Habits(drift=-1.5)] * 4)
    assert sum(None in drifting(report) for report in found) >= 0.95 * SEEDS
    everybody = [f.text for r in found for f in r.findings if f.labeler is None]
    assert all("lower at the end" in text for text in everybody)


def test_growing_carelessness_is_named() -> None:
    found = reports([HONEST, HONEST, HONEST, Habits(noise=0.1, tiring=2.5)], gold=100)
    texts = [f.text for r in found for f in r.findings if (f.kind, f.labeler) == ("drift", NAME)]
    assert len(texts) >= 0.95 * SEEDS
    assert all("agreement with gold tasks falls" in text for text in texts)


def gold_of(judgments: Judgments) -> np.ndarray:
    is_gold = np.zeros(len(judgments.task), dtype=np.bool_)
    is_gold[judgments.submission[np.isfinite(judgments.known_rating)]] = True
    return is_gold


def test_a_severe_labeler_who_came_later_is_no_drift() -> None:
    """Four labelers, each in a year of their own, each severer than the one before."""
    labelers = [Habits(severity=number / 2) for number in range(4)]
    for seed in range(20):
        judgments = simulate(np.random.default_rng(seed), labelers, 0, 0, 30)
        later = replace(judgments, at=judgments.at + 365 * DAY * judgments.labeler)
        assert None not in drifting(quality_report(later))


def test_hard_tasks_that_come_late_are_no_drift() -> None:
    """Gold tasks of one worth and of two far apart; all labelers come to the hard ones last."""
    for seed in range(20):
        judgments = simulate(np.random.default_rng(seed), [HONEST] * 4, 0, 0, 30)
        rows = gold_of(judgments)[judgments.submission]
        hard = (judgments.task >= 15)[judgments.submission] & rows
        ones = judgments.rank.reshape(-1, 5)[:, ::-1].ravel()  # right by chance
        mixed = replace(
            judgments,
            rank=np.where(hard, ones, judgments.rank),
            at=DAY * judgments.task + judgments.labeler,
        )
        assert None not in drifting(quality_report(mixed))


def test_the_trend_is_least_squares_with_labelers_and_tasks_held_fixed() -> None:
    """Against a regression with a column for each labeler and each task."""
    rng = np.random.default_rng(5)
    labelers = [Habits(noise=0.3, severity=number, drift=1 + number) for number in range(3)]
    judgments = simulate(rng, labelers, 0, 0, 24)
    judgments = of_submissions(judgments, rng.random(len(judgments.task)) < 0.8)
    order = np.argsort(judgments.at, kind="stable")
    above = (judgments.rating - judgments.known_rating).reshape(-1, 5).mean(axis=1)[order]
    labeler, task = judgments.labeler[order], judgments.task[order]
    columns = [np.linspace(0, 1, len(order))]
    columns += [(labeler == one).astype(float) for one in range(3)]
    columns += [(task == one).astype(float) for one in np.unique(task)]
    expected, *_ = np.linalg.lstsq(np.stack(columns, axis=1), above, rcond=None)
    everybody = [f for f in quality_report(judgments).findings if f.labeler is None]
    assert [f.text for f in everybody] == [
        f"rates {expected[0]:.1f} points higher at the end than at the beginning"
    ]


def test_periods_cover_all_judgments_in_order() -> None:
    judgments = simulate(np.random.default_rng(0), [HONEST] * 3, 10, 20, 12)
    everybody, *each = quality_report(judgments).drift
    assert everybody.labeler is None
    assert sum(period.submissions for period in everybody.periods) == 36
    assert [drift.labeler for drift in each] == list(judgments.labelers)
    assert [sum(p.submissions for p in drift.periods) for drift in each] == [32] * 3
    for drift in (everybody, *each):
        times = [time for period in drift.periods for time in (period.first, period.last)]
        assert times == sorted(times)
        sizes = [period.submissions for period in drift.periods]
        assert max(sizes) - min(sizes) <= 1
    known = of_submissions(judgments, gold_of(judgments))
    comparisons, _ = compare(known, pair_orders(known))
    order = np.argsort(known.at, kind="stable")[:9]  # the first of four periods of 36
    right = comparisons.known_alike[order].sum() / comparisons.known_decided[order].sum()
    first = everybody.periods[0]
    assert first.submissions == 9
    assert first.gold_agreement is not None
    assert first.gold_agreement.value == pytest.approx(right)
    rows = np.isin(known.submission, order)
    assert first.level is not None
    assert first.level.value == pytest.approx((known.rating - known.known_rating)[rows].mean())
    assert first.level.n == 45


def test_unknown_times_are_no_drift() -> None:
    judgments = simulate(np.random.default_rng(0), [HONEST] * 3, 0, 20, 12)
    report = quality_report(replace(judgments, at=np.full(len(judgments.at), np.nan)))
    assert report.drift == []
    assert report.why_not["drift"] == "too few judgments of gold or shared tasks"
