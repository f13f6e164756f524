"""Judgments as columns against the rows that are exported."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from labeling_ui.desk import Desk
from labeling_ui.judgments import read_judgments
from labeling_ui.store import Store, open_store
from labeling_ui.tables import KnownAnswer, Labeler, Submission, Task
from pipeline.judgments import Judgments, of_submissions
from pipeline.records import RankedResponse, Ranking
from tests.labeling_ui.judging import QUESTIONS, filled, judge, sample_set, shown

Rows = list[dict[str, Any]]


def rows_of(judgments: Judgments) -> Rows:
    """A row for each judged response, in the order of the columns; NaN is None."""

    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and math.isnan(value) else value

    j = judgments
    rows = []
    for n, s in enumerate(j.submission.tolist()):
        row = {
            "task": j.tasks[int(j.task[s])],
            "labeler": j.labelers[int(j.labeler[s])],
            "at": j.at[s].item(),
            "seconds": j.seconds[s].item(),
            "contradicts": bool(j.contradicts[s]),
            "response": int(j.response[n]),
            "shown_at": j.shown_at[n].item(),
            "rating": int(j.rating[n]),
            "rank": int(j.rank[n]),
            "known_rating": j.known_rating[n].item(),
            "known_rank": j.known_rank[n].item(),
        }
        row |= {question: values[n].item() for question, values in j.answers.items()}
        rows.append({name: plain(value) for name, value in row.items()})
    return rows


def expected_rows(store: Store, gold: bool) -> Rows:
    """The same from the exported rows and, where asked, from those that are not exported."""
    with store.reading() as session:
        identity = {task.prompt_id: task.identity for task in session.query(Task)}
        times = {one.id: (one.created_at, one.seconds) for one in session.query(Submission)}
        answers = {answer.task_id: answer for answer in session.query(KnownAnswer)}
        others = []
        query = session.query(Submission).join(Submission.task).where(Task.active)
        for one in query.where(Task.kind == "gold") if gold else ():
            if one.labeler.active:
                others.append((one, answers[one.task_id]))
        others.sort(key=lambda pair: (pair[0].task.position, pair[0].labeler.pseudonym))
        rows: Rows = []
        for ranking in store.rankings():
            at, seconds = times[ranking.submission_id]
            for place in range(len(ranking.responses)):
                order = ranking.display_order
                rows.append(
                    {
                        "task": identity[ranking.prompt_id],
                        "labeler": ranking.labeler,
                        "at": datetime.fromisoformat(at).timestamp() if at else None,
                        "seconds": seconds,
                        "contradicts": ranking.confirmed_contradiction,
                        "response": place,
                        "shown_at": float(order.index(place)) if order else None,
                        "rating": ranking.ratings[place],
                        "rank": ranking.ranks[place],
                        "known_rating": None,
                        "known_rank": None,
                    }
                    | {q: as_number(values[place]) for q, values in ranking.answers.items()}
                )
        for one, answer in others:
            for place, judgment in enumerate(one.judgments):
                rows.append(
                    {
                        "task": one.task.identity,
                        "labeler": one.labeler.pseudonym,
                        "at": datetime.fromisoformat(one.created_at).timestamp(),
                        "seconds": one.seconds,
                        "contradicts": one.confirmed_contradiction,
                        "response": place,
                        "shown_at": float(one.display_order.index(place)),
                        "rating": judgment.rating,
                        "rank": judgment.rank,
                        "known_rating": float(answer.ratings[place]),
                        "known_rank": float(answer.ranks[place]),
                    }
                    | {q: as_number(value) for q, value in judgment.answers.items()}
                )
    return rows


def as_number(answer: bool | None) -> float | None:
    return None if answer is None else float(answer)


def ranking(name: str, labeler: str, size: int, **changes: Any) -> Ranking:
    responses = [
        RankedResponse(response_id=f"{name}-{i}", text=f"text {i}", policy="x", finished=True)
        for i in range(size)
    ]
    values: dict[str, Any] = {
        "submission_id": f"{labeler} {name}",
        "prompt_id": name,
        "prompt": f"Prompt {name}",
        "labeler": labeler,
        "responses": responses,
        "ratings": [2 + i for i in range(size)],
        "ranks": [size - i for i in range(size)],
    }
    return Ranking.model_validate(values | changes)


@pytest.fixture
def store(place: str) -> Store:
    """Two labelers, one set aside, a script that yields, gold tasks, imports, two sizes of tasks,
    and samples that are no longer current."""
    store = filled(place, count=5, size=3)
    store.add_known_tasks([ranking(f"g{i}", "lead", 4 - i) for i in range(3)], 1)
    people = {name: store.add_labeler(name, f"p-{name}") for name in ("ann", "bob", "eve")}
    script = store.add_labeler("script", "p-script", scripted=True)
    for step, name in enumerate(["ann", "ann", "ann", "bob", "ann", "eve", "bob", "bob"]):
        labeler = people[name]
        task = shown(store, labeler.id)
        size = len(task.responses)
        given = {"rude": [None, True, False, True][:size], "off_topic": [step % 2 == 0] * size}
        judge(store, labeler.id, task, answers=given, seconds=10.5 + step)
    for kind, labeler in (("sampled", script), *(("gold", one) for one in people.values())):
        with store.reading() as session:
            ids = [task.id for task in session.query(Task).where(Task.kind == kind)]
        for task_id in ids:
            task = Desk(store).take(labeler.id, task_id)
            if task is not None:
                judge(store, labeler.id, task)
    with store.writing() as session:
        session.get_one(Labeler, people["eve"].id).active = False
        session.query(Task).where(Task.prompt_id == "p1").one().active = False
    elsewhere = ranking("elsewhere", "p-far", 4, answers={"rude": [True] * 4})
    store.import_labels(rankings=[("file, row 1", elsewhere)])
    return store


@pytest.mark.parametrize("gold", [False, True])
def test_columns_say_what_the_rows_say(store: Store, gold: bool) -> None:
    with store.reading() as session:
        judgments = read_judgments(session, gold=gold)
    rows, expected = rows_of(judgments), expected_rows(store, gold)
    questions = {name for row in expected for name in row}
    expected = [dict.fromkeys(questions) | row for row in expected]
    assert rows == expected
    of_known = [row for row in rows if row["known_rating"] is not None]
    assert len(rows) - len(of_known) > 8
    assert bool(of_known) == gold
    assert {row["labeler"] for row in rows} >= {"p-ann", "p-bob", "p-far"}
    assert "p-eve" not in judgments.labelers
    assert np.all(np.diff(judgments.submission) >= 0)
    assert len(set(judgments.tasks)) == len(judgments.tasks)


def test_no_judgments_are_columns_of_no_rows(place: str) -> None:
    store = open_store(place)
    for _ in range(2):
        with store.reading() as session:
            judgments = read_judgments(session, gold=True)
        assert [*judgments.tasks, *judgments.labelers, *judgments.answers] == []
        assert judgments.rating.shape == judgments.known_rank.shape == judgments.shown_at.shape
        assert judgments.rating.shape == (0,) == judgments.at.shape
        store.add_tasks([sample_set("p0")], QUESTIONS, "Be fair.")


def test_a_choice_of_submissions_keeps_their_answers(store: Store) -> None:
    with store.reading() as session:
        judgments = read_judgments(session)
    chosen = np.arange(len(judgments.task)) % 2 == 0
    rows = chosen[judgments.submission]
    part = of_submissions(judgments, chosen)
    assert set(part.answers) == set(QUESTIONS)
    for question, values in part.answers.items():
        np.testing.assert_array_equal(values, judgments.answers[question][rows])
        assert np.isin([0.0, 1.0], values).any()
