"""Progress of long work: a bar on a terminal, else one line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    import rich.progress

LINE_EVERY_SECONDS = 5.0
MOST_METRICS = 4  # the first that were named; all are in metrics.jsonl


class Progress:
    """Shows how far ``total`` steps have come, with metrics, tokens per second and time left.

    Use it as a context manager with ``advance``, or iterate over it: ``for step in progress``
    yields 0 … total - 1 and advances by itself.
    """

    def __init__(self, total: int, label: str, stream: TextIO | None = None) -> None:
        self.total = total
        self.label = label
        self.done = 0
        self.tokens = 0
        self.metrics: dict[str, float] = {}
        self._resumed_at = 0
        self._stream = stream or sys.stdout
        self._bar: rich.progress.Progress | None = None
        self._started = self._last_line = time.monotonic()
        self._written: int | None = None  # steps done in the last line

    def __enter__(self) -> Self:
        self._started = self._last_line = time.monotonic()
        if self._stream.isatty():
            self._bar = _make_bar(self._stream)
            self._bar.start()
            self._bar.add_task(self.label, total=self.total, status="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif kind is None and self._written not in (None, self.done):
            self._write_line()

    def __iter__(self) -> Iterator[int]:
        with self:
            for step in range(self.total):
                yield step
                self.advance()

    def advance(self, steps: int = 1, tokens: int = 0, **metrics: float) -> None:
        """Counts ``steps`` as done, and ``tokens`` for the speed; ``metrics`` are shown."""
        self.done += steps
        self.tokens += tokens
        self.show(**metrics)

    def advance_to(self, step: int, tokens: int = 0, **metrics: float) -> None:
        """Step ``step`` (1 is the first) is done; work that was resumed begins further on."""
        if self.done == 0:
            self.done = self._resumed_at = step - 1
        self.advance(step - self.done, tokens, **metrics)

    def say(self, line: str) -> None:
        """Prints a line of its own, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            self._stream.write(f"{line}\n")
            self._stream.flush()

    def show(self, **metrics: float) -> None:
        """Shows new metrics beside the older ones."""
        self.metrics |= metrics
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done, status=self._status())
        elif time.monotonic() - self._last_line >= LINE_EVERY_SECONDS:
            self._write_line()

    def _status(self) -> str:
        shown = list(self.metrics.items())[:MOST_METRICS]
        parts = [f"{name} {value:.4g}" for name, value in shown]
        elapsed = time.monotonic() - self._started
        if self.tokens and elapsed > 0:
            parts.append(f"{self.tokens / elapsed:,.0f} tokens/s")
        return "  ".join(parts)

    def _write_line(self) -> None:
        self._last_line = time.monotonic()
        self._written = self.done
        elapsed = self._last_line - self._started
        parts = [f"{self.label} {self.done}/{self.total}", self._status()]
        if self._resumed_at < self.done < self.total:
            left = int(elapsed / (self.done - self._resumed_at) * (self.total - self.done))
            parts.append(f"{left // 60}:{left % 60:02d} left")
        self._stream.write("  ".join(part for part in parts if part) + "\n")
        self._stream.flush()


def _make_bar(stream: TextIO) -> rich.progress.Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
        console=Console(file=stream),
    )
