"""What a run was made with, and how much memory it took: for the manifest, never for the key."""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import JsonValue

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
PACKAGES = ("torch", "transformers", "trl", "accelerate", "tokenizers", "datasets", "numpy")


def environment() -> dict[str, JsonValue]:
    """Versions of Python, the packages and this code."""
    packages: dict[str, JsonValue] = {name: _package_version(name) for name in PACKAGES}
    return {
        "python": platform.python_version(),
        "packages": packages,
        "git_commit": _git_commit(),
    }


def keep_freed_memory() -> None:
    """Asks the C library to keep freed memory for the next operation; only glibc can be asked.

    By default it gives large blocks back to the system at once, and each operation's result is
    then mapped and zeroed anew: tens of thousands of page faults in one training step.
    """
    set_option = _glibc("mallopt")
    # Older releases refuse thresholds above 32 MiB, with a 0.
    if set_option and (set_option(M_MMAP_THRESHOLD, 2**30) or set_option(M_MMAP_THRESHOLD, 2**25)):
        set_option(M_TRIM_THRESHOLD, 2**30)


def _glibc(function: str) -> Any:
    """A function of the C library; None where it has none of this name."""
    return getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None


def reset_peak_memory() -> None:
    """Makes the peak a stage's own where several run in one process; only Linux can do it.

    Freed memory that was kept goes back to the system first.
    """
    if (trim := _glibc("malloc_trim")) is not None:
        trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_bytes() -> int:
    """The largest resident memory of this process since the last reset."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in kibibytes but on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of this code, marked where files have changed since."""
    describe = ["describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"]
    command = ["git", "-C", str(Path(__file__).parent), *describe]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
