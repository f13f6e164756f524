"""What leaves a label database, as the rows of an export's files: streamed, and of one snapshot.

Every function reads some rows at a time and keeps none, and gives objects that are valid rows of
``records`` without making one of each. Labelers go by their pseudonyms; practice and gold tasks
are left out. The order is the same on every database: by the task's position, then by pseudonym.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from sqlalchemy import ColumnElement, Row, Select, Text, cast, func, select
from sqlalchemy.orm import Session

from labeling_ui import demonstrations as written
from labeling_ui import queries
from labeling_ui.tables import (
    KNOWN_KINDS,
    Demonstration,
    Guideline,
    Judgment,
    Labeler,
    Response,
    SkippedTask,
    Submission,
    Task,
)
from pipeline.errors import UserError

ROWS_AT_ONCE = 500
FileRow = dict[str, Any]
AnyRow = Row[*tuple[Any, ...]]
Columns = Select[*tuple[Any, ...]]
Round = int | Literal["current", "all"]


@dataclass(frozen=True)
class Selection:
    """Which labels leave the database, and whether ``notes`` (and times) go with them.

    Attributes:
        labelers: pseudonyms; None for all.
        round: the tasks of this round, in use or not; ``current`` for those in use, ``all`` for
            those of earlier rounds, too.
        notes: with notes and times, which stay in the database otherwise.
    """

    labelers: frozenset[str] | None = None
    round: Round = "current"
    notes: bool = False


CURRENT = Selection()


# --- rankings -------------------------------------------------------------------------------------


def rankings(session: Session, selection: Selection = CURRENT) -> Iterator[FileRow]:
    """The fields of each ``records.Ranking``, without those that are None."""
    query = _in_order(session, _submissions(), Submission)
    query = query.where(_selected(selection), queries.stands())
    for some in _in_pieces(session, query):
        yield from _ranking_rows(session, some, notes=selection.notes)


def rankings_by_id(session: Session, ids: Sequence[str]) -> dict[str, FileRow]:
    """The submissions of these ids, of whatever task, with notes and times."""
    query = _submissions().join(Task, Task.id == Submission.task_id)
    query = query.join(Labeler, Labeler.id == Submission.labeler_id)
    found = session.execute(query.where(Submission.id.in_(ids))).all()
    return {row["submission_id"]: row for row in _ranking_rows(session, found, notes=True)}


def _submissions() -> Columns:
    columns: tuple[Any, ...] = (
        Submission.id, Submission.task_id, Task.prompt_id, Task.prompt, Labeler.pseudonym,
        Submission.confirmed_contradiction, Submission.confidence, Submission.note,
        Submission.seconds, Submission.display_order, Submission.instructions_version,
        Submission.created_at,
    )  # fmt: skip
    return select(*columns)


def _ranking_rows(
    session: Session, submissions: Sequence[AnyRow], *, notes: bool
) -> Iterator[FileRow]:
    said = _judgments_of(session, [row.id for row in submissions])
    responses = _responses_of(session, {row.task_id for row in submissions})
    for row in submissions:
        ratings, ranks, answers = zip(*said[row.id], strict=True)
        fields = {
            "submission_id": row.id,
            "prompt_id": row.prompt_id,
            "prompt": row.prompt,
            "labeler": row.pseudonym,
            "responses": responses[row.task_id],
            "ratings": list(ratings),
            "answers": {key: [given[key] for given in answers] for key in answers[0]},
            "ranks": list(ranks),
            "confirmed_contradiction": row.confirmed_contradiction,
            "confidence": row.confidence,
            "note": row.note if notes else None,
            "seconds": row.seconds if notes else None,
            "display_order": row.display_order,
            "instructions_version": row.instructions_version,
            "created_at": row.created_at if notes else None,
        }
        yield _without_none(fields)


def _judgments_of(
    session: Session, ids: Sequence[str]
) -> dict[str, list[tuple[int, int, dict[str, Any]]]]:
    """By submission the rating, rank and answers of each response, in canonical order."""
    answers = cast(Judgment.answers, Text)
    query = select(Judgment.submission_id, Judgment.rating, Judgment.rank, answers)
    query = query.where(Judgment.submission_id.in_(ids)).order_by(Judgment.position)
    found: dict[str, list[tuple[int, int, dict[str, Any]]]] = {key: [] for key in ids}
    for key, rating, rank, text in session.execute(query):
        found[key].append((rating, rank, _parsed(text)))
    return found


@lru_cache(maxsize=10_000)
def _parsed(answers: str) -> dict[str, Any]:
    """Few sets of answers are given to most responses: it is not to be changed."""
    return json.loads(answers)


def _responses_of(session: Session, task_ids: Iterable[int]) -> dict[int, list[FileRow]]:
    columns = (
        Response.task_id, Response.response_id, Response.text, Response.policy, Response.finished,
    )  # fmt: skip
    query = select(*columns).where(Response.task_id.in_(task_ids))
    found: dict[int, list[FileRow]] = {}
    for task_id, response_id, text, policy, finished in session.execute(
        query.order_by(Response.task_id, Response.position)
    ):
        fields = {
            "response_id": response_id, "text": text, "policy": policy, "finished": finished,
        }  # fmt: skip
        found.setdefault(task_id, []).append(fields)
    return found


# --- skips, demonstrations, guidelines ------------------------------------------------------------


def skips(
    session: Session, selection: Selection = CURRENT, *, with_responses: bool = False
) -> Iterator[FileRow]:
    """The fields of each ``records.Skip``, without those that are None."""
    query = _in_order(session, _skipped(), SkippedTask)
    query = query.where(_selected(selection), Labeler.active)
    for some in _in_pieces(session, query):
        yield from _skip_rows(session, some, notes=selection.notes, with_responses=with_responses)


def skips_by_id(session: Session, ids: Sequence[str]) -> dict[str, FileRow]:
    """The skips of these ids, of whatever task, with all that can be said of them."""
    query = _skipped().join(Task, Task.id == SkippedTask.task_id)
    query = query.join(Labeler, Labeler.id == SkippedTask.labeler_id)
    found = session.execute(query.where(SkippedTask.id.in_(ids))).all()
    every = _skip_rows(session, found, notes=True, with_responses=True)
    return {row["submission_id"]: row for row in every}


def _skipped() -> Columns:
    columns: tuple[Any, ...] = (
        SkippedTask.id, SkippedTask.task_id, Task.prompt_id, Task.prompt, Labeler.pseudonym,
        SkippedTask.reason, SkippedTask.note, SkippedTask.created_at,
    )  # fmt: skip
    return select(*columns)


def _skip_rows(
    session: Session, skipped: Sequence[AnyRow], *, notes: bool, with_responses: bool
) -> Iterator[FileRow]:
    task_ids = {row.task_id for row in skipped} if with_responses else set[int]()
    responses = _responses_of(session, task_ids)
    for row in skipped:
        fields = {
            "submission_id": row.id,
            "prompt_id": row.prompt_id,
            "prompt": row.prompt,
            "labeler": row.pseudonym,
            "reason": row.reason,
            "note": row.note if notes else None,
            "created_at": row.created_at if notes else None,
            "responses": responses.get(row.task_id),
        }
        yield _without_none(fields)


def demonstrations(session: Session, selection: Selection = CURRENT) -> Iterator[FileRow]:
    """The fields of each ``records.Demonstration``, without those that are None.

    They are written for prompts, so those whose tasks are out of use leave as well; with the number
    of a round those alone that were given one of its tasks.
    """
    conditions: list[ColumnElement[bool]] = []
    if selection.labelers is not None:
        conditions.append(Labeler.pseudonym.in_(sorted(selection.labelers)))
    if isinstance(selection.round, int):
        of_round = select(Task.id).where(Task.round == selection.round)
        conditions.append(Demonstration.task_id.in_(of_round))
    for row in written.exported(session, *conditions, times=selection.notes):
        yield row.model_dump(exclude_none=True)


def guidelines(session: Session, versions: Iterable[str]) -> list[FileRow]:
    """The fields of each ``records.Guideline`` of these versions that is known, by version."""
    query = select(Guideline).where(Guideline.version.in_(sorted(versions)))
    return [
        {
            "version": one.version,
            "purpose": one.purpose,
            "instructions": one.instructions,
            "questions": one.questions,
        }
        for one in sorted(session.scalars(query), key=lambda one: one.version)
    ]


# --- counts ---------------------------------------------------------------------------------------


def count(session: Session, selection: Selection = CURRENT) -> int:
    """How many rankings ``rankings`` gives."""
    query = select(func.count()).select_from(Submission).join(Submission.task)
    query = query.join(Submission.labeler).where(_selected(selection), queries.stands())
    return session.scalar(query) or 0


def pseudonyms(session: Session) -> set[str]:
    """Of all labelers whose labels can be exported."""
    return set(session.scalars(select(Labeler.pseudonym).where(Labeler.active)))


def refuse_unknown(session: Session, labelers: Iterable[str]) -> None:
    """Raises UserError if nobody has one of these pseudonyms."""
    unknown = sorted(set(labelers) - pseudonyms(session))
    if unknown:
        fix = "see align labelers list; labelers go by their pseudonyms here."
        raise UserError(f"labeler {unknown[0]}", "is unknown.", fix)


# --- small parts ----------------------------------------------------------------------------------


def _in_order(
    session: Session, query: Columns, end: type[Submission] | type[SkippedTask]
) -> Columns:
    query = query.join(Task, Task.id == end.task_id).join(Labeler, Labeler.id == end.labeler_id)
    pseudonym = queries.bytewise(session, Labeler.pseudonym)
    return query.order_by(Task.position, Task.identity, pseudonym)


def _selected(selection: Selection) -> ColumnElement[bool]:
    exported = Task.kind.not_in(KNOWN_KINDS)
    if selection.round == "current":
        exported &= Task.active
    elif isinstance(selection.round, int):
        exported &= Task.round == selection.round
    if selection.labelers is not None:
        exported &= Labeler.pseudonym.in_(sorted(selection.labelers))
    return exported


def _in_pieces(session: Session, query: Columns) -> Iterator[Sequence[AnyRow]]:
    """The rows some at a time; on PostgreSQL the others stay at the server until then."""
    options = {"yield_per": ROWS_AT_ONCE}
    yield from session.execute(query, execution_options=options).partitions()


def _without_none(fields: FileRow) -> FileRow:
    return {name: value for name, value in fields.items() if value is not None}
