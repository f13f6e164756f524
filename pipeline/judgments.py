"""Judgments as columns: what the measures of labeling quality are computed from. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class AnswerSets(Mapping[str, Floats]):
    """Answers by question, of rows that mostly answer alike: no column is kept, each is made when
    it is asked for.

    Args:
        sets: by question, (D,) what each of D sets of answers says.
        number: (N,) which set a row has.
    """

    def __init__(self, sets: Mapping[str, Floats], number: NDArray[np.integer[Any]]) -> None:
        self._sets = sets
        self._number = number

    def __getitem__(self, question: str) -> Floats:
        return self._sets[question][self._number]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sets)

    def __len__(self) -> int:
        return len(self._sets)

    def at(self, rows: NDArray[Any]) -> AnswerSets:
        """Those of some rows alone, given by a mask or by their places."""
        return AnswerSets(self._sets, self._number[rows])


@dataclass(frozen=True)
class Judgments:
    """What labelers said of responses: N judged responses in S submissions of T tasks.

    The rows of one submission follow each other; a labeler submits a task at most once.

    Attributes:
        labelers: pseudonyms; ``labeler`` points into them.
        tasks: task names; ``task`` points into them.
        task: (S,) which task was judged.
        labeler: (S,) by whom.
        at: (S,) when, in seconds since the epoch; NaN where it is not known.
        seconds: (S,) how long it took; NaN where it is not known.
        contradicts: (S,) True where a rank contradicts a rating, and this was confirmed.
        submission: (N,) the submission that a row belongs to, ascending.
        response: (N,) canonical place of the response within its task.
        shown_at: (N,) place at which it was shown, 0 first; NaN where it is not known.
        rating: (N,) 1 to 7.
        rank: (N,) 1 is best, equal numbers are ties.
        answers: by question, (N,) 1.0 yes, 0.0 no, NaN not answered or does not apply.
        known_rating: (N,) what a practice or gold task should be rated; NaN on other tasks.
        known_rank: (N,) what it should be ranked; NaN on other tasks.
    """

    labelers: Sequence[str]
    tasks: Sequence[str]
    task: Ints
    labeler: Ints
    at: Floats
    seconds: Floats
    contradicts: NDArray[np.bool_]
    submission: Ints
    response: Ints
    shown_at: Floats
    rating: Ints
    rank: Ints
    answers: Mapping[str, Floats]
    known_rating: Floats
    known_rank: Floats


def sum_by(
    group: NDArray[np.int64], values: NDArray[np.number[Any]] | NDArray[np.bool_], count: int
) -> Floats:
    """(count,) the sum of the values of each group."""
    return np.bincount(group, weights=values, minlength=count).astype(np.float64)


def numbered(keys: Ints) -> tuple[Ints, int]:
    """Equal numbers for equal keys, from 0 on and in their order, and how many numbers there may
    be: some may not occur.

    Args:
        keys: 0 at least.
    """
    if int(keys.max(initial=-1)) < 4 * len(keys):
        return keys, int(keys.max(initial=-1)) + 1  # sorting them would take longer
    distinct, number = np.unique(keys, return_inverse=True)
    return number.astype(np.int64), len(distinct)


def response_keys(judgments: Judgments) -> Ints:
    """(N,) a number for each response of each task."""
    most = int(judgments.response.max(initial=0)) + 1
    return judgments.task[judgments.submission] * most + judgments.response


def rows_of(labeler: Ints, count: int) -> list[Ints]:
    """For each of ``count`` labelers the places at which they stand, ascending."""
    order = np.argsort(labeler, kind="stable")
    ends = np.cumsum(np.bincount(labeler, minlength=count))
    return [order[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def of_submissions(judgments: Judgments, chosen: NDArray[np.bool_]) -> Judgments:
    """The same with some of the submissions alone; labelers and tasks keep their numbers.

    Args:
        chosen: (S,) True for those to keep.
    """
    rows = chosen[judgments.submission]
    number = np.cumsum(chosen) - 1
    answers = judgments.answers
    return replace(
        judgments,
        **{
            name: getattr(judgments, name)[chosen]
            for name in ("task", "labeler", "at", "seconds", "contradicts")
        },
        **{
            name: getattr(judgments, name)[rows]
            for name in ("response", "shown_at", "rating", "rank", "known_rating", "known_rank")
        },
        submission=number[judgments.submission[rows]],
        answers=answers.at(rows)
        if isinstance(answers, AnswerSets)
        else {key: values[rows] for key, values in answers.items()},
    )
