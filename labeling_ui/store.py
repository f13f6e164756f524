"""The store of tasks and judgments: what the labeling pages write and the stages export.

Everything is checked through ``records.Ranking`` before anything is written, and a call that
returns has its rows on the disk. Overlap is 1: a task that one labeler has ended is shown to
nobody else. Neither torch nor gradio is imported here.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import ColumnElement, Engine, func, select
from sqlalchemy.orm import Session, selectinload

from labeling_ui import content, queries, rows, tables
from labeling_ui.database import open_engine
from labeling_ui.rows import Task
from labeling_ui.tables import Assignment, Labeler, SkippedTask, Submission
from pipeline.errors import UserError
from pipeline.records import (
    Answer,
    Demonstration,
    Ranking,
    SampleSet,
    Skip,
    parse_row,
    write_rows,
)

__all__ = ["Progress", "Store", "Task", "open_store"]

NOTE_CHARACTERS = 5_000
REASON_CHARACTERS = 200


@dataclass(frozen=True)
class Progress:
    """How many of the current tasks are judged, still open, and skipped."""

    done: int
    open: int
    skipped: int


def open_store(url_or_path: str | Path) -> Store:
    """The label database at a path (SQLite) or a SQLAlchemy URL; created where there is none.

    Raises:
        UserError: the file is corrupt, or the database of another program.
    """
    return Store(open_engine(url_or_path))


class Store:
    """All reading and writing of the label database. Safe in threads and several processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writes = engine.execution_options(write=True)
        self._together: ContextVar[Session | None] = ContextVar("together", default=None)

    @contextmanager
    def reading(self) -> Generator[Session]:
        """A session that sees one state of the database and writes nothing."""
        outer = self._together.get()
        if outer is not None:
            yield outer
            return
        with Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Generator[Session]:
        """A session whose changes are committed, all or none, when the block ends."""
        outer = self._together.get()
        if outer is not None:
            yield outer
            outer.flush()
            return
        with Session(self._writes, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def together(self) -> Generator[None]:
        """All calls of this thread in the block are one transaction: on the disk at its end."""
        with self.writing() as session:
            token = self._together.set(session)
            try:
                yield
            finally:
                self._together.reset(token)

    def close(self) -> None:
        """Closes the connections; the store can still be used afterwards."""
        self._engine.dispose()

    # --- tasks and labelers ---------------------------------------------------------------------

    def add_tasks(
        self, sample_sets: Sequence[SampleSet], questions: dict[str, str], instructions: str
    ) -> int:
        """The number of tasks that were new. Exactly these samples are current afterwards.

        Tasks of earlier samples become inactive (not shown, not exported) and come back with
        their judgments when their samples are given again.
        """
        wanted = {rows.task_identity(s.prompt_id, s.prompt, s.responses): s for s in sample_sets}
        with self.writing() as session:
            version = queries.put_guideline(session, questions, instructions)
            known = {task.identity: task for task in session.scalars(select(tables.Task))}
            for task in known.values():
                task.active = task.identity in wanted
            new: list[tables.Task] = []
            for position, (identity, sample) in enumerate(wanted.items()):
                task = known.get(identity)
                if task is None:
                    prompt_id, prompt = sample.prompt_id, sample.prompt
                    task = rows.new_task(identity, prompt_id, prompt, sample.responses)
                    new.append(task)
                task.position = position
                task.guideline_version = version
            session.add_all(new)
        return len(new)

    def add_labeler(
        self, name: str, pseudonym: str | None = None, *, scripted: bool = False
    ) -> Labeler:
        """The labeler of that name, made if there is none; the pseudonym is random if not given.

        Raises:
            UserError: the name is empty, or the pseudonym belongs to another labeler.
        """
        if not name.strip():
            raise UserError("labeler", "has no name.", "give the labeler a name.")
        with self.writing() as session:
            labeler = session.scalar(select(Labeler).where(Labeler.name == name))
            if labeler is not None:
                labeler.active = True
                return labeler
            query = select(Labeler.id).where(Labeler.pseudonym == pseudonym)
            if pseudonym and session.scalar(query) is not None:
                raise UserError(
                    "labeler", f"pseudonym {pseudonym} is taken.", "choose another pseudonym."
                )
            labeler = Labeler(
                name=name,
                pseudonym=pseudonym or queries.random_pseudonym(session),
                scripted=scripted,
                created_at=rows.now(),
            )
            session.add(labeler)
            return labeler

    def keep_scripted(self, names: Sequence[str]) -> None:
        """Sets aside the judgments of all scripted labelers but these; people's always stay."""
        with self.writing() as session:
            for labeler in session.scalars(select(Labeler).where(Labeler.scripted)):
                labeler.active = labeler.name in names

    def next_task(self, labeler_id: int) -> Task | None:
        """The task this labeler should judge now, or None when nothing is open.

        The same task comes again, in the same order, until it is submitted or skipped. Tasks that
        are before somebody else come last. What only a script has judged is open to a person,
        whose judgment replaces the script's.
        """
        mine = queries.assigned(Assignment.labeler_id == labeler_id)
        others = queries.assigned(Labeler.active & ~Labeler.scripted)
        with self.writing() as session:
            people_only = not session.get_one(Labeler, labeler_id).scripted
            for extra in ([mine], [~others], []):
                query = select(tables.Task).where(queries.is_open(people_only=people_only), *extra)
                task = session.scalar(query.order_by(tables.Task.position).limit(1))
                if task is not None:
                    return rows.view(task, queries.assign(session, task, labeler_id))
        return None

    def assigned_task(self, labeler_id: int, task_id: int) -> Task | None:
        """A task as it was shown to this labeler, or None if it never was."""
        with self.reading() as session:
            assignment = queries.assignment_of(session, labeler_id, task_id)
            task = session.get(tables.Task, task_id) if assignment else None
            return rows.view(task, assignment) if task and assignment else None

    def open_positions(self) -> list[int]:
        """The positions of the open tasks, in order."""
        with self.reading() as session:
            query = select(tables.Task.position).where(queries.is_open())
            return list(session.scalars(query.order_by(tables.Task.position)))

    # --- judgments ------------------------------------------------------------------------------

    def submit(
        self,
        labeler_id: int,
        task_id: int,
        *,
        ratings: Sequence[int],
        ranks: Sequence[int],
        answers: Mapping[str, Sequence[Answer]],
        confirmed_contradiction: bool = False,
        note: str | None = None,
        confidence: str | None = None,
        seconds: float | None = None,
        display_order: Sequence[int] | None = None,
    ) -> str:
        """The submission's id, once it is on the disk; a second submission gets the first's id.

        All lists are in canonical order. Questions that ``answers`` leaves out are not answered.

        Raises:
            UserError: the judgment does not fit, the task was never shown to this labeler, or it
                was already ended by somebody (a skip of their own included).
        """
        where = f"task {task_id}"
        with self.writing() as session:
            task, labeler, assignment = queries.claimed(session, labeler_id, task_id)
            earlier = queries.own(session, Submission, labeler_id, task_id)
            if earlier is not None:
                return earlier.id
            queries.refuse_ended(session, task_id, labeler)
            questions = task.guideline.questions if task.guideline else {}
            row = parse_row(
                Ranking,
                {
                    "submission_id": rows.submission_id(task.identity, labeler.pseudonym),
                    "prompt_id": task.prompt_id,
                    "prompt": task.prompt,
                    "labeler": labeler.pseudonym,
                    "responses": [rows.ranked(r).model_dump() for r in task.responses],
                    "ratings": list(ratings),
                    "ranks": list(ranks),
                    "answers": rows.all_answers(answers, questions, len(task.responses), where),
                    "confirmed_contradiction": confirmed_contradiction,
                    "note": rows.short_text(note, NOTE_CHARACTERS, "note", where),
                    "confidence": confidence,
                    "seconds": rows.duration(seconds, where),
                    "display_order": None if display_order is None else list(display_order),
                    "instructions_version": task.guideline_version,
                    "created_at": rows.now(),
                },
                where,
            )
            if row.display_order not in (None, assignment.display_order):
                raise UserError(where, "was shown in another order.", "reload the page.")
            session.add(rows.new_submission(row, task.id, labeler_id))
        return row.submission_id

    def skip(self, labeler_id: int, task_id: int, reason: str, note: str | None = None) -> str:
        """The id of the skip, once it is on the disk; a second skip gets the first's id.

        Raises:
            UserError: the reason is empty or too long, the task was never shown to this labeler,
                or it was already ended by somebody.
        """
        where = f"task {task_id}"
        if not isinstance(reason, str) or not reason.strip():
            raise UserError(where, "a skip needs a reason.", "say why.")
        with self.writing() as session:
            task, labeler, _ = queries.claimed(session, labeler_id, task_id)
            earlier = queries.own(session, SkippedTask, labeler_id, task_id)
            if earlier is not None:
                return earlier.id
            queries.refuse_ended(session, task_id, labeler)
            skipped = SkippedTask(
                id=rows.submission_id(task.identity, labeler.pseudonym),
                task_id=task_id,
                labeler_id=labeler_id,
                reason=rows.short_text(reason, REASON_CHARACTERS, "reason", where),
                note=rows.short_text(note, NOTE_CHARACTERS, "note", where),
                created_at=rows.now(),
            )
            session.add(skipped)
        return skipped.id

    def import_rankings(self, rankings: Sequence[Ranking]) -> int:
        """The number of rankings held after importing: these take the place of earlier imports.

        A prompt with responses that are unknown here becomes a task of its own.

        Raises:
            UserError: a labeler ranks the same responses twice, or a submission_id comes twice.
        """
        with self.writing() as session:
            for old in session.scalars(select(Submission).where(Submission.imported)):
                session.delete(old)
            session.flush()
            tasks = {task.identity: task for task in session.scalars(select(tables.Task))}
            for row in rankings:
                identity = rows.task_identity(row.prompt_id, row.prompt, row.responses)
                task = tasks.get(identity)
                if task is None:
                    task = rows.new_task(identity, row.prompt_id, row.prompt, row.responses)
                    task.position = len(tasks)
                    tasks[identity] = task
                    session.add(task)
                    session.flush()
                task.active = True
                labeler = queries.imported_labeler(session, row.labeler)
                queries.refuse_second(session, row, task.id, labeler.id)
                session.add(rows.new_submission(row, task.id, labeler.id, imported=True))
                session.flush()
        return len(rankings)

    # --- what comes out -------------------------------------------------------------------------

    def progress(self, *, people_only: bool = False) -> Progress:
        """Counts over the current tasks; with ``people_only``, scripted judgments do not count."""
        judged = queries.ended_by(Submission, people_only=people_only)
        still_open = queries.is_open(people_only=people_only)
        with self.reading() as session:

            def count(*conditions: ColumnElement[bool]) -> int:
                query = select(func.count()).select_from(tables.Task)
                return session.scalar(query.where(tables.Task.active, *conditions)) or 0

            done, open_count = count(judged), count(still_open)
            return Progress(done, open_count, count() - done - open_count)

    def content_hash(self) -> str:
        """A SHA-256 over what ``export`` would write, whatever the row ids and their order."""
        with self.reading() as session:
            connection = session.connection()
            return content.hash_content(lambda query: connection.exec_driver_sql(query).all())

    def rankings(self) -> list[Ranking]:
        """The rankings of the current tasks, in the order of the tasks."""
        with self.reading() as session:
            query = (
                select(Submission)
                .join(Submission.task)
                .join(Submission.labeler)
                .where(queries.counts())
                .order_by(tables.Task.position, Labeler.pseudonym, Submission.id)
                .options(
                    selectinload(Submission.task).selectinload(tables.Task.responses),
                    selectinload(Submission.judgments),
                    selectinload(Submission.labeler),
                )
            )
            return [rows.ranking(submission) for submission in session.scalars(query)]

    def skips(self) -> list[Skip]:
        """The skips of the current tasks, in the order of the tasks."""
        with self.reading() as session:
            query = (
                select(SkippedTask)
                .join(SkippedTask.task)
                .join(SkippedTask.labeler)
                .where(tables.Task.active, Labeler.active)
                .order_by(tables.Task.position, Labeler.pseudonym)
            )
            return [
                Skip(
                    submission_id=skipped.id,
                    prompt_id=skipped.task.prompt_id,
                    prompt=skipped.task.prompt,
                    labeler=skipped.labeler.pseudonym,
                    reason=skipped.reason,
                )
                for skipped in session.scalars(query)
            ]

    def export(self, folder: Path) -> dict[str, int]:
        """Rows written by file: ``rankings.jsonl``, ``skips.jsonl``, ``demonstrations.jsonl``.

        Labelers go by their pseudonyms; their notes and times stay in the database.
        """
        demonstrations: list[Demonstration] = []
        return {
            "rankings.jsonl": write_rows(folder / "rankings.jsonl", self.rankings()),
            "skips.jsonl": write_rows(folder / "skips.jsonl", self.skips()),
            "demonstrations.jsonl": write_rows(folder / "demonstrations.jsonl", demonstrations),
        }
