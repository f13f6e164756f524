"""Prompts with reference responses from a file or the hub, divided by a hash of the prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import InstructionSource
from pipeline.data.tables import dataset_entries, file_entries, text_cell
from pipeline.errors import UserError
from pipeline.records import Demonstration, Prompt, Split

SETTING = "prompt_columns or response_column"


@dataclass(frozen=True)
class Instruction:
    """A prompt, and the response and the priority that its source gives."""

    prompt: str
    response: str
    priority: int | None = None


@dataclass(frozen=True)
class InstructionSplits:
    """Demonstrations for fine-tuning, and prompts whose text is in none of them.

    ``repeated`` counts the rows left out because an earlier one of their split has their prompt.
    """

    demonstrations: list[Demonstration]
    prompts: list[Prompt]
    repeated: int


def read_instructions(
    source: InstructionSource, place: Path | None, revision: str | None = None
) -> tuple[list[Instruction], int]:
    """The rows of a source in its order, and how many were left out for their length.

    Args:
        source: which columns to read, of which part.
        place: the file, or the folder of a dataset; None for one on the hub.
        revision: the dataset's, on the hub.

    Raises:
        UserError: the source is missing, empty or broken, a column is absent, or rows have an
            empty prompt or response (the first is named, all are counted).
    """
    where = str(place or source.dataset)
    if source.path is not None and place is not None:
        entries = file_entries(place)
    else:
        entries = dataset_entries(where, source.dataset_config, source.dataset_split, revision)
    rows: list[Instruction] = []
    empty: list[tuple[str, str]] = []
    too_long = 0
    for at, columns in entries:
        parts = [
            text_cell(columns, column, at, SETTING).strip() for column in source.prompt_columns
        ]
        response = text_cell(columns, source.response_column, at, SETTING).strip()
        priority = _priority(columns, source.priority_column, at)
        row = Instruction("\n".join(part for part in parts if part), response, priority)
        if not row.prompt or not row.response:
            empty.append((at, "response" if row.prompt else "prompt"))
        if _is_too_long(row, source):
            too_long += 1
        else:
            rows.append(row)
    if empty:
        at, part = empty[0]
        count = f" ({len(empty)} such rows in all)" if len(empty) > 1 else ""
        raise UserError(at, f"the {part} is empty{count}.", "remove such rows from the source.")
    if not rows:
        problem = f"holds no rows ({too_long} longer than the limits)."
        raise UserError(where, problem, "supply at least one row.")
    return rows, too_long


def _priority(columns: dict[str, Any], column: str | None, where: str) -> int | None:
    if column is None:
        return None
    value = columns.get(column)
    if type(value) is not int:
        problem = f"column {column!r} is no whole number, got {value!r:.60}."
        raise UserError(where, problem, "mend this row, or correct priority_column.")
    return value


def _is_too_long(row: Instruction, source: InstructionSource) -> bool:
    limits = (source.max_prompt_characters, source.max_response_characters)
    texts = (row.prompt, row.response)
    return any(limit and len(text) > limit for text, limit in zip(texts, limits, strict=True))


def split_instructions(
    rows: Iterable[Instruction], source: InstructionSource, seed: int, where: str
) -> InstructionSplits:
    """The rows divided by prompt: equal prompts (but for case and spaces) share a split.

    Of prompts that repeat, the first is kept; demonstrations are all kept. ``meta`` of a prompt
    holds its ``reference`` response, and its ``priority`` if the source gives one.

    Raises:
        UserError: there are so few rows that a split is empty.
    """
    demonstrations: list[Demonstration] = []
    prompts: dict[str, Prompt] = {}
    repeated = 0
    for row in rows:
        identity = " ".join(row.prompt.casefold().split())
        split = _split_of(_position(seed, identity), source)
        if split is None:
            demonstrations.append(Demonstration(prompt=row.prompt, response=row.response))
            continue
        prompt_id = "p" + hashlib.sha256(identity.encode()).hexdigest()[:16]
        if prompt_id in prompts:
            repeated += 1
            continue
        meta: dict[str, Any] = {"reference": row.response}
        if row.priority is not None:
            meta["priority"] = row.priority
        prompts[prompt_id] = Prompt(prompt_id=prompt_id, prompt=row.prompt, split=split, meta=meta)
    found = {prompt.split for prompt in prompts.values()}
    missing = [split for split in ("label", "ppo", "heldout") if split not in found]
    if not demonstrations or missing:
        problem = f"no row fell into {missing[0] if missing else 'demonstrations'}."
        raise UserError(where, problem, "supply more rows, or give that split a larger share.")
    return InstructionSplits(demonstrations, list(prompts.values()), repeated)


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
