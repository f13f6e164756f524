"""Preferences that others collected, as comparisons: from a file, a folder or the hub."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from pipeline.data import locate
from pipeline.data.tables import Entry, dataset_entries, file_entries, text_cell
from pipeline.errors import UserError
from pipeline.preferences import PromptComparisons, comparisons_of, pool_comparisons
from pipeline.records import RankedResponse
from pipeline.source_config import PreferenceSource

EXTERNAL = "external"  # the policy of all responses, and the labeler where none is named

# Why something is left out, and the unit it is counted in.
EMPTY_PROMPT = "rows with an empty prompt"
EQUAL_RESPONSES = "rows of equal responses"
TOO_FEW = "rows with fewer than 2 responses"
EMPTY_RESPONSE = "empty responses"
TOO_LONG = "responses too long"
CONTRADICTION = "responses ranked twice, not alike"


@dataclass(frozen=True)
class PreferenceSet:
    """What a source holds.

    Attributes:
        comparisons: one for each distinct prompt, each prompt in one group.
        rows: how many rows the source has.
        left_out: for each reason that occurred how many rows or responses were left out.
        revision: what was read, of a dataset on the hub.
    """

    comparisons: list[PromptComparisons]
    rows: int
    left_out: dict[str, int]
    revision: str | None = None


class RankedText(NamedTuple):
    """A response and its rank in its row, 1 = best."""

    text: str
    rank: int


class RankedRow(NamedTuple):
    """What a row says, once what cannot be used is left out: two responses at least."""

    where: str
    prompt: str
    responses: list[RankedText]
    labeler: str
    group: str


def read_preferences(source: PreferenceSource, data_root: Path) -> PreferenceSet:
    """The comparisons of a source, in the order in which their prompts first appear.

    Texts are stripped. Of a response that a row holds twice one is kept, at the better rank, if
    the row ranks it alike: both above, both below or both level with each other response. There
    are no ratings, so no gaps.

    Raises:
        UserError: the source is missing or broken, a column is absent, a row has no usable ranks,
            or no row is left.
    """
    place, revision = locate(source, data_root)
    comparisons: list[PromptComparisons] = []
    left_out: Counter[str] = Counter()
    rows = 0
    for where, columns in _entries(source, place, revision):
        rows += 1
        row = _ranked_row(source, columns, where, left_out)
        if row is not None:
            responses = [response_of(row.prompt, text) for text, _ in row.responses]
            ranks = [rank for _, rank in row.responses]
            one = comparisons_of(row.prompt, responses, ranks, row.labeler, group=row.group)
            comparisons.append(one)
    if not comparisons:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        problem = f"has no preferences ({reasons or 'no rows'})."
        raise UserError(place or f"dataset {source.dataset}", problem, "supply at least one row.")
    return PreferenceSet(pool_comparisons(comparisons), rows, dict(left_out), revision)


def iter_ranked(
    source: PreferenceSource, data_root: Path, left_out: Counter[str]
) -> Iterator[RankedRow]:
    """The usable rows of a source, one at a time; what is left out is added to ``left_out``.

    Raises:
        UserError: as ``read_preferences``, but a source without rows is none.
    """
    place, revision = locate(source, data_root)
    for where, columns in _entries(source, place, revision):
        row = _ranked_row(source, columns, where, left_out)
        if row is not None:
            yield row


def _entries(source: PreferenceSource, place: Path | None, revision: str | None) -> Iterator[Entry]:
    if source.path is None or place is None:
        name = str(place or source.dataset)
        return dataset_entries(name, source.dataset_config, source.dataset_split, revision)
    named = (
        source.messages_column, source.chosen_column, source.rejected_column,
        source.responses_column, source.ranks_column, source.labeler_column, source.group_column,
    )  # fmt: skip
    return file_entries(place, [*source.prompt_columns, *filter(None, named)])


def _ranked_row(
    source: PreferenceSource, columns: dict[str, Any], where: str, left_out: Counter[str]
) -> RankedRow | None:
    """What a row says, or None; what is left out of it is added to ``left_out``."""
    prompt = _prompt(source, columns, where)
    ranked = _ranked_texts(source, columns, where)
    labeler = _name(columns, source.labeler_column, where, "labeler_column") or EXTERNAL
    group = _name(columns, source.group_column, where, "group_column") or prompt
    if not prompt:
        left_out[EMPTY_PROMPT] += 1
        return None
    if len(ranked) > 1 and len({text for text, _ in ranked}) == 1:
        left_out[EQUAL_RESPONSES] += 1
        return None
    most = None if source.max_characters is None else source.max_characters - len(prompt)
    kept: list[RankedText] = []
    for response in _distinct(ranked, left_out):
        if not response.text:
            left_out[EMPTY_RESPONSE] += 1
        elif most is not None and len(response.text) > most:
            left_out[TOO_LONG] += 1
        else:
            kept.append(response)
    if len(kept) < 2:
        left_out[TOO_FEW] += 1
        return None
    return RankedRow(where, prompt, kept, labeler, group)


def _distinct(ranked: Sequence[RankedText], left_out: Counter[str]) -> list[RankedText]:
    """Each text once, in order of first appearance, without those that are ranked in two ways."""
    ranks_of: dict[str, list[int]] = {}
    for text, rank in ranked:
        ranks_of.setdefault(text, []).append(rank)
    distinct: list[RankedText] = []
    for text, ranks in ranks_of.items():
        best, worst = min(ranks), max(ranks)
        if best < worst and any(best <= rank <= worst for other, rank in ranked if other != text):
            left_out[CONTRADICTION] += len(ranks)
        else:
            distinct.append(RankedText(text, best))
    return distinct


def response_of(prompt: str, text: str) -> RankedResponse:
    """A text as the response of no policy of ours: its id is the same wherever it stands."""
    digest = hashlib.sha256(f"{prompt}\0{text}".encode()).hexdigest()
    return RankedResponse(response_id="x" + digest[:16], text=text, policy=EXTERNAL)


# --- cells --------------------------------------------------------------------------------------


def _prompt(source: PreferenceSource, columns: dict[str, Any], where: str) -> str:
    if source.messages_column is None:
        parts = [
            text_cell(columns, column, where, "prompt_columns").strip()
            for column in source.prompt_columns
        ]
        return "\n".join(part for part in parts if part)
    column = source.messages_column
    turns: list[tuple[str, str]] = []
    for number, turn in enumerate(_list(columns, column, where, "messages_column"), start=1):
        at = f"{where}, {column} {number}"
        if not isinstance(turn, dict):
            problem = f"is no turn {{role, content}}, got {turn!r:.60}."
            raise UserError(at, problem, "mend this row.")
        values = cast(dict[str, Any], turn)
        role, content = (
            text_cell(values, key, at, "messages_column").strip() for key in ("role", "content")
        )
        turns.append((role, content))
    if len(turns) == 1:
        return turns[0][1]
    return "\n".join(f"{role}: {content}" for role, content in turns)


def _ranked_texts(
    source: PreferenceSource, columns: dict[str, Any], where: str
) -> list[RankedText]:
    """The responses of a row in its order, stripped."""
    if source.responses_column is None or source.ranks_column is None:
        better, worse = (
            text_cell(columns, str(column), where, setting).strip()
            for column, setting in (
                (source.chosen_column, "chosen_column"),
                (source.rejected_column, "rejected_column"),
            )
        )
        return [RankedText(better, 1), RankedText(worse, 2)]
    column = source.responses_column
    cells = _list(columns, column, where, "responses_column")
    ranks = _list(columns, source.ranks_column, where, "ranks_column")
    _check_ranks(ranks, len(cells), where, source.ranks_column)
    texts = [
        text_cell({f"{column}[{i}]": cell}, f"{column}[{i}]", where, "responses_column").strip()
        for i, cell in enumerate(cells)
    ]
    return [RankedText(text, rank) for text, rank in zip(texts, ranks, strict=True)]


def _check_ranks(ranks: Sequence[Any], size: int, where: str, column: str) -> None:
    if len(ranks) != size:
        problem = f"column {column!r} has {len(ranks)} ranks for {size} responses."
        raise UserError(where, problem, "mend this row.")
    for rank in ranks:
        if type(rank) is not int:  # true is an int
            problem = f"column {column!r}: a rank is a whole number, got {rank!r:.60}."
            raise UserError(where, problem, "mend this row.")
        if not 1 <= rank <= size:
            problem = f"column {column!r}: ranks run from 1 (best) to {size} here, got {rank}."
            raise UserError(where, problem, "write ranks, not scores, and count from 1.")


def _list(columns: dict[str, Any], column: str, where: str, setting: str) -> list[Any]:
    if column not in columns:
        problem = f"there is no column {column!r}, only {', '.join(map(str, columns))}."
        raise UserError(where, problem, f"correct {setting}.")
    value = columns[column]
    if not isinstance(value, list):
        problem = f"column {column!r} is no list, got {value!r:.60}."
        raise UserError(where, problem, f"correct {setting}, or mend this row (CSV has no lists).")
    return cast(list[Any], value)


def _name(columns: dict[str, Any], column: str | None, where: str, setting: str) -> str:
    """The text or whole number of a cell as text; empty for null and where no column is named."""
    if column is None:
        return ""
    value = columns.get(column)
    if type(value) is int:
        return str(value)
    return text_cell(columns, column, where, setting).strip()
