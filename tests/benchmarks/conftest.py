"""Benchmarks are run from the repository and not installed: here each is run as its user would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def quick_run(tmp_path: Path) -> Callable[[str], list[str]]:
    """Runs a benchmark's quick setting in ``tmp_path``; its lines of output."""

    def run(name: str) -> list[str]:
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
        return result.stdout.splitlines()

    return run
