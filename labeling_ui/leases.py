"""Which task goes to whom: what a labeler has begun, or the next that has room for them.

Whoever changes what belongs to a task holds its row (``queries.lock``), and asks again once they
do: on PostgreSQL what a query saw before may no longer be so.
"""

from __future__ import annotations

from functools import cache

from sqlalchemy import Select, bindparam, select
from sqlalchemy.orm import Session

from labeling_ui import queries, rows, tables
from labeling_ui.tables import Assignment, Event, Labeler
from pipeline.errors import UserError


def labeler_at_work(session: Session, labeler_id: int) -> Labeler:
    """The labeler.

    Raises:
        UserError: there is none of that id, or it was disabled or set aside.
    """
    labeler = session.get(Labeler, labeler_id)
    if labeler is None or labeler.disabled or not labeler.active:
        raise UserError("labeler", "may not label.", "sign in again.")
    return labeler


def begun(session: Session, labeler: Labeler, now: float) -> Assignment | None:
    """What this labeler has begun and not ended, the latest first, where it still has room."""
    query = (
        select(Assignment)
        .join(Assignment.task)
        .where(
            Assignment.labeler_id == labeler.id,
            Assignment.ended_at.is_(None),
            tables.Task.active,
            tables.Task.kind != "imported",
        )
        .order_by(Assignment.leased_at.desc(), Assignment.id.desc())
    )
    for assignment in session.scalars(query).all():
        if not has_room(session, assignment.task, labeler, now):
            continue  # not even locked: two who wait for each other's tasks would never end
        task = queries.lock(session, assignment.task_id)
        session.refresh(assignment)
        unended = assignment.ended_at is None
        if unended and is_sound(session, task) and has_room(session, task, labeler, now):
            return assignment
    return None


def new(session: Session, labeler: Labeler, now: float) -> Assignment | None:
    """A task that this labeler has not had, of the highest priority, the first of its kind."""
    values = {"labeler_id": labeler.id, "now": now}
    while True:
        # PostgreSQL passes over what others are about to take, and waits for it where that is all.
        found = session.scalar(_next_query(labeler.scripted, waiting=False), values)
        if found is None:
            found = session.scalar(_next_query(labeler.scripted, waiting=True), values)
        if found is None:
            return None
        task = queries.lock(session, found)
        if is_sound(session, task) and has_room(session, task, labeler, now):
            return queries.assign(session, task, labeler)


def has_room(session: Session, task: tables.Task, labeler: Labeler, now: float) -> bool:
    """Whether a task can go to this labeler, or stay with them."""
    values = {"task_id": task.id, "labeler_id": labeler.id, "now": now}
    return session.scalar(_room_query(labeler.scripted), values) is not None


@cache
def _next_query(scripted: bool, waiting: bool) -> Select[int]:
    task, room = tables.Task, queries.has_room(people_only=not scripted)
    query = select(task.id).where(task.active, task.kind == "sampled", queries.unseen(), room)
    if not scripted:  # says nothing new, but spares counting on tasks long done
        query = query.where(task.shared | ~queries.is_complete())
    query = query.order_by(task.priority.desc(), task.position, task.id).limit(1)
    return query.with_for_update(of=task, skip_locked=not waiting)


@cache
def _room_query(scripted: bool) -> Select[int]:
    task, room = tables.Task, queries.has_room(people_only=not scripted)
    return select(task.id).where(task.id == bindparam("task_id"), task.active, room)


def is_sound(session: Session, task: tables.Task) -> bool:
    """Whether the task is what it was made of; one that is not is shown to nobody any more."""
    if rows.is_whole(task):
        return True
    task.active = False
    detail = {"task": task.identity, "prompt_id": task.prompt_id}
    session.add(Event(at=rows.now(), action="task damaged", detail=detail))
    session.flush()
    return False
