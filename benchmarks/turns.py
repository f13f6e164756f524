"""Two or more processes that take turns at the same work: the machine's drift meets all alike.

Loads nothing but the standard library, so that it runs in a peer's environment, too.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LAST_ERROR_CHARACTERS = 2000


class Contestant:
    """A process of its own that does one piece of work whenever it is asked to."""

    def __init__(self, command: Sequence[str]) -> None:
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            encoding="utf-8",
        )

    def turn(self) -> dict[str, Any]:
        """What the process says of one piece of work: ``seconds``, ``peak_bytes`` and its own.

        Raises:
            RuntimeError: it has ended; the message has the last that it wrote.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended, as the empty answer says
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._process.wait()
            self._errors.seek(0)
            said = self._errors.read()[-LAST_ERROR_CHARACTERS:]
            raise RuntimeError(f"{self._process.args} ended:\n{said}")
        return json.loads(answer)

    def close(self) -> None:
        """Asks no more; the process ends by itself, and is waited for."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()


class Turns:
    """The other side, in the process that works. What is printed meanwhile goes to stderr."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._started = 0.0

    def begin(self) -> None:
        """Waits until a turn is asked for; ends the process where nobody asks any more."""
        if not sys.stdin.readline():
            raise SystemExit
        self._started = time.perf_counter()

    def end(self, **figures: Any) -> float:
        """Answers with the seconds since ``begin``, which are returned, and with ``figures``.

        ``peak_bytes``, the largest resident memory, may be replaced by a device's own.
        """
        seconds = time.perf_counter() - self._started
        answer = {"seconds": seconds, "peak_bytes": peak_bytes()} | figures
        print(json.dumps(answer), file=self._answers, flush=True)
        return seconds


def peak_bytes() -> int:
    """The largest resident memory of this process."""
    with suppress(OSError):  # Linux: ru_maxrss would begin at that of the process it was made from
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in kibibytes but on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
