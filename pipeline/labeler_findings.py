"""Who needs a word, and about what. No torch here.

A finding needs two things: a test that chance passes, all tests together in at most 5% of the cases
(Holm 1979), and a size that matters. Two labelers alone are not told apart where either may be
right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtrc, stdtr  # pyright: ignore[reportMissingTypeStubs]

from pipeline.judgments import Floats, Ints, Judgments, sum_by
from pipeline.label_agreement import Comparisons, TaskPairs
from pipeline.label_intervals import Deviation, deviation_of, difference_of, holm
from pipeline.labeler_sums import Sums

LEAST_UNITS = 8  # tasks, below which nobody is named
CHANCE = 0.5
CLEARLY = 0.05  # one-sided; the finding itself passes a stricter test
LEAST_AGREEMENT = 0.625  # half of the way from chance to what InstructGPT's labelers reach
ORDER_POINTS = 0.5  # rating points, or ranks, from the first place to the last
SPEED_RATIO = 1 / 3  # of the others' typical time
BIAS_POINTS = 1.0
ONE_RATING_SHARE = 0.5


@dataclass(frozen=True)
class Finding:
    """Something that a lead should look at: ``text`` says it of the labeler ``labeler``, or of all
    where that is None."""

    labeler: str | None
    kind: str
    text: str


@dataclass(frozen=True)
class Check:
    """A finding if chance does not explain it. ``finding`` is None where the size does not matter:
    the test counts all the same."""

    p_value: float
    finding: Finding | None


def findings_of(checks: Sequence[Check]) -> list[Finding]:
    """Those that chance does not explain, all checks taken together; one of a kind for each."""
    rejected = holm([check.p_value for check in checks])
    found: dict[tuple[str | None, str], Finding] = {}
    for check, is_real in zip(checks, rejected, strict=True):
        if is_real and check.finding is not None:
            found.setdefault((check.finding.labeler, check.finding.kind), check.finding)
    return list(found.values())


def _check(name: str | None, kind: str, p_value: float, text: str, *, matters: bool) -> Check:
    return Check(p_value, Finding(name, kind, text) if matters else None)


# --- agreement ------------------------------------------------------------------------------------


def check_everybody(pairs: TaskPairs) -> list[Check]:
    """Whether labelers agree with each other at all."""
    found = deviation_of(pairs.alike, pairs.decided, LEAST_AGREEMENT)
    if found is None or int((pairs.decided > 0).sum()) < LEAST_UNITS:
        return []
    text = (
        f"labelers agree with each other on {_share(pairs.alike, pairs.decided):.0%} of pairs; "
        "blind choice would give 50%"
    )
    return [_too_low(None, "agreement", found, text, matters=found.value < 0)]


def check_agreement(
    name: str, task: Ints, comparisons: Comparisons, pairs: TaskPairs, own: Ints
) -> list[Check]:
    """Against how the others agree with each other: on the tasks that all of them share, or, where
    these are few, on all that they share.

    Args:
        task: (S,) of each submission.
        own: the labeler's submissions.
    """
    alike, decided = comparisons.alike[own], comparisons.decided[own]
    theirs, all_decided = pairs.alike[task[own]] - alike, pairs.decided[task[own]] - decided
    common = (decided > 0) & (all_decided > 0)
    if int(common.sum()) >= LEAST_UNITS:
        parts = [column[common] for column in (alike, decided, theirs, all_decided)]
    else:
        count = len(pairs.decided)
        mine = [sum_by(task[own], column, count) for column in (alike, decided)]
        parts = [*mine, pairs.alike - mine[0], pairs.decided - mine[1]]
    if min(int((parts[1] > 0).sum()), int((parts[3] > 0).sum())) < LEAST_UNITS:
        return []
    share, others = _share(parts[0], parts[1]), _share(parts[2], parts[3])
    text = (
        f"agrees with the others on {share:.0%} of pairs, where they agree with each other on "
        f"{others:.0%}; blind choice would give 50%"
    )
    matters = _nearer_to_chance(*parts)
    return [_too_low(name, "agreement", difference_of(*parts), text, matters=matters)]


def check_gold(
    name: str, task: Ints, comparisons: Comparisons, totals: tuple[Floats, Floats], own: Ints
) -> list[Check]:
    """Against how the others judge the same gold tasks, and against what is the least.

    Args:
        task: (S,) of each submission to a gold task.
        totals: by gold task, what all labelers together order as is known, and decide.
        own: the labeler's submissions.
    """
    alike, decided = comparisons.known_alike[own], comparisons.known_decided[own]
    if int((decided > 0).sum()) < LEAST_UNITS:
        return []
    said = f"orders {_share(alike, decided):.0%} of the pairs of gold tasks as is known"
    chance = "blind choice would give 50%"
    alone = deviation_of(alike, decided, LEAST_AGREEMENT)
    checks: list[Check] = []
    if alone is not None:
        matters = alone.value < 0
        checks.append(_too_low(name, "gold", alone, f"{said}; {chance}", matters=matters))
    theirs, all_decided = totals[0][task[own]] - alike, totals[1][task[own]] - decided
    common = (decided > 0) & (all_decided > 0)
    if int(common.sum()) < LEAST_UNITS:
        return checks
    parts = [column[common] for column in (alike, decided, theirs, all_decided)]
    text = f"{said}, the others {_share(parts[2], parts[3]):.0%}; {chance}"
    matters = _nearer_to_chance(*parts)
    return [_too_low(name, "gold", difference_of(*parts), text, matters=matters), *checks]


def _too_low(name: str | None, kind: str, found: Deviation, text: str, *, matters: bool) -> Check:
    """One-sided: nobody is told that they agree too well."""
    half = found.p_value / 2
    return _check(name, kind, half if found.value < 0 else 1 - half, text, matters=matters)


def _nearer_to_chance(alike: Floats, decided: Floats, others: Floats, all_decided: Floats) -> bool:
    """Whether a share is clearly less than halfway from chance to the others': who is only less
    sure than they are is not."""
    found = difference_of(alike, decided, others, all_decided, factor=0.5, offset=CHANCE / 2)
    return found.value < 0 and found.p_value / 2 < CLEARLY


def _share(successes: Floats, trials: Floats) -> float:
    return float(successes.sum() / trials.sum())


# --- ratings and places ---------------------------------------------------------------------------


def check_order(name: str, sums: Sums, own: Ints) -> list[Check]:
    """Whether a rating or a rank follows the place, which is drawn by lot."""
    checks: list[Check] = []
    placed = own[sums.spread[own] > 0]
    if len(placed) < LEAST_UNITS:
        return []
    steps = float(sums.places[placed].mean()) - 1
    for slope, spread, verb, better, unit in (
        (sums.slope, sums.spread, "rates", "higher", "points"),
        (sums.rank_slope, sums.rank_spread, "ranks", "better", "ranks"),
    ):
        found = deviation_of(slope[placed], spread[placed], 0)
        if found is None:
            continue
        where = "down" if found.value > 0 else "up"
        size = abs(found.value) * steps
        text = (
            f"{verb} the same answer {better} the further {where} it is shown: {size:.1f} {unit} "
            "from one end to the other, though places are drawn by lot"
        )
        checks.append(_check(name, "order", found.p_value, text, matters=size >= ORDER_POINTS))
    return checks


def check_bias(name: str, sums: Sums, own: Ints, biases: Mapping[str, float]) -> list[Check]:
    """Against the others' ratings.

    One labeler far off moves all others away from the rest: so who is named must be far from the
    middle of the labelers, too.

    Args:
        biases: each labeler's points above the others.
    """
    found = deviation_of(sums.bias[own], sums.compared[own], 0)
    if found is None or int((sums.compared[own] > 0).sum()) < LEAST_UNITS:
        return []
    points = abs(found.value)
    direction = "above" if found.value > 0 else "below"
    text = f"rates {points:.1f} points {direction} the others on the same answers"
    if len(biases) == 2:
        text = f"the ratings of the two labelers lie {points:.1f} points apart on the same answers"
    middle = float(np.median(list(biases.values())))
    matters = min(points, abs(found.value - middle)) >= BIAS_POINTS
    who = None if len(biases) == 2 else name
    return [_check(who, "bias", found.p_value, text, matters=matters)]


def check_one_rating(name: str, sums: Sums, own: Ints) -> list[Check]:
    """Against the others' share, by the binomial distribution."""
    own = own[sums.several[own]]
    if len(own) < LEAST_UNITS:
        return []
    mine = int(sums.alike[own].sum())
    usual = (int(sums.alike.sum()) - mine + 1) / (int(sums.several.sum()) - len(own) + 2)
    p_value = float(bdtrc(mine - 1, len(own), usual)) if mine else 1.0
    share = mine / len(own)
    text = f"gives all answers of a task the same rating in {share:.0%} of tasks"
    matters = share >= ONE_RATING_SHARE and share >= min(2 * usual, 0.9)
    return [_check(name, "one_rating", p_value, text, matters=matters)]


