"""The labeling page: one Gradio component that shows a task and takes a judgment.

The browser sees texts in display order only: no policy, no response id, no canonical place. Its
three calls come with the raw request, and who calls is decided by the session cookie alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import HTTPException

from labeling_ui.store import Store, Task
from pipeline.errors import UserError

STATIC = Path(__file__).parent / "static"

Reply = dict[str, Any]


def task_card(
    store: Store, current_user: Callable[[Any], int | None], run_name: str, next_command: str
) -> gr.HTML:
    """The component. ``next_command`` is what to run when nothing is open any more."""

    def caller(request: gr.Request) -> int:
        user = current_user(request)
        if user is None:
            raise HTTPException(401, "Not signed in.")
        return user

    def next_task(data: Any, request: gr.Request) -> Reply:
        return _next_reply(store, caller(request), run_name, next_command)

    def submit_task(data: Any, request: gr.Request) -> Reply:
        user = caller(request)
        try:
            _submit(store, user, _fields(data))
        except UserError as error:
            return {"error": f"{error.problem} Fix: {error.fix}"}
        return _next_reply(store, user, run_name, next_command)

    def skip_task(data: Any, request: gr.Request) -> Reply:
        user = caller(request)
        try:
            fields = _fields(data)
            store.skip(user, _task_id(fields), fields.get("reason", ""), fields.get("note"))
        except UserError as error:
            return {"error": f"{error.problem} Fix: {error.fix}"}
        return _next_reply(store, user, run_name, next_command)

    return gr.HTML(
        html_template=_static("task_card.html"),
        css_template=_static("task_card.css"),
        js_on_load=_static("task_card.js"),
        server_functions=[next_task, submit_task, skip_task],
        apply_default_css=False,
        elem_id="task-card",
    )


def _static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _next_reply(store: Store, user: int, run_name: str, next_command: str) -> Reply:
    task = store.next_task(user)
    progress = store.progress(people_only=True)
    return {
        "run": run_name,
        "next_command": next_command,
        "progress": {
            "done": progress.done,
            "open": progress.open,
            "skipped": progress.skipped,
        },
        "task": None if task is None else _for_browser(task),
    }


def _for_browser(task: Task) -> Reply:
    return {
        "task_id": task.task_id,
        "prompt": task.prompt,
        "responses": [response.text for response in task.responses],
        "questions": [{"key": key, "text": text} for key, text in task.questions.items()],
        "instructions": task.instructions,
    }


def _submit(store: Store, user: int, fields: dict[str, Any]) -> None:
    task = store.assigned_task(user, _task_id(fields))
    if task is None:
        raise UserError("task", "This task was not shown to you.", "reload the page.")
    answers = fields.get("answers")
    if not isinstance(answers, dict):
        raise UserError("answers", "answers are missing.", "reload the page.")
    store.submit(
        user,
        task.task_id,
        ratings=task.canonical(_list(fields.get("ratings"), "ratings")),
        ranks=task.canonical(_list(fields.get("ranks"), "ranks")),
        answers={str(key): task.canonical(_list(v, str(key))) for key, v in answers.items()},
        confirmed_contradiction=fields.get("confirmed", False),
        note=fields.get("note"),
        seconds=fields.get("seconds"),
        display_order=task.display_order,
    )


def _fields(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise UserError("request", "The request is no object.", "reload the page.")
    return data


def _task_id(fields: dict[str, Any]) -> int:
    task_id = fields.get("task_id")
    if type(task_id) is not int or not 0 < task_id < 2**63:
        raise UserError("task", "There is no such task.", "reload the page.")
    return task_id


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(name, f"{name} must be a list.", "reload the page.")
    return value
