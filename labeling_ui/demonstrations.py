"""What labelers write, as rows: what is exported, what is shown of it, which text is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from sqlalchemy import ColumnElement, Row, select
from sqlalchemy.orm import Session

from labeling_ui import content, prompt_leases, queries
from labeling_ui.tables import Demonstration, Labeler
from pipeline import records
from pipeline.errors import UserError
from pipeline.records import DemonstrationKind, parse_row

CONTENT_QUERY = content.DEMONSTRATIONS
TEXT_CHARACTERS = 20_000
TEXT_BYTES = 60_000  # of prompt and response together, so that they fit into a request
EXCERPT_CHARACTERS = 400
OWN_KINDS = tuple(kind for kind in get_args(DemonstrationKind) if kind != "given")
WHERE = "demonstration"


@dataclass(frozen=True)
class Piece:
    """A draft as its labeler sees it.

    Attributes:
        id: by which the labeler's browser calls it.
        kind: ``given``, or that of an own prompt.
        prompt: verbatim; of an own one as far as it is written.
        response: as far as it is written.
        sampled: the texts of the sampled responses, in an order of this labeler's own.
        started_from: the place in ``sampled`` of the one it was begun with.
        edits: it is the draft of an edit.
        saved: page and number of the draft that the database has, None before the first.
    """

    id: str
    kind: str
    prompt: str
    response: str
    sampled: tuple[str, ...]
    started_from: int | None
    edits: bool
    saved: tuple[str, int] | None


@dataclass(frozen=True)
class Finished:
    """A finished demonstration in its labeler's list; long texts are cut to their beginning."""

    id: str
    kind: str
    prompt: str
    response: str
    created_at: str


def exported(
    session: Session, *conditions: ColumnElement[bool], times: bool = False
) -> Iterator[records.Demonstration]:
    """What is finished, of active labelers, in the order of the ids: the same on every database.

    Labelers go by their pseudonyms; times stay in the database, unless ``times`` says otherwise.
    ``conditions`` on ``Demonstration`` and ``Labeler`` leave some out.
    """
    columns: tuple[Any, ...] = (
        Demonstration.id, Demonstration.prompt, Demonstration.response, Demonstration.kind,
        Demonstration.edited_from, Demonstration.created_at, Labeler.pseudonym,
    )  # fmt: skip
    query = (
        select(*columns)
        .join(Demonstration.labeler)
        .where(Demonstration.state == "done", Labeler.active, *conditions)
        .order_by(queries.bytewise(session, Demonstration.id))
    )
    for row in session.execute(query, execution_options={"yield_per": 500}):
        yield record(row, row.pseudonym, times=times)


def record(
    row: Demonstration | Row[*tuple[Any, ...]], pseudonym: str, *, times: bool = False
) -> records.Demonstration:
    """A finished one as it is exported.

    Raises:
        UserError: it cannot be: a text is empty.
    """
    fields = {
        "prompt": row.prompt,
        "response": row.response,
        "labeler": pseudonym,
        "demonstration_id": row.id,
        "kind": row.kind,
        "edited_from": row.edited_from,
        "created_at": row.created_at if times else None,
    }
    return parse_row(records.Demonstration, fields, f"{WHERE} {row.id}")


def exchange(finished: Demonstration, edit: Demonstration) -> None:
    """The finished one gets what was written anew; the edit keeps what it was before."""
    for field in ("prompt", "kind", "response", "edited_from", "seconds", "leased_at"):
        before = getattr(finished, field)
        setattr(finished, field, getattr(edit, field))
        setattr(edit, field, before)
    if edit.seconds is not None:
        finished.seconds = edit.seconds + (finished.seconds or 0)
    finished.imported = False


def shortened(row: Demonstration) -> Finished:
    """A finished one as its labeler's list shows it."""
    prompt, response = (
        text if len(text) <= EXCERPT_CHARACTERS else text[: EXCERPT_CHARACTERS - 1] + "…"
        for text in (row.prompt, row.response)
    )
    return Finished(row.id, row.kind, prompt, response, row.created_at)


def write(
    row: Demonstration,
    labeler: Labeler,
    response: str,
    started_from: int | None,
    prompt: str | None,
    kind: str | None,
) -> None:
    """Puts what the browser sent into the row.

    Raises:
        UserError: it does not fit.
    """
    given = row.kind == "given"
    if given and (prompt is not None or kind is not None):
        raise UserError(WHERE, "The prompt is given.", "reload the page.")
    if not given and kind not in OWN_KINDS:
        raise UserError(WHERE, "There is no such kind of prompt.", "reload the page.")
    texts = {"answer": response} if given else {"answer": response, "prompt": prompt}
    for what, text in texts.items():
        _check(text, what)
    size = sum(len(str(text).encode()) for text in texts.values())
    if size > TEXT_BYTES:
        problem = f"There are {size:,} bytes of text, more than {TEXT_BYTES:,}."
        raise UserError(WHERE, problem, "shorten it.")
    row.response, row.kind = response, kind or row.kind
    row.prompt = row.prompt if prompt is None else prompt
    shown = prompt_leases.in_own_order(row.task, labeler)
    if started_from is None:
        # Of what is not shown here, such as a response of another database, it may still be.
        if row.edited_from in {one.response_id for one in shown}:
            row.edited_from = None
    elif type(started_from) is int and 0 <= started_from < len(shown):
        row.edited_from = shown[started_from].response_id
    else:
        raise UserError(WHERE, "There is no such sampled answer.", "reload the page.")


def _check(text: object, what: str) -> None:
    if not isinstance(text, str):
        raise UserError(WHERE, f"The {what} is no text.", "reload the page.")
    if len(text) > TEXT_CHARACTERS:
        problem = f"The {what} has {len(text):,} characters, more than {TEXT_CHARACTERS:,}."
        raise UserError(WHERE, problem, "shorten it.")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(WHERE, f"The {what} holds half a character.", "write it anew.")