# --- speed ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pace:
    """How long one labeler takes: mean, variance and median of the logarithms of ``n`` times."""

    mean: float
    variance: float
    median: float
    n: int


def pace_of(seconds: Floats) -> Pace | None:
    """Of the times that are known; None for too few."""
    logs = np.log(seconds[np.isfinite(seconds) & (seconds > 0)])
    if len(logs) < LEAST_UNITS:
        return None
    return Pace(float(logs.mean()), float(logs.var(ddof=1)), float(np.median(logs)), len(logs))


def check_speed(name: str, paces: Mapping[str, Pace]) -> list[Check]:
    """Against the labeler in the middle of the others, the faster of two: one who leaves the task
    open makes nobody look fast (Welch's t-test of the logarithms)."""
    others = sorted((pace for who, pace in paces.items() if who != name), key=lambda p: p.median)
    if name not in paces or not others:
        return []
    own, middle = paces[name], others[(len(others) - 1) // 2]
    errors = own.variance / own.n, middle.variance / middle.n
    value, squared = own.mean - middle.mean, sum(errors)
    p_value = 0.0 if value else 1.0
    if squared:
        parts = (errors[0] ** 2 / (own.n - 1), errors[1] ** 2 / (middle.n - 1))
        p_value = 2 * float(stdtr(squared**2 / sum(parts), -abs(value) / np.sqrt(squared)))
    mine, theirs = float(np.exp(own.median)), float(np.exp(middle.median))
    text = f"takes {mine:.0f} seconds for a task, the others {theirs:.0f}"
    return [_check(name, "speed", p_value, text, matters=mine < SPEED_RATIO * theirs)]


# --- all of them ----------------------------------------------------------------------------------


def checks_of(
    judgments: Judgments,
    gold: Judgments,
    comparisons: tuple[Comparisons, Comparisons],
    pairs: TaskPairs,
    sums: Sums,
    own: Mapping[str, tuple[Ints, Ints]],
) -> list[Check]:
    """All checks of everybody and of each labeler.

    Args:
        judgments: of the run's tasks; ``pairs`` and ``sums`` are of them.
        gold: of gold tasks.
        comparisons: of the submissions to both.
        own: by pseudonym, the submissions to both.
    """
    of_run, known = comparisons
    totals = tuple(
        sum_by(gold.task, column, len(gold.tasks))
        for column in (known.known_alike, known.known_decided)
    )
    paces = {name: pace_of(judgments.seconds[rows]) for name, (rows, _) in own.items()}
    known_paces = {name: pace for name, pace in paces.items() if pace is not None}
    compared = {name: rows for name, (rows, _) in own.items() if sums.compared[rows].any()}
    biases = {name: _share(sums.bias[rows], sums.compared[rows]) for name, rows in compared.items()}
    checks = check_everybody(pairs)
    for name, (rows, gold_rows) in own.items():
        checks += check_agreement(name, judgments.task, of_run, pairs, rows)
        checks += check_gold(name, gold.task, known, (totals[0], totals[1]), gold_rows)
        checks += check_order(name, sums, rows)
        checks += check_bias(name, sums, rows, biases)
        checks += check_speed(name, known_paces)
        checks += check_one_rating(name, sums, rows)
    return checks
