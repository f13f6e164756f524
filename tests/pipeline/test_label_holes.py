"""Judgments as they come: two to nine responses, few of everything, times, places and answers
missing, known ties. All figures against plain loops and the krippendorff package."""

from __future__ import annotations

import warnings
from itertools import combinations
from typing import Any

import krippendorff
import numpy as np
import pytest

from pipeline.judgments import Judgments, of_submissions
from pipeline.label_intervals import Estimate
from pipeline.label_quality import QualityReport, quality_report

SEEDS = 100
MOST = 9


def holed(seed: int) -> Judgments:
    """Up to six labelers and sixty tasks, of which eight are gold at most."""
    rng = np.random.default_rng(seed)
    tasks, labelers = int(rng.integers(1, 60)), int(rng.integers(1, 7))
    share, missing = rng.choice([0.1, 0.5, 1.0]), rng.choice([0.0, 0.2, 1.0])
    parts: list[dict[str, Any]] = []
    for task in range(tasks):
        size = int(rng.integers(2, MOST + 1))
        worth = rng.normal(4, 1.5, size)
        known = np.full(size, np.nan) if task >= 8 else np.clip(np.floor(worth), 1, 7)
        for labeler in np.flatnonzero(rng.random(labelers) < share):
            felt = worth + rng.normal(0, 0.8, size)
            parts.append(
                {
                    "task": task,
                    "labeler": labeler,
                    "at": unless(rng, missing, 1e6 * rng.random()),
                    "seconds": unless(rng, missing, rng.choice([0.0, 30.0, 60.0])),
                    "contradicts": bool(rng.random() < 0.1),
                    "submission": np.full(size, len(parts)),
                    "response": np.arange(size),
                    "shown_at": unless(rng, missing, rng.permutation(size).astype(float)),
                    "rating": np.clip(np.round(felt), 1, 7).astype(np.int64),
                    "rank": ranks(np.round(felt)),
                    "known_rating": known,
                    "known_rank": np.where(np.isnan(known), np.nan, ranks(known)),
                    "bad": np.where(rng.random(size) < missing, np.nan, rng.random(size) < 0.3),
                }
            )
    rows = ("submission", "response", "shown_at", "rating", "rank", "known_rating", "known_rank")
    none = np.zeros(0)
    columns: dict[str, Any] = {
        name: np.concatenate([none, *(part[name] for part in parts)]) for name in (*rows, "bad")
    }
    for name in ("submission", "response", "rating", "rank"):
        columns[name] = columns[name].astype(np.int64)
    for name, kind in (("task", int), ("labeler", int), ("contradicts", bool)):
        columns[name] = np.array([part[name] for part in parts], dtype=kind)
    for name in ("at", "seconds"):
        columns[name] = np.array([part[name].item() for part in parts], dtype=float)
    answers = {"bad": columns.pop("bad")}
    names = [f"labeler-{n}" for n in range(labelers)], [f"task-{n}" for n in range(tasks)]
    return Judgments(*names, answers=answers, **columns)


def unless(rng: np.random.Generator, missing: float, value: Any) -> np.ndarray:
    return np.full_like(value, np.nan) if rng.random() < missing else np.asarray(value)


def ranks(values: np.ndarray) -> np.ndarray:
    return 1 + (values[:, None] < values[None, :]).sum(axis=1)


def figures(report: QualityReport) -> list[Estimate | None]:
    found = [report.agreement, report.rating_alpha, report.gold_agreement]
    found += report.question_alphas.values()
    for one in report.labelers:
        found += [one.agreement, one.gold_agreement, one.rating_bias, *one.yes.values()]
        found += [one.order_bias, one.rank_order_bias]
    for drift in report.drift:
        for period in drift.periods:
            found += [period.gold_agreement, period.level]
    return found


@pytest.fixture(scope="module")
def reports() -> list[tuple[Judgments, QualityReport]]:
    """The judgments of the run's tasks, and the report of all; no warning of a division."""
    found: list[tuple[Judgments, QualityReport]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(SEEDS):
            judgments = holed(seed)
            is_gold = np.zeros(len(judgments.task), dtype=np.bool_)
            is_gold[judgments.submission[np.isfinite(judgments.known_rating)]] = True
            found.append((of_submissions(judgments, ~is_gold), quality_report(judgments)))
    return found


def test_every_figure_is_a_number_within_its_interval(
    reports: list[tuple[Judgments, QualityReport]],
) -> None:
    measured = [one for _, report in reports for one in figures(report) if one is not None]
    assert len(measured) > 20 * SEEDS
    for one in measured:
        assert np.isfinite(one.value)
        assert one.n > 0
        if one.ci95 is not None:
            assert one.ci95[0] <= one.value + 1e-12
            assert one.ci95[1] >= one.value - 1e-12


def test_the_pairwise_agreement_is_a_plain_count(
    reports: list[tuple[Judgments, QualityReport]],
) -> None:
    for run, report in reports:
        alike = decided = tied = 0
        for task in np.unique(run.task):
            for one, other in combinations(np.flatnonzero(run.task == task), 2):
                first, second = (run.rank[run.submission == number] for number in (one, other))
                for a, b in combinations(range(len(first)), 2):
                    both = np.sign(first[a] - first[b]) * np.sign(second[a] - second[b])
                    alike, decided, tied = (
                        alike + (both > 0),
                        decided + (both != 0),
                        tied + (not both),
                    )
        assert report.ties == tied
        assert (report.agreement is None) == (not decided)
        if report.agreement is not None:
            assert report.agreement.value == pytest.approx(alike / decided)
            assert report.agreement.n == decided


def test_the_alphas_are_the_package_s(reports: list[tuple[Judgments, QualityReport]]) -> None:
    for run, report in reports:
        for values, level, alpha in (
            (run.rating, "ordinal", report.rating_alpha),
            (run.answers["bad"], "nominal", report.question_alphas["bad"]),
        ):
            table = np.full((len(run.labelers), len(run.tasks) * MOST), np.nan)
            place = run.task[run.submission] * MOST + run.response
            table[run.labeler[run.submission], place] = values
            paired = table[:, np.isfinite(table).sum(axis=0) > 1]
            assert (alpha is None) == (len(np.unique(paired[np.isfinite(paired)])) < 2)
            if alpha is not None:
                expected = krippendorff.alpha(table, level_of_measurement=level)  # pyright: ignore
                assert alpha.value == pytest.approx(expected, abs=1e-9)


def test_what_is_none_has_a_reason(reports: list[tuple[Judgments, QualityReport]]) -> None:
    for _, report in reports:
        names = {"agreement", "rating_alpha", "gold_agreement"}
        missing = {name for name in names if getattr(report, name) is None}
        missing |= {f"question:{k}" for k, alpha in report.question_alphas.items() if alpha is None}
        missing |= set() if report.drift else {"drift"}
        assert set(report.why_not) == missing
        assert all(report.why_not.values())


def test_hardly_anybody_is_named(reports: list[tuple[Judgments, QualityReport]]) -> None:
    assert sum(bool(report.findings) for _, report in reports) <= 0.05 * SEEDS
