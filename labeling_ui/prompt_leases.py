"""Which prompt goes to whom to be answered, and the rows that are held meanwhile.

The draft of an edit is a row of its own, named ``<id of the finished one>.<hexadecimal>``.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from labeling_ui import leases, queries, rows, tables
from labeling_ui.queries import CLOCK_SLACK_SECONDS
from labeling_ui.tables import Demonstration, Labeler, Task

NAME_CHARACTERS = 200


def is_name(value: object) -> bool:
    """Whether it could name a row or a page."""
    return isinstance(value, str) and 0 < len(value) <= NAME_CHARACTERS and value.isprintable()


def is_edit(row: Demonstration) -> bool:
    """Whether it is the draft of an edit, or was."""
    return "." in row.id and row.state in ("draft", "replaced")


def finished_id(row: Demonstration) -> str:
    """The name of what is finished: that of the row itself, but for an edit."""
    return row.id.rpartition(".")[0] if is_edit(row) else row.id


def edits_of(finished: Demonstration) -> ColumnElement[bool]:
    """The drafts of edits of this one."""
    drafts = (Demonstration.state == "draft") & (Demonstration.labeler_id == finished.labeler_id)
    return drafts & Demonstration.id.startswith(f"{finished.id}.", autoescape=True)


def in_own_order(task: Task | None, labeler: Labeler) -> Sequence[tables.Response]:
    """The sampled responses of a prompt, in an order that is this labeler's own."""
    if task is None:
        return []
    order = rows.shuffled(len(task.responses), task.identity, labeler.pseudonym)
    return [task.responses[place] for place in order]


# --- what is begun --------------------------------------------------------------------------------


def begun(session: Session, labeler: Labeler, now: float) -> Demonstration | None:
    """What this labeler has begun with a given prompt, the latest first, if it is still theirs."""
    for row in session.scalars(_drafts(labeler, given=True)).all():
        if not is_kept(session, row, labeler, now):
            continue  # not even held: two who wait for each other's prompts would never end
        found = held(session, row.id)
        if found and found.state == "draft" and is_kept(session, found, labeler, now):
            return found
    return None


def begun_own(session: Session, labeler: Labeler) -> Demonstration | None:
    """What this labeler has begun with a prompt of their own, the latest."""
    return session.scalar(_drafts(labeler, given=False).limit(1))


def begun_edit(session: Session, finished: Demonstration) -> Demonstration | None:
    """The draft of an edit of this one, if there is one."""
    return session.scalar(select(Demonstration).where(edits_of(finished)).limit(1))


def _drafts(labeler: Labeler, *, given: bool) -> Select[Demonstration]:
    kind = Demonstration.kind == "given" if given else Demonstration.kind != "given"
    query = select(Demonstration).where(
        Demonstration.labeler_id == labeler.id, Demonstration.state == "draft", kind
    )
    return query.order_by(Demonstration.leased_at.desc(), Demonstration.id)


def is_kept(session: Session, row: Demonstration, labeler: Labeler, now: float) -> bool:
    """Whether nobody else has answered its prompt, or is answering it."""
    if row.task_id is None or is_edit(row):
        return True
    query = select(Demonstration.id).join(Demonstration.labeler)
    of_others = (Demonstration.task_id == row.task_id) & (Demonstration.labeler_id != labeler.id)
    taken = query.where(of_others, _is_answered() | _is_leased(now)).limit(1)
    return session.scalar(taken) is None


def held(session: Session, name: str) -> Demonstration | None:
    """The row of this name as it is now; nobody else changes it until the transaction ends.

    What it stands below is held first, always in the same order: its task, what it edits.
    """
    row = session.get(Demonstration, name)
    if row is None:
        return None
    if row.task_id is not None:
        queries.lock(session, row.task_id)
    names = [name] if finished_id(row) == name else [finished_id(row), name]
    for each in names:
        query = select(Demonstration).where(Demonstration.id == each).with_for_update()
        found = session.execute(query, execution_options={"populate_existing": True})
        row = found.scalar_one_or_none()
    return row


# --- what is new ----------------------------------------------------------------------------------


def new(session: Session, labeler: Labeler, now: float) -> Task | None:
    """The task of the highest priority whose prompt is open to this labeler, held."""
    open_to = _is_writable() & Task.prompt.not_in(_closed_to(labeler, now))
    query = select(Task.id).where(open_to).order_by(Task.priority.desc(), Task.position, Task.id)
    while True:
        # PostgreSQL passes over what others are about to take, and waits for it where that is all.
        for skip_locked in (True, False):
            first = query.limit(1).with_for_update(of=Task, skip_locked=skip_locked)
            found = session.scalar(first)
            if found is not None:
                break
        else:
            return None
        task = queries.lock(session, found)
        # As it is now: before it was held, another call may have taken it.
        still_open = session.scalar(query.where(Task.id == found)) is not None
        if leases.is_sound(session, task) and still_open:
            return task


def count_open(session: Session) -> int:
    """How many prompts nobody has answered."""
    answered = select(Demonstration.prompt).join(Demonstration.labeler).where(_is_answered())
    query = select(func.count()).select_from(Task)
    return session.scalar(query.where(_is_writable(), Task.prompt.not_in(answered))) or 0


def _is_writable() -> ColumnElement[bool]:
    return Task.active & (Task.kind == "sampled")


def _closed_to(labeler: Labeler, now: float) -> Select[str]:
    """Prompts that somebody has answered or is answering, and those that this labeler has had."""
    own = Demonstration.labeler_id == labeler.id
    query = select(Demonstration.prompt).join(Demonstration.labeler)
    return query.where(own | _is_answered() | _is_leased(now))


def _is_answered() -> ColumnElement[bool]:
    return (Demonstration.state == "done") & Labeler.active


def _is_leased(now: float) -> ColumnElement[bool]:
    """A time that lies ahead of the clock keeps nothing: then the clock was wrong."""
    return (
        (Demonstration.state == "draft")
        & (Demonstration.leased_at <= now + CLOCK_SLACK_SECONDS)
        & (Demonstration.expires_at > now)
        & Labeler.active
        & ~Labeler.disabled
    )
