"""Labels in files as rows: this project's own exports, TRL's pairs, and ranked responses of any
columns. No torch here.

Rows are read as they are asked for, each with where it stands (``file:line``).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from pipeline.data.tables import file_entries, text_cell
from pipeline.errors import UserError
from pipeline.label_export import (
    DEMONSTRATIONS,
    EXPORT_FILE,
    FORMAT,
    GUIDELINES,
    PAIRS,
    RANKINGS,
    SKIPS,
)
from pipeline.preference_sources import EXTERNAL, iter_ranked, response_of
from pipeline.preferences import ranks_from_ratings
from pipeline.records import (
    Demonstration,
    Guideline,
    RankedResponse,
    Ranking,
    Row,
    Skip,
    iter_json_lines,
    parse_row,
)
from pipeline.source_config import PreferenceSource

RowT = TypeVar("RowT", bound=Row)
Located = tuple[str, RowT]

NEUTRAL = 4  # of 7: what a response is rated that was ranked only, so that no gap is made up


@dataclass(frozen=True)
class LabelFiles:
    """What is to be imported, each part to be read once.

    Attributes:
        left_out: for each reason how many rows or responses were left out, once all are read.
    """

    rankings: Iterable[Located[Ranking]] = ()
    skips: Iterable[Located[Skip]] = ()
    demonstrations: Iterable[Located[Demonstration]] = ()
    guidelines: Iterable[Located[Guideline]] = ()
    left_out: Counter[str] = field(default_factory=Counter[str])


# --- our own ------------------------------------------------------------------------------------


def read_ours(place: Path) -> LabelFiles:
    """An export's folder, or a file of rankings.

    Raises:
        UserError: there is nothing there, or it is an export of another format.
    """
    if not place.is_dir():
        return LabelFiles(rankings=_rows(place, Ranking))
    counts = _counts(place, "ours")
    if not any((place / name).is_file() for name in (RANKINGS, SKIPS, DEMONSTRATIONS)):
        raise UserError(place, f"has no {RANKINGS}.", "name the folder of an export, or a file.")
    return LabelFiles(
        rankings=_rows_of(place / RANKINGS, Ranking, counts),
        skips=_rows_of(place / SKIPS, Skip, counts),
        demonstrations=_rows_of(place / DEMONSTRATIONS, Demonstration, counts),
        guidelines=_rows_of(place / GUIDELINES, Guideline, counts),
    )


def _counts(folder: Path, form: str) -> dict[str, int] | None:
    """How many rows each file of an export has; None where nothing says so.

    Raises:
        UserError: the export is of another format.
    """
    path = folder / EXPORT_FILE
    if not path.is_file():
        return None
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        number, made_as, counts = said["format"], said["form"], dict(said["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        fix = "export again, or remove this file."
        raise UserError(path, "does not say what it is an export of.", fix) from None
    if number != FORMAT:
        problem = f"is an export of format {number!r:.40}, and this version reads {FORMAT}."
        raise UserError(path, problem, "import it with the version that wrote it, or a newer one.")
    if made_as != form:
        problem = f"is an export of --format {made_as!s:.40}."
        fix = f"import it with --format {made_as}."
        if made_as not in ("ours", "trl"):
            fix = "export it anew, in a format that can be imported."
        raise UserError(path, problem, fix)
    return counts


def _rows(path: Path, model: type[RowT]) -> Iterator[Located[RowT]]:
    for where, values in iter_json_lines(path):
        yield where, parse_row(model, values, where)


def _rows_of(
    path: Path, model: type[RowT], counts: dict[str, int] | None
) -> Iterator[Located[RowT]]:
    """The rows of an export's file, as many as it should have; none where there is no file."""
    found = 0
    for row in _rows(path, model) if path.is_file() else ():
        found += 1
        yield row
    expected = found if counts is None else counts.get(path.name, 0)
    if found != expected:
        problem = f"has {found} rows, not the {expected} that {EXPORT_FILE} speaks of."
        raise UserError(path, problem, f"copy the export again, or remove {EXPORT_FILE}.")


# --- others' ------------------------------------------------------------------------------------


