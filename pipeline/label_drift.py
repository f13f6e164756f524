"""Whether judgments change over time on tasks that stay the same. No torch here.

Stiennon et al. (2020) watch drift by fixed comparisons. Here they are the gold tasks, whose answer
is known, and, for a labeler's level, the tasks that others judge, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr  # pyright: ignore[reportMissingTypeStubs]

from pipeline.judgments import Floats, Ints, Judgments, sum_by
from pipeline.label_agreement import Comparisons
from pipeline.label_intervals import TINY, Estimate, ratio_of, share_of
from pipeline.labeler_findings import Check, Finding
from pipeline.labeler_sums import Sums

MOST_PERIODS = 4
LEAST_IN_PERIOD = 5
AGREEMENT_CHANGE = 0.15
LEVEL_CHANGE = 0.5
_ROUNDS = 50  # of centering, which converges in a few where labelers judge the same tasks


@dataclass(frozen=True)
class Period:
    """A stretch of time with its share of the judgments.

    Attributes:
        first: of its judgments, in seconds since the epoch.
        last: of its judgments.
        submissions: how many.
        gold_agreement: the share of known pairs ordered so, ties half.
        level: rating points above what is known (everybody), or above the others (a labeler).
    """

    first: float
    last: float
    submissions: int
    gold_agreement: Estimate | None
    level: Estimate | None


@dataclass(frozen=True)
class Drift:
    """How the judgments of one labeler, or of all (None), have changed over time."""

    labeler: str | None
    periods: list[Period]
    finding: Finding | None = None


@dataclass(frozen=True)
class _Series:
    """Submissions of one labeler or of all (None), in the order of time: whose, to which task, and
    what each adds to the agreement with what is known and to the level."""

    name: str | None
    at: Floats
    who: Ints
    task: Ints
    alike: Floats
    decided: Floats
    above: Floats
    rated: Floats


def drifts(
    judgments: Judgments,
    sums: Sums,
    gold: Judgments,
    comparisons: Comparisons,
    own: Mapping[str, tuple[Ints, Ints]],
) -> tuple[list[Drift], list[Check]]:
    """Everybody's first, then each labeler's, as far as there are enough judgments with a time; and
    what was checked.

    Args:
        judgments: of the run's tasks; ``sums`` is of their submissions.
        gold: of gold tasks; ``comparisons`` is of their submissions.
        own: by pseudonym, the submissions to both.
    """
    series = [_of_all(gold, comparisons)]
    for name, (rows, gold_rows) in own.items():
        series.append(_of_one(name, judgments, sums, rows, gold, comparisons, gold_rows))
    series = [one for one in series if len(one.at) >= 2 * LEAST_IN_PERIOD]
    found = [Drift(one.name, _periods(one)) for one in series]
    return found, [check for one in series for check in _checks(one)]


def _of_all(gold: Judgments, comparisons: Comparisons) -> _Series:
    count = len(gold.task)
    above = np.nan_to_num(gold.rating - gold.known_rating)
    rated = np.isfinite(gold.known_rating)
    return _sorted(
        _Series(
            name=None,
            at=gold.at,
            who=gold.labeler,
            task=gold.task,
            alike=comparisons.known_alike,
            decided=comparisons.known_decided,
            above=sum_by(gold.submission, above, count),
            rated=sum_by(gold.submission, rated, count),
        )
    )


def _of_one(
    name: str,
    judgments: Judgments,
    sums: Sums,
    own: Ints,
    gold: Judgments,
    comparisons: Comparisons,
    own_gold: Ints,
) -> _Series:
    """Gold tasks tell of the agreement, shared ones of the level: in one order of time."""
    own = own[sums.compared[own] > 0]
    nothing, empty = np.zeros(len(own)), np.zeros(len(own_gold))
    count = len(own) + len(own_gold)
    return _sorted(
        _Series(
            name=name,
            at=np.concatenate([judgments.at[own], gold.at[own_gold]]),
            who=np.zeros(count, dtype=np.int64),
            task=np.arange(count),  # a labeler judges a task once
            alike=np.concatenate([nothing, comparisons.known_alike[own_gold]]),
            decided=np.concatenate([nothing, comparisons.known_decided[own_gold]]),
            above=np.concatenate([sums.bias[own], empty]),
            rated=np.concatenate([sums.compared[own], empty]),
        )
    )


def _sorted(series: _Series) -> _Series:
    timed = np.flatnonzero(np.isfinite(series.at))
    order = timed[np.argsort(series.at[timed], kind="stable")]
    columns = ("at", "who", "task", "alike", "decided", "above", "rated")
    return replace(series, **{name: getattr(series, name)[order] for name in columns})


# --- periods --------------------------------------------------------------------------------------


def _periods(series: _Series) -> list[Period]:
    """As many judgments in each. The unit of the intervals is the task: what several labelers say
    of a gold task hangs together."""
    count = min(MOST_PERIODS, len(series.at) // LEAST_IN_PERIOD)
    found: list[Period] = []
    for part in np.array_split(np.arange(len(series.at)), count):
        tasks, task = np.unique(series.task[part], return_inverse=True)
        alike, decided, above, rated = (
            sum_by(task, column[part], len(tasks))
            for column in (series.alike, series.decided, series.above, series.rated)
        )
        level = ratio_of(above, rated, int(rated.sum()))
        first, last = float(series.at[part[0]]), float(series.at[part[-1]])
        found.append(Period(first, last, len(part), share_of(alike, decided), level))
    return found


# --- trends ---------------------------------------------------------------------------------------


def _checks(series: _Series) -> list[Check]:
    """Whether there is a trend, in the agreement with what is known and in the level."""
    name = series.name
    checks: list[Check] = []
    agreement = _trend(series, series.alike, series.decided)
    if agreement is not None:
        change, p_value = agreement
        verb = "falls" if change < 0 else "rises"
        text = f"agreement with gold tasks {verb} by {abs(change):.0%} from first to last"
        finding = Finding(name, "drift", text) if abs(change) >= AGREEMENT_CHANGE else None
        checks.append(Check(p_value, finding))
    level = _trend(series, series.above, series.rated)
    if level is not None:
        change, p_value = level
        verb = "lower" if change < 0 else "higher"
        text = f"rates {abs(change):.1f} points {verb} at the end than at the beginning"
        finding = Finding(name, "drift", text) if abs(change) >= LEVEL_CHANGE else None
        checks.append(Check(p_value, finding))
    return checks


def _trend(series: _Series, numerators: Floats, denominators: Floats) -> tuple[float, float] | None:
    """The change of the mean per submission from first to last along a straight line, and the
    p-value of its slope; None for too few.

    Least squares over the order of time, within labelers and within tasks: that a severe labeler
    came later, or that a hard task was judged late, is no drift.
    """
    used = np.flatnonzero(denominators > 0)
    if len(used) < 2 * LEAST_IN_PERIOD:
        return None
    groups = [np.unique(series.who[used], return_inverse=True)[1]]
    tasks, task = np.unique(series.task[used], return_inverse=True)
    if len(tasks) < len(used):
        groups.append(task)
    means = sum(int(group.max()) + 1 for group in groups) - (len(groups) - 1)
    freedom = len(used) - means - 1
    time = _centered(np.linspace(0, 1, len(used)), groups)
    value = _centered(numerators[used] / denominators[used], groups)
    spread = float((time**2).sum())
    if freedom < LEAST_IN_PERIOD or spread < TINY * len(used):
        return None
    slope = float((time * value).sum()) / spread
    error = float(np.sqrt(((value - slope * time) ** 2).sum() / freedom / spread))
    if error <= TINY:
        return slope, 0.0 if abs(slope) > TINY else 1.0
    return slope, 2 * float(stdtr(freedom, -abs(slope) / error))


def _centered(values: Floats, groups: list[Ints]) -> Floats:
    """What is left when the groups' means are taken out, by turns until nothing changes."""
    counts = [np.bincount(group) for group in groups]
    for _ in range(_ROUNDS):
        before = values
        for group, count in zip(groups, counts, strict=True):
            values = values - (np.bincount(group, weights=values) / count)[group]
        if len(groups) == 1 or np.abs(values - before).max() < TINY:
            break
    return values
