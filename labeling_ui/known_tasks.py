"""Tasks whose answer is known: the practice every labeler begins with, and gold tasks later on.

A judgment is compared with the known one by the pairs that the known ranking decides: it agrees
where it orders the two alike, and half where it ties them. Gold tasks look like any other; when
they come is fixed for each labeler, and cannot be told from outside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from labeling_ui import queries, rows, tables
from labeling_ui.tables import KNOWN_KINDS, Assignment, Event, KnownAnswer, Labeler, Submission
from pipeline.errors import UserError
from pipeline.records import Answer, Ranking, read_rows


@dataclass(frozen=True)
class Feedback:
    """How a judgment of a practice task compares with the known one, in display order.

    Attributes:
        ratings: the known ones.
        ranks: the known ones.
        answers: the known ones, by question.
        why: the reasons, in words.
        agreed: how many of ``pairs`` were ordered alike, ties half.
        pairs: how many pairs the known ranking decides.
        outcome: None while practice tasks are left; then ``passed`` or ``again``.
        share: of all pairs of the practice, once it is over.
        pass_mark: what ``share`` has to reach.
    """

    ratings: list[int]
    ranks: list[int]
    answers: dict[str, list[Answer]]
    why: str | None
    agreed: float
    pairs: int
    outcome: str | None = None
    share: float | None = None
    pass_mark: float | None = None


def read_gold(path: Path) -> list[Ranking]:
    """The rankings of a gold file.

    Raises:
        UserError: it cannot be read, a row is wrong, ties all its responses, or comes twice.
    """
    rankings = read_rows(path, Ranking)
    seen: set[str] = set()
    for number, row in enumerate(rankings, start=1):
        where = f"{path}, row {number}"
        if len(set(row.ranks)) < 2:
            raise UserError(where, "ties all responses.", "rank at least one above another.")
        identity = rows.task_identity(row.prompt_id, row.prompt, row.responses)
        if identity in seen:
            problem = f"is a second answer to {row.prompt_id}."
            raise UserError(where, problem, "keep one of the two.")
        seen.add(identity)
    return rankings


def put_known_tasks(session: Session, rankings: Sequence[Ranking], practice_tasks: int) -> None:
    """Exactly these are in use afterwards; the first ``practice_tasks`` are the practice.

    They are told and asked as the run's tasks are: whatever guideline those have.
    """
    of_run = select(tables.Task.guideline_version).where(queries.is_current()).limit(1)
    version = session.scalar(of_run)
    query = select(tables.Task).where(tables.Task.kind.in_(KNOWN_KINDS))
    held = {task.identity: task for task in session.scalars(query)}
    for task in held.values():
        task.active = False
    for position, row in enumerate(rankings):
        identity = rows.task_identity(row.prompt_id, row.prompt, row.responses, known=True)
        task = held.get(identity)
        if task is None:
            task = rows.new_task(identity, row.prompt_id, row.prompt, row.responses)
            session.add(task)
        task.active, task.shared = True, True
        task.kind = "practice" if position < practice_tasks else "gold"
        task.position, task.guideline_version = position, version
        session.flush()
        answer = session.get(KnownAnswer, task.id) or KnownAnswer(task_id=task.id)
        answer.ratings, answer.ranks = row.ratings, row.ranks
        answer.answers, answer.why = dict(row.answers), row.note
        session.add(answer)


# --- which comes when ---------------------------------------------------------------------------


def next_practice(session: Session, labeler: Labeler) -> Assignment | None:
    """The next task of the practice for who has not passed it yet; None when there is none."""
    if labeler.practiced_at is not None or labeler.scripted:
        return None
    query = select(tables.Task).where(_open_to(labeler, "practice")).order_by(tables.Task.position)
    task = session.scalar(query.limit(1))
    return None if task is None else queries.assign(session, task, labeler)


def next_gold(session: Session, labeler: Labeler, fraction: float) -> Assignment | None:
    """A gold task, when the time for it has come; None otherwise."""
    if labeler.scripted or not fraction:
        return None
    query = select(tables.Task).where(_open_to(labeler, "gold"))
    waiting = list(session.scalars(query))
    if not waiting:
        return None
    ended, given = _counts(session, labeler)
    if ended < (given + _chance(labeler, f"gold {given}")) / fraction:
        return None
    task = min(waiting, key=lambda task: _chance(labeler, task.identity))
    return queries.assign(session, task, labeler)


def practice_place(session: Session, labeler: Labeler) -> tuple[int, int]:
    """Which task of the practice this labeler is at, counted from 1, and how many there are."""
    practice = tables.Task.active & (tables.Task.kind == "practice")
    total = session.scalar(select(func.count()).select_from(tables.Task).where(practice)) or 0
    done = select(func.count()).select_from(Submission).join(Submission.task)
    done = done.where(practice, Submission.labeler_id == labeler.id)
    return (session.scalar(done) or 0) + 1, total


def gold_progress(session: Session, labeler_id: int) -> tuple[int, int]:
    """How many gold tasks this labeler has ended, and how many are still to come."""
    own = (Assignment.task_id == tables.Task.id) & (Assignment.labeler_id == labeler_id)
    query = select(func.count(Assignment.ended_at), func.count()).select_from(tables.Task)
    query = query.outerjoin(Assignment, own)
    query = query.where(tables.Task.active, tables.Task.kind == "gold")
    ended, total = session.execute(query).one()
    return ended, total - ended


def _open_to(labeler: Labeler, kind: str) -> ColumnElement[bool]:
    given = select(Assignment.id).where(
        Assignment.task_id == tables.Task.id, Assignment.labeler_id == labeler.id
    )
    return tables.Task.active & (tables.Task.kind == kind) & ~given.exists()


def _counts(session: Session, labeler: Labeler) -> tuple[int, int]:
    """How many of the run's tasks this labeler has ended; how many gold ones they were given."""
    query = (
        select(tables.Task.kind, func.count(Assignment.ended_at), func.count())
        .select_from(Assignment)
        .join(Assignment.task)
        .where(Assignment.labeler_id == labeler.id)
        .group_by(tables.Task.kind)
    )
    found = {kind: (ended, given) for kind, ended, given in session.execute(query)}
    return found.get("sampled", (0, 0))[0], found.get("gold", (0, 0))[1]


