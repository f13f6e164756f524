"""The questions that the store asks its tables, as SQL conditions and small look-ups."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Float, Select, Update, bindparam, func, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from labeling_ui import rows, tables
from labeling_ui.tables import Assignment, Guideline, Labeler, SkippedTask, Submission

EndT = TypeVar("EndT", bound=Submission | SkippedTask)

CLOCK_SLACK_SECONDS = 60.0  # by so much the clocks of two machines may differ


# --- conditions on tables.Task ------------------------------------------------------------------


def ended_by(
    end: type[Submission] | type[SkippedTask], *, people_only: bool = False
) -> ColumnElement[bool]:
    """The task has a submission (or a skip) of an active labeler, scripted ones included."""
    return _ends(end, people_only=people_only).exists()


def counts() -> ColumnElement[bool]:
    """A submission of ``Labeler`` to ``Task`` is exported."""
    return is_current() & stands()


def stands() -> ColumnElement[bool]:
    """A submission of ``Labeler`` to ``Task`` is not set aside: a script yields to a person."""
    replaced = ended_by(Submission, people_only=True) | ended_by(SkippedTask, people_only=True)
    return Labeler.active & ~(Labeler.scripted & replaced)


def is_current() -> ColumnElement[bool]:
    """The task is in use, and what is said of it is exported."""
    return tables.Task.active & tables.Task.kind.not_in(tables.KNOWN_KINDS)


def is_complete() -> ColumnElement[bool]:
    """As many people as are needed have judged or skipped the task."""
    return tables.Task.judged + tables.Task.skipped >= tables.Task.overlap


def ends(*, people_only: bool) -> ColumnElement[int]:
    """How many active labelers, or people with ``people_only``, have judged or skipped the task."""
    judged, skipped = (
        _ends(end, people_only=people_only)
        .with_only_columns(func.count())
        .correlate(tables.Task)
        .scalar_subquery()
        for end in (Submission, SkippedTask)
    )
    return judged + skipped


@cache
def has_room(*, people_only: bool) -> ColumnElement[bool]:
    """The task can go to the labeler ``:labeler_id`` at the time ``:now``, as far as others go.

    Fewer than ``overlap`` others have ended it or hold a lease on it, or it is shared. To a person
    only people count: what a script has judged, a person may judge again.
    """
    now = bindparam("now", type_=Float)
    leases = (
        select(func.count())
        .select_from(Assignment)
        .join(Labeler, Labeler.id == Assignment.labeler_id)
        .where(
            Assignment.task_id == tables.Task.id,
            Assignment.labeler_id != bindparam("labeler_id"),
            Assignment.ended_at.is_(None),
            Assignment.leased_at <= now + CLOCK_SLACK_SECONDS,
            Assignment.expires_at > now,
            Labeler.active & ~Labeler.disabled,
        )
    )
    leases = leases.where(~Labeler.scripted) if people_only else leases
    taken = ends(people_only=people_only) + leases.correlate(tables.Task).scalar_subquery()
    return tables.Task.shared | (taken < tables.Task.overlap)


def unseen() -> ColumnElement[bool]:
    """The task was neither given to ``:labeler_id`` nor ended by them elsewhere (an import)."""
    given, judged, skipped = (
        select(table.id).where(
            table.task_id == tables.Task.id, table.labeler_id == bindparam("labeler_id")
        )
        for table in (Assignment, Submission, SkippedTask)
    )
    return ~given.exists() & ~judged.exists() & ~skipped.exists()


def bytewise(session: Session, column: InstrumentedAttribute[str]) -> ColumnElement[str]:
    """A column of texts to order by, alike on every database: by its bytes in UTF-8."""
    return column.collate("BINARY" if session.get_bind().dialect.name == "sqlite" else "C")


def _ends(end: type[Submission] | type[SkippedTask], *, people_only: bool) -> Select[Any]:
    query = select(end.id).join(Labeler, Labeler.id == end.labeler_id)
    query = query.where(end.task_id == tables.Task.id, Labeler.active)
    return query.where(~Labeler.scripted) if people_only else query


# --- look-ups -----------------------------------------------------------------------------------


def own(session: Session, end: type[EndT], labeler_id: int, task_id: int) -> EndT | None:
    """How this labeler ended this task, if so."""
    query = select(end).where(end.task_id == task_id, end.labeler_id == labeler_id)
    return session.scalar(query)


def assignment_of(session: Session, labeler_id: int, task_id: int) -> Assignment | None:
    """How this task was shown to this labeler, if so."""
    return session.scalar(
        select(Assignment).where(Assignment.task_id == task_id, Assignment.labeler_id == labeler_id)
    )


def lock(session: Session, task_id: int) -> tables.Task:
    """The task as it is now; nobody else changes what belongs to it until the transaction ends."""
    query = select(tables.Task).where(tables.Task.id == task_id).with_for_update()
    return session.execute(query, execution_options={"populate_existing": True}).scalar_one()


def count_ends(session: Session, task_id: int | None = None) -> None:
    """Counts anew how many people have judged and skipped a task, or every task."""
    session.flush()
    values = {} if task_id is None else {"only_task_id": task_id}
    session.execute(_counting(everywhere=task_id is None), values)
    for task in session.identity_map.values():
        if isinstance(task, tables.Task):
            session.expire(task, ["judged", "skipped"])


def count_ends_of(session: Session, task_ids: Sequence[int]) -> None:
    """Counts anew how many people have judged and skipped each of these tasks."""
    session.flush()
    session.execute(_counting(everywhere=True).where(tables.Task.id.in_(task_ids)))


@cache
def _counting(*, everywhere: bool) -> Update:
    counts = (
        _ends(end, people_only=True)
        .with_only_columns(func.count())
        .correlate(tables.Task)
        .scalar_subquery()
        for end in (Submission, SkippedTask)
    )
    judged, skipped = counts
    statement = update(tables.Task).values(judged=judged, skipped=skipped)
    if not everywhere:
        statement = statement.where(tables.Task.id == bindparam("only_task_id"))
    return statement.execution_options(synchronize_session=False)


# --- rows that are made where they are missing --------------------------------------------------


def assign(session: Session, task: tables.Task, labeler: Labeler) -> Assignment:
    """A new assignment of the task to this labeler, with an order of its own and no lease yet."""
    assignment = Assignment(
        task=task,
        labeler_id=labeler.id,
        display_order=rows.shuffled(len(task.responses), task.identity, labeler.pseudonym),
        lease=secrets.token_urlsafe(24),
        leased_at=0.0,
        expires_at=0.0,
        created_at=rows.now(),
    )
    session.add(assignment)
    return assignment


def put_guideline(
    session: Session, questions: Mapping[str, str], instructions: str, purpose: str
) -> str:
    """The version of these questions and instructions, stored once."""
    version = rows.guideline_version(questions, instructions, purpose)
    if session.get(Guideline, version) is None:
        session.add(
            Guideline(
                version=version,
                purpose=purpose,
                instructions=instructions,
                questions=dict(questions),
                created_at=rows.now(),
            )
        )
        session.flush()
    return version


def imported_labeler(session: Session, pseudonym: str) -> Labeler:
    """The labeler of a pseudonym in a file; a new one has no other name than that."""
    labeler = session.scalar(select(Labeler).where(Labeler.pseudonym == pseudonym))
    if labeler is None:
        labeler = Labeler(name=f"file: {pseudonym}", pseudonym=pseudonym, created_at=rows.now())
        session.add(labeler)
        session.flush()
    return labeler


def random_pseudonym(session: Session) -> str:
    """``labeler-`` and hexadecimal digits that nobody has yet."""
    taken = set(session.scalars(select(Labeler.pseudonym)))
    digits = 4
    while True:
        candidate = f"labeler-{secrets.token_hex(8)[:digits]}"
        if candidate not in taken:
            return candidate
        digits = min(digits + 1, 16)
