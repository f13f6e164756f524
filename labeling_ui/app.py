"""The web application: FastAPI with its own sign-in, and the task card mounted below ``/label``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Annotated, Any

import gradio as gr
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Form
from fastapi.requests import Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response

from labeling_ui import pages
from labeling_ui.accounts import Accounts, Role, invitations_at
from labeling_ui.dashboard import add_dashboard_routes
from labeling_ui.desk import Place
from labeling_ui.shield import Shield
from labeling_ui.sign_in import SignIn
from labeling_ui.tables import Labeler
from labeling_ui.task_card import STATIC, task_card
from labeling_ui.throttle import Throttled
from labeling_ui.write_page import add_write_routes
from pipeline.errors import UserError

Field = Annotated[str, Form()]
SIGN_INS_AT_ONCE = 4  # the others wait, and take no thread from who is labeling


def create_app(place: Place, sign_in: SignIn, port: int, public_url: str | None = None) -> Any:
    """The ASGI application for one run on ``127.0.0.1:port``, shielded.

    Args:
        public_url: the address by which people reach it through a proxy, if it is another one.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _add_plain_routes(app)
    few = CapacityLimiter(SIGN_INS_AT_ONCE)
    _add_sign_in_routes(app, sign_in, few)
    _add_link_routes(app, sign_in, few)
    _add_people_routes(app, sign_in, public_url)
    add_write_routes(app, place, sign_in)
    add_dashboard_routes(app, place, sign_in)
    _mount_task_card(app, place, sign_in, port)
    return Shield(app, port, sign_in.current_user, public_url)


def _add_plain_routes(app: FastAPI) -> None:
    @app.get("/healthz")
    def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @app.get("/favicon.ico")
    def icon() -> FileResponse:
        return FileResponse(STATIC / "icon.svg", media_type="image/svg+xml")

    @app.get("/pages.css")
    def style() -> FileResponse:
        return FileResponse(STATIC / "pages.css", media_type="text/css")

    @app.get("/")
    def home() -> Response:
        return RedirectResponse("/label/", 303)


def _add_sign_in_routes(app: FastAPI, sign_in: SignIn, few: CapacityLimiter) -> None:
    accounts = sign_in.accounts

    @app.get("/sign-in")
    def sign_in_page(request: Request) -> Response:
        if sign_in.current_user(request) is not None:
            return RedirectResponse("/label/", 303)
        return HTMLResponse(pages.sign_in())

    def sign_in_by(request: Request, name: str, password: str) -> Response:
        address = request.client.host if request.client else ""
        try:
            sid = accounts.sign_in(name, password, address)
        except Throttled as error:
            problem = f"{error.problem} Please {error.fix}"
            return HTMLResponse(pages.sign_in(name, problem), 429)
        if sid is None:
            problem = "This name and this password do not belong together."
            return HTMLResponse(pages.sign_in(name, problem), 401)
        return sign_in.let_in(request, RedirectResponse("/label/", 303), sid)

    @app.post("/sign-in")
    async def sign_in_form(request: Request, name: Field = "", password: Field = "") -> Response:
        return await to_thread.run_sync(sign_in_by, request, name, password, limiter=few)

    @app.post("/sign-out")
    def sign_out(request: Request) -> Response:
        return sign_in.let_out(request, RedirectResponse("/sign-in", 303))


def _add_link_routes(app: FastAPI, sign_in: SignIn, few: CapacityLimiter) -> None:
    accounts = sign_in.accounts

    def entered(request: Request, sid: str | None) -> Response:
        if sid is None:
            if sign_in.current_user(request) is not None:  # the same link once more
                return HTMLResponse(pages.entering())
            return HTMLResponse(pages.link_refused(), 403)
        return sign_in.let_in(request, HTMLResponse(pages.entering()), sid)

    def choose(request: Request, token: str, password: str) -> Response:
        try:
            return entered(request, accounts.choose_password(token, password))
        except UserError as error:
            name = accounts.invited(token) or ""
            problem = f"{error.problem} Please {error.fix}"
            return HTMLResponse(pages.invite(token, name, problem), 422)

    @app.get("/enter")
    def enter(request: Request, token: str = "") -> Response:
        if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return HTMLResponse(pages.confirm_enter(token))
        return entered(request, accounts.enter(token))

    @app.post("/enter")
    def enter_form(request: Request, token: Field = "") -> Response:
        return entered(request, accounts.enter(token))

    @app.get("/invite")
    def invite(token: str = "") -> Response:
        name = accounts.invited(token)
        if name is None:
            return HTMLResponse(pages.link_refused(), 403)
        return HTMLResponse(pages.invite(token, name))

    @app.post("/invite")
    async def invite_form(request: Request, token: Field = "", password: Field = "") -> Response:
        return await to_thread.run_sync(choose, request, token, password, limiter=few)


def _add_people_routes(app: FastAPI, sign_in: SignIn, public_url: str | None) -> None:
    accounts = sign_in.accounts

    def caller(request: Request, *roles: Role) -> Labeler | None:
        labeler = sign_in.labeler(request)
        return labeler if labeler is not None and labeler.role in roles else None

    @app.get("/people")
    def people(request: Request) -> Response:
        labeler = caller(request, "lead", "admin")
        if labeler is None:
            return HTMLResponse(pages.forbidden(), 403)
        return HTMLResponse(pages.people(accounts.list(), labeler.role == "admin"))

    @app.post("/people")
    def change(
        request: Request, action: Field = "", name: Field = "", role: Field = "labeler"
    ) -> Response:
        admin = caller(request, "admin")
        if admin is None:
            return HTMLResponse(pages.forbidden(), 403)
        try:
            token = _change(accounts, admin, action, name, role)
        except UserError as error:
            problem = f"{error.where}: {error.problem} Please {error.fix}"
            return HTMLResponse(pages.people(accounts.list(), True, None, problem), 422)
        # A proxy comes by http, even where people come by https.
        link_of = invitations_at(public_url or str(request.base_url))
        link = None if token is None else (name.strip(), link_of(token))
        return HTMLResponse(pages.people(accounts.list(), True, link))


def _change(accounts: Accounts, admin: Labeler, action: str, name: str, role: str) -> str | None:
    """Does what an admin asks for; the token of the link that came of it, if one did.

    Raises:
        UserError: it cannot be done.
    """
    links: dict[str, Callable[[], str]] = {
        "add": lambda: accounts.add(name, role, admin.id),
        "reset": lambda: accounts.reset(name, admin.id),
    }
    others: dict[str, Callable[[], None]] = {
        "disable": lambda: accounts.disable(name, admin.id),
        "enable": lambda: accounts.enable(name, admin.id),
        "role": lambda: accounts.set_role(name, role, admin.id),
    }
    if action in links:
        return links[action]()
    if action not in others:
        raise UserError("people", "There is no such action.", "go back.")
    others[action]()
    return None


def _mount_task_card(app: FastAPI, place: Place, sign_in: SignIn, port: int) -> None:
    def user_name(request: Request) -> str | None:
        user = sign_in.current_user(request)
        return None if user is None else str(user)

    with gr.Blocks(title="Labeling", analytics_enabled=False) as blocks:
        task_card(place, sign_in.current_user)
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
