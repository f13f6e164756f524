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
    assert list(arms) == ["base", "sft", "ptx", "ppo", "ppo free", "ptx free"]
    measured = json.loads(
        (tmp_path / "runs" / "benchmark-quickstart-quick-1000" / "base" / "pretraining.json")
        .read_text()
    )["heldout_bits_per_byte"]  # fmt: skip
    assert min(measured.values()) < arms["base"]["bits_per_byte"] < max(measured.values())
    assert len({arm["bits_per_byte"] for arm in arms.values()}) == 6
    for run, with_ptx in (("quickstart-quick-1000", True), ("ptx-quick-1000-ppo", False)):
        rows = tmp_path / "runs" / f"benchmark-{run}" / "ppo" / "metrics.jsonl"
        assert ("loss/ptx" in rows.read_text(encoding="utf-8")) == with_ptx
    assert sum(line.startswith("| ") for line in lines) == 7


def test_shares_by_hand() -> None:
    seed = {
        "sft": {"bits_per_byte": 1.0, "rating": 4.0},
        "ppo": {"bits_per_byte": 1.5, "rating": 6.0},
        "ptx": {"bits_per_byte": 1.1, "rating": 5.9},
        "ppo free": {"bits_per_byte": 2.0, "rating": 5.0},
        "ptx free": {"bits_per_byte": 1.0, "rating": 5.5},
    }
    code = "import json, sys; from benchmarks.ppo_ptx import shares; "
    code += "seed = json.loads(sys.argv[1]); "
    code += "print(json.dumps([shares(seed, arm) for arm in ('ptx', 'ptx free')]))"
    result = subprocess.run(
        [sys.executable, "-c", code, json.dumps(seed)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = json.loads(result.stdout)
    assert found[0] == pytest.approx({"recovered": 0.8, "rating_lost": 0.05})
    assert found[1] == pytest.approx({"recovered": 1.0, "rating_lost": -0.5})
