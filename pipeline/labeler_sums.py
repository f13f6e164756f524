"""What each submission adds to the figures of its labeler. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.judgments import Floats, Judgments, numbered, response_keys, sum_by


@dataclass(frozen=True)
class Sums:
    """Sums over the responses of each of the S submissions.

    Attributes:
        bias: points above the others' means, over ``compared`` responses.
        slope: covariance of place and rating, over ``spread``, the places' sum of squares; both
            weighted by how much a submission tells.
        rank_slope: covariance of place and how far up a response is ranked, over ``rank_spread``.
        places: responses whose place is known.
        several: True where there are two responses at least.
        alike: True where these have one rating.
        yes: by question, yes answers; ``answered`` yes and no.
    """

    bias: Floats
    compared: Floats
    slope: Floats
    spread: Floats
    rank_slope: Floats
    rank_spread: Floats
    places: Floats
    several: NDArray[np.bool_]
    alike: NDArray[np.bool_]
    yes: Mapping[str, Floats]
    answered: Mapping[str, Floats]


def sums_of(judgments: Judgments) -> Sums:
    """Of all judgments given: those of gold tasks are to be left out before."""
    count = len(judgments.task)

    def total(values: Floats) -> Floats:
        return sum_by(judgments.submission, values, count)

    rating, rank = judgments.rating.astype(np.float64), judgments.rank.astype(np.float64)
    above, shared = _above_others(judgments, rating)
    place = _centered(judgments, judgments.shown_at)
    placed = np.isfinite(place)  # one place unknown makes all of its submission unknown
    place = np.where(placed, place, 0)
    slope, spread = _slope(judgments, place, rating, above, shared)
    below, _ = _above_others(judgments, rank)
    rank_slope, rank_spread = _slope(judgments, place, -rank, -below, shared)
    several = np.bincount(judgments.submission, minlength=count) > 1
    return Sums(
        bias=total(above),
        compared=total(shared),
        slope=slope,
        spread=spread,
        rank_slope=rank_slope,
        rank_spread=rank_spread,
        places=total(placed.astype(np.float64)),
        several=several,
        alike=(total(np.abs(_centered(judgments, rating))) < 1e-9) & several,
        yes={key: total(np.nan_to_num(values)) for key, values in judgments.answers.items()},
        answered={key: total(1.0 * np.isfinite(v)) for key, v in judgments.answers.items()},
    )


def _centered(judgments: Judgments, values: Floats) -> Floats:
    """(N,) less the mean of the submission."""
    count = len(judgments.task)
    sizes = np.maximum(np.bincount(judgments.submission, minlength=count), 1)
    return values - (sum_by(judgments.submission, values, count) / sizes)[judgments.submission]


def _above_others(judgments: Judgments, values: Floats) -> tuple[Floats, Floats]:
    """(N,) how far above the mean of the others on the same response, and 1 where there are any."""
    response, count = numbered(response_keys(judgments))
    others = np.bincount(response, minlength=count)[response] - 1
    theirs = sum_by(response, values, count)[response] - values
    shared = others > 0
    return np.where(shared, values - theirs / np.maximum(others, 1), 0), shared.astype(np.float64)


def _slope(
    judgments: Judgments, place: Floats, values: Floats, above: Floats, shared: Floats
) -> tuple[Floats, Floats]:
    """(S,) covariance of place and value, and sum of squares of the places, weighted.

    Where all responses have been judged by others, too, the value is how far above them it is: that
    an answer is good has no part in it, and the submission tells more. The weight is one over the
    variance of what remains.

    Args:
        place: (N,) centered, 0 where it is not known.
        values: (N,) of which ``above`` and ``shared`` are what ``_above_others`` gives.
    """
    count = len(judgments.task)
    compared = sum_by(judgments.submission, 1 - shared, count) == 0
    rows = compared[judgments.submission]
    rest = _centered(judgments, np.where(rows, above, values))
    weight = np.ones(count)
    for some, of_rows in ((compared, rows), (~compared, ~rows)):
        squares = float((rest[of_rows] ** 2).sum())
        if squares:
            weight[some] = int(of_rows.sum()) / squares
    slope, spread = (sum_by(judgments.submission, place * other, count) for other in (rest, place))
    return weight * slope, weight * spread
