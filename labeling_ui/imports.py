"""Labels from files into the database: all of them or, where one is wrong, none.

What is there already is passed over. A task that is unknown here comes into use as an ``imported``
one: its labels are exported and counted, but it is shown to nobody. Tasks keep the order in which
they stand in the files. A pseudonym that nobody has becomes a labeler who cannot sign in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from labeling_ui import demonstrations, exports, queries, rows
from labeling_ui.import_checks import (
    Located,
    check_guideline,
    checked_fields,
    in_pieces,
    is_here,
    named_demonstration,
    refuse_second,
)
from labeling_ui.import_tasks import NewTask, Tasks
from labeling_ui.tables import (
    KNOWN_KINDS,
    Assignment,
    Demonstration,
    Event,
    Guideline,
    Judgment,
    Labeler,
    SkippedTask,
    Submission,
    Task,
)
from pipeline import records
from pipeline.errors import UserError
from pipeline.records import Ranking, Skip

_ADVISORY_LOCK = 0x696D706F7274  # "import"


@dataclass
class Imported:
    """How many rows were new; how many were here already; and the new tasks among them."""

    rankings: int = 0
    skips: int = 0
    demonstrations: int = 0
    duplicates: int = 0
    unknown_tasks: int = 0


def import_labels(
    session: Session,
    *,
    rankings: Iterable[Located[Ranking]] = (),
    skips: Iterable[Located[Skip]] = (),
    written: Iterable[Located[records.Demonstration]] = (),
    guidelines: Iterable[Located[records.Guideline]] = (),
) -> Imported:
    """What was imported, in the transaction of ``session``. Each row comes with where it stands.

    Raises:
        UserError: a row does not fit, has the id of another one here with other content, or is a
            second judgment of a task by one labeler.
    """
    work = _Import(session)
    work.put_guidelines(guidelines)
    skipped = list(skips)
    work.tasks.announce(skip for _, skip in skipped if skip.responses is not None)
    for ranked in in_pieces(rankings):
        work.put_rankings(ranked)
    work.tasks.put_announced()
    for some in in_pieces(skipped):
        work.put_skips(some)
    for some in in_pieces(written):
        work.put_demonstrations(some)
    work.finish()
    work.done.unknown_tasks = work.tasks.unknown
    session.add(Event(at=rows.now(), action="labels imported", detail=vars(work.done)))
    return work.done


def replace_rankings(session: Session, rankings: Sequence[Ranking]) -> None:
    """Makes these rankings the current ones: those of an earlier file go, other tasks rest.

    Raises:
        UserError: as ``import_labels``.
    """
    wanted = {rows.task_identity(row.prompt_id, row.prompt, row.responses) for row in rankings}
    query = select(Task).where(Task.kind.not_in(KNOWN_KINDS))
    tasks = {task.id: task for task in session.scalars(query)}
    for task in tasks.values():
        task.active = task.identity in wanted
    session.flush()
    # What `align labels import` brought besides rests with its tasks, and is not lost.
    gone = {key for key, task in tasks.items() if task.active or task.kind == "sampled"}
    query = select(Submission.id, Submission.task_id).where(Submission.imported)
    old = [key for key, task_id in session.execute(query) if task_id in gone]
    for some in in_pieces(old):
        session.execute(delete(Judgment).where(Judgment.submission_id.in_(some)))
        session.execute(delete(Submission).where(Submission.id.in_(some)))
    work = _Import(session, of_run=True)
    for some in in_pieces((f"submission {row.submission_id}", row) for row in rankings):
        work.put_rankings(some)
    queries.count_ends(session)


class _Import:
    """One import. ``of_run``: the file stands for the run's own samples and labelers."""

    def __init__(self, session: Session, *, of_run: bool = False) -> None:
        if session.get_bind().dialect.name == "postgresql":  # one import at a time
            session.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
        self.done = Imported()
        self._session = session
        self._of_run = of_run
        self._now = rows.now()
        self._labelers: dict[str, int] = {}
        self.tasks = Tasks(session, "sampled" if of_run else "imported")

    # --- guidelines -------------------------------------------------------------------------------

    def put_guidelines(self, guidelines: Iterable[Located[records.Guideline]]) -> None:
        for where, row in guidelines:
            check_guideline(where, row)
            if self._session.get(Guideline, row.version) is None:
                fields = row.model_dump() | {"created_at": self._now}
                self._session.add(Guideline(**fields))
                self._session.flush()

    # --- rankings ---------------------------------------------------------------------------------

    def put_rankings(self, some: Sequence[Located[Ranking]]) -> None:
        """Some rankings, in order."""
        identities = [
            rows.task_identity(row.prompt_id, row.prompt, row.responses) for _, row in some
        ]
        held = exports.rankings_by_id(self._session, [row.submission_id for _, row in some])
        ended = self._ended(identities)
        new: list[tuple[str, str, Ranking]] = []
        for (where, row), identity in zip(some, identities, strict=True):
            fields = checked_fields(where, row)
            if is_here(held.get(row.submission_id), row, fields, where):
                self.done.duplicates += 1
                continue
            refuse_second(ended.get((identity, row.labeler)), row, where)
            held[row.submission_id] = fields
            ended[identity, row.labeler] = "ranking"
            new.append((where, identity, row))
        self._put_labelers(some if self._of_run else [(where, row) for where, _, row in new])
        tasks = self.tasks.put(
            {key: NewTask(row.prompt_id, row.prompt, row.responses) for _, key, row in new}
        )
        if new:
            self._insert_rankings([(tasks[key], row) for _, key, row in new])
        self.done.rankings += len(new)

    def _insert_rankings(self, ranked: Sequence[tuple[int, Ranking]]) -> None:
        submissions: list[dict[str, Any]] = []
        judgments: list[dict[str, Any]] = []
        for task_id, row in ranked:
            fields = row.model_dump(exclude={"prompt_id", "prompt", "responses", "labeler"})
            ratings, ranks, answers = (fields.pop(name) for name in ("ratings", "ranks", "answers"))
            submission_id = fields.pop("submission_id")
            of = {"task_id": task_id, "labeler_id": self._labelers[row.labeler], "imported": True}
            submissions.append({"id": submission_id, **of, **fields})
            judgments += [
                {
                    "submission_id": submission_id,
                    "position": position,
                    "rating": rating,
                    "rank": rank,
                    "answers": {question: given[position] for question, given in answers.items()},
                }
                for position, (rating, rank) in enumerate(zip(ratings, ranks, strict=True))
            ]
        self._session.execute(insert(Submission), submissions)
        self._session.execute(insert(Judgment), judgments)

    def _ended(self, identities: Iterable[str]) -> dict[tuple[str, str], str]:
        """How labelers, by pseudonym, have ended tasks: ``ranking`` or ``skip``."""
        found: dict[tuple[str, str], str] = {}
        for end, name in ((Submission, "ranking"), (SkippedTask, "skip")):
            query = select(Task.identity, Labeler.pseudonym).select_from(end).join(end.task)
            query = query.join(end.labeler).where(Task.identity.in_(identities))
            found |= dict.fromkeys(self._session.execute(query), name)
        return found

    # --- skips ------------------------------------------------------------------------------------

    def put_skips(self, some: Sequence[Located[Skip]]) -> None:
        """Some skips, in order."""
        held = exports.skips_by_id(self._session, [row.submission_id for _, row in some])
        tasks = self._skipped_tasks([row for _, row in some])
        ended = self._ended(tasks.values())
        new: dict[str, Located[Skip]] = {}
        for where, row in some:
            fields = checked_fields(where, row)
            if is_here(held.get(row.submission_id), row, fields, where):
                self.done.duplicates += 1
                continue
            identity = tasks[row.submission_id]
            refuse_second(ended.get((identity, row.labeler)), row, where)
            held[row.submission_id] = fields
            ended[identity, row.labeler] = "skip"
            new[row.submission_id] = (where, row)
        self._put_labelers(new.values())
        ids = self.tasks.put(
            {
                tasks[key]: NewTask(row.prompt_id, row.prompt, row.responses or [])
                for key, (_, row) in new.items()
            }
        )
        found = [
            {
                "id": key,
                "task_id": ids[tasks[key]],
                "labeler_id": self._labelers[row.labeler],
                "reason": row.reason,
                "note": row.note,
                "created_at": row.created_at or self._now,
            }
            for key, (_, row) in new.items()
        ]
        if found:
            self._session.execute(insert(SkippedTask), found)
        self.done.skips += len(new)

    def _skipped_tasks(self, some: Sequence[Skip]) -> dict[str, str]:
        """By the skips' ids, the identities of the tasks. One that does not say its responses is of
        a task with its prompt: of that whose name its id bears, or else of the first in use."""
        query = select(Task.prompt_id, Task.prompt, Task.identity).where(
            Task.prompt_id.in_({row.prompt_id for row in some if row.responses is None}),
            Task.kind.not_in(KNOWN_KINDS),
        )
        known: dict[tuple[str, str], list[str]] = {}
        for prompt_id, prompt, identity in self._session.execute(
            query.order_by(Task.active.desc(), Task.position, Task.identity)
        ):
            known.setdefault((prompt_id, prompt), []).append(identity)
        found: dict[str, str] = {}
        for row in some:
            key = row.submission_id
            identity = rows.task_identity(row.prompt_id, row.prompt, row.responses or [])
            alike = known.get((row.prompt_id, row.prompt), []) if row.responses is None else []
            named = [
                one for one in alike if rows.submission_id(one, row.labeler) == row.submission_id
            ]
            found[key] = (named or alike or [identity])[0]
        return found

    # --- demonstrations ---------------------------------------------------------------------------

    def put_demonstrations(self, some: Sequence[Located[records.Demonstration]]) -> None:
        """Some demonstrations."""
        named = [(where, named_demonstration(row)) for where, row in some]
        query = select(Demonstration, Labeler.pseudonym).join(Demonstration.labeler)
        query = query.where(Demonstration.id.in_([row.demonstration_id for _, row in named]))
        held: dict[str | None, dict[str, Any]] = {
            row.id: demonstrations.record(row, who, times=True).model_dump(exclude_none=True)
            for row, who in self._session.execute(query)
        }
        new: list[Located[records.Demonstration]] = []
        for where, row in named:
            fields = checked_fields(where, row)
            if is_here(held.get(row.demonstration_id), row, fields, where):
                self.done.duplicates += 1
                continue
            held[row.demonstration_id] = fields
            new.append((where, row))
        self._put_labelers(new)
        found = [
            {
                "id": row.demonstration_id,
                "labeler_id": self._labelers[str(row.labeler)],
                "kind": row.kind,
                "prompt": row.prompt,
                "response": row.response,
                "edited_from": row.edited_from,
                "state": "done",
                "imported": True,
                "leased_at": 0.0,
                "expires_at": 0.0,
                "created_at": row.created_at or self._now,
            }
            for _, row in new
        ]
        if found:
            self._session.execute(insert(Demonstration), found)
        self.done.demonstrations += len(new)

    # --- labelers, and the end --------------------------------------------------------------------

    def _put_labelers(
        self, some: Iterable[Located[Ranking] | Located[Skip] | Located[records.Demonstration]]
    ) -> None:
        """Makes known the labelers of these rows.

        Raises:
            UserError: the labels of one are set aside here, so that the row would not be used.
        """
        for where, row in some:
            pseudonym = str(row.labeler)
            if pseudonym in self._labelers:
                continue
            labeler = queries.imported_labeler(self._session, pseudonym)
            if not labeler.active and not self._of_run:
                problem = f"is by {pseudonym}, a script whose labels are set aside here."
                raise UserError(where, problem, "leave out its rows.")
            labeler.active = True
            self._session.flush()
            self._labelers[pseudonym] = labeler.id

    def finish(self) -> None:
        """Counts anew what has been done, and ends what labelers had begun and is imported now."""
        for some in in_pieces(sorted(self.tasks.touched)):
            queries.count_ends_of(self._session, some)
        begun = Assignment.ended_at.is_(None)
        for end in (Submission, SkippedTask):
            elsewhere = (end.task_id == Assignment.task_id) & (
                end.labeler_id == Assignment.labeler_id
            )
            query = delete(Assignment).where(begun, select(end.id).where(elsewhere).exists())
            self._session.execute(query.execution_options(synchronize_session=False))
