"""The rows that pass between stages: one model per JSON-lines format, checked on every read.

Every reader names ``file:line`` when a row is wrong, so that a broken file is mended with an
editor and not with a debugger. No torch here: the labeling application imports this module.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from pipeline.errors import UserError

Split = Literal["label", "ppo", "heldout"]
Text = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]  # something to read
Rating = Annotated[int, Field(ge=1, le=7)]
Answer = bool | None
DemonstrationKind = Literal["given", "plain", "few-shot", "user-based"]

RowT = TypeVar("RowT", bound="Row")


class Row(BaseModel):
    """A JSON-lines row: strict types (no "3" for 3, no true for 1) and no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Document(Row):
    """One text of a corpus source. ``document_id`` is what held-out splits are made by."""

    document_id: Text
    text: Text


class Demonstration(Row):
    """A prompt with the response that the model should have given.

    ``labeler`` is a pseudonym. ``kind``: the prompt was ``given``, or is the labeler's own.
    ``edited_from``: the response_id of the sampled response that it was begun with.
    """

    prompt: Text
    response: Text
    labeler: str | None = None
    demonstration_id: Text | None = None
    kind: DemonstrationKind | None = None
    edited_from: Text | None = None
    created_at: str | None = None


class CopyProbe(Row):
    """A text that stops where a name from its title must follow, and that name."""

    prefix: Text
    target: Text


class Prompt(Row):
    """A prompt and the only split it may be used in; ``meta`` carries what a judge needs, and the
    ``priority`` with which labelers get it, if it has one."""

    prompt_id: Text
    prompt: Text
    split: Split
    meta: dict[str, Any] | None = None

    @property
    def priority(self) -> int:
        """Higher comes first; 0 where none is given."""
        return int((self.meta or {}).get("priority", 0))


class SampledResponse(Row):
    """One response of a policy. ``finished`` is true when the policy emitted its end token.

    ``text`` may be empty: a policy that stops at once has answered nothing, and is judged so.
    """

    response_id: Text
    text: str
    policy: Text
    seed: int
    temperature: float = Field(gt=0)
    top_p: float = Field(gt=0, le=1)
    finished: bool


class SampleSet(Row):
    """The K responses sampled for one prompt, in canonical (not display) order."""

    prompt_id: Text
    prompt: Text
    responses: list[SampledResponse] = Field(min_length=2)

    @model_validator(mode="after")
    def _distinct_responses(self) -> SampleSet:
        _require_distinct([r.response_id for r in self.responses])
        return self


class ChosenResponse(Row):
    """The best of ``n`` responses to a prompt, and the score it was chosen by.

    ``ids`` are the tokens as sampled, the end token included where the response has one.
    """

    prompt_id: Text
    prompt: Text
    text: str
    ids: list[int]
    finished: bool
    reward: float
    n: int = Field(ge=2)


class RankedResponse(Row):
    """A response as it stands in a ranking.

    ``finished`` is false when the policy was cut off before its end token: the reward model then
    scores the response without one, as PPO does.
    """

    response_id: Text
    text: str
    policy: Text
    finished: bool = True


class Ranking(Row):
    """One labeler's view of one prompt: ratings, answers and ranks of its K responses.

    All lists run parallel to ``responses``. ``ranks`` are 1 = best with equal numbers for ties
    (1, 2, 2, 4 and 1, 2, 2, 3 mean the same). ``labeler`` is a pseudonym.
    """

    submission_id: Text
    prompt_id: Text
    prompt: Text
    labeler: Text
    responses: list[RankedResponse] = Field(min_length=2)
    ratings: list[Rating]
    answers: dict[str, list[Answer]] = {}
    ranks: list[Annotated[int, Field(ge=1)]]
    confirmed_contradiction: bool = False
    confidence: str | None = None
    note: str | None = None
    seconds: float | None = None
    display_order: list[int] | None = None
    instructions_version: str | None = None
    created_at: str | None = None

    @model_validator(mode="after")
    def _parallel_and_consistent(self) -> Ranking:
        size = len(self.responses)
        lists: dict[str, int] = {"ratings": len(self.ratings), "ranks": len(self.ranks)}
        lists |= {f"answers[{key}]": len(values) for key, values in self.answers.items()}
        for name, length in lists.items():
            if length != size:
                raise ValueError(f"{name} has {length} entries for {size} responses")
        if max(self.ranks) > size:
            raise ValueError(f"rank {max(self.ranks)} is impossible among {size} responses")
        _require_distinct([r.response_id for r in self.responses])
        if self.display_order is not None and sorted(self.display_order) != list(range(size)):
            raise ValueError(f"display_order {self.display_order} is no order of {size} responses")
        if not self.confirmed_contradiction:
            pair = contradiction(self.ratings, self.ranks)
            if pair is not None:
                better, worse = pair
                raise ValueError(
                    f"response {better + 1} is ranked above response {worse + 1} but rated lower "
                    f"({self.ratings[better]} < {self.ratings[worse]}) and this is not confirmed"
                )
        return self


