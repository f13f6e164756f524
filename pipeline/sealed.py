"""Folders that say of themselves that they are whole: an index, written last, hashes every file.

For what a run keeps for itself (checkpoints, tokens); what it publishes has a manifest, see
``artifacts.py``. No torch here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts import file_sha256, fsync, hash_json, list_files

INDEX = "index.json"


def seal(folder: Path, values: Mapping[str, Any]) -> None:
    """Makes all files durable, then writes the index with them and ``values``."""
    for name in list_files(folder):
        fsync(folder / name)
    unfinished = folder / f".{INDEX}.tmp"
    text = json.dumps(_index(folder, dict(values)), indent=1) + "\n"
    unfinished.write_text(text, encoding="utf-8")
    fsync(unfinished)
    unfinished.rename(folder / INDEX)
    fsync(folder)


def sealed_values(folder: Path) -> dict[str, Any] | None:
    """What was sealed with a folder; None where there is no readable index. No file is checked."""
    try:
        return dict(json.loads((folder / INDEX).read_text(encoding="utf-8"))["values"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def whole_values(folder: Path) -> dict[str, Any] | None:
    """What was sealed with a folder; None where a file is missing, added or altered."""
    values = sealed_values(folder)
    if values is None:
        return None
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return values if index == _index(folder, values) else None


def _index(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    files = {name: file_sha256(folder / name) for name in list_files(folder) if name != INDEX}
    index = {"values": values, "files": files}
    return {**index, "checksum": hash_json(index)}


def keys_in(folder: Path) -> set[str]:
    """The keys of the sealed folders in ``folder``: which runs' snapshots they are."""
    found = (sealed_values(path) for path in folder.glob("*-*"))
    return {values["key"] for values in found if values is not None and "key" in values}
