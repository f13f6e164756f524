"""How far a run's labeling is: progress, pace, who is at work, what was skipped, the practice.

What is asked here is cheap; measures of quality are computed from ``judgments``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from labeling_ui import queries, tables
from labeling_ui.queries import CLOCK_SLACK_SECONDS
from labeling_ui.store import Progress, Store
from labeling_ui.tables import Assignment, Event, Labeler, SkippedTask, Submission, Task

HOUR = 3600.0
HOURS_SHOWN = 24
LATEST = 20  # skips listed one by one
EXCERPT_CHARACTERS = 160
_NORMAL_975 = 1.959964


@dataclass(frozen=True)
class Pace:
    """How fast people end tasks, one judgment or skip each.

    Attributes:
        ended: in the last hour, or since the first end where that is less long ago.
        hours: that span.
        per_hour: ``ended`` an hour; None where nothing ended.
        ci95: its interval, for ends that come independently of each other.
        hourly: ends in each of the last 24 hours, the oldest first.
    """

    ended: int
    hours: float
    per_hour: float | None
    ci95: tuple[float, float] | None
    hourly: tuple[int, ...]


@dataclass(frozen=True)
class Person:
    """Somebody who labels. Times are seconds since the epoch."""

    name: str
    pseudonym: str
    disabled: bool
    skipped: int
    last_at: float | None
    working: bool
    practiced: bool
    practice_done: int
    practice_repeats: int


@dataclass(frozen=True)
class Skipped:
    """A task that somebody would not judge; ``prompt`` is cut to its beginning."""

    task: str
    prompt: str
    name: str
    reason: str
    note: str | None
    at: str


@dataclass(frozen=True)
class Overview:
    """What the dashboard shows but for the measures of quality.

    Attributes:
        before_somebody: open tasks that somebody holds a lease on.
        ends_left: judgments that are still needed until every task is complete.
        reasons: of the skips, with how often each was given, the most frequent first.
        latest_skips: the latest ones.
        practice_tasks: how many the practice has.
    """

    progress: Progress
    before_somebody: int
    ends_left: int
    pace: Pace
    people: tuple[Person, ...]
    reasons: tuple[tuple[str, int], ...]
    latest_skips: tuple[Skipped, ...]
    practice_tasks: int


def read_overview(store: Store, now: float) -> Overview:
    """The state of the database at the time ``now``, in seconds since the epoch."""
    progress = store.progress(people_only=True)
    with store.reading() as session:
        practice = Task.active & (Task.kind == "practice")
        missing = Task.overlap - Task.judged - Task.skipped
        sampled = Task.active & (Task.kind == "sampled") & (missing > 0)
        held = select(func.count(Assignment.task_id.distinct())).join(Assignment.task)
        at_work = select(Labeler.id).where(Labeler.active, ~Labeler.disabled, ~Labeler.scripted)
        held = held.where(sampled, _is_held(now), Assignment.labeler_id.in_(at_work))
        return Overview(
            progress=progress,
            before_somebody=session.scalar(held) or 0,
            ends_left=session.scalar(select(func.sum(missing)).where(sampled)) or 0,
            pace=_pace(_ends(session, now), now),
            people=tuple(_people(session, now)),
            reasons=tuple(_reasons(session)),
            latest_skips=tuple(_latest_skips(session)),
            practice_tasks=session.scalar(select(func.count(Task.id)).where(practice)) or 0,
        )


def _is_held(now: float) -> ColumnElement[bool]:
    """The task of the assignment is before its labeler just now."""
    begun = Assignment.leased_at <= now + CLOCK_SLACK_SECONDS
    return Assignment.ended_at.is_(None) & begun & (Assignment.expires_at > now)


# --- pace -----------------------------------------------------------------------------------------


def _ends(session: Session, now: float) -> list[float]:
    """When people ended the run's tasks, in the last 24 hours."""
    person = Labeler.active & ~Labeler.scripted
    people = set(session.scalars(select(Labeler.id).where(person)))
    lately = Assignment.ended_at > now - HOURS_SHOWN * HOUR
    lately &= Assignment.ended_at <= now + CLOCK_SLACK_SECONDS
    # Joined to the labelers, too, it would be read in their order, which is far slower.
    query = select(Assignment.labeler_id, Assignment.ended_at).join(Assignment.task)
    rows = session.execute(query.where(lately, queries.is_current()))
    return [at for who, at in rows if who in people and at is not None]


