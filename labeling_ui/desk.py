"""What a labeler does with tasks: takes one, keeps a draft, submits or skips it, takes it back.

A task goes to as many people as its ``overlap`` says. Whoever has it holds a lease, which every
draft renews. When a lease has run out somebody else may get the task; until then the first
labeler can still submit. Every call is one transaction that holds the task's row: what is returned
is on the disk, and two calls about one task cannot pass each other.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from labeling_ui import known_tasks, leases, queries, rows, tables
from labeling_ui.known_tasks import Feedback
from labeling_ui.rows import Task
from labeling_ui.store import Progress, Store
from labeling_ui.tables import Assignment, Event, Labeler, SkippedTask, Submission
from pipeline.errors import UserError
from pipeline.records import Answer, Ranking, parse_row

LEASE_SECONDS = 30 * 60.0
NOTE_CHARACTERS = 5_000
REASON_CHARACTERS = 200
DRAFT_CHARACTERS = 32 * 1024
PAGE_CHARACTERS = 64
MANY_TASKS = 5_000  # of so many it takes milliseconds to count what is done
PROGRESS_SECONDS = 1.0
MAX_SECONDS = 7 * 24 * 60 * 60.0
CONFIDENCES = ("low", "medium", "high")


class LeaseLost(UserError):  # noqa: N818 (an error of its user, as its base is)
    """The lease is not the caller's, or the task has gone to somebody else."""