def read_trl(place: Path) -> LabelFiles:
    """TRL's preference pairs (``prompt``, ``chosen``, ``rejected``) as rankings of two responses,
    from a file or the folder of such an export, whose demonstrations come along.

    Raises:
        UserError: there is nothing there, or it is an export of another format.
    """
    if not place.is_dir():
        return LabelFiles(rankings=_pairs(place))
    _counts(place, "trl")
    pairs, written = place / PAIRS, place / DEMONSTRATIONS
    if not pairs.is_file() and not written.is_file():
        raise UserError(place, f"has no {PAIRS}.", "name the folder of an export, or a file.")
    return LabelFiles(
        rankings=_pairs(pairs) if pairs.is_file() else (),
        demonstrations=_completions(written) if written.is_file() else (),
    )


def _pairs(path: Path) -> Iterator[Located[Ranking]]:
    name_of = _Names()
    for where, (prompt, chosen, rejected) in _cells(path, ("prompt", "chosen", "rejected")):
        responses = [response_of(prompt, text) for text in (chosen, rejected)]
        yield where, name_of.ranking(prompt, responses, [1, 2], EXTERNAL, where)


def _completions(path: Path) -> Iterator[Located[Demonstration]]:
    for where, (prompt, completion) in _cells(path, ("prompt", "completion")):
        values = {"prompt": prompt, "response": completion}
        yield where, parse_row(Demonstration, values, where)


def _cells(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    for where, row in file_entries(path, columns):
        yield where, [text_cell(row, name, where, "the file, or --columns") for name in columns]


def read_kwise(place: Path, columns: Sequence[str]) -> LabelFiles:
    """Ranked responses of a file or a dataset's folder, by a mapping of its columns.

    Args:
        columns: ``key:column``, with the keys of the reward section's ``preferences``; columns of
            a prompt are separated by commas.

    Raises:
        UserError: the mapping is no mapping.
    """
    source = _source(place, columns)
    left_out = Counter[str]()
    return LabelFiles(rankings=_ranked(source, left_out), left_out=left_out)


def _source(place: Path, columns: Sequence[str]) -> PreferenceSource:
    values: dict[str, Any] = {"dataset" if place.is_dir() else "path": str(place)}
    for one in columns:
        key, colon, column = one.partition(":")
        if not colon or not column:
            raise UserError("--columns", f"is key:column, got {one!r:.60}.", "see --help.")
        values[key] = column.split(",") if key == "prompt_columns" else column
    try:
        return PreferenceSource.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        problem = f"{name}: {first['msg']}".removeprefix(": ").replace("Value error, ", "")
        raise UserError("--columns", f"{problem}.", "see --help.") from None


def _ranked(source: PreferenceSource, left_out: Counter[str]) -> Iterator[Located[Ranking]]:
    name_of = _Names()
    for row in iter_ranked(source, Path(), left_out):
        responses = [response_of(row.prompt, text) for text, _ in row.responses]
        ranks = ranks_from_ratings([-rank for _, rank in row.responses])  # none left out
        yield row.where, name_of.ranking(row.prompt, responses, ranks, row.labeler, row.where)


class _Names:
    """Ids that are the same for the same file, so that it is known when it comes again.

    A row that stands twice in a file is two rankings: it counts twice where it came from.
    """

    def __init__(self) -> None:
        self._seen: Counter[bytes] = Counter()

    def ranking(
        self,
        prompt: str,
        responses: Sequence[RankedResponse],
        ranks: Sequence[int],
        labeler: str,
        where: str,
    ) -> Ranking:
        texts = [response.text for response in responses]
        judged = _digest([prompt, texts, labeler])
        self._seen[judged] += 1
        again = f"-{self._seen[judged]}" if self._seen[judged] > 1 else ""
        prompt_id = "x" + _digest([prompt]).hex()[:16] + again
        values = {
            "submission_id": _digest([prompt_id, prompt, texts, labeler]).hex()[:32],
            "prompt_id": prompt_id,
            "prompt": prompt,
            "labeler": labeler,
            "responses": [response.model_dump() for response in _distinct(responses)],
            "ratings": [NEUTRAL] * len(ranks),
            "ranks": list(ranks),
        }
        return parse_row(Ranking, values, where)


def _distinct(responses: Sequence[RankedResponse]) -> list[RankedResponse]:
    """Equal texts under ids of their own."""
    seen: Counter[str] = Counter()
    distinct: list[RankedResponse] = []
    for response in responses:
        seen[response.response_id] += 1
        number = seen[response.response_id]
        name = response.response_id if number == 1 else f"{response.response_id}-{number}"
        distinct.append(response.model_copy(update={"response_id": name}))
    return distinct


def _digest(value: object) -> bytes:
    return hashlib.sha256(json.dumps(value).encode()).digest()
