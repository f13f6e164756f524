"""How far labelers agree on the order of two responses, from judgments as columns. No torch here.

The measures of ``agreement``, which reads rankings, for many judgments at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.judgments import Floats, Ints, Judgments, numbered, sum_by
from pipeline.label_intervals import Estimate, share_of


@dataclass(frozen=True)
class PairOrders:
    """How each submission orders each two of its responses: M pairs.

    Attributes:
        submission: (M,) which submission.
        pair: (M,) which two responses of which task: the same number for the same two.
        order: (M,) 1 where the earlier in canonical order is ranked better, −1 worse, 0 a tie.
        known: (M,) the same by the known ranks; NaN on tasks that have none.
    """

    submission: Ints
    pair: Ints
    order: Ints
    known: Floats


@dataclass(frozen=True)
class Comparisons:
    """How each submission agrees with others on its task, summed over its pairs: S submissions.

    Attributes:
        alike: (S,) comparisons with another labeler that both ordered the same way.
        decided: (S,) comparisons that both decided.
        known_alike: (S,) pairs ordered as is known, ties half.
        known_decided: (S,) pairs that the known ranking decides.
        tied: (S,) pairs that this submission ties.
        pairs: (S,) pairs of responses.
    """

    alike: Floats
    decided: Floats
    known_alike: Floats
    known_decided: Floats
    tied: Floats
    pairs: Floats


@dataclass(frozen=True)
class TaskPairs:
    """Comparisons of any two labelers on each task, summed over its pairs: T tasks."""

    alike: Floats
    decided: Floats
    ties: Floats


def pair_orders(judgments: Judgments) -> PairOrders:
    """All pairs of responses within each submission."""
    sizes = np.bincount(judgments.submission, minlength=len(judgments.task))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]) if len(sizes) else sizes
    most = int(judgments.response.max(initial=0)) + 1
    columns: list[tuple[Ints, Ints, Ints, Floats]] = []
    for size in np.unique(sizes[sizes > 1]):
        submission = np.flatnonzero(sizes == size)
        a, b = (starts[submission][:, None] + place for place in np.triu_indices(size, 1))
        a, b = a.ravel(), b.ravel()
        swap = judgments.response[a] > judgments.response[b]
        a, b = np.where(swap, b, a), np.where(swap, a, b)
        which = np.repeat(submission, size * (size - 1) // 2)
        two = judgments.response[a] * most + judgments.response[b]
        order = np.sign(judgments.rank[b] - judgments.rank[a])
        known = np.sign(judgments.known_rank[b] - judgments.known_rank[a])
        columns.append((which, judgments.task[which] * most * most + two, order, known))
    if not columns:
        none = np.zeros(0, dtype=np.int64)
        return PairOrders(none, none, none, np.zeros(0))
    submission, pair, order, known = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return PairOrders(submission, pair, order, known)


def compare(judgments: Judgments, orders: PairOrders) -> tuple[Comparisons, TaskPairs]:
    """Each submission against the others of its task, and all labelers of each task."""
    count = len(judgments.task)
    known = np.isfinite(orders.known) & (orders.known != 0)
    half = 0.5 * (1 + orders.order * np.where(known, orders.known, 0))
    labelers = np.bincount(judgments.task, minlength=len(judgments.tasks))
    shared = labelers[judgments.task][orders.submission] > 1
    alike, decided, pairs = _with_others(judgments, orders, shared)

    def of_submissions(values: Floats | NDArray[np.bool_]) -> Floats:
        return sum_by(orders.submission, values, count)

    comparisons = Comparisons(
        alike=alike,
        decided=decided,
        known_alike=of_submissions(np.where(known, half, 0)),
        known_decided=of_submissions(known),
        tied=of_submissions(orders.order == 0),
        pairs=of_submissions(np.ones(len(orders.order))),
    )
    return comparisons, pairs


def _with_others(
    judgments: Judgments, orders: PairOrders, shared: NDArray[np.bool_]
) -> tuple[Floats, Floats, TaskPairs]:
    """``alike`` and ``decided`` of submissions, and the comparisons of tasks.

    Args:
        shared: (M,) True for pairs of tasks that two labelers at least have judged.
    """
    order, submission = orders.order[shared], orders.submission[shared]
    number, count = numbered(orders.pair[shared])
    better, worse, tie = (sum_by(number, order == sign, count) for sign in (1, -1, 0))
    decisive = order != 0
    same = np.where(order > 0, better[number], worse[number])
    others = (better + worse)[number]
    submissions = len(judgments.task)
    alike = sum_by(submission, np.where(decisive, same - 1, 0), submissions)
    decided = sum_by(submission, np.where(decisive, others - 1, 0), submissions)
    task = np.zeros(count, dtype=np.int64)
    task[number] = judgments.task[submission]
    both_decide = _two_of(better + worse)
    per_task = (
        _two_of(better) + _two_of(worse),
        both_decide,
        _two_of(better + worse + tie) - both_decide,
    )
    sums = (sum_by(task, values, len(judgments.tasks)) for values in per_task)
    return alike, decided, TaskPairs(*sums)


def _two_of(count: Floats) -> Floats:
    return count * (count - 1) / 2


def pairwise_agreement(pairs: TaskPairs) -> Estimate | None:
    """The share of comparisons that two labelers order alike, of those that both decided: as
    ``agreement.pairwise_agreement``; None where nothing was decided twice."""
    return share_of(pairs.alike, pairs.decided)
