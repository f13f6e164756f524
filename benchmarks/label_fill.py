"""A label database of any size, filled by bulk inserts: tasks, labelers and what they judged."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, text

from benchmarks.labeling_load import QUESTIONS, RESPONSES, WORDS
from labeling_ui import tables
from labeling_ui.rows import guideline_version, submission_id, task_identity
from labeling_ui.store import open_store
from pipeline.records import SampledResponse

LABELERS = 40
CARELESS = 7  # this labeler rates at random
JUDGES = 11  # people who judge a task of the shared pool
SHARED_TASKS = 0.04  # of the submissions: with 11 judgments each they are 44% of them
OPEN_TASKS = 0.02
GOLD_TASKS = 20
NOISE = 0.9  # of a rating, in points
FLAGGED = 0.05  # of the answers
SKIPPED = 0.01
SECONDS_APART = 10.0  # one judgment and the next
TEXTS = 500
INSTRUCTIONS = "Judge how helpful each answer is."
VERSION = guideline_version(QUESTIONS, INSTRUCTIONS, "training")

Row = dict[str, Any]


@dataclass(frozen=True)
class Filled:
    """How much was put into a database."""

    submissions: int
    skipped: int
    tasks: int
    shared: int


@dataclass(frozen=True)
class _End:
    """That a labeler judged or skipped a task, the ``number``-th of all."""

    task: int
    labeler: int
    number: int
    skipped: bool
    at: float


@dataclass(frozen=True)
class _Plan:
    """Tasks are numbered from 0, the gold ones last; labelers from 1. ``judges`` is by task."""

    identities: Sequence[str]
    judges: Sequence[Sequence[int]]
    shared: int
    began: float
    seconds: float

    def is_gold(self, task: int) -> bool:
        return task >= len(self.judges) - GOLD_TASKS

    def ends(self) -> Iterator[_End]:
        """Every end, the same ones each time."""
        number = 0
        for task, judges in enumerate(self.judges):
            for labeler in judges:
                number += 1
                skipped = not self.is_gold(task) and _chance("skip", number) < SKIPPED
                share = _chance("at", number)  # of the whole time: tasks come in any order
                yield _End(task, labeler, number, skipped, self.began + self.seconds * share)


def fill(database: str, submissions: int) -> Filled:
    """Fills a new database with about that many submissions, made until just now.

    Each is of five responses. ``SHARED_TASKS`` of them are tasks that eleven people judge, the
    others are judged once; some tasks are open, and everybody has judged the gold tasks, too.
    """
    rng = random.Random(0)
    everybody = range(1, LABELERS + 1)
    shared = max(2, round(SHARED_TASKS * submissions))
    judges: list[Sequence[int]] = [rng.sample(everybody, JUDGES) for _ in range(shared)]
    judges += [[rng.choice(everybody)] for _ in range(max(2, submissions - JUDGES * shared))]
    judges += [[] for _ in range(max(20, round(OPEN_TASKS * submissions)))]
    judges += [everybody] * GOLD_TASKS
    known = len(judges) - GOLD_TASKS
    identities = [_identity(task, task >= known) for task in range(len(judges))]
    seconds = SECONDS_APART * sum(map(len, judges))
    plan = _Plan(identities, judges, shared, time.time() - seconds, seconds)
    with closing(open_store(database)) as store:
        with store.writing() as session:
            connection = session.connection()
            for table, rows in _tables(plan):
                _insert(connection, table.__tablename__, rows)
            if connection.dialect.name == "postgresql":
                for name in ("labeler", "task", "assignment"):  # what comes next begins after these
                    query = f"SELECT setval('{name}_id_seq', (SELECT max(id) FROM {name}))"
                    connection.execute(text(query))
        with store.writing() as session:
            session.connection().execute(text("ANALYZE"))
    ends = [end.skipped for end in plan.ends() if not plan.is_gold(end.task)]
    return Filled(len(ends) - sum(ends), sum(ends), known, shared)


def _insert(connection: Connection, table: str, rows: Iterable[Row]) -> None:
    """By COPY on PostgreSQL, else by one statement for all."""
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return

    def values() -> Iterator[list[Any]]:
        yield [_plain(value) for value in first.values()]
        for row in rows:
            yield [_plain(value) for value in row.values()]

    names = ", ".join(first)
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite":
        places = ", ".join("?" * len(first))
        statement = f"INSERT INTO {table} ({names}) VALUES ({places})"
        driver.cursor().executemany(statement, values())
        return
    with driver.cursor().copy(f"COPY {table} ({names}) FROM STDIN") as copy:
        for row in values():
            copy.write_row(row)


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


# --- rows -----------------------------------------------------------------------------------------


def _tables(plan: _Plan) -> Iterator[tuple[Any, Iterator[Row]]]:
    """Each table with its rows, in an order in which they can be inserted."""
    tasks = range(len(plan.judges))
    guideline = {"version": VERSION, "purpose": "training", "instructions": INSTRUCTIONS}
    yield tables.Guideline, iter([guideline | {"questions": QUESTIONS, "created_at": _iso(0)}])
    yield tables.Labeler, map(_labeler, range(1, LABELERS + 1))
    yield tables.Task, (_task(plan, task) for task in tasks)
    yield tables.Response, (row for task in tasks for row in _responses(task))
    yield tables.KnownAnswer, (_known(task) for task in tasks if plan.is_gold(task))
    judged = (end for end in plan.ends() if not end.skipped)
    yield tables.Submission, (_submission(plan, end) for end in judged)
    judged = (end for end in plan.ends() if not end.skipped)
    yield tables.Judgment, (row for end in judged for row in _judgments(plan, end))
    yield tables.SkippedTask, (_skip(plan, end) for end in plan.ends() if end.skipped)
    yield tables.Assignment, map(_assignment, plan.ends())


def _chance(*seed: Any) -> float:
    return random.Random(" ".join(map(str, seed))).random()


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _pseudonym(labeler: int) -> str:
    return f"labeler-{labeler:04x}"


def _labeler(number: int) -> Row:
    row = {"id": number, "name": f"labeler {number}", "pseudonym": _pseudonym(number)}
    row |= {"role": "labeler", "scripted": False, "active": True, "disabled": False}
    return row | {"practiced_at": _iso(0), "created_at": _iso(0)}


def _prompt(task: int) -> str:
    return f"Prompt {task}: write a story about a fox and a lantern."


@cache
def _texts() -> list[str]:
    rng, words = random.Random(0), ("fox", "owl", "lantern", "river", "mill", "snow")
    return [" ".join(rng.choices(words, k=WORDS)) for _ in range(TEXTS)]


def _responses(task: int) -> list[Row]:
    names = [f"r{task}-{place}" for place in range(RESPONSES)]
    return [
        {
            "task_id": task + 1,
            "position": place,
            "response_id": name,
            "text": f"{name} {_texts()[(7 * task + 101 * place) % TEXTS]}",
            "policy": "sft",
            "finished": True,
        }
        for place, name in enumerate(names)
    ]


def _identity(task: int, known: bool) -> str:
    kept = ("response_id", "text", "finished")
    responses = [
        SampledResponse.model_construct(**{name: row[name] for name in kept})
        for row in _responses(task)
    ]
    return task_identity(f"p{task}", _prompt(task), responses, known=known)


def _task(plan: _Plan, task: int) -> Row:
    gold, judges = plan.is_gold(task), len(plan.judges[task])
    row = {"id": task + 1, "identity": plan.identities[task], "prompt_id": f"p{task}"}
    row |= {"prompt": _prompt(task), "position": task, "kind": "gold" if gold else "sampled"}
    row |= {"round": 1, "active": True, "priority": 0, "overlap": max(1, judges)}
    row |= {"shared": gold or task < plan.shared, "judged": judges, "skipped": 0}
    return row | {"guideline_version": VERSION, "created_at": _iso(0)}


def _ratings(task: int, labeler: int, noise: float) -> list[int]:
    truth, rng = random.Random(f"truth {task}"), random.Random(f"rating {task} {labeler}")
    values = [truth.gauss(4, 1.4) + rng.gauss(0, noise) for _ in range(RESPONSES)]
    if labeler == CARELESS:
        values = [rng.uniform(1, 7) for _ in values]
    return [min(7, max(1, round(value))) for value in values]


def _ranks(ratings: Sequence[int]) -> list[int]:
    better = sorted(set(ratings), reverse=True)
    return [1 + better.index(rating) for rating in ratings]


def _known(task: int) -> Row:
    ratings = _ratings(task, 0, 0.0)
    row = {"task_id": task + 1, "ratings": ratings, "ranks": _ranks(ratings), "answers": {}}
    return row | {"why": "As the instructions say."}


def _name(plan: _Plan, end: _End) -> str:
    return submission_id(plan.identities[end.task], _pseudonym(end.labeler))


def _order(end: _End) -> list[int]:
    return random.Random(f"order {end.number}").sample(range(RESPONSES), RESPONSES)


def _submission(plan: _Plan, end: _End) -> Row:
    seconds = random.Random(f"time {end.number}").lognormvariate(4.2, 0.5)
    row = {"id": _name(plan, end), "task_id": end.task + 1, "labeler_id": end.labeler}
    row |= {"imported": False, "confirmed_contradiction": False, "confidence": None, "note": None}
    row |= {"seconds": round(seconds, 1), "display_order": _order(end)}
    return row | {"instructions_version": VERSION, "created_at": _iso(end.at)}


def _judgments(plan: _Plan, end: _End) -> Iterator[Row]:
    rng, name = random.Random(f"answers {end.number}"), _name(plan, end)
    ratings = _ratings(end.task, end.labeler, NOISE)
    for place, (rating, rank) in enumerate(zip(ratings, _ranks(ratings), strict=True)):
        answers = {question: rng.random() < FLAGGED for question in QUESTIONS}
        row = {"submission_id": name, "position": place, "rating": rating, "rank": rank}
        yield row | {"answers": answers}


def _skip(plan: _Plan, end: _End) -> Row:
    row = {"id": _name(plan, end), "task_id": end.task + 1, "labeler_id": end.labeler}
    return row | {"reason": "unclear prompt", "note": None, "created_at": _iso(end.at)}


def _assignment(end: _End) -> Row:
    row = {"id": end.number, "task_id": end.task + 1, "labeler_id": end.labeler}
    row |= {"display_order": _order(end), "lease": f"lease-{end.number}", "leased_at": end.at - 60}
    row |= {"expires_at": end.at, "ended_at": end.at, "draft": None, "draft_page": None}
    return row | {"draft_seq": 0, "created_at": _iso(end.at)}
