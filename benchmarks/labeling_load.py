"""Labelers in software, over HTTP, and the application they work on, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import httpx

from labeling_ui.serve import serve
from labeling_ui.sign_in import SignIn
from labeling_ui.store import Store
from pipeline.artifacts import Identity, WorkRecord, publish, temporary_folder
from pipeline.config import RunConfig
from pipeline.records import SampledResponse, SampleSet, write_rows

RESPONSES = 5
WORDS = 80
QUESTIONS = {f"question_{index}": f"Is it so in the sense of {index}?" for index in range(11)}
CALL = "/label/gradio_api/component_server"
RETRY_SECONDS = 0.05


# --- the application ----------------------------------------------------------------------------


@dataclass
class Application:
    """``align label`` on a run folder of made-up samples; ``database`` is a path or a URL."""

    folder: Path
    database: str
    port: int
    overlap: int
    process: ForkServerProcess | None = None

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> float:
        """Starts it; the seconds until it answers. What it imports is loaded already."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["gradio", "uvicorn", "labeling_ui.app"])
        arguments = (str(self.folder), self.database, self.port, self.overlap)
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        began = time.monotonic()
        self.process.start()
        while True:
            assert self.process.is_alive(), "the application ended"
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.origin}/healthz").status_code == 200:
                    return time.monotonic() - began
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.join()

    def peak_megabytes(self) -> float:
        """The most memory that the process had, in MB."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024

    def loads_torch(self) -> bool:
        """Whether torch's library is in the process."""
        assert self.process is not None
        return "libtorch" in Path(f"/proc/{self.process.pid}/maps").read_text()


def make_application(folder: Path, database: str, tasks: int, overlap: int) -> Application:
    """The application on a free port, not started, with a run folder of that many samples."""
    folder.mkdir(parents=True)
    temporary = temporary_folder(folder / "samples")
    write_rows(temporary / "samples.jsonl", [sample_set(index) for index in range(tasks)])
    work = WorkRecord({}, "", "", 0.0, 0)
    publish(temporary, folder / "samples", Identity("sample", {}, 0, {}, 1), work)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    return Application(folder, database, port, overlap)


def sample_set(index: int) -> SampleSet:
    """A prompt with responses of ``WORDS`` words."""
    rng = random.Random(index)
    responses = [
        SampledResponse(
            response_id=f"r{index}-{place}",
            text=" ".join(rng.choice(("fox", "owl", "lantern", "river")) for _ in range(WORDS)),
            policy="sft",
            seed=place,
            temperature=1.0,
            top_p=1.0,
            finished=True,
        )
        for place in range(RESPONSES)
    ]
    return SampleSet(prompt_id=f"p{index}", prompt=f"Prompt {index}.", responses=responses)


def _serve(folder: str, database: str, port: int, overlap: int) -> None:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    label = {
        "source": "browser",
        "database": database,
        "questions": QUESTIONS,
        "overlap": overlap,
        "shared_fraction": 0,
    }
    values = {"name": "load", "data": {"tinyworld": {}}, "pretrain": {}, "label": label}
    serve(RunConfig.model_validate(values), Path(folder), port)


# --- the labelers -------------------------------------------------------------------------------


@dataclass
class Record:
    """What labelers saw: ``acknowledged`` are (labeler, prompt), times are in seconds."""

    acknowledged: list[tuple[str, str]] = field(default_factory=list)
    submit_seconds: list[float] = field(default_factory=list)
    signed_in: int = 0
    failures: int = 0


class Labeler:
    """One labeler's browser: signs in, thinks, keeps a draft, submits, until nothing is open.

    Whatever fails is tried again, as the page does.
    """

    def __init__(
        self, origin: str, name: str, token: str, think_seconds: float, record: Record
    ) -> None:
        self._name = name
        self._token = token
        self._think_seconds = think_seconds
        self._record = record
        self._rng = random.Random(name)
        self._client = httpx.AsyncClient(base_url=origin, headers={"origin": origin}, timeout=60)
        self._component = 0

    async def work(self, most: int) -> None:
        """Judges up to ``most`` tasks."""
        async with self._client:
            await self._sign_in()
            reply = await self._call("next_task", {})
            for _ in range(most):
                while reply["task"] is None and reply["progress"]["open"]:
                    await asyncio.sleep(0.2)  # all that is open is before others
                    reply = await self._call("next_task", {})
                if reply["task"] is None:
                    return
                reply = await self._judge(reply["task"])

    async def _sign_in(self) -> None:
        await self._client.get("/enter", params={"token": self._token})
        config = (await self._client.get("/label/config")).json()
        components = [part["id"] for part in config["components"] if part["type"] == "html"]
        self._component = components[0]
        self._record.signed_in += 1

    async def _judge(self, task: dict[str, Any]) -> dict[str, Any]:
        lease, size = task["lease"], len(task["responses"])
        ratings = [self._rng.randint(1, 7) for _ in range(size)]
        await asyncio.sleep(self._rng.expovariate(2 / self._think_seconds))
        draft = {"ratings": ratings, "note": "so far"}
        fields = {"lease": lease, "page": self._name, "seq": 1, "draft": draft}
        await self._call("save_draft", fields)
        await asyncio.sleep(self._rng.expovariate(2 / self._think_seconds))
        ranks = [1 + sum(other > rating for other in ratings) for rating in ratings]
        answers = {key: [False] * size for key in QUESTIONS}
        judgment = {"ratings": ratings, "ranks": ranks, "answers": answers, "confirmed": False}
        began = time.perf_counter()
        reply = await self._call("submit_task", {"lease": lease, "seconds": 5.0, **judgment})
        if "error" in reply:
            assert reply["gone"], reply
            return await self._call("next_task", {})
        self._record.submit_seconds.append(time.perf_counter() - began)
        self._record.acknowledged.append((self._name, task["prompt"]))
        return reply

    async def _call(self, name: str, data: dict[str, Any]) -> dict[str, Any]:
        body = {
            "component_id": self._component,
            "fn_name": name,
            "data": data,
            "session_hash": self._name,
        }
        while True:
            try:
                response = await self._client.post(CALL, json=body)
                if response.status_code == 200:
                    return response.json()
                # A database that is away; anything else is a mistake of this benchmark.
                assert response.status_code >= 500, response.text
            except httpx.TransportError:
                pass
            self._record.failures += 1
            await asyncio.sleep(RETRY_SECONDS)


async def work_together(labelers: Sequence[Labeler], most: int) -> None:
    """All of them at once."""
    await asyncio.gather(*(labeler.work(most) for labeler in labelers))


def make_labelers(
    application: Application, store: Store, count: int, think_seconds: float, record: Record
) -> list[Labeler]:
    """Labelers with accounts of their own."""
    sign_in = SignIn(store, application.port)
    names = [f"labeler {index}" for index in range(count)]
    tokens = [sign_in.new_link_token(store.add_labeler(name).id) for name in names]
    return [
        Labeler(application.origin, name, token, think_seconds, record)
        for name, token in zip(names, tokens, strict=True)
    ]
