"""The judgments of a label database as columns, for statistics: read in pieces, no row is kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import compress, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, ColumnElement, Select, Text, cast, select
from sqlalchemy.orm import Session

from labeling_ui import queries
from labeling_ui.tables import Judgment, KnownAnswer, Labeler, Submission, Task
from pipeline.judgments import AnswerSets, Floats, Ints, Judgments

ROWS_AT_ONCE = 1_000
_Columns = tuple[Ints, Ints, Floats, Floats, NDArray[np.bool_], Ints]
_PACKED = 1 << 20  # more than any place, rank or rating
_YES_OR_NO = {False: 0.0, True: 1.0}


class _Codes(dict[Any, int]):
    """Numbers what comes, in the order in which it comes: 0, 1, …"""

    def __missing__(self, thing: Any) -> int:
        self[thing] = number = len(self)
        return number


@dataclass(frozen=True)
class _Submissions:
    """Columns with a place for each submission, in the order of the export but for ``ids``.

    Attributes:
        ids: as they came.
        row: where each of ``ids`` stands in the other columns.
        order: which of ``orders`` its responses were shown in.
        orders: JSON lists.
    """

    ids: list[str]
    row: Ints
    task: Ints
    labeler: Ints
    at: Floats
    seconds: Floats
    contradicts: NDArray[np.bool_]
    order: Ints
    orders: list[str | None]


def read_judgments(session: Session, *, gold: bool = False) -> Judgments:
    """What would be exported, in the order of the export; tasks go by their identities.

    Args:
        session: sees one state of the database, as ``Store.reading`` gives it.
        gold: the judgments of gold tasks, too, with what is known of them. Those of the practice
            are never read: who has passed it agreed there.
    """
    tasks = _tasks(session, gold)
    pseudonyms = session.execute(select(Labeler.id, Labeler.pseudonym).where(Labeler.active))
    labelers = dict(sorted(pseudonyms.tuples(), key=lambda row: row[1]))
    found = _submissions(session, list(tasks), list(labelers))
    submission, response, rating, rank, answer, texts = _responses(session, found)
    task = found.task[submission]
    known_ratings, known_ranks = _known(session, list(tasks)) if gold else ({}, {})
    task_names, task_of = _compressed(list(tasks.values()), found.task)
    labeler_names, labeler_of = _compressed(list(labelers.values()), found.labeler)
    places = _table(dict(enumerate(map(_places, found.orders))), len(found.orders), response)
    return Judgments(
        labelers=labeler_names,
        tasks=task_names,
        task=task_of,
        labeler=labeler_of,
        at=found.at,
        seconds=found.seconds,
        contradicts=found.contradicts,
        submission=submission,
        response=response,
        shown_at=places[found.order[submission], response],
        rating=rating,
        rank=rank,
        answers=AnswerSets(_answers(texts), answer.astype(np.int32)),
        known_rating=_looked_up(known_ratings, task, response),
        known_rank=_looked_up(known_ranks, task, response),
    )


def _is_gold() -> ColumnElement[bool]:
    return Task.active & (Task.kind == "gold")


# --- submissions ----------------------------------------------------------------------------------


def _tasks(session: Session, gold: bool) -> dict[int, str]:
    """Identities by row id, in the order of the export, gold tasks at the end."""
    wanted = queries.is_current() | _is_gold() if gold else queries.is_current()
    query = select(Task.id, Task.identity).where(wanted)
    query = query.order_by(Task.kind == "gold", Task.position, Task.identity)
    return dict(session.execute(query).tuples().all())


def _submissions(
    session: Session, task_ids: Sequence[int], labeler_ids: Sequence[int]
) -> _Submissions:
    """All to these tasks by these labelers, but for what a script has yielded."""
    task_number = {task: number for number, task in enumerate(task_ids)}
    labeler_number = {labeler: number for number, labeler in enumerate(labeler_ids)}
    yielded = _yielded(session)
    # Without a join, for which SQLite would read them in the order of the labelers.
    query = select(
        Submission.id,
        Submission.task_id,
        Submission.labeler_id,
        Submission.created_at,
        Submission.seconds,
        Submission.confirmed_contradiction,
        cast(Submission.display_order, Text),
    )
    orders, ids, parts = _Codes(), list[str](), list[_Columns]()
    for some, tasks, labelers, at, seconds, contradicts, shown in _in_pieces(session, query):
        task = _ints(map(task_number.get, tasks, repeat(-1)))
        labeler = _ints(map(labeler_number.get, labelers, repeat(-1)))
        kept = (task >= 0) & (labeler >= 0)
        if yielded:
            kept &= [name not in yielded for name in some]
        ids += compress(some, kept.tolist())
        part = (
            task,
            labeler,
            np.array([_timestamp(text) for text in at]),
            np.array([np.nan if s is None else s for s in seconds]),
            np.array(contradicts, dtype=bool),
            _ints(map(orders.__getitem__, shown)),
        )
        parts.append(tuple(column[kept] for column in part))  # type: ignore[arg-type]
    none = (_ints([]), _ints([]), np.empty(0), np.empty(0), np.empty(0, bool), _ints([]))
    columns = [np.concatenate(column) for column in zip(none, *parts, strict=True)]
    sorted_from = np.lexsort((columns[1], columns[0]))
    row = np.empty(len(ids), dtype=np.int64)
    row[sorted_from] = np.arange(len(ids))
    task, labeler, at, seconds, contradicts, order = (column[sorted_from] for column in columns)
    return _Submissions(ids, row, task, labeler, at, seconds, contradicts, order, list(orders))


def _yielded(session: Session) -> set[str]:
    """The submissions of scripts that are set aside, since a person has ended the task."""
    query = select(Submission.id).join(Submission.task).join(Submission.labeler)
    return set(session.scalars(query.where(Labeler.scripted, ~queries.stands())))


def _timestamp(text: str | None) -> float:
    """Seconds since the epoch; NaN where the text says no time."""
    try:
        at = datetime.fromisoformat(text or "")
    except ValueError:
        return np.nan
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


# --- responses ------------------------------------------------------------------------------------


def _responses(
    session: Session, found: _Submissions
) -> tuple[Ints, Ints, Ints, Ints, Ints, list[str]]:
    """The rows of the judged responses as columns: submission, place, rating, rank, and which of
    the texts, JSON objects, that come last has their answers."""
    row_of = dict(zip(found.ids, found.row.tolist(), strict=True))
    texts, parts = _Codes(), [np.empty((3, 0), dtype=np.int64)]
    # Every value that is fetched costs time: the three numbers come as one.
    numbers = cast(Judgment.position, BigInteger) * _PACKED + Judgment.rank
    numbers = numbers * _PACKED + Judgment.rating
    query = select(Judgment.submission_id, numbers, cast(Judgment.answers, Text))
    for ids, packed, answers in _in_pieces(session, query):
        rows = np.fromiter(map(row_of.get, ids, repeat(-1)), np.int64, len(ids))
        codes = np.fromiter(map(texts.__getitem__, answers), np.int64, len(ids))
        parts.append(np.stack([rows, np.array(packed, dtype=np.int64), codes])[:, rows >= 0])
    del row_of
    said = np.concatenate(parts, axis=1)
    parts.clear()
    submission, packed, answer = said[:, np.lexsort((said[1], said[0]))]
    del said
    rest, rating = np.divmod(packed, _PACKED)
    response, rank = np.divmod(rest, _PACKED)
    return submission.copy(), response, rating, rank, answer.copy(), list(texts)


def _answers(texts: Sequence[str]) -> dict[str, Floats]:
    """By question, what each of the texts says: 1.0 yes, 0.0 no, NaN neither."""
    given = [json.loads(text) for text in texts]
    questions = dict.fromkeys(question for answers in given for question in answers)
    return {
        question: np.array([_YES_OR_NO.get(answers.get(question), np.nan) for answers in given])
        for question in questions
    }


def _places(order: str | None) -> list[int]:
    """At which place each response was shown; nothing where that is not known."""
    shown: list[int] = json.loads(order or "null") or []
    places = [0] * len(shown)
    for place, response in enumerate(shown):
        places[response] = place
    return places


# --- what is known --------------------------------------------------------------------------------


def _known(
    session: Session, task_ids: Sequence[int]
) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Known ratings and ranks by the number of the task."""
    number = {task: number for number, task in enumerate(task_ids)}
    query = select(KnownAnswer.task_id, KnownAnswer.ratings, KnownAnswer.ranks).join(
        Task, Task.id == KnownAnswer.task_id
    )
    rows = session.execute(query.where(_is_gold())).all()
    ratings = {number[task]: list(ratings) for task, ratings, _ in rows}
    return ratings, {number[task]: list(ranks) for task, _, ranks in rows}