class Skip(Row):
    """A task that a labeler would not judge, and why; ``responses`` say which task it was."""

    submission_id: Text
    prompt_id: Text
    prompt: Text
    labeler: Text
    reason: Text
    note: str | None = None
    created_at: str | None = None
    responses: list[RankedResponse] | None = None


class Guideline(Row):
    """What labelers were told and asked; ``version`` is what their rankings carry."""

    version: Text
    purpose: Literal["training", "evaluation"]
    instructions: str
    questions: dict[str, str]


def contradiction(ratings: list[int], ranks: list[int]) -> tuple[int, int] | None:
    """The first (a, b) with a ranked strictly better but rated strictly lower, or None."""
    for a in range(len(ranks)):
        for b in range(len(ranks)):
            if ranks[a] < ranks[b] and ratings[a] < ratings[b]:
                return a, b
    return None


def _require_distinct(ids: list[str]) -> None:
    if len(set(ids)) != len(ids):
        raise ValueError("two responses share a response_id")


def parse_row(model: type[RowT], values: Mapping[str, Any], where: str) -> RowT:
    """One checked row.

    Raises:
        UserError: the row does not fit ``model``; the message names ``where`` and the field.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "row"
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(
            where,
            f"{field}: {message}, got {_shorten(first['input'])}.",
            "mend or remove this row.",
        ) from None


def iter_rows(path: str | Path, model: type[RowT]) -> Iterator[RowT]:
    """The checked rows of a JSON-lines file, one at a time.

    Raises:
        UserError: the file is missing or unreadable, or a row is not JSON or does not fit.
    """
    for where, values in iter_json_lines(path):
        yield parse_row(model, values, where)


def iter_json_lines(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """``("file:line", object)`` for each line that is not blank.

    Raises:
        UserError: the file is missing, not UTF-8, or a line is not a JSON object.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{path}:{number}", _parse_object(line, f"{path}:{number}")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(path, f"cannot be read ({reason}).", "check the path.") from None
    except UnicodeDecodeError as error:
        raise UserError(
            path, f"is not UTF-8 (byte {error.start}: {error.reason}).", "save it as UTF-8."
        ) from None


def _parse_object(line: str, where: str) -> dict[str, Any]:
    try:
        values: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(
            where, f"not valid JSON ({error.msg} at column {error.colno}).", "mend this line."
        ) from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, deep nesting
        problem = f"not usable JSON ({str(error)[:80]})."
        raise UserError(where, problem, "mend this line.") from None
    if not isinstance(values, dict):
        raise UserError(
            where, f"expected a JSON object, got {_shorten(values)}.", "mend this line."
        )
    return cast("dict[str, Any]", values)


def read_rows(path: str | Path, model: type[RowT]) -> list[RowT]:
    """All rows of a JSON-lines file, checked.

    Raises:
        UserError: as ``iter_rows``, and when the file holds no row at all.
    """
    rows = list(iter_rows(path, model))
    if not rows:
        raise UserError(path, f"holds no {model.__name__} rows.", "supply at least one row.")
    return rows


def write_rows(path: str | Path, rows: Iterable[Row]) -> int:
    """The number of rows written, one compact JSON object a line; flushed to the disk."""
    return write_dicts(path, (row.model_dump(exclude_none=True) for row in rows))


def write_dicts(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """The number of objects written, one a line as ``write_rows`` does; flushed to the disk."""
    encode = json.JSONEncoder(ensure_ascii=False).encode
    count = 0
    with Path(path).open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(encode(row) + "\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
    return count


def _shorten(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