def _pace(ends: Sequence[float], now: float) -> Pace:
    ages = [max(0.0, now - at) for at in ends]
    hourly = [0] * HOURS_SHOWN
    for age in ages:
        hourly[HOURS_SHOWN - 1 - min(HOURS_SHOWN - 1, int(age // HOUR))] += 1
    oldest = max(ages, default=0.0)
    if oldest >= HOUR:
        ended, hours = sum(age < HOUR for age in ages), 1.0
    else:  # the clock starts with the first end, which took a time that is not known
        ended, hours = max(0, len(ages) - 1), oldest / HOUR
    if not ended or not hours:
        return Pace(ended, hours, None, None, tuple(hourly))
    low, high = poisson_interval(ended)
    return Pace(ended, hours, ended / hours, (low / hours, high / hours), tuple(hourly))


def poisson_interval(count: int) -> tuple[float, float]:
    """The 95 % interval of a mean of which ``count`` events were seen, by Byar's approximation."""
    ends = []
    for n, sign in ((count, -1), (count + 1, 1)):
        root = 1 - 1 / (9 * n) + sign * _NORMAL_975 / (3 * n**0.5) if n else 0.0
        ends.append(n * max(0.0, root) ** 3)
    return ends[0], ends[1]


# --- people ---------------------------------------------------------------------------------------


def _people(session: Session, now: float) -> list[Person]:
    """Everybody active who is no script and labels, by name."""
    latest = select(Assignment.labeler_id, func.max(Assignment.ended_at))
    last = dict(session.execute(latest.group_by(Assignment.labeler_id)).tuples().all())
    working = set(session.scalars(select(Assignment.labeler_id).where(_is_held(now))))
    current = queries.is_current()
    skips = _counts(session, select(SkippedTask.labeler_id).join(SkippedTask.task).where(current))
    practice = Task.active & (Task.kind == "practice")
    of_practice = Submission.task_id.in_(select(Task.id).where(practice))
    done = _counts(session, select(Submission.labeler_id).where(of_practice))
    again = Event.action == "practice begins again"
    repeats = _counts(session, select(Event.labeler_id).where(again))
    query = select(Labeler).where(Labeler.active, ~Labeler.scripted).order_by(Labeler.name)
    return [
        Person(
            name=labeler.name,
            pseudonym=labeler.pseudonym,
            disabled=labeler.disabled,
            skipped=skips.get(labeler.id, 0),
            last_at=last.get(labeler.id),
            working=labeler.id in working and not labeler.disabled,
            practiced=labeler.practiced_at is not None,
            practice_done=done.get(labeler.id, 0),
            practice_repeats=repeats.get(labeler.id, 0),
        )
        for labeler in session.scalars(query)
    ]


def _counts(session: Session, query: Select[Any]) -> dict[int, int]:
    """How often each labeler comes in the query's single column."""
    (who,) = query.selected_columns
    rows = session.execute(query.add_columns(func.count()).group_by(who))
    return dict(rows.tuples().all())


# --- skips ----------------------------------------------------------------------------------------


def _reasons(session: Session) -> list[tuple[str, int]]:
    query = select(SkippedTask.reason, func.count()).join(SkippedTask.task)
    query = query.join(SkippedTask.labeler).where(queries.is_current(), Labeler.active)
    rows = session.execute(query.group_by(SkippedTask.reason)).tuples().all()
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def _latest_skips(session: Session) -> list[Skipped]:
    query = (
        select(
            Task.identity,
            func.substr(Task.prompt, 1, EXCERPT_CHARACTERS, type_=tables.Verbatim()),
            Labeler.name,
            SkippedTask.reason,
            SkippedTask.note,
            SkippedTask.created_at,
        )
        .join(SkippedTask.task)
        .join(SkippedTask.labeler)
        .where(queries.is_current(), Labeler.active)
        .order_by(SkippedTask.created_at.desc(), SkippedTask.id)
    )
    return [Skipped(*row) for row in session.execute(query.limit(LATEST))]
