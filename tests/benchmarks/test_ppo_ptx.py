"""The benchmark end to end on one tiny world; its shares by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QuickRun = Callable[[str], list[str]]


@pytest.mark.slow
def test_the_last_line_holds_the_figures(tmp_path: Path, quick_run: QuickRun) -> None:
    lines = quick_run("ppo_ptx")
    figures = json.loads(lines[-1])
    assert figures["n"] == 1
    (arms,) = figures["seeds"]
    assert list(arms) == ["base", "sft", "ppo", "ptx 1"]
    measured = json.loads(
        (tmp_path / "runs" / "benchmark-quickstart-quick-1000" / "base" / "pretraining.json")
        .read_text()
    )["heldout_bits_per_byte"]  # fmt: skip
    assert min(measured.values()) < arms["base"]["bits_per_byte"] < max(measured.values())
    assert arms["ppo"]["bits_per_byte"] != arms["ptx 1"]["bits_per_byte"]
    rows = (tmp_path / "runs" / "benchmark-ptx-quick-1000-1" / "ppo" / "metrics.jsonl").read_text()
    assert "loss/ptx" in rows
    assert sum(line.startswith("| ") for line in lines) == 5


def test_shares_by_hand() -> None:
    seed = {
        "sft": {"bits_per_byte": 1.0, "rating": 4.0},
        "ppo": {"bits_per_byte": 1.5, "rating": 6.0},
        "ptx": {"bits_per_byte": 1.1, "rating": 5.9},
    }
    code = "import json, sys; from benchmarks.ppo_ptx import shares; "
    code += "print(json.dumps(shares(json.loads(sys.argv[1]), 'ptx')))"
    result = subprocess.run(
        [sys.executable, "-c", code, json.dumps(seed)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = json.loads(result.stdout)
    assert found == pytest.approx({"recovered": 0.8, "rating_lost": 0.05})
