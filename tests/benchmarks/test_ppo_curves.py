"""Curves of two runs by hand."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PANELS = runpy.run_path(str(ROOT / "benchmarks" / "ppo_curves.py"))["PANELS"]


def write_run(folder: Path, offset: float, updates: int) -> Path:
    (folder / "ppo").mkdir(parents=True)
    rows = [{"step": i + 1} | dict.fromkeys(PANELS, offset + i) for i in range(updates)]
    (folder / "ppo" / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.ppo_curves", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_least_median_and_most_over_the_updates_that_all_runs_have(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / str(i), offset, updates)
        for i, (offset, updates) in enumerate([(0.0, 7), (10.0, 6), (1.0, 9)])
    ]
    picture = tmp_path / "curves.svg"
    result = run(*map(str, folders), "--picture", str(picture))
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout.splitlines()[-1])
    assert figures["n"] == 3
    for values in figures["least, median, most"].values():
        assert values == {
            "update 1": [0, 1, 10],
            "update 2": [1, 2, 11],
            "update 4": [3, 4, 13],
            "update 6": [5, 6, 15],
        }
    assert picture.read_text().count("objective/kl") >= 1


def test_without_a_run_it_says_what_to_do(tmp_path: Path) -> None:
    result = run(str(tmp_path))
    assert result.returncode == 2
    assert "benchmarks.quickstart" in result.stderr
