"""The page on which answers are written, and the calls of its script; each asks who is calling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, FastAPI, HTTPException
from fastapi.requests import Request
from fastapi.responses import FileResponse, HTMLResponse

from labeling_ui import pages
from labeling_ui.demonstrations import Piece
from labeling_ui.desk import LeaseLost, Place
from labeling_ui.sign_in import SignIn
from labeling_ui.tables import Labeler
from labeling_ui.task_card import STATIC
from labeling_ui.writing_desk import WritingDesk
from pipeline.errors import UserError

Fields = dict[str, Any]
Reply = dict[str, Any]
Call = Callable[[int, Fields], Reply]
FILES = {
    "write.js": (STATIC / "write.js", "text/javascript"),
    "calls.js": (STATIC / "write_calls.js", "text/javascript"),
    "text.js": (STATIC / "card" / "text.js", "text/javascript"),
    "write.css": (STATIC / "write.css", "text/css"),
}
TABS = ("given", "own")
WRITTEN = ("response", "started_from", "prompt", "kind")


def add_write_routes(app: FastAPI, place: Place, sign_in: SignIn) -> None:
    """``/write``, and what its page loads and calls."""

    def caller(request: Request) -> int:
        user = sign_in.current_user(request)
        if user is None:
            raise HTTPException(401, "Not signed in.")
        return user

    def add_file(name: str, path: Path, media_type: str) -> None:
        @app.get(f"/write/{name}")
        def file(request: Request) -> FileResponse:
            caller(request)
            return FileResponse(path, media_type=media_type)

    def add_call(name: str, act: Call) -> None:
        @app.post(f"/write/{name}")
        def call(request: Request, data: Annotated[Any, Body()] = None) -> Reply:
            user = caller(request)
            try:
                return act(user, _object(data))
            except UserError as error:
                gone = isinstance(error, LeaseLost)
                return {"error": f"{error.problem} Please {error.fix}", "gone": gone}

    @app.get("/write")
    def page(request: Request) -> HTMLResponse:
        user = caller(request)
        with place.store.reading() as session:
            role = session.get_one(Labeler, user).role
        return HTMLResponse(_page(role))

    for name, (path, media_type) in FILES.items():
        add_file(name, path, media_type)
    for name, act in _calls(place).items():
        add_call(name, act)


def _calls(place: Place) -> dict[str, Call]:
    """What the page's script can call. After each act comes what is to be written next."""
    desk = WritingDesk(place.store, place.desk.lease_seconds)

    def following(user: int, tab: str, piece: Piece | None = None) -> Reply:
        with place.store.together():
            if piece is None:
                piece = desk.own_prompt(user) if tab == "own" else desk.next_prompt(user)
            _, open_prompts = desk.counts(user)
            shown = None if piece is None else asdict(piece)
            return {"tab": tab, "piece": shown, "open": open_prompts, **finished(user, {})}

    def finished(user: int, fields: Fields) -> Reply:
        listed, total = desk.finished(user, fields.get("after", 0))
        return {"finished": [asdict(one) for one in listed], "mine": total}

    def draft(user: int, fields: Fields) -> Reply:
        page, seq = fields.get("page", ""), fields.get("seq", 0)
        desk.save_draft(user, fields.get("id", ""), page, seq, **_written(fields))
        return {"saved": seq}

    def finish(user: int, fields: Fields) -> Reply:
        tab = _tab(fields)
        seconds = fields.get("seconds")
        desk.finish(user, fields.get("id", ""), **_written(fields), seconds=seconds)
        return following(user, tab)

    def skip(user: int, fields: Fields) -> Reply:
        tab = _tab(fields)
        desk.skip(user, fields.get("id", ""), fields.get("reason", ""))
        return following(user, tab)

    def edit(user: int, fields: Fields) -> Reply:
        piece = desk.edit(user, fields.get("id", ""))
        return following(user, "given" if piece.kind == "given" else "own", piece)

    def leave(user: int, fields: Fields) -> Reply:
        tab = _tab(fields)
        desk.leave(user, fields.get("id", ""))
        return following(user, tab)

    def withdraw(user: int, fields: Fields) -> Reply:
        tab = _tab(fields)
        desk.withdraw(user, fields.get("id", ""))
        return following(user, tab)

    return {
        "next": lambda user, fields: following(user, _tab(fields)),
        "draft": draft,
        "finish": finish,
        "skip": skip,
        "finished": finished,
        "edit": edit,
        "leave": leave,
        "withdraw": withdraw,
    }


def _object(data: Any) -> Fields:
    if not isinstance(data, dict):
        raise UserError("request", "The request is no object.", "reload the page.")
    return data


def _tab(fields: Fields) -> str:
    tab = fields.get("tab")
    if tab not in TABS:
        raise UserError("page", "There is no such tab.", "reload the page.")
    return tab


def _written(fields: Fields) -> Fields:
    return {"response": None} | {name: fields[name] for name in WRITTEN if name in fields}


def _page(role: str) -> str:
    html = (STATIC / "write.html").read_text(encoding="utf-8")
    return html.replace("{bar}", pages.nav(role, "/write"))
