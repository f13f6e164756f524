"""The web application: FastAPI with its own sign-in, and the task card mounted below ``/label``."""

from __future__ import annotations

import warnings
from typing import Any

import gradio as gr
from fastapi import FastAPI
from fastapi.requests import Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response

from labeling_ui import pages
from labeling_ui.desk import Desk
from labeling_ui.shield import Shield
from labeling_ui.sign_in import SignIn
from labeling_ui.store import Store
from labeling_ui.task_card import STATIC, Place, task_card


def create_app(
    store: Store, desk: Desk, sign_in: SignIn, port: int, run_name: str, next_command: str
) -> Any:
    """The ASGI application for one run on ``127.0.0.1:port``, shielded."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/healthz")
    def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @app.get("/favicon.ico")
    def icon() -> FileResponse:
        return FileResponse(STATIC / "icon.svg", media_type="image/svg+xml")

    @app.get("/")
    def home() -> Response:
        return RedirectResponse("/label/", 303)

    @app.get("/enter")
    def enter(request: Request, token: str = "") -> Response:
        sid = sign_in.redeem(token)  # used up even where a session exists: it works once
        if sid is None:
            if sign_in.current_user(request) is not None:
                return HTMLResponse(pages.entering())
            return HTMLResponse(pages.link_refused(), 403)
        response = HTMLResponse(pages.entering())
        sign_in.set_cookie(response, sid)
        return response

    def user_name(request: Request) -> str | None:
        user = sign_in.current_user(request)
        return None if user is None else str(user)

    with gr.Blocks(title="Labeling", analytics_enabled=False) as blocks:
        task_card(Place(store, desk, run_name, next_command), sign_in.current_user)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gr.mount_gradio_app(
            app,
            blocks,
            path="/label",
            server_name="127.0.0.1",
            server_port=port,
            auth_dependency=user_name,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            enable_monitoring=False,
            show_error=False,
            max_file_size=0,
            head=(STATIC / "head.html").read_text(encoding="utf-8"),
        )
    return Shield(app, port, sign_in.current_user)
