"""What stands in front of every route: host, origin, session, size of the body, headers.

Gradio serves more than labeling needs (uploads, files, a proxy, API calls) and answers foreign
origins; here only what the page uses is let through, and only to who is signed in.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from anyio import to_thread
from fastapi.requests import HTTPConnection
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labeling_ui import pages

MAX_BODY_BYTES = 64 * 1024
OPEN_PATHS = frozenset({"/healthz", "/enter", "/favicon.ico"})
SIGNED_IN_PATHS = re.compile(
    r"/(label(/("
    r"config|theme\.css|favicon\.ico|manifest\.json|(assets|static|svelte)/[^?]*"
    r"|gradio_api/(component_server|startup-events|info|app_id|heartbeat/[\w-]+)"
    r")?/?)?)?"
)
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; "
        "frame-ancestors 'none'; base-uri 'self'; form-action 'self'; object-src 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Shield:
    """ASGI middleware.

    Args:
        app: what is behind it.
        port: the port that the server listens on: Host and Origin must name it on loopback.
        current_user: the labeler of a request, or None.
    """

    def __init__(
        self, app: ASGIApp, port: int, current_user: Callable[[HTTPConnection], int | None]
    ) -> None:
        self._app = app
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
        if port == 80:  # browsers leave the default port out
            self._hosts |= {"127.0.0.1", "localhost"}
        self._origins = {f"http://{host}" for host in self._hosts}
        self._current_user = current_user

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        guarded_send = _with_headers(send)
        refusal = await self._refusal(HTTPConnection(scope))
        body = b""
        if refusal is None and scope["method"] not in ("GET", "HEAD"):
            read = await _read_body(receive)
            if read is None:
                refusal = JSONResponse({"detail": "The request is too large."}, 413)
            else:
                body = read
        if refusal is not None:
            await refusal(scope, receive, guarded_send)
            return
        await self._app(scope, _replay(body, receive), guarded_send)

    async def _refusal(self, request: HTTPConnection) -> Response | None:
        """Why this request is not let through, as a response; None if it is."""
        headers, path = request.headers, request.scope["path"]
        if headers.get("host") not in self._hosts:
            return JSONResponse({"detail": "Unknown host."}, 421)
        if headers.get("origin", next(iter(self._origins))) not in self._origins:
            return JSONResponse({"detail": "Another site may not call this one."}, 403)
        if path in OPEN_PATHS:
            return None
        if await to_thread.run_sync(self._current_user, request) is None:
            if "text/html" in headers.get("accept", ""):
                return HTMLResponse(pages.signed_out(), 401)
            return JSONResponse({"detail": "Not signed in."}, 401)
        if SIGNED_IN_PATHS.fullmatch(path) is None or ".." in path:
            return JSONResponse({"detail": "Not found."}, 404)
        return None


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body, or None when it is longer than the limit."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return body


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read to who comes next, then what really arrives."""
    given = False

    async def replaying() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replaying


def _with_headers(send: Send) -> Send:
    """Adds our headers to each response, and takes away permissions for other sites."""
    names = {name.encode() for name in HEADERS}

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [
                (name, value)
                for name, value in message.get("headers", [])
                if not name.lower().startswith(b"access-control-") and name.lower() not in names
            ]
            ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": kept + ours}
        await send(message)

    return guarded
