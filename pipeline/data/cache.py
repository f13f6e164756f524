"""Folders that are made once and taken again: named by what they are made from, and checked."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from pydantic import JsonValue

from pipeline.artifacts import fsync
from pipeline.sealed import seal, whole_values

LOCK = ".lock"
TOKENS_CACHE = ".cache/tokens"  # in the run folder: a rerun takes its tokenizer and tokens again

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
            found = whole_values(final)
            if found is not None and found["key"] == key:
                return final, found["values"]
            return final, self._made(final, make)

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
            seal(temporary, {"key": final.name, "values": values})
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
