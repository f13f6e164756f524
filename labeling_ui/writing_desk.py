"""What a labeler writes: takes a prompt, keeps a draft, finishes or skips it, edits, withdraws.

A prompt goes to one labeler, who holds a lease on it that every draft renews. When the lease has
run out somebody else may get the prompt; until then the first labeler can still finish. A prompt
of one's own needs none. Who edits what is finished works on a draft of its own, named
``<id>.<random>``: the finished text stays in force until the edit is finished, and is then kept as
``replaced``. Every call is one transaction: what is returned is on the disk.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from labeling_ui import demonstrations, leases, prompt_leases, rows, tables
from labeling_ui.demonstrations import WHERE, Finished, Piece
from labeling_ui.desk import LEASE_SECONDS, MAX_SECONDS, REASON_CHARACTERS, LeaseLost
from labeling_ui.store import Store
from labeling_ui.tables import Demonstration, Event, Labeler
from pipeline.errors import UserError

LIST_LENGTH = 20


class WritingDesk:
    """The labelers' side of what is written. Safe in threads and several processes.

    Args:
        store: where tasks and demonstrations are.
        lease_seconds: how long a prompt is kept for a labeler of whom nothing is heard.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        lease_seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._lease_seconds = lease_seconds
        self._clock = clock

    # --- taking a prompt --------------------------------------------------------------------------

    def next_prompt(self, labeler_id: int) -> Piece | None:
        """The prompt this labeler should answer now, or None when there is none for them.

        First what they have begun, the latest first, then the prompt of the highest priority of
        the current sampled tasks that nobody has answered and nobody else is answering.
        """
        with self._store.writing() as session:
            labeler = leases.labeler_at_work(session, labeler_id)
            now = self._clock()
            row = prompt_leases.begun(session, labeler, now)
            if row is None:
                task = prompt_leases.new(session, labeler, now)
                row = task and self._begin(session, labeler, "given", task)
            return row and self._taken(row, labeler)

    def own_prompt(self, labeler_id: int) -> Piece:
        """What this labeler has begun with a prompt of their own, the latest; else a blank one."""
        with self._store.writing() as session:
            labeler = leases.labeler_at_work(session, labeler_id)
            row = prompt_leases.begun_own(session, labeler)
            return self._taken(row or self._begin(session, labeler, "plain"), labeler)

    def _begin(
        self,
        session: Session,
        labeler: Labeler,
        kind: str,
        task: tables.Task | None = None,
        edited: Demonstration | None = None,
    ) -> Demonstration:
        name = secrets.token_hex(16)
        row = Demonstration(
            id=f"{edited.id}.{name}" if edited else name,
            labeler_id=labeler.id,
            task=task,
            kind=kind,
            prompt=edited.prompt if edited else task.prompt if task else "",
            response=edited.response if edited else "",
            edited_from=edited.edited_from if edited else None,
            state="draft",
            leased_at=0.0,
            expires_at=0.0,
            created_at=self._now(),
        )
        session.add(row)
        return row

    def _taken(self, row: Demonstration, labeler: Labeler) -> Piece:
        self._renew(row)
        shown = prompt_leases.in_own_order(row.task, labeler)
        places = [place for place, one in enumerate(shown) if one.response_id == row.edited_from]
        return Piece(
            id=row.id,
            kind=row.kind,
            prompt=row.prompt,
            response=row.response,
            sampled=tuple(response.text for response in shown),
            started_from=places[0] if places else None,
            edits=prompt_leases.is_edit(row),
            saved=(row.draft_page, row.draft_seq) if row.draft_page else None,
        )

    def _renew(self, row: Demonstration) -> None:
        row.leased_at = self._clock()
        row.expires_at = row.leased_at + self._lease_seconds

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds")

    # --- writing ----------------------------------------------------------------------------------

    def save_draft(
        self,
        labeler_id: int,
        name: str,
        page: str,
        seq: int,
        *,
        response: str,
        started_from: int | None = None,
        prompt: str | None = None,
        kind: str | None = None,
    ) -> None:
        """Keeps unfinished work and renews the lease. What a page sent earlier but came later is
        passed over. ``prompt`` and ``kind`` are those of an own prompt.

        Raises:
            UserError: a text is too long or damaged, or a value is of the wrong kind.
            LeaseLost: it was ended, or the prompt has gone to somebody else; in that case the
                draft is kept all the same.
        """
        if not prompt_leases.is_name(page) or type(seq) is not int or not 0 < seq < 2**31:
            raise UserError("draft", "does not say which of its page's it is.", "reload the page.")
        with self._store.writing() as session:
            labeler, row = self._own(session, labeler_id, name)
            if row.state != "draft":
                raise LeaseLost(WHERE, "You have already ended this one.", "go on.")
            if row.draft_page != page or row.draft_seq < seq:
                demonstrations.write(row, labeler, response, started_from, prompt, kind)
                row.draft_page, row.draft_seq = page, seq
            kept = prompt_leases.is_kept(session, row, labeler, self._clock())
            if kept:
                self._renew(row)
        if not kept:
            raise _gone()

    def finish(
        self,
        labeler_id: int,
        name: str,
        *,
        response: str,
        started_from: int | None = None,
        prompt: str | None = None,
        kind: str | None = None,
        seconds: float | None = None,
    ) -> str:
        """The demonstration's id, once it is on the disk; finishing it again changes nothing.

        Raises:
            UserError: a text is empty, too long or damaged, or it was skipped or withdrawn.
            LeaseLost: it is not the caller's, or the prompt has gone to somebody else.
        """
        with self._store.writing() as session:
            labeler, row = self._own(session, labeler_id, name)
            if row.state in ("done", "replaced"):
                return prompt_leases.finished_id(row)
            if row.state != "draft":
                raise UserError(WHERE, f"You have already {row.state} it.", "go on.")
            if not prompt_leases.is_kept(session, row, labeler, self._clock()):
                raise _gone()
            demonstrations.write(row, labeler, response, started_from, prompt, kind)
            for what, text in (("answer", row.response), ("prompt", row.prompt)):
                if not text.strip():
                    raise UserError(WHERE, f"The {what} is empty.", f"write the {what} first.")
            row.seconds = rows.duration(seconds, MAX_SECONDS, WHERE)
            demonstrations.record(row, labeler.pseudonym)
            finished_id = prompt_leases.finished_id(row)
            self._end(row, "done")
            if finished_id != row.id:
                demonstrations.exchange(session.get_one(Demonstration, finished_id), row)
                row.state = "replaced"
            return finished_id

    def skip(self, labeler_id: int, name: str, reason: str) -> None:
        """This prompt is not for this labeler; skipping it again changes nothing.

        Raises:
            UserError: the reason is empty or too long, or it was finished, or is no given prompt.
            LeaseLost: it is not the caller's.
        """
        why = rows.short_text(reason, REASON_CHARACTERS, "reason", WHERE)
        if why is None:
            raise UserError(WHERE, "a skip needs a reason.", "say why.")
        with self._store.writing() as session:
            labeler, row = self._own(session, labeler_id, name)
            if row.state == "skipped":
                return
            if row.state != "draft":
                raise UserError(WHERE, "You have already ended it.", "go on with the next prompt.")
            if row.kind != "given" or prompt_leases.is_edit(row):
                raise UserError(WHERE, "Only a prompt that is new to you is skipped.", "go on.")
            self._end(row, "skipped")
            detail = {"demonstration": row.id, "task": row.task.identity if row.task else None}
            self._log(session, labeler, "demonstration skipped", {**detail, "reason": why})

    def _end(self, row: Demonstration, state: str) -> None:
        row.state = state
        row.leased_at = self._clock()
        row.expires_at = row.leased_at
        row.created_at = self._now()

    def _log(self, session: Session, labeler: Labeler, action: str, detail: dict[str, str]) -> None:
        at = self._now()
        session.add(Event(at=at, labeler_id=labeler.id, action=action, detail=detail))

    def _own(self, session: Session, labeler_id: int, name: str) -> tuple[Labeler, Demonstration]:
        """The row of this name as it is now, held against other calls.

        Raises:
            LeaseLost: it is nobody's, or another's: which, the caller need not know.
        """
        labeler = leases.labeler_at_work(session, labeler_id)
        row = prompt_leases.held(session, name) if prompt_leases.is_name(name) else None
        if row is None or row.labeler_id != labeler.id:
            raise LeaseLost(WHERE, "This is not before you any more.", "reload the page.")
        return labeler, row

    # --- what is finished -------------------------------------------------------------------------

    def finished(self, labeler_id: int, after: int = 0) -> tuple[list[Finished], int]:
        """This labeler's finished ones, the latest first, from the ``after``-th on, as many as a
        list holds; and how many there are in all."""
        if type(after) is not int or not 0 <= after < 2**31:
            raise UserError(WHERE, "This is no place in the list.", "reload the page.")
        with self._store.reading() as session:
            own = (Demonstration.labeler_id == labeler_id) & (Demonstration.state == "done")
            total = session.scalar(select(func.count()).select_from(Demonstration).where(own)) or 0
            query = select(Demonstration).where(own)
            query = query.order_by(Demonstration.leased_at.desc(), Demonstration.id)
            found = session.scalars(query.offset(after).limit(LIST_LENGTH))
            return [demonstrations.shortened(row) for row in found], total

    def edit(self, labeler_id: int, name: str) -> Piece:
        """A finished one taken up again, or the draft of it if that was begun.

        Raises:
            LeaseLost: it is not the caller's, or not finished.
        """
        with self._store.writing() as session:
            labeler, finished = self._own_finished(session, labeler_id, name)
            row = prompt_leases.begun_edit(session, finished)
            row = row or self._begin(session, labeler, finished.kind, finished.task, finished)
            return self._taken(row, labeler)

    def leave(self, labeler_id: int, name: str) -> None:
        """The draft of an edit is thrown away; what is finished stays as it is.

        Raises:
            UserError: it is no edit.
            LeaseLost: it is not the caller's, or was ended.
        """
        with self._store.writing() as session:
            _, row = self._own(session, labeler_id, name)
            if not prompt_leases.is_edit(row):
                raise UserError(WHERE, "This is no edit.", "reload the page.")
            if row.state != "draft":
                raise LeaseLost(WHERE, "You have already ended this edit.", "go on.")
            session.delete(row)

    def withdraw(self, labeler_id: int, name: str) -> None:
        """A finished one is used no more, and its prompt goes to others; withdrawing it again
        changes nothing. Its text stays in the database.

        Raises:
            LeaseLost: it is not the caller's, or not finished.
        """
        with self._store.writing() as session:
            labeler, row = self._own(session, labeler_id, name)
            if row.state == "withdrawn":
                return
            labeler, row = self._own_finished(session, labeler_id, name)
            session.execute(delete(Demonstration).where(prompt_leases.edits_of(row)))
            self._end(row, "withdrawn")
            self._log(session, labeler, "demonstration withdrawn", {"demonstration": row.id})

    def _own_finished(
        self, session: Session, labeler_id: int, name: str
    ) -> tuple[Labeler, Demonstration]:
        labeler, row = self._own(session, labeler_id, name)
        if row.state != "done":
            raise LeaseLost(WHERE, "This one is not finished.", "reload the page.")
        return labeler, row

    def counts(self, labeler_id: int) -> tuple[int, int]:
        """How many this labeler has finished; how many prompts nobody has answered."""
        with self._store.reading() as session:
            own = (Demonstration.labeler_id == labeler_id) & (Demonstration.state == "done")
            mine = session.scalar(select(func.count()).select_from(Demonstration).where(own))
            return mine or 0, prompt_leases.count_open(session)


def _gone() -> LeaseLost:
    return LeaseLost(
        WHERE,
        "You were away for long, and this prompt has gone to somebody else.",
        "go on with the next prompt.",
    )
