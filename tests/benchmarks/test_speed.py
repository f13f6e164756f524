"""The speed benchmarks run end to end and their last line holds the figures that are promised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("decode", {"tokens_per_second_b4", "ratio_vs_generate_b4", "of_bandwidth_b4"}),
        ("pretrain", {"tokens_per_second", "ratio_vs_trainer", "mfu"}),
    ],
)
def test_the_last_line_holds_the_figures(tmp_path: Path, name: str, figures: set[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--quick"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    last = json.loads(result.stdout.splitlines()[-1])
    assert figures <= last.keys()
    assert all(last[figure] > 0 for figure in figures)
    assert last["n"] >= 1
