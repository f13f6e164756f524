"""One task as leads see it: prompt and responses verbatim, what each labeler said of them.

Leads label, too: neither policies nor response ids are shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeling_ui import pages
from labeling_ui.tables import KnownAnswer, Labeler, SkippedTask, Submission, Task

# As in static/card/text.js: what could reorder or hide text.
_CONTROL = re.compile(
    "[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\U000e0000-\U000e007f]"
)
_KINDS = {
    "sampled": "",
    "imported": "Came with its judgments from a file.",
    "practice": "Practice: its answer is known, and it is not counted.",
    "gold": "Gold: its answer is known, and it is not counted.",
}
HEAD = '<link rel="stylesheet" href="/dashboard/dashboard.css">'


@dataclass(frozen=True)
class Said:
    """What one labeler says of a task, by canonical place; with no ``name``, what is known of it.

    ``answers`` are the questions answered with yes.
    """

    name: str | None
    about: str
    ratings: Sequence[int]
    ranks: Sequence[int]
    answers: Sequence[Sequence[str]]
    note: str | None


@dataclass(frozen=True)
class TaskSeen:
    """A task with all that was said of it."""

    prompt_id: str
    prompt: str
    texts: Sequence[str]
    facts: Sequence[str]
    said: Sequence[Said]
    skips: Sequence[tuple[str, str, str | None]]


def verbatim(text: str) -> str:
    """The text as HTML that shows every character: those that act or hide are named by number."""
    return "".join(
        _named(part) if _CONTROL.fullmatch(part) else escape(part).replace("\r", "&#13;")
        for part in re.split(f"({_CONTROL.pattern})", text)
    )


def _named(character: str) -> str:
    code = f"U+{ord(character):04X}"
    kept = "" if character == "\0" else character  # HTML has no NUL
    return f'<bdi class="control" data-code="{code}" title="{code}">{kept}</bdi>'


def letter(place: int) -> str:
    """A, B, … for the first response, the second, …"""
    return chr(ord("A") + place) if place < 26 else str(place + 1)


# --- reading --------------------------------------------------------------------------------------


def read_task(session: Session, identity: str) -> TaskSeen | None:
    """The task of that identity with what active labelers said of it; None if there is none."""
    task = session.scalar(select(Task).where(Task.identity == identity))
    if task is None:
        return None
    questions = task.guideline.questions if task.guideline else {}
    query = select(Submission).join(Submission.labeler).where(Submission.task_id == task.id)
    query = query.where(Labeler.active).order_by(Labeler.name)
    said = [_said(submission, questions) for submission in session.scalars(query)]
    known = session.get(KnownAnswer, task.id)
    if known is not None:
        said.insert(0, _known(known, questions))
    skips = select(Labeler.name, SkippedTask.reason, SkippedTask.note).join(SkippedTask.labeler)
    skips = skips.where(SkippedTask.task_id == task.id, Labeler.active).order_by(Labeler.name)
    return TaskSeen(
        prompt_id=task.prompt_id,
        prompt=task.prompt,
        texts=[response.text for response in task.responses],
        facts=_facts(task),
        said=said,
        skips=list(session.execute(skips).tuples()),
    )


def _facts(task: Task) -> list[str]:
    facts = [_KINDS[task.kind]]
    if task.kind == "sampled":
        facts.append(f"{task.judged} judged it, {task.overlap} needed.")
        facts.append("Everybody gets it." if task.shared else "")
    facts.append("" if task.active else "Belongs to earlier samples: it is not counted.")
    return [fact for fact in facts if fact]


def _said(submission: Submission, questions: Mapping[str, str]) -> Said:
    judgments = submission.judgments
    about = [submission.labeler.pseudonym]
    about += [f"{submission.seconds:.0f} s"] if submission.seconds is not None else []
    about += [f"{submission.confidence} confidence"] if submission.confidence else []
    about += ["confirmed a contradiction"] if submission.confirmed_contradiction else []
    return Said(
        name=submission.labeler.name,
        about=" · ".join(about),
        ratings=[judgment.rating for judgment in judgments],
        ranks=[judgment.rank for judgment in judgments],
        answers=[_flags(judgment.answers, questions) for judgment in judgments],
        note=submission.note,
    )


def _known(known: KnownAnswer, questions: Mapping[str, str]) -> Said:
    by_place = [
        {question: values[place] for question, values in known.answers.items()}
        for place in range(len(known.ratings))
    ]
    flags = [_flags(answers, questions) for answers in by_place]
    return Said(None, "", known.ratings, known.ranks, flags, known.why)


def _flags(answers: Mapping[str, Any], questions: Mapping[str, str]) -> list[str]:
    return [questions.get(key, key) for key, answer in answers.items() if answer is True]


# --- the page -------------------------------------------------------------------------------------


def task_page(task: TaskSeen, role: str) -> str:
    """The whole page."""
    columns = "".join(f'<th scope="col">{letter(i)}</th>' for i in range(len(task.texts)))
    texts = "".join(f'<td><pre dir="auto">{verbatim(text)}</pre></td>' for text in task.texts)
    said = "".join(map(_said_rows, task.said)) or _nobody(len(task.texts))
    body = f"""<p><a href="/dashboard">Back to the dashboard</a></p>
