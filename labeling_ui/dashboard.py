"""The lead's dashboard: its routes, and when its figures are computed anew."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI
from fastapi.requests import Request
from fastapi.responses import FileResponse, HTMLResponse, Response

from labeling_ui import pages
from labeling_ui.dashboard_page import dashboard_page
from labeling_ui.dashboard_progress import read_overview
from labeling_ui.dashboard_quality import Quality, read_quality, read_stamp
from labeling_ui.dashboard_task import read_task, task_page
from labeling_ui.desk import Place
from labeling_ui.sign_in import SignIn
from labeling_ui.store import Store
from labeling_ui.task_card import STATIC

AT_ONCE = 2  # pages of leads that are made at once; others wait, and take no thread from labelers
LEAST_SECONDS = 4.0  # between two computations
REST = 9  # times as long as a computation took, no other begins: labelers need the processor, too
FILES = {"dashboard.css": "text/css", "dashboard.js": "text/javascript"}


class Board:
    """The measures of quality as they were computed last. Safe in threads.

    Args:
        store: where the judgments are; nothing is written.
        clock: seconds since any moment.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._computing = threading.Lock()
        self._stamp: object = None
        self._again_at = 0.0
        self._last: Quality | None = None

    def quality(self) -> Quality:
        """The measures; anew when the judgments have changed and the last time is not just past.

        Who asks while another computes gets the last ones, or waits where there are none yet.
        """
        if not self._computing.acquire(blocking=self._last is None):
            assert self._last is not None
            return self._last
        try:
            if self._last is None or self._clock() >= self._again_at:
                self._last = self._computed(self._last)
            return self._last
        finally:
            self._computing.release()

    def _computed(self, last: Quality | None) -> Quality:
        began = self._clock()
        stamp = read_stamp(self._store)
        if last is None or stamp != self._stamp:
            last, self._stamp = read_quality(self._store), stamp
        now = self._clock()
        self._again_at = now + max(LEAST_SECONDS, REST * (now - began))
        return last


def add_dashboard_routes(app: FastAPI, place: Place, sign_in: SignIn) -> None:
    """``/dashboard`` and what belongs to it; each asks who is calling."""
    board, few = Board(place.store), CapacityLimiter(AT_ONCE)

    def role_of(request: Request) -> str | None:
        labeler = sign_in.labeler(request)
        return labeler.role if labeler and labeler.role in ("lead", "admin") else None

    def show(request: Request) -> Response:
        role = role_of(request)
        if role is None:
            return HTMLResponse(pages.forbidden(), 403)
        now = time.time()
        quality = board.quality()
        return HTMLResponse(
            dashboard_page(read_overview(place.store, now), quality, place.run_name, role, now)
        )

    def show_task(request: Request, identity: str) -> Response:
        role = role_of(request)
        if role is None:
            return HTMLResponse(pages.forbidden(), 403)
        with place.store.reading() as session:
            task = read_task(session, identity)
        if task is None:
            return HTMLResponse(pages.no_such_task(role), 404)
        return HTMLResponse(task_page(task, role))

    @app.get("/dashboard")
    async def dashboard(request: Request) -> Response:
        return await to_thread.run_sync(show, request, limiter=few)

    @app.get("/dashboard/task/{identity}")
    async def one_task(request: Request, identity: str) -> Response:
        return await to_thread.run_sync(show_task, request, identity, limiter=few)

    def add_file(name: str, media_type: str) -> None:
        @app.get(f"/dashboard/{name}")
        def file() -> FileResponse:
            return FileResponse(STATIC / name, media_type=media_type)

    for name, media_type in FILES.items():
        add_file(name, media_type)
