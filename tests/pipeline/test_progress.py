"""Progress off a terminal: few lines, with metrics, speed and time left."""

from __future__ import annotations

import io

import pytest

from pipeline import progress
from pipeline.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_every_five_seconds_and_one_at_the_end(clock: list[float]) -> None:
    out = io.StringIO()
    with Progress(10, "sft: training", out) as bar:
        for step in range(10):
            clock[0] += 2.0
            bar.advance(tokens=500, loss=3.0 - step / 10)
    # Lines at 6 s, 12 s and 18 s, and the last one at 20 s; 500 tokens in 2 s are 250 a second.
    assert out.getvalue().splitlines() == [
        "sft: training 3/10  loss 2.8  250 tokens/s  0:14 left",
        "sft: training 6/10  loss 2.5  250 tokens/s  0:08 left",
        "sft: training 9/10  loss 2.2  250 tokens/s  0:02 left",
        "sft: training 10/10  loss 2.1  250 tokens/s",
    ]


def test_quick_work_says_nothing(clock: list[float]) -> None:
    out = io.StringIO()
    assert list(Progress(4, "x", out)) == [0, 1, 2, 3]
    assert out.getvalue() == ""


def test_the_last_line_is_not_said_twice(clock: list[float]) -> None:
    out = io.StringIO()
    with Progress(1, "x", out) as bar:
        clock[0] += 60
        bar.advance(a=1, b=2, c=3, d=4, e=5)
    assert out.getvalue() == "x 1/1  a 1  b 2  c 3  d 4\n"


def test_iterating_advances(clock: list[float]) -> None:
    out = io.StringIO()
    for _ in Progress(2, "x", out):
        clock[0] += 60
    assert out.getvalue().splitlines()[0] == "x 1/2  1:00 left"


def test_a_terminal_gets_a_bar(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    with Progress(4, "x", out) as bar:
        bar.advance(2, loss=1.25)
    assert "loss 1.25" in out.getvalue()
    assert "2/4" in out.getvalue()