<p class="soft">{escape(" ".join(task.facts))}</p>
<h2>Prompt</h2><pre class="prompt" dir="auto">{verbatim(task.prompt)}</pre>
<h2>Responses and what was said of them</h2>
<div class="scroll" tabindex="0" role="region" aria-label="Responses and judgments">
<table class="sides"><tr><th scope="col">By</th>{columns}</tr>
<tr class="texts"><th scope="row">Response</th>{texts}</tr>{_summary(task)}{said}</table></div>
{_skips(task)}"""
    title = f"Task {_CONTROL.sub('�', task.prompt_id)}"
    return pages.page(title, body, HEAD, "full", pages.nav(role, ""))


def _nobody(width: int) -> str:
    return f'<tr><td colspan="{width + 1}">Nobody has judged this task yet.</td></tr>'


def _summary(task: TaskSeen) -> str:
    """The mean of the ratings of each response and how far they lie apart."""
    people = [said.ratings for said in task.said if said.name is not None]
    if len(people) < 2:
        return ""
    cells = "".join(
        f"<td><b>{sum(ratings) / len(ratings):.1f}</b> mean, {min(ratings)} to {max(ratings)}</td>"
        for ratings in zip(*people, strict=True)
    )
    return f'<tr class="summary"><th scope="row">All {len(people)}</th>{cells}</tr>'


def _said_rows(said: Said) -> str:
    cells = "".join(
        f"<td><b>{rating}</b> of 7, rank {rank}{_flag_list(flags)}</td>"
        for rating, rank, flags in zip(said.ratings, said.ranks, said.answers, strict=True)
    )
    about = f"<small>{escape(said.about)}</small>" if said.about else ""
    row = f'<tr><th scope="row">{verbatim(said.name or "Known answer")}{about}</th>{cells}</tr>'
    if not said.note:
        return row
    note = f'<td colspan="{len(said.ratings)}"><pre dir="auto">{verbatim(said.note)}</pre></td>'
    return f'{row}<tr class="note"><th scope="row">Note</th>{note}</tr>'


def _flag_list(flags: Sequence[str]) -> str:
    if not flags:
        return ""
    return "<ul>" + "".join(f"<li>{verbatim(flag)}</li>" for flag in flags) + "</ul>"


def _skips(task: TaskSeen) -> str:
    if not task.skips:
        return ""
    items = "".join(
        f"<li>{verbatim(name)}: {verbatim(reason)}{': ' + verbatim(note) if note else ''}</li>"
        for name, reason, note in task.skips
    )
    return f"<h2>Skipped by</h2><ul>{items}</ul>"
