"""The benchmark of many labels runs end to end, and what it fills a database with adds up."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from benchmarks.postgres_server import find_postgres

pytestmark = pytest.mark.slow

QuickRun = Callable[[str], list[str]]


def test_dashboard_and_export_of_both_databases(quick_run: QuickRun) -> None:
    last = json.loads(quick_run("label_scale")[-1])
    kinds = ["sqlite"] if find_postgres() is None else ["sqlite", "postgres"]
    for kind in (*kinds, *(f"{kind}_4x" for kind in kinds)):
        times = 4 if kind.endswith("4x") else 1
        submissions, judged = last[f"submissions_{kind}"], last["labels"]
        assert 0.98 * times * last["n"] < submissions <= times * last["n"]
        assert last[f"rankings_{kind}"] == submissions + judged  # none is lost, gold stays here
        assert 0 < last[f"dashboard_seconds_{kind}"] < 5
        assert last[f"refresh_seconds_{kind}"] > 0
        assert last[f"submit_p95_ms_{kind}"] > 0
        assert 0 < last[f"export_seconds_{kind}"] < 10
        assert last[f"peak_mb_before_{kind}"] <= last[f"peak_mb_{kind}"] < 500
