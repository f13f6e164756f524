"""Between the tables and the rows that pass between stages: conversions and checks, no queries."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from labeling_ui import tables
from pipeline.errors import UserError
from pipeline.records import Answer, RankedResponse, Ranking, SampledResponse

T = TypeVar("T")
AnyResponse = RankedResponse | SampledResponse | tables.Response


@dataclass(frozen=True)
class Task:
    """A task as one labeler sees it.

    ``responses`` are in display order: the i-th shown stands at canonical place
    ``display_order[i]``. What is submitted is in canonical order. ``lease`` is the name by which
    this labeler's browser calls the task, ``draft`` what the browser left unfinished.
    """

    lease: str
    prompt_id: str
    prompt: str
    position: int
    responses: tuple[RankedResponse, ...]
    display_order: tuple[int, ...]
    questions: Mapping[str, str]
    instructions: str
    purpose: str
    instructions_version: str | None
    draft: Mapping[str, Any] | None
    kind: str

    def canonical(self, displayed: Sequence[T]) -> list[T]:
        """Values given in display order, in canonical order.

        Raises:
            UserError: there are more or fewer values than responses.
        """
        if not isinstance(displayed, list | tuple) or len(displayed) != len(self.display_order):
            raise UserError(
                f"task {self.prompt_id}",
                f"needs one value for each of its {len(self.display_order)} responses.",
                "give as many.",
            )
        by_position = dict(zip(self.display_order, displayed, strict=True))
        return [by_position[position] for position in range(len(displayed))]

    def displayed(self, canonical: Sequence[T]) -> list[T]:
        """Values given in canonical order, in display order."""
        return [canonical[position] for position in self.display_order]


def now() -> str:
    """The time in UTC as ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


# --- identities ---------------------------------------------------------------------------------


def task_identity(
    prompt_id: str, prompt: str, responses: Sequence[AnyResponse], *, known: bool = False
) -> str:
    """A hash of all that is judged: the prompt and each response's id, text and end.

    A task whose answer is ``known`` is another one than the same responses as a task of the run.
    """
    judged = [prompt_id, prompt, [[r.response_id, r.text, r.finished] for r in responses]]
    return _digest(["known", judged] if known else judged)


def guideline_version(questions: Mapping[str, str], instructions: str, purpose: str) -> str:
    """A short hash of what labelers are told and asked, and what for."""
    return _digest([purpose, instructions, list(questions.items())])[:12]


def in_shared_pool(identity: str, fraction: float) -> bool:
    """Whether a task is among the ``fraction`` that everybody sees: the same ones every time."""
    return int(_digest(["shared", identity])[:13], 16) < fraction * 16**13


def submission_id(identity: str, pseudonym: str) -> str:
    """One id for what a labeler makes of a task, the same in every database."""
    return _digest([identity, pseudonym])[:32]


def shuffled(size: int, identity: str, pseudonym: str) -> list[int]:
    """A display order that differs between labelers and is the same for the same one."""
    return sorted(range(size), key=lambda position: _digest([identity, pseudonym, position]))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


# --- tables to rows -----------------------------------------------------------------------------


def is_whole(task: tables.Task) -> bool:
    """Whether prompt and responses are those that the task was made of."""
    known = task.kind in tables.KNOWN_KINDS
    return task.identity == task_identity(task.prompt_id, task.prompt, task.responses, known=known)


def view(task: tables.Task, assignment: tables.Assignment) -> Task:
    """The task in the order of this assignment."""
    guideline = task.guideline
    return Task(
        lease=assignment.lease,
        prompt_id=task.prompt_id,
        prompt=task.prompt,
        position=task.position,
        responses=tuple(ranked(task.responses[p]) for p in assignment.display_order),
        display_order=tuple(assignment.display_order),
        questions=guideline.questions if guideline else {},
        instructions=guideline.instructions if guideline else "",
        purpose=guideline.purpose if guideline else "training",
        instructions_version=task.guideline_version,
        draft=assignment.draft,
        kind=task.kind,
    )


def as_draft(submission: tables.Submission, display_order: Sequence[int]) -> dict[str, Any]:
    """A judgment as a draft, in display order: where its labeler goes on after taking it back."""
    shown = [submission.judgments[position] for position in display_order]
    return {
        "from": "submission",
        "ratings": [judgment.rating for judgment in shown],
        "ranks": [judgment.rank for judgment in shown],
        "answers": {key: [judgment.answers[key] for judgment in shown] for key in shown[0].answers},
        "note": submission.note,
        "confidence": submission.confidence,
        "confirmed": submission.confirmed_contradiction,
    }


def ranked(response: tables.Response) -> RankedResponse:
    """A response as it stands in a ranking."""
    return RankedResponse(
        response_id=response.response_id,
        text=response.text,
        policy=response.policy,
        finished=response.finished,
    )


# --- rows to tables -----------------------------------------------------------------------------


def new_task(
    identity: str, prompt_id: str, prompt: str, responses: Sequence[AnyResponse]
) -> tables.Task:
    """A task that is active and has no position yet."""
    return tables.Task(
        identity=identity,
        prompt_id=prompt_id,
        prompt=prompt,
        active=True,
        created_at=now(),
        responses=[
            tables.Response(
                position=position,
                response_id=r.response_id,
                text=r.text,
                policy=r.policy,
                finished=r.finished,
            )
            for position, r in enumerate(responses)
        ],
    )


def new_submission(
    row: Ranking, task_id: int, labeler_id: int, *, imported: bool = False
) -> tables.Submission:
    """A checked ranking as a row for each response below a row for the whole."""
    return tables.Submission(
        id=row.submission_id,
        task_id=task_id,
        labeler_id=labeler_id,
        imported=imported,
        confirmed_contradiction=row.confirmed_contradiction,
        confidence=row.confidence,
        note=row.note,
        seconds=row.seconds,
        display_order=row.display_order,
        instructions_version=row.instructions_version,
        created_at=row.created_at,
        judgments=[
            tables.Judgment(
                position=position,
                rating=row.ratings[position],
                rank=row.ranks[position],
                answers={question: values[position] for question, values in row.answers.items()},
            )
            for position in range(len(row.responses))
        ],
    )


# --- checks that records.Ranking does not make --------------------------------------------------


def all_answers(
    given: Mapping[str, Sequence[Answer]], questions: Mapping[str, str], size: int, where: str
) -> dict[str, list[Answer]]:
    """An answer list for every question; what is not answered is None.

    Raises:
        UserError: an answer to something that was not asked.
    """
    unknown = sorted(set(given) - set(questions))
    if unknown:
        raise UserError(where, f"no question is called {unknown[0]!r}.", "reload the page.")
    return {question: list(given.get(question, [None] * size)) for question in questions}


def short_text(value: str | None, limit: int, name: str, where: str) -> str | None:
    """The text without surrounding space, or None if nothing is left.

    Raises:
        UserError: it is no text, or longer than ``limit`` characters.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise UserError(where, f"the {name} is no text.", "write it as text.")
    if len(value) > limit:
        raise UserError(where, f"the {name} has more than {limit} characters.", "shorten it.")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError(where, f"the {name} holds half a character.", "write it anew.")
    return value.strip() or None


def duration(seconds: float | None, limit: float, where: str) -> float | None:
    """The seconds, rounded to a tenth, and no more than ``limit``.

    Raises:
        UserError: no finite number, or below 0.
    """
    if seconds is None:
        return None
    if type(seconds) not in (int, float) or not math.isfinite(seconds) or seconds < 0:
        raise UserError(where, f"seconds must be a number, got {seconds!r}.", "reload the page.")
    return round(min(float(seconds), limit), 1)