def _looked_up(lists: dict[int, list[int]], number: Ints, response: Ints) -> Floats:
    """For each row the value that its number's list has for its response; NaN where none has."""
    if not lists:
        return np.broadcast_to(np.nan, number.shape)
    return _table(lists, 1 + max(int(number.max(initial=0)), *lists), response)[number, response]


# --- small parts ----------------------------------------------------------------------------------


def _in_pieces(session: Session, query: Select[*tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """The columns of the query's rows, some rows at a time."""
    # From the driver itself: a row object of SQLAlchemy's for each would take most of the time.
    connection = session.connection()
    driver: Any = connection.connection.dbapi_connection
    settings = {"literal_binds": True}
    statement = str(query.compile(dialect=connection.dialect, compile_kwargs=settings))
    # A cursor that has a name stays at the server, and its rows come as they are asked for.
    names = () if connection.dialect.name == "sqlite" else ("judgments",)
    with closing(driver.cursor(*names)) as cursor:
        cursor.execute(statement)
        while rows := cursor.fetchmany(ROWS_AT_ONCE):
            yield tuple(zip(*rows, strict=True))


def _ints(values: Iterable[int]) -> Ints:
    return np.fromiter(values, dtype=np.int64)


def _table(lists: dict[int, list[int]], height: int, response: Ints) -> Floats:
    """The lists as rows of a table that has a place for every response; NaN where they end."""
    width = 1 + int(response.max(initial=0))
    table = np.full((height, width), np.nan)
    for row, values in lists.items():
        table[row, : len(values)] = values[:width]
    return table


def _compressed(names: Sequence[str], number: Ints) -> tuple[list[str], Ints]:
    """Only the names that are used, and the numbers that now point to them."""
    used, renumbered = np.unique(number, return_inverse=True)
    return [names[int(one)] for one in used], renumbered.astype(np.int64)
