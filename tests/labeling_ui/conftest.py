"""Label databases of both kinds, the application in a process of its own, and Chromium to look
at it with."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from benchmarks.postgres_server import PostgresServer, find_postgres, postgres_server
from labeling_ui.store import Store, open_store
from pipeline.artifacts import Identity, WorkRecord, publish, temporary_folder
from pipeline.records import SampledResponse, SampleSet, write_rows

if TYPE_CHECKING:
    from playwright.sync_api import Browser

QUESTIONS = {"rude": "Is it rude?", "off_topic": "Is it off topic?"}

SERVE = """
import json, sys
from pathlib import Path
from labeling_ui.serve import serve
from pipeline.config import RunConfig
values = {"name": "demo", "data": {"tinyworld": {}}, "pretrain": {}, "label": {
    "source": "browser", "questions": {"rude": "Is it rude?", "off_topic": "Is it off topic?"},
    "instructions": "Judge how helpful each answer is.", "shared_fraction": 0}}
values["label"] |= json.loads(sys.argv[3])
port = int(sys.argv[2])
serve(RunConfig.model_validate(values), Path(sys.argv[1]), port, next_command="align run demo.yaml")
"""

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


Places = Callable[[], str]


@pytest.fixture(scope="session")
def postgres() -> Generator[PostgresServer]:
    """A PostgreSQL server; the tests that need it are skipped where there is none."""
    programs = find_postgres()
    if programs is None:
        reason = "no PostgreSQL found (Debian: apt install postgresql)"
        if os.environ.get("ALIGN_REQUIRE_POSTGRES"):
            pytest.fail(reason)
        pytest.skip(reason)
    # What the system holds survives the server: only a machine that fails would lose it.
    with postgres_server(programs, "-c", "fsync=off") as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    """Gives the path or URL of a new label database each time, on either kind of database."""
    numbers = itertools.count()
    if request.param == "sqlite":
        return lambda: str(tmp_path / f"labels-{next(numbers)}.db")
    server: PostgresServer = request.getfixturevalue("postgres")
    return lambda: server.create(f"labels_{uuid.uuid4().hex}")


@pytest.fixture
def place(new_place: Places) -> str:
    """The path or URL of a new label database, on either kind of database."""
    return new_place()


@dataclass
class Server:
    """A running application. ``link`` signs in once."""

    process: subprocess.Popen[str]
    link: str
    database: str | Path

    @property
    def origin(self) -> str:
        return self.link.partition("/enter")[0]

    @property
    def port(self) -> int:
        return int(self.origin.rpartition(":")[2])

    def store(self) -> Store:
        return open_store(self.database)

    def stop(self) -> tuple[int, str]:
        """Ctrl+C; the exit code and what was printed after the link."""
        self.process.send_signal(signal.SIGINT)
        printed, _ = self.process.communicate(timeout=30)
        return self.process.returncode, printed


def sample_set(name: str, prompt: str, texts: Sequence[str]) -> SampleSet:
    """A prompt with one response for each text; the policy must not show anywhere."""
    responses = [
        SampledResponse(
            response_id=f"planted-{name}-{index}",
            text=text,
            policy="planted-policy",
            seed=index,
            temperature=1.0,
            top_p=1.0,
            finished=True,
        )
        for index, text in enumerate(texts)
    ]
    return SampleSet(prompt_id=name, prompt=prompt, responses=responses)


def publish_samples(run_folder: Path, samples: Sequence[SampleSet]) -> None:
    """What the stage sample leaves."""
    run_folder.mkdir(parents=True)
    temporary = temporary_folder(run_folder / "samples")
    write_rows(temporary / "samples.jsonl", samples)
    identity = Identity("sample", {}, 0, {}, 1)
    publish(temporary, run_folder / "samples", identity, WorkRecord({}, "", "", 0.0, 0))


def start(folder: Path, samples: Sequence[SampleSet], **label: Any) -> Server:
    """A server on a free port, up and running; ``label``: values of that section of the config."""
    publish_samples(folder, samples)
    return serve_again(folder, 0, **label)


def serve_again(folder: Path, port: int, **label: Any) -> Server:
    """A server of a run folder that has samples, on a port that is free."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(folder), str(port), json.dumps(label)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        found = re.search(r"http://127\.0\.0\.1:\d+/enter\?token=\S+", line)
        if found:
            return Server(process, found.group(), label.get("database") or folder / "labels.db")
    raise AssertionError(f"the application did not start:\n{printed}")


class Starter(Protocol):
    """Starts a server of these samples, with ``label`` as that section of the config."""

    def __call__(self, samples: Sequence[SampleSet], **label: Any) -> Server: ...


@pytest.fixture(scope="module")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Starts servers, each with its own run folder; all end with the module."""
    running: list[Server] = []

    def starter(samples: Sequence[SampleSet], **label: Any) -> Server:
        running.append(start(tmp_path_factory.mktemp("run") / "demo", samples, **label))
        return running[-1]

    yield starter
    for server in running:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate()


@pytest.fixture(scope="module")
def chromium(browser_path: str) -> Generator[Browser]:
    """A headless Chromium that contacts nothing by itself."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()
