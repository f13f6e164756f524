"""The labeling page: one Gradio component that shows a task and takes a judgment.

The browser sees texts in display order only: no policy, no response id, no canonical place. Its
calls come with the raw request, and who calls is decided by the session cookie alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import HTTPException

from labeling_ui import known_tasks
from labeling_ui.desk import Desk, LeaseLost, Place
from labeling_ui.store import Task
from labeling_ui.tables import Labeler
from pipeline.errors import UserError

STATIC = Path(__file__).parent / "static"
# Run as one, in this order.
SCRIPTS = ("text.js", "main.js", "ranking.js", "calls.js", "feedback.js", "start.js")

Reply = dict[str, Any]


def task_card(place: Place, current_user: Callable[[Any], int | None]) -> gr.HTML:
    """The component."""

    def caller(request: gr.Request) -> int:
        user = current_user(request)
        if user is None:
            raise HTTPException(401, "Not signed in.")
        return user

    def next_task(data: Any, request: gr.Request) -> Reply:
        user = caller(request)
        return _answer(lambda: _next_reply(place, user))

    def save_draft(data: Any, request: gr.Request) -> Reply:
        user = caller(request)

        def save() -> Reply:
            fields = _fields(data)
            lease, page, seq = (fields.get(name) for name in ("lease", "page", "seq"))
            place.desk.save_draft(user, lease, page, seq, fields.get("draft"))  # type: ignore[arg-type]
            return {"saved": seq}

        return _answer(save)

    def submit_task(data: Any, request: gr.Request) -> Reply:
        user = caller(request)

        def submit() -> Reply:
            fields = _fields(data)
            with place.store.together():
                _submit(place.desk, user, fields)
                told = place.desk.feedback(user, fields["lease"])
            return _next_reply(place, user) | {"feedback": told and vars(told)}

        return _answer(submit)

    def skip_task(data: Any, request: gr.Request) -> Reply:
        user = caller(request)

        def skip() -> Reply:
            fields = _fields(data)
            reason, note = fields.get("reason", ""), fields.get("note")
            place.desk.skip(user, fields.get("lease", ""), reason, note)
            return _next_reply(place, user)

        return _answer(skip)

    def undo(data: Any, request: gr.Request) -> Reply:
        user = caller(request)

        def take_back() -> Reply:
            place.desk.undo(user)
            return _next_reply(place, user)

        return _answer(take_back)

    return gr.HTML(
        html_template=_static("card.html"),
        css_template=_static("card.css"),
        js_on_load="\n".join(map(_static, SCRIPTS)),
        server_functions=[next_task, save_draft, submit_task, skip_task, undo],
        apply_default_css=False,
        elem_id="task-card",
    )


def _answer(act: Callable[[], Reply]) -> Reply:
    """What an act replies; what a labeler did wrong becomes a text for them."""
    try:
        return act()
    except UserError as error:
        gone = isinstance(error, LeaseLost)
        return {"error": f"{error.problem} Fix: {error.fix}", "gone": gone}


def _static(name: str) -> str:
    return (STATIC / "card" / name).read_text(encoding="utf-8")


def _next_reply(place: Place, user: int) -> Reply:
    task = place.desk.next_task(user)
    with place.store.seeing():
        progress = place.progress()
        mine, can_undo = place.store.judged_by(user), place.desk.can_undo(user)
        with place.store.reading() as session:
            labeler = session.get_one(Labeler, user)
            # As long as there is a task, gold ones are counted as what they look like.
            gold = (0, 0) if task is None else known_tasks.gold_progress(session, user)
            practice = None
            if task is not None and task.kind == "practice":
                practice = known_tasks.practice_place(session, labeler)
    return {
        "run": place.run_name,
        "next_command": None if labeler.role == "labeler" else place.next_command,
        "user": labeler.name,
        "role": labeler.role,
        "progress": {
            "done": progress.done + gold[0],
            "open": progress.open + gold[1],
            "skipped": progress.skipped,
            "mine": mine,
        },
        "can_undo": can_undo,
        "practice": practice,
        "task": None if task is None else _for_browser(task),
    }


def _for_browser(task: Task) -> Reply:
    return {
        "lease": task.lease,
        "prompt": task.prompt,
        "responses": [response.text for response in task.responses],
        "questions": [{"key": key, "text": text} for key, text in task.questions.items()],
        "instructions": task.instructions,
        "purpose": task.purpose,
        "version": task.instructions_version,
        "draft": task.draft,
    }


def _submit(desk: Desk, user: int, fields: dict[str, Any]) -> None:
    answers = fields.get("answers")
    if not isinstance(answers, dict):
        raise UserError("answers", "answers are missing.", "reload the page.")
    desk.submit(
        user,
        fields.get("lease", ""),
        ratings=fields.get("ratings", []),
        ranks=fields.get("ranks", []),
        answers=answers,
        confirmed_contradiction=fields.get("confirmed", False),
        note=fields.get("note"),
        confidence=fields.get("confidence"),
        seconds=fields.get("seconds"),
    )


def _fields(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise UserError("request", "The request is no object.", "reload the page.")
    return data
