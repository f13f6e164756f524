"""The labeling benchmark runs end to end: ten kills under load on each kind of database."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from benchmarks.postgres_server import find_postgres

pytestmark = pytest.mark.slow

QuickRun = Callable[[str], list[str]]


def test_ten_kills_under_load_lose_nothing(quick_run: QuickRun) -> None:
    last = json.loads(quick_run("labeling")[-1])
    kinds = ["sqlite"] if find_postgres() is None else ["sqlite", "postgres"]
    for kind in kinds:
        assert last[f"kills_{kind}"] == 10
        assert last[f"lost_{kind}"] == last[f"double_{kind}"] == last[f"short_{kind}"] == 0
        assert last[f"rows_{kind}"] == last[f"acknowledged_{kind}"] == 2 * 60
        assert last[f"distinct_labelers_{kind}"] == last["labelers"] == 8
        assert last[f"failed_calls_{kind}"] > 0  # else it was not killed under load
        assert last[f"torch_{kind}"] == 0
        assert last[f"peak_mb_{kind}"] < 300
        assert last[f"p95_ms_{kind}"] > 0
