"""How ratings, answers and times are spread: shares and quantiles with intervals. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.judgments import Floats, Ints, Judgments
from pipeline.label_intervals import Estimate, share_of
from pipeline.preferences import Z_95

RATINGS = range(1, 8)


@dataclass(frozen=True)
class Times:
    """Seconds that a task takes; ``n`` is the tasks of which it is known."""

    median: Estimate
    p90: Estimate


@dataclass(frozen=True)
class Spread:
    """The run's tasks alone: what was said of practice and gold tasks is left out.

    Attributes:
        ratings: the share of each rating from 1 to 7; none where nothing was rated.
        yes: by question, the share of answers that are yes; None where nobody answered.
        counts: by pseudonym, how many ratings from 1 to 7 the labeler gave.
        times: by pseudonym, and of all under None; missing where no time is known.
    """

    ratings: tuple[Estimate, ...]
    yes: Mapping[str, Estimate | None]
    counts: Mapping[str, tuple[int, ...]]
    times: Mapping[str | None, Times]


def label_spread(judgments: Judgments) -> Spread:
    """Intervals of shares take tasks as units: what is said of one task may depend on each other.

    A quantile's interval is that of order statistics; None where it reaches beyond the sample.
    """
    of_run = np.isnan(judgments.known_rating)
    submission = judgments.submission[of_run]
    task, labeler = judgments.task[submission], judgments.labeler[submission]
    rating = judgments.rating[of_run]
    shares = [_share(rating == r, np.ones(len(rating), dtype=bool), task) for r in RATINGS]
    yes: dict[str, Estimate | None] = {}
    for question, column in judgments.answers.items():
        given = column[of_run]
        yes[question] = _share(given == 1, ~np.isnan(given), task)
    table = np.bincount(labeler * 7 + rating - 1, minlength=7 * len(judgments.labelers))
    counts = dict(zip(judgments.labelers, table.reshape(-1, 7).tolist(), strict=True))
    return Spread(
        ratings=tuple(share for share in shares if share is not None),
        yes=yes,
        counts={name: tuple(row) for name, row in counts.items() if sum(row)},
        times=_times(judgments, np.unique(submission)),
    )


def _share(hits: NDArray[np.bool_], trials: NDArray[np.bool_], task: Ints) -> Estimate | None:
    """The share of ``trials`` that are ``hits``, with tasks as units; None without trials."""
    successes, of = (np.bincount(task, weights=part) for part in (hits & trials, trials))
    return share_of(successes.astype(float), of.astype(float))


def _times(judgments: Judgments, submissions: Ints) -> dict[str | None, Times]:
    seconds, labeler = judgments.seconds[submissions], judgments.labeler[submissions]
    known = ~np.isnan(seconds)
    seconds, labeler = seconds[known], labeler[known]
    by_labeler = np.argsort(labeler, kind="stable")
    parts = np.split(seconds[by_labeler], np.cumsum(np.bincount(labeler))[:-1])
    named: dict[str | None, Floats] = {None: seconds}
    named |= dict(zip(judgments.labelers, parts, strict=False))
    return {
        name: Times(_quantile(values, 0.5), _quantile(values, 0.9))
        for name, values in named.items()
        if len(values)
    }


def _quantile(values: Floats, share: float) -> Estimate:
    """The quantile, with the interval between two order statistics that holds it in 95%."""
    ordered, n = np.sort(values), len(values)
    half = Z_95 * math.sqrt(n * share * (1 - share))
    low, high = math.floor(n * share - half), math.ceil(n * share + half)
    ci95 = (float(ordered[low]), float(ordered[high])) if low >= 0 and high < n else None
    return Estimate(float(np.quantile(ordered, share)), ci95, n)
