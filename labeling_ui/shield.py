"""What stands in front of every route: host, origin, session, size of the body, headers.

Gradio serves more than labeling needs (uploads, files, a proxy, API calls) and answers foreign
origins; here only what the page uses is let through, and only to who is signed in.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from anyio import to_thread
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labeling_ui.address import check_address

MAX_BODY_BYTES = 64 * 1024
METHODS = frozenset({"GET", "HEAD", "POST"})
OPEN_PATHS = frozenset({"/healthz", "/sign-in", "/enter", "/invite", "/favicon.ico", "/pages.css"})
SIGNED_IN_PATHS = re.compile(
    r"/(people|sign-out"
    r"|write(/(next|draft|finish(ed)?|skip|edit|leave|withdraw|(write|calls|text)\.js|write\.css))?"
    r"|dashboard(/(task/[0-9a-f]{64}|dashboard\.(js|css)))?"
    r"|label(/("
    r"config|theme\.css|favicon\.ico|manifest\.json|(assets|static|svelte)/[^?]*"
    r"|gradio_api/(component_server|startup-events|info|app_id|heartbeat/[\w-]+)"
    r")?/?)?)?"
)
SCRIPTED_PATHS = re.compile(r"/(dashboard|write(/.*)?)")  # our own pages that need a script
# Gradio's page is made of inline code; our own have none.
POLICY_OF_GRADIO = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'self'; form-action 'self'; object-src 'none'"
)
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
POLICY_WITH_SCRIPT = f"{POLICY}; script-src 'self'; connect-src 'self'"
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not no-referrer: forms would come from an origin "null", which no other site is.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Shield:
    """ASGI middleware.

    Args:
        app: what is behind it.
        port: the port that the server listens on: Host and Origin must name it on loopback.
        current_user: the labeler of a request, or None.
        public_url: another address that Host and Origin may name, ``https://host[:port]``.
    """

    def __init__(
        self,
        app: ASGIApp,
        port: int,
        current_user: Callable[[HTTPConnection], int | None],
        public_url: str | None = None,
    ) -> None:
        self._app = app
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
        if port == 80:  # browsers leave the default port out
            self._hosts |= {"127.0.0.1", "localhost"}
        self._origins = {f"http://{host}" for host in self._hosts}
        self._https = False
        if public_url is not None:
            address = check_address(public_url)
            scheme, _, host = address.partition("://")
            self._hosts.add(host)
            self._origins.add(address)
            self._https = scheme == "https"
        self._current_user = current_user

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        guarded_send = _with_headers(send, scope["path"], self._https)
        refusal = await self._refusal(HTTPConnection(scope))
        body = b""
        if refusal is None and scope["method"] not in ("GET", "HEAD"):
            read = await _read_body(receive)
            if read is None:
                refusal = JSONResponse({"detail": "The request is too large or broken off."}, 413)
            else:
                body = read
        if refusal is not None:
            await refusal(scope, receive, guarded_send)
            return
        await self._app(scope, _replay(body, receive), guarded_send)

    async def _refusal(self, request: HTTPConnection) -> Response | None:
        """Why this request is not let through, as a response; None if it is."""
        headers, path, method = request.headers, request.scope["path"], request.scope["method"]
        if len(headers.getlist("host")) != 1 or headers["host"] not in self._hosts:
            return JSONResponse({"detail": "Unknown host."}, 421)
        if not self._is_our_own(headers, method):
            return JSONResponse({"detail": "Another site may not call this one."}, 403)
        if path in OPEN_PATHS and method in METHODS:
            return None
        if await to_thread.run_sync(self._current_user, request) is None:
            if "text/html" in headers.get("accept", "") and method in ("GET", "POST"):
                return RedirectResponse("/sign-in", 303)
            return JSONResponse({"detail": "Not signed in."}, 401)
        if method not in METHODS:
            return JSONResponse({"detail": "Not allowed."}, 405)
        if SIGNED_IN_PATHS.fullmatch(path) is None or ".." in path:
            return JSONResponse({"detail": "Not found."}, 404)
        return None

    def _is_our_own(self, headers: Headers, method: str) -> bool:
        """Whether a request comes from our own pages, or, if it changes nothing, from nowhere.

        A browser says where a request that changes something comes from.
        """
        origins = headers.getlist("origin")
        if origins:
            return len(origins) == 1 and origins[0] in self._origins
        return method in ("GET", "HEAD") or headers.get("sec-fetch-site") == "same-origin"


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body; None when it is longer than the limit, or broke off: half a form is none."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES or message["type"] == "http.disconnect":
            return None
        if not message.get("more_body", False):
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


def _with_headers(send: Send, path: str, https: bool) -> Send:
    """Adds our headers to each response, and takes away permissions for other sites."""
    policy = POLICY_WITH_SCRIPT if SCRIPTED_PATHS.fullmatch(path) else POLICY
    policy = POLICY_OF_GRADIO if path.startswith("/label") else policy
    headers = HEADERS | {"content-security-policy": policy}
    if https:
        headers |= {"strict-transport-security": "max-age=31536000"}
    if not path.startswith("/label/"):
        headers |= {"cache-control": "no-store"}
    names = {name.encode() for name in headers}

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [
                (name, value)
                for name, value in message.get("headers", [])
                if not name.lower().startswith(b"access-control-") and name.lower() not in names
            ]
            ours = [(name.encode(), value.encode()) for name, value in headers.items()]
            message = {**message, "headers": kept + ours}
        await send(message)

    return guarded
