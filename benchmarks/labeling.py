"""How quick the labeling application is with many labelers at once, and that it loses nothing.

    python -m benchmarks.labeling
    python -m benchmarks.labeling --quick

On SQLite and on PostgreSQL, on this machine: first 30 labelers in software judge tasks of five
responses over HTTP, two seconds of thought each (people need a minute), and the time from a
submission to the next task is taken. Then others judge while the application is killed again and
again (SIGKILL), and every tenth time PostgreSQL with it; in the end what was acknowledged is
compared with what the database holds. A browser opens a sign-in link and waits for its first task.

The last line is one JSON object: ``p95_ms_…`` is the 95th percentile of submission to next task,
``lost`` what was acknowledged and is not there, ``double`` what is there more often than it may be,
``short`` how many judgments are missing from the overlap that was asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.labeling_load import (
    Application,
    Record,
    make_application,
    make_labelers,
    work_together,
)
from benchmarks.postgres_server import PostgresServer, find_postgres, postgres_server
from labeling_ui.sign_in import SignIn
from labeling_ui.store import open_store

ROOT = Path(__file__).parents[1]
DATABASE_KILLS = 10  # every so many kills, PostgreSQL's too


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    labelers: int
    tasks_each: int
    kills: int
    kill_tasks: int
    think_seconds: float
    kill_think_seconds: float
    browser_runs: int


FULL = Size(30, 15, 100, 1500, 2.0, 1.0, 5)
QUICK = Size(8, 4, 10, 60, 0.3, 0.6, 1)
OVERLAP = 2


def measure_load(application: Application, size: Size) -> dict[str, float]:
    """Milliseconds from submission to next task, and what the application needs."""
    record = Record()
    started = application.start()
    with closing(open_store(application.database)) as store:
        thought = size.think_seconds
        labelers = make_labelers(application, store, size.labelers, thought, record)
        asyncio.run(work_together(labelers, size.tasks_each))
        milliseconds = sorted(1000 * seconds for seconds in record.submit_seconds)
        figures = {
            "submissions": len(milliseconds),
            "p50_ms": statistics.median(milliseconds),
            "p95_ms": statistics.quantiles(milliseconds, n=20)[-1],
            "max_ms": milliseconds[-1],
            "peak_mb": application.peak_megabytes(),
            "start_s": started,
            "torch": float(application.loads_torch()),
        }
        figures |= first_task_seconds(application, SignIn(store, application.port), size)
    application.kill()
    return figures


def first_task_seconds(application: Application, sign_in: SignIn, size: Size) -> dict[str, float]:
    """The median time of a browser from opening a sign-in link to its first task on the screen."""
    script = str(ROOT / "tests" / "find_browser.sh")
    found = subprocess.run(["sh", script], capture_output=True, text=True, check=True).stdout
    path = os.environ.get("ALIGN_BROWSER") or found.strip()
    if not path:
        return {}
    from playwright.sync_api import sync_playwright

    seconds: list[float] = []
    with closing(open_store(application.database)) as store, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for index in range(size.browser_runs):
            token = sign_in.new_link_token(store.add_labeler(f"browser {index}").id)
            page = browser.new_context().new_page()
            began = time.perf_counter()
            page.goto(f"{application.origin}/enter?token={token}")
            page.wait_for_selector(".response")
            seconds.append(time.perf_counter() - began)
        browser.close()
    return {"first_task_s": statistics.median(seconds)}


def kill_under_load(
    application: Application, size: Size, server: PostgresServer | None
) -> dict[str, float]:
    """Kills the application again and again while all tasks are judged; what was lost."""
    record = Record()
    application.start()
    with closing(open_store(application.database)) as store, ThreadPoolExecutor(1) as pool:
        thought = size.kill_think_seconds
        labelers = make_labelers(application, store, size.labelers, thought, record)
        everybody = pool.submit(asyncio.run, work_together(labelers, 10**6))
        while record.signed_in < len(labelers) and not everybody.done():
            time.sleep(0.05)  # a link works once: who is killed with it would need another
        kills, rng = 0, random.Random(0)
        while not everybody.done() and kills < size.kills:
            time.sleep(rng.uniform(0.05, 1.0))
            application.kill()
            kills += 1
            if server is not None and kills % DATABASE_KILLS == 0:
                server.stop()
                server.start()
            application.start()
        everybody.result()
    application.kill()
    return {"kills": kills, **compare(application, record)}


def compare(application: Application, record: Record) -> dict[str, float]:
    """What was acknowledged beside what the database holds."""
    with closing(open_store(application.database)) as store:
        rows = [(row.labeler, row.prompt) for row in store.rankings()]
        with store.reading() as session:
            people = session.connection().exec_driver_sql("SELECT name, pseudonym FROM labeler")
            pseudonyms = {row[0]: row[1] for row in people}
        open_tasks = store.progress(people_only=True).open
    acknowledged = [(pseudonyms[name], prompt) for name, prompt in record.acknowledged]
    stored, by_prompt = Counter(rows), Counter(prompt for _, prompt in rows)
    return {
        "lost": len(set(acknowledged) - set(rows)),
        "double": sum(count - 1 for count in stored.values())
        + sum(max(0, count - application.overlap) for count in by_prompt.values()),
        "short": open_tasks
        + sum(max(0, application.overlap - count) for count in by_prompt.values()),
        "rows": len(rows),
        "acknowledged": len(acknowledged),
        "distinct_labelers": len({labeler for labeler, _ in rows}),
        "failed_calls": record.failures,
    }


def measure(kind: str, size: Size, server: PostgresServer | None) -> dict[str, float]:
    """Both measurements on one kind of database."""
    with tempfile.TemporaryDirectory() as folder:

        def database(name: str) -> str:
            return str(Path(folder) / f"{name}.db") if server is None else server.create(name)

        tasks = size.labelers * (size.tasks_each + 1) + size.browser_runs
        load = make_application(Path(folder) / "load", database("load"), tasks, 1)
        figures = measure_load(load, size)
        killed = make_application(
            Path(folder) / "killed", database("killed"), size.kill_tasks, OVERLAP
        )
        return figures | kill_under_load(killed, size, server)


def main() -> None:
    """Prints a table and, last, one JSON object."""
    parser = argparse.ArgumentParser(description="The labeling application under load.")
    parser.add_argument("--quick", action="store_true", help="few labelers and kills")
    size = QUICK if parser.parse_args().quick else FULL
    programs = find_postgres()
    results = {"sqlite": measure("sqlite", size, None)}
    if programs is not None:
        with postgres_server(programs) as server:
            results["postgres"] = measure("postgres", size, server)
    names = list(dict.fromkeys(name for result in results.values() for name in result))
    print(f"{size.labelers} labelers; {platform.machine()}, {os.cpu_count()} cores")
    print(f"{'':<18}" + "".join(f"{kind:>12}" for kind in results))
    for name in names:
        row = "".join(f"{result.get(name, float('nan')):>12.4g}" for result in results.values())
        print(f"{name:<18}{row}")
    figures: dict[str, Any] = {
        f"{name}_{kind}": value
        for kind, result in results.items()
        for name, value in result.items()
    }
    print(json.dumps({"n": size.kills, "labelers": size.labelers, **figures}))


if __name__ == "__main__":
    main()
