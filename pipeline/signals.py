"""SIGTERM as an exception, so that what is open is closed and what is unfinished removed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def sigterm_exits() -> Generator[None]:
    """Turns SIGTERM into SystemExit, so that the temporary folder is removed."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
