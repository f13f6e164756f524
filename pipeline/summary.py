"""The comparison as a small table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.verdict import decide, number, percentage

WIDTH = 100


def console_table(
    report: Mapping[str, Any], stage_seconds: Mapping[str, float], report_path: str | Path
) -> str:
    """Ratings, win rates, minutes per stage and the report's path: lines of at most 100 columns.

    Args:
        report: the content of ``report.json``.
        stage_seconds: how long each stage took, in the order to print; may be empty.
        report_path: where ``report.html`` is; the one line that is never shortened.
    """
    lines = [*_ratings(report), "", *_win_rates(report), ""]
    if stage_seconds:
        lines += [*_minutes(stage_seconds), ""]
    lines.append(decide(report).headline)
    return "\n".join([*(_shorten(line) for line in lines), f"report: {report_path}"])


def _ratings(report: Mapping[str, Any]) -> list[str]:
    measure = (
        "reward" if any(c["rating"] is None for c in report["checkpoints"].values()) else "rating"
    )
    rows = [("checkpoint", f"{measure}, mean [95% interval]", "n")]
    for name, checkpoint in report["checkpoints"].items():
        leaf = checkpoint[measure]
        rows.append((name, number(leaf), str(leaf["n"])))
    return _columns(rows)


def _win_rates(report: Mapping[str, Any]) -> list[str]:
    rows = [("pair", "wins, ties half [95% interval]", "at equal length", "n")]
    for pair in report["pairs"]:
        plain = percentage(pair["win_rate"], pair["ci95"])
        controlled = percentage(pair["length_controlled_win_rate"], pair["length_controlled_ci95"])
        rows.append((f"{pair['a']} over {pair['b']}", plain, controlled, str(pair["n"])))
    return _columns(rows)


def _minutes(stage_seconds: Mapping[str, float]) -> list[str]:
    rows = [("stage", "minutes")]
    rows += [(stage, f"{seconds / 60:.2f}") for stage, seconds in stage_seconds.items()]
    rows.append(("total", f"{sum(stage_seconds.values()) / 60:.2f}"))
    return _columns(rows)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns under a rule."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    rule = "  ".join("-" * width for width in widths)
    return [lines[0], rule, *lines[1:]]


def _shorten(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"
