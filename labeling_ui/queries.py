"""The questions that the store asks its tables, as SQL conditions and small look-ups."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TypeVar

from sqlalchemy import ColumnElement, SQLColumnExpression, select
from sqlalchemy.orm import Session

from labeling_ui import rows, tables
from labeling_ui.tables import Assignment, Guideline, Labeler, SkippedTask, Submission
from pipeline.errors import UserError
from pipeline.records import Ranking

EndT = TypeVar("EndT", Submission, SkippedTask)


# --- conditions on tables.Task ------------------------------------------------------------------


def ended_by(
    end: type[Submission] | type[SkippedTask], *, people_only: bool = False
) -> ColumnElement[bool]:
    """The task has a submission (or a skip) of an active labeler, scripted ones included."""
    query = select(end.id).join(Labeler, Labeler.id == end.labeler_id)
    query = query.where(end.task_id == tables.Task.id, Labeler.active)
    return (query.where(~Labeler.scripted) if people_only else query).exists()


def is_open(*, people_only: bool = False) -> ColumnElement[bool]:
    """The task is current and nobody (or with ``people_only`` no person) has ended it."""
    submitted = ended_by(Submission, people_only=people_only)
    return tables.Task.active & ~submitted & ~ended_by(SkippedTask, people_only=people_only)


def counts() -> ColumnElement[bool]:
    """A submission of ``Labeler`` to ``Task`` is exported: a script yields to a person."""
    replaced = ended_by(Submission, people_only=True) | ended_by(SkippedTask, people_only=True)
    return tables.Task.active & Labeler.active & ~(Labeler.scripted & replaced)


def assigned(condition: SQLColumnExpression[bool]) -> ColumnElement[bool]:
    """The task has an assignment whose labeler meets the condition."""
    query = select(Assignment.id).join(Labeler, Labeler.id == Assignment.labeler_id)
    return query.where(Assignment.task_id == tables.Task.id, condition).exists()


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


def claimed(
    session: Session, labeler_id: int, task_id: int
) -> tuple[tables.Task, Labeler, Assignment]:
    """The task, the labeler and what ties them.

    Raises:
        UserError: the task was never shown to this labeler.
    """
    assignment = assignment_of(session, labeler_id, task_id)
    task, labeler = session.get(tables.Task, task_id), session.get(Labeler, labeler_id)
    if assignment is None or task is None or labeler is None:
        raise UserError(f"task {task_id}", "was not shown to this labeler.", "reload the page.")
    return task, labeler, assignment


def refuse_ended(session: Session, task_id: int, labeler: Labeler) -> None:
    """Raises:
    UserError: somebody has ended this task; a person may still judge what a script has.
    """
    for end, verb in ((Submission, "judged"), (SkippedTask, "skipped")):
        ended = ended_by(end, people_only=not labeler.scripted)
        if session.scalar(select(tables.Task.id).where(tables.Task.id == task_id, ended)):
            raise UserError(
                f"task {task_id}", f"has already been {verb}.", "go on with the next task."
            )


def refuse_second(session: Session, row: Ranking, task_id: int, labeler_id: int) -> None:
    """Raises:
    UserError: the row's submission_id is taken, or its labeler has ranked these responses.
    """
    where, fix = f"submission {row.submission_id}", "remove one of the two rows."
    if session.get(Submission, row.submission_id) is not None:
        raise UserError(where, "comes twice.", fix)
    if own(session, Submission, labeler_id, task_id) is not None:
        problem = f"is a second ranking of {row.prompt_id} by {row.labeler}."
        raise UserError(where, problem, fix)


# --- rows that are made where they are missing --------------------------------------------------


def assign(session: Session, task: tables.Task, labeler_id: int) -> Assignment:
    """The task's assignment to this labeler, with a new display order if it is the first."""
    assignment = assignment_of(session, labeler_id, task.id)
    if assignment is None:
        labeler = session.get_one(Labeler, labeler_id)
        assignment = Assignment(
            task_id=task.id,
            labeler_id=labeler_id,
            display_order=rows.shuffled(len(task.responses), task.identity, labeler.pseudonym),
            created_at=rows.now(),
        )
        session.add(assignment)
    return assignment


def put_guideline(session: Session, questions: Mapping[str, str], instructions: str) -> str:
    """The version of these questions and instructions, stored once."""
    version = rows.guideline_version(questions, instructions)
    if session.get(Guideline, version) is None:
        session.add(
            Guideline(
                version=version,
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