class Desk:
    """The labelers' side of a store. Safe in threads and several processes.

    Args:
        store: where tasks and judgments are.
        lease_seconds: how long a task is kept for a labeler of whom nothing is heard.
        clock: seconds since the epoch.
        gold_fraction: gold tasks as a share of the tasks that a labeler has ended.
        pass_mark: the share of pairs to be ordered as is known for the practice to be passed.
    """

    def __init__(
        self,
        store: Store,
        lease_seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.time,
        gold_fraction: float = 0.0,
        pass_mark: float = 0.0,
    ) -> None:
        self._store = store
        self._gold_fraction = gold_fraction
        self._pass_mark = pass_mark
        self.lease_seconds = lease_seconds
        self._clock = clock

    # --- taking a task ----------------------------------------------------------------------------

    def next_task(self, labeler_id: int) -> Task | None:
        """The task this labeler should judge now, or None when nothing is there for them.

        First what they have begun, the latest first; then the practice, until it is passed; then,
        when its time has come, a gold task; then the open task of the highest priority. The same
        task comes again, in the same order, until it is submitted or skipped.
        """
        with self._store.writing() as session:
            labeler = leases.labeler_at_work(session, labeler_id)
            now = self._clock()
            assignment = (
                leases.begun(session, labeler, now)
                or known_tasks.next_practice(session, labeler)
                or known_tasks.next_gold(session, labeler, self._gold_fraction)
                or leases.new(session, labeler, now)
            )
            if assignment is None:
                return None
            self._renew(assignment)
            return rows.view(assignment.task, assignment)

    def take(self, labeler_id: int, task_id: int) -> Task | None:
        """A certain task, or None if it has no room for this labeler or was ended by them."""
        with self._store.writing() as session:
            labeler = leases.labeler_at_work(session, labeler_id)
            task = queries.lock(session, task_id)
            assignment = queries.assignment_of(session, labeler.id, task.id)
            ended = assignment is not None and assignment.ended_at is not None
            if ended or not leases.has_room(session, task, labeler, self._clock()):
                return None
            if assignment is None:
                assignment = queries.assign(session, task, labeler)
            self._renew(assignment)
            return rows.view(task, assignment)

    def _renew(self, assignment: Assignment) -> None:
        assignment.leased_at = self._clock()
        assignment.expires_at = assignment.leased_at + self.lease_seconds

    # --- drafts -----------------------------------------------------------------------------------

    def save_draft(
        self, labeler_id: int, lease: str, page: str, seq: int, draft: Mapping[str, Any]
    ) -> None:
        """Keeps unfinished work and renews the lease. What a page sent earlier but came later is
        passed over.

        Raises:
            UserError: the draft is no object, or too long.
            LeaseLost: the task was ended, or has gone to somebody else; in that case the draft is
                kept all the same.
        """
        _check_draft(page, seq, draft)
        with self._store.writing() as session:
            labeler, task, assignment = self._leased(session, labeler_id, lease)
            if assignment.ended_at is not None:
                raise LeaseLost("task", "You have already ended this task.", "go on.")
            if assignment.draft_page != page or assignment.draft_seq < seq:
                assignment.draft = dict(draft)
                assignment.draft_page, assignment.draft_seq = page, seq
            kept = leases.has_room(session, task, labeler, self._clock())
            if kept:
                self._renew(assignment)
        if not kept:
            raise _gone()

    # --- ending a task ----------------------------------------------------------------------------

    def submit(
        self,
        labeler_id: int,
        lease: str,
        *,
        ratings: Sequence[int],
        ranks: Sequence[int],
        answers: Mapping[str, Sequence[Answer]],
        confirmed_contradiction: bool = False,
        note: str | None = None,
        confidence: str | None = None,
        seconds: float | None = None,
    ) -> str:
        """The submission's id, once it is on the disk; a second submission gets the first's id.

        All lists are in the order in which the responses were shown. Questions that ``answers``
        leaves out are not answered.

        Raises:
            UserError: the judgment does not fit, or the labeler has skipped the task.
            LeaseLost: the task is not the caller's, or has gone to somebody else.
        """
        with self._store.writing() as session:
            labeler, task, assignment = self._leased(session, labeler_id, lease)
            earlier = self._earlier(session, labeler, task, Submission)
            if earlier is not None:
                return earlier
            where, shown = f"task {task.prompt_id}", rows.view(task, assignment)
            given = {key: shown.canonical(values) for key, values in answers.items()}
            if confidence not in (None, *CONFIDENCES):
                raise UserError(where, "has an unknown confidence.", "reload the page.")
            row = parse_row(
                Ranking,
                {
                    "submission_id": rows.submission_id(task.identity, labeler.pseudonym),
                    "prompt_id": task.prompt_id,
                    "prompt": task.prompt,
                    "labeler": labeler.pseudonym,
                    "responses": [rows.ranked(r).model_dump() for r in task.responses],
                    "ratings": shown.canonical(ratings),
                    "ranks": shown.canonical(ranks),
                    "answers": rows.all_answers(given, shown.questions, len(ratings), where),
                    "confirmed_contradiction": confirmed_contradiction,
                    "note": rows.short_text(note, NOTE_CHARACTERS, "note", where),
                    "confidence": confidence,
                    "seconds": rows.duration(seconds, MAX_SECONDS, where),
                    "display_order": assignment.display_order,
                    "instructions_version": task.guideline_version,
                    "created_at": rows.now(),
                },
                where,
            )
            session.add(rows.new_submission(row, task.id, labeler.id))
            assignment.draft = None
            self._end(session, assignment)
        return row.submission_id

    def skip(self, labeler_id: int, lease: str, reason: str, note: str | None = None) -> str:
        """The id of the skip, once it is on the disk; a second skip gets the first's id.

        Raises:
            UserError: the reason is empty or too long, the labeler has judged the task, or it is
                one of the practice.
            LeaseLost: the task is not the caller's, or has gone to somebody else.
        """
        if not isinstance(reason, str) or not reason.strip() or "\0" in reason:
            raise UserError("skip", "a skip needs a reason.", "say why.")
        with self._store.writing() as session:
            labeler, task, assignment = self._leased(session, labeler_id, lease)
            earlier = self._earlier(session, labeler, task, SkippedTask)
            if earlier is not None:
                return earlier
            where = f"task {task.prompt_id}"
            if task.kind == "practice":
                raise UserError(where, "belongs to the practice.", "judge it as well as you can.")
            skipped = SkippedTask(
                id=rows.submission_id(task.identity, labeler.pseudonym),
                task_id=task.id,
                labeler_id=labeler.id,
                reason=rows.short_text(reason, REASON_CHARACTERS, "reason", where),
                note=rows.short_text(note, NOTE_CHARACTERS, "note", where),
                created_at=rows.now(),
            )
            session.add(skipped)
            self._end(session, assignment)
        return skipped.id

    def _leased(
        self, session: Session, labeler_id: int, lease: str
    ) -> tuple[Labeler, tables.Task, Assignment]:
        """What a lease ties together, with the task's row held.

        Raises:
            LeaseLost: it is nobody's, or another's: which, the caller need not know.
        """
        labeler = leases.labeler_at_work(session, labeler_id)
        query = select(Assignment).where(Assignment.lease == lease) if _is_name(lease) else None
        assignment = None if query is None else session.scalar(query)
        if assignment is None or assignment.labeler_id != labeler_id:
            raise LeaseLost("task", "This task is not before you any more.", "reload the page.")
        task = queries.lock(session, assignment.task_id)
        # As it is now: before the lock, another call may have ended it.
        session.refresh(assignment)
        if assignment.lease != lease:
            raise LeaseLost("task", "This task is not before you any more.", "reload the page.")
        return labeler, task, assignment

    def _earlier(
        self,
        session: Session,
        labeler: Labeler,
        task: tables.Task,
        wanted: type[Submission] | type[SkippedTask],
    ) -> str | None:
        """The id of how this labeler has ended the task in the ``wanted`` way; None if not yet.

        Raises:
            UserError: they have ended it in the other way, or the task is damaged.
            LeaseLost: the task was closed, or went to somebody else.
        """
        for end, verb in ((Submission, "judged"), (SkippedTask, "skipped")):
            found = queries.own(session, end, labeler.id, task.id)
            if found is not None and end is wanted:
                return found.id
            if found is not None:
                raise UserError("task", f"You have already {verb} it.", "go on with the next task.")
        if not task.active or not rows.is_whole(task):
            raise LeaseLost("task", "This task was taken out of use.", "go on with the next task.")
        if not leases.has_room(session, task, labeler, self._clock()):
            raise _gone()
        return None

    def _end(self, session: Session, assignment: Assignment) -> None:
        # Later than what they ended before, whatever the clock says: the last is what undo takes.
        before = self._last(session, assignment.labeler_id)
        latest = None if before is None else before.ended_at
        now = self._clock()
        assignment.ended_at = now if latest is None else max(now, latest + 1e-3)
        queries.count_ends(session, assignment.task_id)

    def feedback(self, labeler_id: int, lease: str) -> Feedback | None:
        """How the judgment just submitted compares with the known one; None outside the practice.

        The last task of the practice ends it: passed, or to be done again.
        """
        with self._store.writing() as session:
            labeler = leases.labeler_at_work(session, labeler_id)
            query = select(Assignment).join(Assignment.task)
            query = query.where(Assignment.lease == lease, Assignment.labeler_id == labeler_id)
            assignment = session.scalar(query.where(tables.Task.kind == "practice"))
            if assignment is None:
                return None
            task, mark = assignment.task, self._pass_mark
            return known_tasks.feedback(session, labeler, task, assignment, mark)

    # --- taking it back ---------------------------------------------------------------------------

    def can_undo(self, labeler_id: int) -> bool:
        """Whether there is something of this labeler's to take back."""
        with self._store.reading() as session:
            return self._last(session, labeler_id) is not None

    def undo(self, labeler_id: int) -> bool:
        """Takes back what this labeler ended last: it is their task again, as they left it.

        What was taken back stays in the events. Returns False where there is nothing.
        """
        with self._store.writing() as session:
            labeler = leases.labeler_at_work(session, labeler_id)
            assignment = self._last(session, labeler_id)
            if assignment is None:
                return False
            task = queries.lock(session, assignment.task_id)
            session.refresh(assignment)
            submission = queries.own(session, Submission, labeler.id, task.id)
            skipped = queries.own(session, SkippedTask, labeler.id, task.id)
            if submission is not None:
                draft = rows.as_draft(submission, assignment.display_order)
                session.delete(submission)
            elif skipped is not None:
                begun = assignment.draft or {}
                draft = {**begun, "from": "skip", "reason": skipped.reason, "note": skipped.note}
                session.execute(delete(SkippedTask).where(SkippedTask.id == skipped.id))
            else:  # another call was quicker
                return False
            detail = {"task": task.identity, "display_order": assignment.display_order, **draft}
            at = rows.now()
            session.add(Event(at=at, labeler_id=labeler.id, action="taken back", detail=detail))
            assignment.ended_at = None
            assignment.draft, assignment.draft_page, assignment.draft_seq = draft, None, 0
            assignment.lease = secrets.token_urlsafe(24)  # a late copy of the call ends nothing
            self._renew(assignment)
            queries.count_ends(session, task.id)
        return True

    def _last(self, session: Session, labeler_id: int) -> Assignment | None:
        query = (
            select(Assignment)
            .join(Assignment.task)
            .where(
                Assignment.labeler_id == labeler_id,
                Assignment.ended_at.is_not(None),
                tables.Task.active,
                tables.Task.kind != "practice",  # its answer was shown
            )
            .order_by(Assignment.ended_at.desc(), Assignment.id.desc())
        )
        return session.scalar(query.limit(1))


