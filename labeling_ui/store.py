"""The store of tasks and judgments: what comes in from samples and goes out to the stages.

Labelers work on it through ``desk``. Everything is checked through ``records.Ranking`` before
anything is written, and a call that returns has its rows on the disk. Neither torch nor gradio is
imported here.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session

from labeling_ui import content, exports, imports, known_tasks, queries, rows, tables
from labeling_ui.database import open_engine
from labeling_ui.import_checks import Located
from labeling_ui.imports import Imported
from labeling_ui.rows import Task
from labeling_ui.tables import Labeler, Submission
from pipeline.errors import UserError
from pipeline.records import Demonstration, Guideline, Ranking, SampleSet, Skip, write_dicts

__all__ = ["Progress", "Store", "Task", "Unfinished", "open_store"]


@dataclass(frozen=True)
class Progress:
    """How many of the current tasks are judged, still open, and skipped by all who had them."""

    done: int
    open: int
    skipped: int


@dataclass(frozen=True)
class Unfinished:
    """A task that fewer than ``overlap`` labelers have ended."""

    task_id: int
    position: int
    overlap: int


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
        snapshot = {} if engine.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        self._reads = engine.execution_options(**snapshot)
        self._together: ContextVar[Session | None] = ContextVar("together", default=None)

    @contextmanager
    def reading(self) -> Generator[Session]:
        """A session that sees one state of the database and writes nothing."""
        outer = self._together.get()
        if outer is not None:
            yield outer
            return
        with Session(self._reads, expire_on_commit=False, info={"writes": False}) as session:
            yield session

    @contextmanager
    def writing(self) -> Generator[Session]:
        """A session whose changes are committed, all or none, when the block ends."""
        outer = self._together.get()
        if outer is not None:
            assert outer.info["writes"], "a block that only sees cannot write"
            yield outer
            outer.flush()
            return
        opened = Session(self._writes, expire_on_commit=False, info={"writes": True})
        with opened as session, session.begin():
            yield session

    @contextmanager
    def together(self) -> Generator[None]:
        """All calls of this thread in the block are one transaction: on the disk at its end."""
        with self.writing() as session, self._joined(session):
            yield

    @contextmanager
    def seeing(self) -> Generator[None]:
        """All calls of this thread in the block see one state of the database, and write nothing:
        nobody waits for them."""
        with self.reading() as session, self._joined(session):
            yield

    @contextmanager
    def _joined(self, session: Session) -> Generator[None]:
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
        self,
        sample_sets: Sequence[SampleSet],
        questions: Mapping[str, str],
        instructions: str,
        *,
        purpose: str = "training",
        overlap: int = 1,
        shared_fraction: float = 0.0,
        priorities: Mapping[str, int] | None = None,
    ) -> int:
        """The number of tasks that were new. Exactly these samples are current afterwards.

        Tasks of earlier samples become inactive (not shown, not exported) and come back with
        their judgments when their samples are given again.

        Args:
            sample_sets: a task each.
            questions: what is asked about each response, by key.
            instructions: what labelers are told.
            purpose: what the labels are for, ``training`` or ``evaluation``.
            overlap: how many people judge each task.
            shared_fraction: the share of tasks that everybody judges.
            priorities: by prompt_id; higher ones come first, the others have 0.
        """
        wanted = {rows.task_identity(s.prompt_id, s.prompt, s.responses): s for s in sample_sets}
        with self.writing() as session:
            version = queries.put_guideline(session, questions, instructions, purpose)
            query = select(tables.Task).where(tables.Task.kind.not_in(tables.KNOWN_KINDS))
            known = {task.identity: task for task in session.scalars(query)}
            for task in known.values():
                task.active = task.identity in wanted or task.kind == "imported"
            rounds = [task.round for task in known.values() if task.kind == "sampled"]
            new: list[tables.Task] = []
            for position, (identity, sample) in enumerate(wanted.items()):
                task = known.get(identity)
                if task is None:
                    prompt_id, prompt = sample.prompt_id, sample.prompt
                    task = rows.new_task(identity, prompt_id, prompt, sample.responses)
                    task.round = 1 + max(rounds, default=0)
                    new.append(task)
                task.kind = "sampled"
                task.position = position
                task.guideline_version = version
                task.overlap = overlap
                task.shared = rows.in_shared_pool(identity, shared_fraction)
                task.priority = (priorities or {}).get(sample.prompt_id, 0)
            session.add_all(new)
            queries.count_ends(session)
        return len(new)

    def add_known_tasks(self, rankings: Sequence[Ranking], practice_tasks: int) -> None:
        """Exactly these tasks have a known answer afterwards; the first ones are the practice."""
        with self.writing() as session:
            known_tasks.put_known_tasks(session, rankings, practice_tasks)

    def add_labeler(
        self,
        name: str,
        pseudonym: str | None = None,
        *,
        role: str = "labeler",
        scripted: bool = False,
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
                role=role,
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

    def unfinished(self) -> list[Unfinished]:
        """The tasks that fewer labelers have ended than are needed, scripted ones counted too."""
        with self.reading() as session:
            everybody = queries.ends(people_only=False)
            query = select(tables.Task.id, tables.Task.position, tables.Task.overlap)
            sampled = tables.Task.active & (tables.Task.kind == "sampled")
            query = query.where(sampled, everybody < tables.Task.overlap)
            return [
                Unfinished(*row) for row in session.execute(query.order_by(tables.Task.position))
            ]

    def shared_tasks(self) -> list[int]:
        """The ids of the current tasks that everybody sees, in order."""
        with self.reading() as session:
            sampled = tables.Task.active & (tables.Task.kind == "sampled")
            query = select(tables.Task.id).where(sampled, tables.Task.shared)
            return list(session.scalars(query.order_by(tables.Task.position)))

    # --- judgments from elsewhere -----------------------------------------------------------------

    def import_rankings(self, rankings: Sequence[Ranking]) -> int:
        """The number of rankings held after importing: these take the place of earlier imports.

        Exactly their tasks are current afterwards. A prompt with responses that are unknown here
        becomes a task of its own.

        Raises:
            UserError: a labeler ranks the same responses twice, or a submission_id comes twice.
        """
        with self.writing() as session:
            imports.replace_rankings(session, rankings)
        return len(rankings)

    def import_labels(
        self,
        *,
        rankings: Iterable[Located[Ranking]] = (),
        skips: Iterable[Located[Skip]] = (),
        demonstrations: Iterable[Located[Demonstration]] = (),
        guidelines: Iterable[Located[Guideline]] = (),
    ) -> Imported:
        """How much was imported beside what is here; the rows come with where they stand.

        Raises:
            UserError: a row is wrong or at odds with what is here; nothing was imported.
        """
        with self.writing() as session:
            return imports.import_labels(
                session,
                rankings=rankings,
                skips=skips,
                written=demonstrations,
                guidelines=guidelines,
            )

    # --- what comes out -------------------------------------------------------------------------

    def progress(self, *, people_only: bool = False) -> Progress:
        """Counts over the current tasks; with ``people_only``, scripted judgments do not count."""
        if people_only:
            complete, judged = queries.is_complete(), tables.Task.judged > 0
        else:
            complete = queries.ends(people_only=False) >= tables.Task.overlap
            judged = queries.ended_by(Submission)
        # Imported tasks are shown to nobody: whoever has judged them, they are not open.
        imported = tables.Task.kind == "imported"
        complete, judged = complete | imported, judged | (imported & queries.ended_by(Submission))
        with self.reading() as session:
            columns = complete.label("complete"), judged.label("judged")
            each = select(*columns).where(queries.is_current()).subquery()
            query = select(each, func.count()).group_by(each.c.complete, each.c.judged)
            counts: dict[tuple[bool, bool], int] = {}
            for is_complete, is_judged, count in session.execute(query):
                counts[bool(is_complete), bool(is_judged)] = count
        open_count = counts.get((False, False), 0) + counts.get((False, True), 0)
        return Progress(counts.get((True, True), 0), open_count, counts.get((True, False), 0))

    def judged_by(self, labeler_id: int) -> int:
        """How many of the current tasks this labeler has judged; not those of the practice."""
        with self.reading() as session:
            query = select(func.count()).select_from(Submission).join(Submission.task)
            current = tables.Task.active & (tables.Task.kind != "practice")
            query = query.where(Submission.labeler_id == labeler_id, current)
            return session.scalar(query) or 0

    def content_hash(self) -> str:
        """A SHA-256 over what ``export`` would write, whatever the row ids and their order."""
        with self.reading() as session:
            streamed = {"yield_per": exports.ROWS_AT_ONCE}
            return content.hash_content(
                lambda query: session.execute(text(query), execution_options=streamed)
            )

    def rankings(self) -> list[Ranking]:
        """The rankings of the current tasks, in the order of the tasks."""
        with self.reading() as session:
            return [Ranking.model_validate(row) for row in exports.rankings(session)]

    def skips(self) -> list[Skip]:
        """The skips of the current tasks, in the order of the tasks."""
        with self.reading() as session:
            return [Skip.model_validate(row) for row in exports.skips(session)]

    def export(self, folder: Path) -> dict[str, int]:
        """Rows written by file: ``rankings.jsonl``, ``skips.jsonl``, ``demonstrations.jsonl``.

        Labelers go by their pseudonyms; their notes and times stay in the database.
        """
        with self.reading() as session:
            rows_of = {
                "rankings.jsonl": exports.rankings(session),
                "skips.jsonl": exports.skips(session),
                "demonstrations.jsonl": exports.demonstrations(session),
            }
            return {name: write_dicts(folder / name, each) for name, each in rows_of.items()}