def _chance(labeler: Labeler, name: str) -> float:
    """A number from 0 to 1 that is always the same for the same labeler and name."""
    digest = hashlib.sha256(f"{labeler.pseudonym} {name}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48


# --- how a judgment compares --------------------------------------------------------------------


def agreement(known: Sequence[int], given: Sequence[int]) -> tuple[float, int]:
    """``(agreed, pairs)``: of the pairs that the known ranks decide, how many the given ones order
    alike; a tie counts half."""
    agreed, pairs = 0.0, 0
    for a, b in combinations(range(len(known)), 2):
        if known[a] == known[b]:
            continue
        pairs += 1
        if given[a] == given[b]:
            agreed += 0.5
        elif (known[a] < known[b]) == (given[a] < given[b]):
            agreed += 1
    return agreed, pairs


def feedback(
    session: Session, labeler: Labeler, task: tables.Task, assignment: Assignment, pass_mark: float
) -> Feedback:
    """What to tell about a practice task just judged. When it was the last, the practice is passed,
    or begins again: what was judged is then kept in the events alone."""
    answer = session.get_one(KnownAnswer, task.id)
    submission = queries.own(session, Submission, labeler.id, task.id)
    if submission is None:
        raise UserError("practice", "The task is not judged.", "reload the page.")
    agreed, pairs = _compared(answer, submission)
    order = assignment.display_order
    told = Feedback(
        ratings=[answer.ratings[place] for place in order],
        ranks=[answer.ranks[place] for place in order],
        answers={key: [values[place] for place in order] for key, values in answer.answers.items()},
        why=answer.why,
        agreed=agreed,
        pairs=pairs,
    )
    place, total = practice_place(session, labeler)
    if place <= total:
        return told
    share = _end_practice(session, labeler, pass_mark)
    outcome = "passed" if labeler.practiced_at is not None else "again"
    return Feedback(**{**vars(told), "outcome": outcome, "share": share, "pass_mark": pass_mark})


def _end_practice(session: Session, labeler: Labeler, pass_mark: float) -> float:
    query = select(Submission, KnownAnswer).join(Submission.task)
    query = query.join(KnownAnswer, KnownAnswer.task_id == tables.Task.id)
    practice = tables.Task.active & (tables.Task.kind == "practice")
    query = query.where(practice, Submission.labeler_id == labeler.id)
    judged = [(submission, answer) for submission, answer in session.execute(query)]
    compared = [_compared(answer, submission) for submission, answer in judged]
    agreed, pairs = (sum(column) for column in zip(*compared, strict=True))
    share = agreed / pairs
    if labeler.practiced_at is not None:  # the same call once more: its reply was lost
        return share
    passed = share >= pass_mark
    detail = {"agreed": agreed, "pairs": pairs, "pass_mark": pass_mark}
    action = "practice passed" if passed else "practice begins again"
    at = rows.now()
    session.add(Event(at=at, labeler_id=labeler.id, action=action, detail=detail))
    if passed:
        labeler.practiced_at = at
        return share
    ids = [submission.task_id for submission, _ in judged]
    for submission, _ in judged:
        session.delete(submission)
    session.flush()
    again = Assignment.task_id.in_(ids) & (Assignment.labeler_id == labeler.id)
    session.execute(delete(Assignment).where(again))
    return share


def _compared(answer: KnownAnswer, submission: Submission) -> tuple[float, int]:
    return agreement(answer.ranks, [judgment.rank for judgment in submission.judgments])
