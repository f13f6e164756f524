"""One process at a time in a run folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pipeline.artifacts import recover
from pipeline.errors import UserError

LOCK = ".lock"
HOLDER = "ALIGN_LOCK_HOLDER"  # set for a stage's processes: the parent that holds the lock for them
_held: dict[Path, IO[str]] = {}  # resolved run folders locked by this process, with their locks


@contextmanager
def run_lock(run_folder: Path) -> Generator[None]:
    """Holds a run folder for this process (nested use is fine) and tidies up after killed runs.

    Folders that were made only for the lock are removed again.

    Raises:
        UserError: another process works in this folder, or it cannot be written.
    """
    folder = run_folder.resolve()
    if folder in _held or os.environ.get(HOLDER) == str(os.getppid()):
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    file = _acquire(run_folder)
    _held[folder] = file
    try:
        recover(run_folder)
        yield
    finally:
        del _held[folder]
        if made and folder.is_dir() and os.listdir(folder) == [LOCK]:
            (folder / LOCK).unlink()
            with suppress(OSError):  # the first that somebody else uses stays, with its parents
                for path in made:
                    path.rmdir()
        file.close()


def lock_descriptor(run_folder: Path) -> int:
    """The open lock that this process holds on a run folder, for a child to inherit.

    A child that has it keeps others out even when its parent is killed.
    """
    return _held[run_folder.resolve()].fileno()


def _acquire(run_folder: Path) -> IO[str]:
    while True:
        try:
            run_folder.mkdir(parents=True, exist_ok=True)
            file = (run_folder / LOCK).open("a")
        except FileNotFoundError:  # removed between the two lines by a run that ended
            continue
        except OSError as error:
            problem = f"cannot be written ({error.strerror})."
            raise UserError(run_folder, problem, "choose a folder you may write to.") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise UserError(
                run_folder,
                "another process is working in this run folder.",
                "wait until it has ended, or use another folder with name=….",
            ) from None
        try:
            if os.stat(run_folder / LOCK).st_ino == os.fstat(file.fileno()).st_ino:
                return file
        except FileNotFoundError:
            pass
        file.close()  # the run that held the lock removed its file: take the new one
