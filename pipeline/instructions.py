"""Prompts with reference responses from a file or the hub, divided by a hash of the prompt."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import InstructionSource
from pipeline.errors import UserError
from pipeline.records import Demonstration, Prompt, Split, iter_json_lines

Entry = tuple[str, dict[str, Any]]  # where it stands ("file:line"), and its columns


@dataclass(frozen=True)
class Instruction:
    """A prompt, and the response that its source gives."""

    prompt: str
    response: str


@dataclass(frozen=True)
class InstructionSplits:
    """Demonstrations for fine-tuning, and prompts whose text is in none of them."""

    demonstrations: list[Demonstration]
    prompts: list[Prompt]


def read_instructions(source: InstructionSource, data_root: Path) -> tuple[list[Instruction], int]:
    """The rows of a source in its order, and how many were left out for their length.

    Raises:
        UserError: the source is missing, empty or broken, a column is absent, or rows have an
            empty prompt or response (the first is named, all are counted).
    """
    entries: Iterable[Entry]
    if source.path is not None:
        where = str(data_root / source.path)
        entries = _file_entries(data_root / source.path)
    else:
        where = str(source.dataset)
        entries = _hub_entries(where, source.dataset_split)
    rows: list[Instruction] = []
    empty: list[tuple[str, str]] = []
    too_long = 0
    for place, columns in entries:
        parts = [_text(columns, column, place) for column in source.prompt_columns]
        row = Instruction(
            "\n".join(part for part in parts if part), _text(columns, source.response_column, place)
        )
        if not row.prompt or not row.response:
            empty.append((place, "response" if row.prompt else "prompt"))
        if _is_too_long(row, source):
            too_long += 1
        else:
            rows.append(row)
    if empty:
        place, part = empty[0]
        count = f" ({len(empty)} such rows in all)" if len(empty) > 1 else ""
        raise UserError(place, f"the {part} is empty{count}.", "remove such rows from the source.")
    if not rows:
        problem = f"holds no rows ({too_long} longer than the limits)."
        raise UserError(where, problem, "supply at least one row.")
    return rows, too_long


def _is_too_long(row: Instruction, source: InstructionSource) -> bool:
    limits = (source.max_prompt_characters, source.max_response_characters)
    texts = (row.prompt, row.response)
    return any(limit and len(text) > limit for text, limit in zip(texts, limits, strict=True))


def split_instructions(
    rows: Iterable[Instruction], source: InstructionSource, seed: int, where: str
) -> InstructionSplits:
    """The rows divided by prompt: equal prompts (but for case and spaces) share a split.

    Of prompts that repeat, the first is kept; demonstrations are all kept. ``meta`` of a prompt
    holds its ``reference`` response.

    Raises:
        UserError: there are so few rows that a split is empty.
    """
    demonstrations: list[Demonstration] = []
    prompts: dict[str, Prompt] = {}
    for row in rows:
        identity = " ".join(row.prompt.casefold().split())
        split = _split_of(_position(seed, identity), source)
        if split is None:
            demonstrations.append(Demonstration(prompt=row.prompt, response=row.response))
            continue
        prompt_id = "p" + hashlib.sha256(identity.encode()).hexdigest()[:16]
        if prompt_id not in prompts:
            meta = {"reference": row.response}
            prompts[prompt_id] = Prompt(
                prompt_id=prompt_id, prompt=row.prompt, split=split, meta=meta
            )
    found = {prompt.split for prompt in prompts.values()}
    missing = [split for split in ("label", "ppo", "heldout") if split not in found]
    if not demonstrations or missing:
        problem = f"no row fell into {missing[0] if missing else 'demonstrations'}."
        raise UserError(where, problem, "supply more rows, or give that split a larger share.")
    return InstructionSplits(demonstrations, list(prompts.values()))


def _position(seed: int, identity: str) -> float:
    """A number in [0, 1) that only the seed and the prompt decide."""
    digest = hashlib.sha256(f"{seed}\0{identity}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _split_of(position: float, source: InstructionSource) -> Split | None:
    """The split at a position; None for the demonstrations."""
    if position < source.demonstrations:
        return None
    if position < source.demonstrations + source.label:
        return "label"
    return "ppo" if position < source.demonstrations + source.label + source.ppo else "heldout"


def _text(columns: dict[str, Any], column: str, where: str) -> str:
    if column not in columns:
        raise UserError(
            where,
            f"there is no column {column!r}, only {', '.join(map(str, columns))}.",
            "correct prompt_columns or response_column.",
        )
    value = columns[column]
    if value is not None and not isinstance(value, str):
        raise UserError(
            where, f"column {column!r} is no text, got {value!r:.60}.", "mend this row."
        )
    text = (value or "").strip()
    if not text.isascii() and text != text.encode("utf-8", "replace").decode():
        raise UserError(where, f"column {column!r} holds half a character.", "mend this row.")
    return text


# --- sources ------------------------------------------------------------------------------------


def _file_entries(path: Path) -> Iterator[Entry]:
    readers = {".jsonl": iter_json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(path, "is of no known type.", f"use one of {', '.join(readers)}.")
    try:
        yield from reader(path)
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})."
        raise UserError(path, problem, "check the path and data_root.") from None
    except UnicodeDecodeError as error:
        raise UserError(path, f"is not UTF-8 (byte {error.start}).", "save it as UTF-8.") from None


def _json(path: Path) -> Iterator[Entry]:
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}", f"not valid JSON ({error.msg}).", "mend this line."
        ) from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, deep nesting
        problem = f"not usable JSON ({str(error)[:80]})."
        raise UserError(path, problem, "mend the file.") from None
    if not isinstance(values, list):
        raise UserError(path, "is no JSON list of objects.", "use a list, or JSON lines.")
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise UserError(f"{path}, entry {number}", "is no JSON object.", "mend this entry.")
        yield f"{path}, entry {number}", value


def _csv(path: Path) -> Iterator[Entry]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for row in reader:
                if None in row or None in row.values():
                    problem = "has another number of fields than the header."
                    raise UserError(f"{path}:{reader.line_num}", problem, "mend this row.")
                yield f"{path}:{reader.line_num}", row
        except csv.Error as error:
            where = f"{path}:{reader.line_num}"
            raise UserError(where, f"not valid CSV ({error}).", "mend this row.") from None


def _parquet(path: Path) -> Iterator[Entry]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except pyarrow.ArrowInvalid as error:
        problem = f"not valid parquet ({str(error).splitlines()[0]})."
        raise UserError(path, problem, "write the file again.") from None


def _hub_entries(dataset: str, split: str) -> Iterator[Entry]:
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        rows = datasets.load_dataset(dataset, split=split)
    except (OSError, ValueError, DatasetsError) as error:
        problem = f"cannot be loaded ({str(error).splitlines()[0]:.200})."
        raise UserError(f"dataset {dataset}", problem, "check name, split and network.") from None
    for number, row in enumerate(rows, start=1):
        yield f"dataset {dataset}, row {number}", dict(row)