class Place:
    """Where people label.

    Args:
        store: the label database.
        desk: of that store.
        run_name: what the pages call the run.
        next_command: what to run when nothing is open any more.
    """

    def __init__(self, store: Store, desk: Desk, run_name: str, next_command: str) -> None:
        self.store = store
        self.desk = desk
        self.run_name = run_name
        self.next_command = next_command
        self._progress = Progress(0, 0, 0)
        self._progress_until = 0.0

    def progress(self) -> Progress:
        """How far people are; of very many tasks as it was within the last second."""
        if time.monotonic() >= self._progress_until:
            self._progress = found = self.store.progress(people_only=True)
            if found.done + found.open + found.skipped > MANY_TASKS:
                self._progress_until = time.monotonic() + PROGRESS_SECONDS
        return self._progress


def _gone() -> LeaseLost:
    return LeaseLost(
        "task",
        "You were away for long, and this task has gone to somebody else.",
        "go on with the next task.",
    )


def _is_name(value: object) -> bool:
    # What is not printable, such as half a character, no database could look up.
    return isinstance(value, str) and 0 < len(value) <= PAGE_CHARACTERS and value.isprintable()


def _check_draft(page: Any, seq: Any, draft: Any) -> None:
    fix = "reload the page."
    if not _is_name(page) or type(seq) is not int or not 0 < seq < 2**31:
        raise UserError("draft", "does not say which of its page's it is.", fix)
    if not isinstance(draft, Mapping):
        raise UserError("draft", "is no object.", fix)
    try:
        text = json.dumps(draft, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise UserError("draft", "holds what is no number.", fix) from None
    if len(text) > DRAFT_CHARACTERS:
        raise UserError("draft", "is too long to keep.", "shorten the note.")
