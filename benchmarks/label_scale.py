"""The lead's dashboard and the export of a label database with 100,000 submissions.

    python -m benchmarks.label_scale
    python -m benchmarks.label_scale --quick

A database of each kind is filled with submissions of five responses by 40 labelers, the larger part
of them of tasks that others judged, too. A lead opens the dashboard of an application that has just
started; labelers in software go on judging while the lead's page asks again and again; then
everything is exported by a process of its own. The same with four times the submissions.

The last line is one JSON object: ``dashboard_seconds_…`` is the first opening,
``refresh_seconds_…`` the longest reply while labels came in, ``submit_p95_ms_…`` from a submission
to the next task meanwhile (``…_alone_…`` before), ``peak_mb_…`` the most memory that the
application had.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import resource
import socket
import statistics
import tempfile
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import httpx

from benchmarks.label_fill import fill
from benchmarks.labeling_load import Application, Record, make_labelers, work_together
from benchmarks.postgres_server import PostgresServer, find_postgres, postgres_server
from labeling_ui.desk import Desk, Place
from labeling_ui.sign_in import SignIn
from labeling_ui.store import open_store

TIMES = 4
REFRESH_SECONDS = 3.0  # as static/dashboard.js
SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Size:
    """How much is measured: submissions that are there, and who goes on judging meanwhile."""

    submissions: int
    labelers: int
    tasks_each: int
    think_seconds: float


FULL = Size(100_000, 8, 8, 1.0)
QUICK = Size(1_000, 4, 4, 0.3)


class Served(Application):
    """The application on a database as it is."""

    def start(self) -> float:
        """Starts it; the seconds until it answers."""
        process = SPAWN.Process(target=_serve, args=(self.database, self.port), daemon=True)
        began = time.monotonic()
        process.start()
        self.process = process  # type: ignore[assignment]
        while True:
            assert process.is_alive(), "the application ended"
            try:
                if httpx.get(f"{self.origin}/healthz").status_code == 200:
                    return time.monotonic() - began
            except httpx.TransportError:
                time.sleep(0.05)


def _serve(database: str, port: int) -> None:
    import uvicorn

    from labeling_ui.app import create_app

    store = open_store(database)
    place = Place(store, Desk(store), "scale", "align run scale.yaml")
    app = create_app(place, SignIn(store, port), port)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def _export(database: str, folder: str, answer: Any) -> None:
    """Sends the seconds, the rows of rankings, and the most memory in MB."""
    with closing(open_store(database)) as store:
        began = time.perf_counter()
        rows = store.export(Path(folder))
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    answer.send((seconds, rows["rankings.jsonl"], peak))


async def _with_dashboard(lead: httpx.AsyncClient, work: Any) -> float:
    """The longest reply of the dashboard while ``work`` goes on."""
    longest = 0.0
    working = asyncio.ensure_future(work)
    while not working.done():
        began = time.perf_counter()
        (await lead.get("/dashboard")).raise_for_status()
        longest = max(longest, time.perf_counter() - began)
        await asyncio.wait([working], timeout=REFRESH_SECONDS)
    await working
    return longest


def measure_dashboard(database: str, size: Size) -> dict[str, float]:
    """Seconds of the dashboard, and what it costs labelers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    served = Served(Path(), database, port, 1)
    served.start()
    with closing(open_store(database)) as store:
        alone, beside = Record(), Record()
        thought = size.think_seconds
        people = make_labelers(served, store, size.labelers, thought, alone)
        asyncio.run(work_together(people, size.tasks_each))
        token = SignIn(store, port).new_link_token(store.add_labeler("lead", role="lead").id)
        before = served.peak_megabytes()
        people = make_labelers(served, store, size.labelers, thought, beside)

        async def lead() -> tuple[float, float]:
            async with httpx.AsyncClient(base_url=served.origin, timeout=120) as client:
                (await client.get("/enter", params={"token": token})).raise_for_status()
                began = time.perf_counter()
                (await client.get("/dashboard")).raise_for_status()
                first = time.perf_counter() - began
                return first, await _with_dashboard(client, work_together(people, size.tasks_each))

        first, refresh = asyncio.run(lead())
    peak = served.peak_megabytes()
    served.kill()
    return {
        "dashboard_seconds": first,
        "refresh_seconds": refresh,
        "submit_p95_ms_alone": _p95_ms(alone),
        "submit_p95_ms": _p95_ms(beside),
        "peak_mb": peak,
        "peak_mb_before": before,
    }


def _p95_ms(record: Record) -> float:
    return 1000 * statistics.quantiles(record.submit_seconds, n=20)[-1]


def measure_export(database: str) -> dict[str, float]:
    """Seconds and memory of a process that exports everything."""
    here, there = SPAWN.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        process: SpawnProcess = SPAWN.Process(target=_export, args=(database, folder, there))
        process.start()
        there.close()
        seconds, rows, peak = here.recv()
        process.join()
    return {"export_seconds": seconds, "rankings": rows, "export_peak_mb": peak}


def measure(
    folder: Path, submissions: int, size: Size, server: PostgresServer | None
) -> dict[str, float]:
    """Everything on one database of that many submissions."""
    name = f"labels_{submissions}"
    database = str(folder / f"{name}.db") if server is None else server.create(name)
    filled = fill(database, submissions)
    figures = {"submissions": filled.submissions, "tasks": filled.tasks, "shared": filled.shared}
    return figures | measure_dashboard(database, size) | measure_export(database)


def main() -> None:
    """Prints a table and, last, one JSON object."""
    parser = argparse.ArgumentParser(description="The dashboard and the export of many labels.")
    parser.add_argument("--quick", action="store_true", help="a hundredth of the submissions")
    size = QUICK if parser.parse_args().quick else FULL
    programs = find_postgres()
    results: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = programs and stack.enter_context(postgres_server(programs))
        for times in (1, TIMES):
            suffix = "" if times == 1 else f"_{times}x"
            count = times * size.submissions
            results[f"sqlite{suffix}"] = measure(folder, count, size, None)
            if server is not None:
                results[f"postgres{suffix}"] = measure(folder, count, size, server)
    print(f"{platform.machine()}, {os.cpu_count()} cores")
    print(f"{'':<20}" + "".join(f"{kind:>14}" for kind in results))
    for name in next(iter(results.values())):
        print(f"{name:<20}" + "".join(f"{result[name]:>14.4g}" for result in results.values()))
    figures = {
        f"{name}_{kind}": value
        for kind, result in results.items()
        for name, value in result.items()
    }
    print(
        json.dumps(
            {"n": size.submissions, "labels": 2 * size.labelers * size.tasks_each, **figures}
        )
    )


if __name__ == "__main__":
    main()
