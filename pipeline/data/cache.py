"""Folders that are made once and taken again: named by what they are made from, and checked."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from pydantic import JsonValue

from pipeline.artifacts import file_sha256, fsync, hash_json, list_files

INDEX = "index.json"
LOCK = ".lock"

Values = dict[str, JsonValue]


class Cache:
    """A folder of such folders; it knows which of them were asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._used: set[str] = {LOCK}

    def entry(self, key: str, make: Callable[[Path], Values]) -> tuple[Path, Values]:
        """The folder ``key`` and what ``make`` returned when it wrote it, now or in an earlier run.

        ``make`` is given a temporary sibling, which is renamed when it is whole and durable. A
        folder of which a byte is wrong is made anew. Of several processes one makes it, and the
        others wait.
        """
        self._used.add(key)
        final = self.folder / key
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._alone():
            values = _read_values(final)
            return final, self._made(final, make) if values is None else values

    def remove_unused(self) -> None:
        """Removes what was not asked for, and what killed processes left."""
        if self.folder.is_dir():
            with self._alone():
                for path in self.folder.iterdir():
                    if path.name not in self._used:
                        shutil.rmtree(path)

    def _made(self, final: Path, make: Callable[[Path], Values]) -> Values:
        for left_behind in self.folder.glob(".*.tmp-*"):  # nobody else writes here now
            shutil.rmtree(left_behind)
        temporary = final.with_name(f".{final.name}.tmp-{os.getpid()}")
        temporary.mkdir()
        try:
            values = make(temporary)
            _write_index(temporary, final.name, values)
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
            fsync(final.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return values

    @contextmanager
    def _alone(self) -> Generator[None]:
        with (self.folder / LOCK).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _read_values(folder: Path) -> Values | None:
    """The values in a folder's index; None where it is not whole."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        whole = index == _index(folder, folder.name, index["values"])
        return index["values"] if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_index(folder: Path, key: str, values: Values) -> None:
    index = json.dumps(_index(folder, key, values), indent=1) + "\n"
    (folder / INDEX).write_text(index, encoding="utf-8")
    for path in [*folder.iterdir(), folder]:
        fsync(path)


def _index(folder: Path, key: str, values: Values) -> dict[str, JsonValue]:
    files: dict[str, JsonValue] = {
        name: {"size": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)}
        for name in list_files(folder)
        if name != INDEX
    }
    index: dict[str, JsonValue] = {"key": key, "values": values, "files": files}
    return {**index, "checksum": hash_json(index)}
