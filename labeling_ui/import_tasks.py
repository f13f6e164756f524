"""The tasks of an import: those that are here, and new ones in the order of the files."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from labeling_ui import rows
from labeling_ui.import_checks import in_pieces
from labeling_ui.tables import Response, Task
from pipeline.records import RankedResponse, Skip


@dataclass(frozen=True)
class NewTask:
    """A task as a row tells it."""

    prompt_id: str
    prompt: str
    responses: Sequence[RankedResponse]


class Tasks:
    """Gives the tasks that rows speak of their ids, and brings them into use.

    Attributes:
        unknown: how many were not here, or out of use.
        touched: the ids of all that were asked for.
    """

    def __init__(self, session: Session, kind: str) -> None:
        self.unknown = 0
        self.touched: set[int] = set()
        self._session = session
        self._kind = kind
        self._announced: deque[tuple[str, NewTask]] = deque()
        self._position = session.scalar(select(func.max(Task.position) + 1)) or 0
        own = select(func.max(Task.round)).where(Task.kind == "sampled")
        self._round = session.scalar(own) or 1

    def announce(self, skips: Iterable[Skip]) -> None:
        """Tasks that come into use, in this order, before those that rankings bring after them.

        Rankings and skips tell the order of the tasks together: each of them knows a part of it.
        """
        tasks = [NewTask(s.prompt_id, s.prompt, s.responses or []) for s in skips]
        for some in in_pieces(tasks):
            named = {rows.task_identity(t.prompt_id, t.prompt, t.responses): t for t in some}
            known = self._known(named)
            unknown = {key: task for key, task in named.items() if key not in known}
            announced = {key for key, _ in self._announced}
            self._announced += [one for one in unknown.items() if one[0] not in announced]

    def put_announced(self) -> None:
        """What was announced and has not come since."""
        self.put(dict(self._announced))
        self._announced.clear()

    def _known(self, identities: Iterable[str]) -> dict[str, tuple[int, bool]]:
        """Id, and whether it is in use, of the tasks that are here; they are held."""
        found: dict[str, tuple[int, bool]] = {}
        for some in in_pieces(identities):
            query = select(Task.identity, Task.id, Task.active).where(Task.identity.in_(some))
            query = query.order_by(Task.id).with_for_update()
            for identity, task_id, active in self._session.execute(query):
                found[identity] = (task_id, active)
        return found

    def put(self, wanted: dict[str, NewTask]) -> dict[str, int]:
        """The ids of these tasks, all of them in use; those that are not here are made."""
        announced = {key for key, _ in self._announced}
        in_order: dict[str, NewTask] = {}
        for identity, task in wanted.items():
            while identity in announced and self._announced:
                earlier, skipped = self._announced.popleft()
                announced.discard(earlier)
                in_order[earlier] = skipped
            in_order[identity] = task
        known = self._known(in_order)
        unused = [task_id for task_id, active in known.values() if not active]
        for some in in_pieces(unused):
            values = {"active": True, "kind": "imported"}
            self._session.execute(update(Task).where(Task.id.in_(some)).values(values))
        new = {key: task for key, task in in_order.items() if key not in known}
        self.unknown += len(unused) + len(new)
        ids = {key: task_id for key, (task_id, _) in known.items()} | self._make(new)
        self.touched.update(ids.values())
        return ids

    def _make(self, new: dict[str, NewTask]) -> dict[str, int]:
        if not new:
            return {}
        now = rows.now()
        fields = [
            {
                "identity": identity,
                "prompt_id": task.prompt_id,
                "prompt": task.prompt,
                "position": self._position + place,
                "kind": self._kind,
                "round": self._round,
                "active": True,
                "created_at": now,
            }
            for place, (identity, task) in enumerate(new.items())
        ]
        self._position += len(new)
        made = insert(Task).returning(Task.id, sort_by_parameter_order=True)
        ids = dict(zip(new, self._session.scalars(made, fields), strict=True))
        responses = [
            {"task_id": ids[identity], "position": position, **response.model_dump()}
            for identity, task in new.items()
            for position, response in enumerate(task.responses)
        ]
        if responses:
            self._session.execute(insert(Response), responses)
        return ids
