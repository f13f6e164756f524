"""Who is named: planted labelers nearly always, honest ones hardly ever. Eight labelers of sixty
tasks each, twenty of them shared, five responses a task, unless said otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.label_simulation import HONEST, Habits, K, simulate
from pipeline.judgments import Judgments, of_submissions, rows_of
from pipeline.label_agreement import compare, pair_orders
from pipeline.label_quality import QualityReport, quality_report
from pipeline.labeler_findings import check_agreement, check_bias, check_order
from pipeline.labeler_sums import sums_of

HONEST_ONES = [HONEST, Habits(noise=0.6), Habits(noise=1.0), Habits(severity=0.3), HONEST]
HONEST_ONES += [Habits(severity=-0.3), Habits(seconds=45)]
BLIND = Habits(noise=np.inf)
PLANTED = "labeler-07"
SEEDS = 100


def named(report: QualityReport, kind: str | None = None) -> set[str | None]:
    return {found.labeler for found in report.findings if kind in (None, found.kind)}


def reports(
    labelers: list[Habits],
    gold: int = 0,
    sizes: tuple[int, int] = (40, 20),
    change: Callable[[Judgments, np.random.Generator], Judgments] = lambda judgments, _: judgments,
) -> list[QualityReport]:
    """Of as many seeds. ``sizes``: tasks that a labeler has alone, and those that all share."""
    found: list[QualityReport] = []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        judgments = simulate(rng, labelers, *sizes, gold)
        found.append(quality_report(change(judgments, rng)))
    return found


@pytest.mark.parametrize("tying", [0.0, 0.5])
def test_honest_labelers_are_seldom_named(tying: float) -> None:
    honest = [replace(habits, step=tying) for habits in [*HONEST_ONES, HONEST]]
    assert sum(bool(report.findings) for report in reports(honest, gold=12)) <= 0.05 * SEEDS


@pytest.mark.parametrize(
    ("planted", "kind", "word"),
    [
        (BLIND, "agreement", "50%"),
        (Habits(per_place=0.3), "order", "further down"),
        (Habits(per_place=-0.3), "order", "further up"),
        (Habits(seconds=10), "speed", "seconds for a task, the others"),
        (Habits(severity=2), "bias", "below the others"),
        (Habits(severity=-2), "bias", "above the others"),
        (Habits(one_rating=0.8), "one_rating", "same rating"),
    ],
)
def test_a_planted_habit_is_named_and_nobody_else(planted: Habits, kind: str, word: str) -> None:
    found = reports([*HONEST_ONES, planted])
    assert sum(PLANTED in named(report, kind) for report in found) >= 0.95 * SEEDS
    assert sum(bool(named(report) - {PLANTED}) for report in found) <= 0.05 * SEEDS
    texts = [f.text for report in found for f in report.findings if f.kind == kind]
    assert all(word in text for text in texts)


def test_ranks_that_follow_the_place_are_named_though_ratings_do_not() -> None:
    def follow(judgments: Judgments, rng: np.random.Generator) -> Judgments:
        """The last labeler ranks half of the tasks as they stand on the page."""
        lazy = (judgments.labeler == 7) & (rng.random(len(judgments.labeler)) < 0.5)
        in_order = judgments.shown_at.astype(np.int64) + 1
        rank = np.where(lazy[judgments.submission], in_order, judgments.rank)
        return replace(judgments, rank=rank)

    found = reports([*HONEST_ONES, HONEST], change=follow)
    texts = [f.text for r in found for f in r.findings if (f.labeler, f.kind) == (PLANTED, "order")]
    assert len(texts) >= 0.95 * SEEDS
    assert all(text.startswith("ranks the same answer better the further up") for text in texts)


def test_a_blind_labeler_shows_on_gold_tasks_that_nobody_shares() -> None:
    found = reports([*HONEST_ONES, BLIND], gold=20, sizes=(40, 0))
    assert sum(PLANTED in named(report, "gold") for report in found) >= 0.95 * SEEDS


def test_a_blind_labeler_alone_shows_on_gold_tasks() -> None:
    found = reports([BLIND], gold=50)
    assert sum(bool(named(report, "gold")) for report in found) >= 0.95 * SEEDS
    honest = reports([HONEST], gold=50)
    assert sum(bool(named(report)) for report in honest) <= 0.05 * SEEDS


def test_a_blind_labeler_is_named_where_any_two_share_other_tasks() -> None:
    def by_two(judgments: Judgments, rng: np.random.Generator) -> Judgments:
        """Of each task two of the eight labelers alone, drawn by lot."""
        lots = rng.random((len(judgments.tasks), 8)).argsort(axis=1).argsort(axis=1)
        return of_submissions(judgments, lots[judgments.task, judgments.labeler] < 2)

    found = reports([*HONEST_ONES, BLIND], sizes=(0, 200), change=by_two)
    assert sum(PLANTED in named(report, "agreement") for report in found) >= 0.95 * SEEDS
    assert sum(bool(named(report) - {PLANTED}) for report in found) <= 0.05 * SEEDS


def test_who_is_only_less_sure_than_the_others_is_not_named() -> None:
    """Right on 74% of pairs, where the two others are on 92%: no reason to name them."""
    found = reports([Habits(noise=0.4), Habits(noise=0.4), Habits(noise=1.6)], 12, (10, 40))
    assert sum(bool(named(report)) for report in found) <= 0.05 * SEEDS


def test_who_is_nearly_blind_is_named_once_much_is_known() -> None:
    """Right on 59% of pairs: more than chance, and far from the others."""
    found = reports([HONEST, HONEST, Habits(noise=5)], sizes=(0, 150))
    assert sum("labeler-02" in named(report, "agreement") for report in found) >= 0.95 * SEEDS


def test_small_habits_are_not_named_however_much_is_known() -> None:
    habits = [Habits(severity=0.3), Habits(severity=-0.3), Habits(per_place=0.04), HONEST]
    habits += [Habits(drift=0.2), Habits(noise=1.0), Habits(seconds=45), Habits(one_rating=0.05)]
    for seed in range(5):
        judgments = simulate(np.random.default_rng(seed), habits, 500, 500, 100)
        assert quality_report(judgments).findings == []


def test_where_all_are_blind_nobody_is_named_but_all() -> None:
    found = reports([BLIND] * 3, sizes=(0, 60))
    assert sum(None in named(report, "agreement") for report in found) >= 0.95 * SEEDS
    assert sum(bool(named(report) - {None}) for report in found) <= 0.05 * SEEDS


def test_two_labelers_are_not_told_apart() -> None:
    for report in reports([HONEST, BLIND], sizes=(20, 40))[:20]:
        assert not named(report, "agreement") - {None}
    far = reports([HONEST, Habits(severity=2.5)], sizes=(0, 20))
    texts = [f.text for report in far for f in report.findings if f.kind == "bias"]
    assert {f.labeler for r in far for f in r.findings if f.kind == "bias"} == {None}
    assert len(texts) >= 0.95 * SEEDS
    assert all("two labelers" in text for text in texts)


@pytest.mark.parametrize(
    ("planted", "kind"), [(Habits(severity=2.5), "bias"), (Habits(seconds=900), "speed")]
)
def test_one_far_off_makes_nobody_else_look_so(planted: Habits, kind: str) -> None:
    """Of three labelers: the two others lie far from the mean of those that they are held to."""
    found = reports([HONEST, HONEST, planted], sizes=(0, 25))
    usual = [named(report, kind) - {"labeler-02"} for report in found]
    assert sum(map(bool, usual)) <= 0.05 * SEEDS


def test_few_judgments_name_nobody() -> None:
    odd = Habits(noise=np.inf, seconds=1, per_place=2)
    for report in reports([HONEST, HONEST, odd], sizes=(0, 7)):
        assert report.findings == []


def test_one_response_a_task_is_not_one_rating() -> None:
    judgments = simulate(np.random.default_rng(0), [HONEST] * 3, 0, 20)
    rows = np.arange(0, len(judgments.rating), K)
    columns = ("response", "shown_at", "rating", "rank", "known_rating", "known_rank")
    single = replace(
        judgments,
        submission=judgments.submission[rows],
        answers={"bad": judgments.answers["bad"][rows]},
        **{name: getattr(judgments, name)[rows] for name in columns},
    )
    report = quality_report(single)
    assert report.findings == []
    assert [one.one_rating for one in report.labelers] == [0.0] * 3


def test_p_values_of_honest_labelers_are_as_small_as_chance_makes_them() -> None:
    """Two-sided tests reject one in twenty; the one-sided one of agreement no more."""
    p_values: dict[str, list[float]] = {"order": [], "bias": [], "agreement": []}
    for seed in range(250):
        judgments = simulate(np.random.default_rng([9, seed]), [HONEST] * 4, 0, 12)
        comparisons, pairs = compare(judgments, pair_orders(judgments))
        sums = sums_of(judgments)
        for own in rows_of(judgments.labeler, 4):
            p_values["order"] += [check.p_value for check in check_order("", sums, own)]
            p_values["bias"] += [check.p_value for check in check_bias("", sums, own, {"": 0.0})]
            agreement = check_agreement("", judgments.task, comparisons, pairs, own)
            p_values["agreement"] += [check.p_value for check in agreement]
    small = {kind: np.mean(np.array(values) < 0.05) for kind, values in p_values.items()}
    assert {kind: len(values) for kind, values in p_values.items()} == {
        "order": 2000,
        "bias": 1000,
        "agreement": 1000,
    }
    assert 0.035 < small["order"] < 0.065
    assert 0.03 < small["bias"] < 0.07
    assert 0.005 < small["agreement"] < 0.06
