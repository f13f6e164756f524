"""Krippendorff's alpha of ratings and answers, from judgments as columns. No torch here."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.judgments import Floats, Ints, Judgments
from pipeline.label_intervals import Estimate, jackknife

RATINGS = 7
_CELLS_AT_ONCE = 2_000_000


def rating_alpha(judgments: Judgments) -> Estimate | None:
    """Krippendorff's ordinal alpha of the ratings, over the responses that were rated twice at
    least; None where there is none, or all their ratings are the same."""
    return _alpha(judgments, judgments.rating - 1, RATINGS, ordinal=True)


def answer_alpha(judgments: Judgments, question: str) -> Estimate | None:
    """Krippendorff's nominal alpha of the answers to a question; None as for ratings."""
    answers = judgments.answers[question]
    values = np.where(np.isfinite(answers), answers, -1).astype(np.int64)
    return _alpha(judgments, values, 2, ordinal=False)


def _alpha(
    judgments: Judgments, values: Ints, categories: int, *, ordinal: bool
) -> Estimate | None:
    """The unit of the interval is the task, whose responses hang together."""
    items, coincidences = coincidences_of(judgments, values, categories)
    if not items:
        return None
    return jackknife(coincidences, lambda sums: disagreement(sums, ordinal=ordinal), count=items)


def coincidences_of(judgments: Judgments, values: Ints, categories: int) -> tuple[int, Floats]:
    """How many responses have two values at least, and (U, categories²) each task's coincidences:
    of the m values of a response any two, in both orders, by 1 / (m − 1) (Krippendorff 2011).

    Args:
        values: (N,) a category each, below 0 for none.
    """
    items, parts = 0, [np.zeros((0, categories**2))]
    for counts in _counts(judgments, values, categories):
        sizes = counts.sum(axis=2, keepdims=True)
        items += int((sizes > 1).sum())
        shares = np.where(sizes > 1, counts / np.maximum(sizes - 1, 1), 0)
        both = counts.transpose(0, 2, 1) @ shares
        both[:, np.arange(categories), np.arange(categories)] -= shares.sum(axis=1)
        parts.append(both[(sizes > 1).any(axis=(1, 2))].reshape(-1, categories**2))
    return items, np.concatenate(parts)


def _counts(judgments: Judgments, values: Ints, categories: int) -> Iterator[Floats]:
    """(tasks, responses, categories) how often each value was given, of some of the tasks that two
    labelers at least have judged, until all have come."""
    labelers = np.bincount(judgments.task, minlength=len(judgments.tasks))
    task = judgments.task[judgments.submission]
    rows = np.flatnonzero((values >= 0) & (labelers[task] > 1))
    rows = rows[np.argsort(task[rows], kind="stable")]
    number = (np.cumsum(labelers > 1) - 1)[task[rows]]
    width = int(judgments.response[rows].max(initial=0)) + 1
    count = int((labelers > 1).sum())
    at_once = max(1, _CELLS_AT_ONCE // (width * categories))
    for first in range(0, count, at_once):
        last = min(first + at_once, count)
        part = slice(*np.searchsorted(number, [first, last]))
        some = rows[part]
        cell = ((number[part] - first) * width + judgments.response[some]) * categories
        shape = (last - first, width, categories)
        counts = np.bincount(cell + values[some], minlength=int(np.prod(shape)))
        yield counts.reshape(shape).astype(np.float64)


def disagreement(coincidences: Floats, *, ordinal: bool) -> Floats:
    """(…) observed disagreement over the one expected by chance, which is 1 − alpha; NaN where all
    values are the same.

    Args:
        coincidences: (…, categories²).
    """
    categories = int(np.sqrt(coincidences.shape[-1]))
    each = coincidences.reshape(*coincidences.shape[:-1], categories, categories).sum(axis=-1)
    total = each.sum(axis=-1)
    first, second = np.triu_indices(categories, 1)  # both orders of two values are as far apart
    if ordinal:
        up_to = np.cumsum(each, axis=-1)
        up_to -= each / 2
        distance = (up_to[..., second] - up_to[..., first]) ** 2
    else:
        distance = np.ones(len(first))
    observed = (coincidences[..., first * categories + second] * distance).sum(axis=-1)
    expected = (each[..., first] * each[..., second] * distance).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected > 0, observed * (total - 1) / expected, np.nan)
