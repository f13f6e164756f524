"""What an import takes and what it refuses, row by row."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from labeling_ui import rows
from pipeline.errors import UserError
from pipeline.records import Demonstration, Guideline, Ranking, Row, Skip

T = TypeVar("T")
RowT = TypeVar("RowT", bound=Row)
Located = tuple[str, RowT]  # where it stands ("file:line"), and the row
Label = Ranking | Skip | Demonstration

NOBODY = "external"  # the pseudonym of who is not named
ROWS_AT_ONCE = 500
NAME_CHARACTERS = 200
TEXT_CHARACTERS = 10_000_000
# What an export has only if it is asked to: where it is absent, it may be anything here.
_MAY_BE_ABSENT = {
    Ranking: ("note", "seconds", "created_at"),
    Skip: ("note", "created_at", "responses"),
    Demonstration: ("created_at",),
}


def in_pieces(items: Iterable[T]) -> Iterator[list[T]]:
    """Some at a time, in order."""
    iterator = iter(items)
    while some := list(islice(iterator, ROWS_AT_ONCE)):
        yield some


def is_here(stored: dict[str, Any] | None, row: Label, given: dict[str, Any], where: str) -> bool:
    """Whether the fields ``stored`` of what has the row's id are the row's own, ``given``.

    Raises:
        UserError: they are others.
    """
    if stored is None:
        return False
    passed_over = {name for name in _MAY_BE_ABSENT[type(row)] if name not in given}
    if {name: value for name, value in stored.items() if name not in passed_over} == given:
        return True
    problem = f"{_name(row)} comes twice, with other content; the other one is here already."
    raise UserError(where, problem, "keep one of the two.")


def _name(row: Label) -> str:
    if isinstance(row, Demonstration):
        return f"demonstration {row.demonstration_id}"
    return f"submission {row.submission_id}"


def refuse_second(earlier: str | None, row: Ranking | Skip, where: str) -> None:
    """Raises UserError if the row's labeler has ended its task before: ``earlier`` says how."""
    if earlier is None:
        return
    problem = f"is a second ranking of {row.prompt_id} by {row.labeler}."
    if earlier == "skip" or isinstance(row, Skip):
        verb = "skipped" if earlier == "skip" else "ranked"
        problem = f"is of {row.prompt_id}, which {row.labeler} has {verb}."
    raise UserError(where, problem, "remove one of the two rows.")


def named_demonstration(row: Demonstration) -> Demonstration:
    """The row with what it may leave out: whose it is, its id, the kind of its prompt."""
    labeler, kind = row.labeler or NOBODY, row.kind or "given"
    told = json.dumps([row.prompt, row.response, labeler, kind, row.edited_from])
    name = row.demonstration_id or hashlib.sha256(told.encode()).hexdigest()[:32]
    return row.model_copy(update={"labeler": labeler, "kind": kind, "demonstration_id": name})


def check_guideline(where: str, row: Guideline) -> None:
    """Raises UserError if the version is not that of these instructions."""
    if rows.guideline_version(row.questions, row.instructions, row.purpose) != row.version:
        problem = f"is not what version {row.version} says."
        raise UserError(where, problem, "take the file as it was exported.")
    _check_texts(where, row.model_dump())


def checked_fields(where: str, row: Label) -> dict[str, Any]:
    """The row's fields, without those that are None.

    Raises:
        UserError: it holds what no database keeps: names with control characters, endless texts.
    """
    fields = row.model_dump(exclude_none=True)
    for name in ("submission_id", "demonstration_id", "labeler"):
        if name in fields:
            _check_name(where, name, fields[name])
    _check_texts(where, fields)
    if not math.isfinite(fields.get("seconds", 0.0)):
        raise UserError(where, f"seconds: {fields['seconds']} is no time.", "mend this row.")
    return fields


def _check_name(where: str, field: str, value: str) -> None:
    if len(value) > NAME_CHARACTERS or not value.isprintable():
        problem = (
            f"{field}: at most {NAME_CHARACTERS} characters that can be seen, got {value!r:.60}."
        )
        raise UserError(where, problem, "mend this row.")


_VERBATIM = ("prompt", "response", "text", "note")  # may hold any character


def _check_texts(where: str, value: Any, field: str = "") -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_texts(where, inner, name)
    elif isinstance(value, list):
        for inner in value:
            _check_texts(where, inner, field)
    elif isinstance(value, str):
        if len(value) > TEXT_CHARACTERS:
            problem = f"{field}: {len(value):,} characters, more than {TEXT_CHARACTERS:,}."
            raise UserError(where, problem, "leave this row out.")
        if "\0" in value and field not in _VERBATIM:
            raise UserError(where, f"{field}: a character of code 0.", "mend this row.")
