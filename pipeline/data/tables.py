"""Rows of named columns, one at a time, from JSON lines, JSON, CSV, parquet or a dataset."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.records import iter_json_lines

Entry = tuple[str, dict[str, Any]]  # where it stands ("file:line"), and its columns

PARQUET_BATCH_ROWS = 64  # long documents: a batch is in memory at once
BUFFER_BYTES = 2**20  # files are read as they are needed, not a whole row group at once


def file_entries(path: Path, columns: Sequence[str] = ()) -> Iterator[Entry]:
    """The rows of a file; of parquet only ``columns`` are read, where it has all of them.

    Raises:
        UserError: the file is of no known type, missing, or broken.
    """
    suffix = path.suffix.lower()
    readers = {".jsonl": iter_json_lines, ".json": _json, ".csv": _csv}
    if suffix not in (*readers, ".parquet"):
        known = ", ".join([*readers, ".parquet"])
        raise UserError(path, "is of no known type.", f"use one of {known}.")
    try:
        yield from _parquet(path, columns) if suffix == ".parquet" else readers[suffix](path)
    except OSError as error:
        problem = f"cannot be read ({error.strerror or _first_line(error)})."
        raise UserError(path, problem, "check the path and data_root.") from None
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        problem = f"is not UTF-8 (a byte {byte:#04x}: {error.reason})."
        raise UserError(path, problem, "save it as UTF-8.") from None


def text_cell(columns: dict[str, Any], column: str, where: str, setting: str) -> str:
    """The text of a row's column, empty for null; ``setting`` is the config key that named it.

    Raises:
        UserError: there is no such column, or it holds no text or half a character.
    """
    if column not in columns:
        raise UserError(
            where,
            f"there is no column {column!r}, only {', '.join(map(str, columns))}.",
            f"correct {setting}.",
        )
    value = columns[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        problem = f"column {column!r} is no text, got {value!r:.60}."
        raise UserError(where, problem, "mend this row.")
    try:
        value.encode()
    except UnicodeEncodeError:
        problem = f"column {column!r} holds half a character."
        raise UserError(where, problem, "mend this row.") from None
    return value


# --- files --------------------------------------------------------------------------------------


def _json(path: Path) -> Iterator[Entry]:
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}", f"not valid JSON ({error.msg}).", "mend this line."
        ) from None
    except UnicodeDecodeError:
        raise
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


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[Entry]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
            known = file.schema_arrow.names
            wanted = list(columns) if columns and set(columns) <= set(known) else None
            for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except pyarrow.ArrowException as error:
        problem = f"not valid parquet ({_first_line(error)})."
        raise UserError(path, problem, "write the file again.") from None


# --- datasets -----------------------------------------------------------------------------------


def dataset_entries(
    dataset: str, config: str | None, split: str, revision: str | None
) -> Iterator[Entry]:
    """The rows of a dataset (a folder, or a name on the hub at a revision), streamed.

    In memory are a megabyte of JSON, or a row group of parquet.

    Raises:
        UserError: it cannot be loaded, or not to its end.
    """
    import datasets
    from datasets.packaged_modules.json.json import JsonConfig

    _follow_offline_switches()
    number = 0
    try:
        builder = datasets.load_dataset_builder(dataset, config, revision=revision)
        if isinstance(builder.config, JsonConfig):
            builder.config.chunksize = BUFFER_BYTES
        rows: Any = builder.as_streaming_dataset(split=split)
        for row in rows.reshard():  # by row group: Arrow would read ahead as far as memory goes
            number += 1
            yield f"dataset {dataset}, row {number}", dict(row)
    except Exception as error:  # whatever the libraries below `datasets` raise
        where = f"dataset {dataset}" + (f", after row {number}" if number else "")
        problem = f"cannot be loaded ({_first_line(error)})."
        raise UserError(where, problem, "check name, config, split and network.") from None


def latest_revision(dataset: str) -> str:
    """The commit that a dataset's name stands for on the hub now.

    Raises:
        UserError: there is no such dataset, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    _follow_offline_switches()
    try:
        revision = HfApi().dataset_info(dataset).sha
    except Exception as error:  # whatever the libraries below `huggingface_hub` raise
        problem = (
            f"is no folder below data_root, and not reached on the hub ({_first_line(error)})."
        )
        raise UserError(f"dataset {dataset}", problem, "check name and network.") from None
    if revision is None:
        raise UserError(f"dataset {dataset}", "has no revision.", "name another dataset.")
    return revision


def _follow_offline_switches() -> None:
    """Lets the hub's libraries read the environment again.

    They do it as they are loaded, which may be before the config has opened the hub.
    """
    import datasets.config
    import huggingface_hub.constants

    hub_offline = _is_on("HF_HUB_OFFLINE") or _is_on("TRANSFORMERS_OFFLINE")
    huggingface_hub.constants.HF_HUB_OFFLINE = hub_offline
    datasets.config.HF_HUB_OFFLINE = hub_offline or _is_on("HF_DATASETS_OFFLINE")
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # its errors are raised as well


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
