"""Practice and gold tasks: what comes when, what is told, what counts, what stays inside."""

from __future__ import annotations

import json
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from labeling_ui.desk import Desk
from labeling_ui.known_tasks import Feedback, agreement, read_gold
from labeling_ui.store import Progress, Store
from labeling_ui.tables import Event, Labeler
from labeling_ui.tasks import add_tasks
from pipeline.errors import UserError
from pipeline.label_config import LabelSection
from pipeline.records import RankedResponse, Ranking, SampleSet, write_rows
from tests.labeling_ui.judging import QUESTIONS, filled, sample_set

BEST_FIRST, WORST_FIRST = [1, 2, 3], [3, 2, 1]


def gold(name: str, ranks: list[int] | None = None) -> Ranking:
    """A known answer: the first response is best unless ``ranks`` says otherwise."""
    ranks = ranks or BEST_FIRST
    return Ranking.model_validate(
        {
            "submission_id": f"known-{name}",
            "prompt_id": name,
            "prompt": f"Prompt {name}",
            "labeler": "lead",
            "responses": [
                {"response_id": f"{name}-{i}", "text": f"answer {i} to {name}", "policy": "hand"}
                for i in range(len(ranks))
            ],
            "ratings": [8 - 2 * rank for rank in ranks],
            "ranks": ranks,
            "answers": {"rude": [rank == len(ranks) for rank in ranks]},
            "note": f"Why {name}",
        }
    )


def desk_of(store: Store, **settings: Any) -> Desk:
    return Desk(store, **{"gold_fraction": 0.2, "pass_mark": 0.7, **settings})


def judge_next(desk: Desk, labeler: int, ranks: list[int]) -> tuple[str, str, Feedback | None]:
    """Judges what comes next, ranks in canonical order; its kind and id, and what is told."""
    task = desk.next_task(labeler)
    assert task is not None
    desk.submit(
        labeler,
        task.lease,
        ratings=task.displayed([8 - 2 * rank for rank in ranks]),
        ranks=task.displayed(ranks),
        answers={},
    )
    return task.kind, task.prompt_id, desk.feedback(labeler, task.lease)


def practiced_at(store: Store, labeler: int) -> str | None:
    with store.reading() as session:
        return session.get_one(Labeler, labeler).practiced_at


@pytest.mark.parametrize("known", [[1, 2, 3, 4], [1, 1, 3, 4], [2, 1, 2, 4]])
def test_agreement_is_the_share_of_known_pairs(known: list[int]) -> None:
    decided = [(a, b) for a in range(4) for b in range(4) if known[a] < known[b]]
    for given in [*permutations([1, 2, 3, 4]), (1, 1, 1, 1), (1, 2, 2, 4)]:
        alike = sum(given[a] < given[b] for a, b in decided)
        ties = sum(given[a] == given[b] for a, b in decided)
        assert agreement(known, given) == (alike + ties / 2, len(decided))


def test_the_practice_comes_first_is_compared_and_ends_when_it_is_passed(place: str) -> None:
    store = filled(place, count=3)
    store.add_known_tasks([gold("g0"), gold("g1", [3, 1, 2]), gold("g2")], practice_tasks=2)
    ann, desk = store.add_labeler("ann").id, desk_of(store)
    kind, name, told = judge_next(desk, ann, WORST_FIRST)
    assert (kind, name) == ("practice", "g0")
    assert told is not None
    assert (told.agreed, told.pairs, told.outcome, told.why) == (0, 3, None, "Why g0")
    # The known answer comes in the order in which the responses were shown.
    assert [8 - 2 * rank for rank in told.ranks] == told.ratings
    assert told.answers == {"rude": [rank == 3 for rank in told.ranks]}
    kind, name, told = judge_next(desk, ann, [3, 2, 1])  # 3 before 1 and 2 are as known: 2 of 3
    assert (kind, name) == ("practice", "g1")
    assert told is not None
    assert (told.agreed, told.outcome, told.share, told.pass_mark) == (2, "again", 2 / 6, 0.7)
    assert practiced_at(store, ann) is None
    # The practice begins again, and this time it is passed: 5 of 6 pairs.
    assert judge_next(desk, ann, BEST_FIRST)[1] == "g0"
    told = judge_next(desk, ann, [3, 2, 1])[2]
    assert told is not None
    assert (told.outcome, told.share) == ("passed", 5 / 6)
    assert practiced_at(store, ann) is not None
    assert judge_next(desk, ann, BEST_FIRST) == ("sampled", "p0", None)
    with store.reading() as session:
        actions = list(session.scalars(select(Event.action).order_by(Event.id)))
    assert actions == ["practice begins again", "practice passed"]


def test_a_lost_reply_is_asked_for_again_and_nothing_happens_twice(place: str) -> None:
    store = filled(place)
    store.add_known_tasks([gold("g0")], practice_tasks=1)
    ann, desk = store.add_labeler("ann").id, desk_of(store)
    task = desk.next_task(ann)
    assert task is not None
    lists: dict[str, Any] = {"ratings": [6, 4, 2], "ranks": [1, 2, 3], "answers": {}}
    lists |= {key: task.displayed(lists[key]) for key in ("ratings", "ranks")}
    told = []
    for _ in range(2):
        desk.submit(ann, task.lease, **lists)
        told.append(desk.feedback(ann, task.lease))
    assert told[0] == told[1]
    assert told[0] is not None
    assert told[0].outcome == "passed"
    with store.reading() as session:
        assert len(session.scalars(select(Event.action)).all()) == 1


def test_practice_cannot_be_skipped_or_taken_back(place: str) -> None:
    store = filled(place)
    store.add_known_tasks([gold("g0"), gold("g1")], practice_tasks=2)
    ann, desk = store.add_labeler("ann").id, desk_of(store)
    task = desk.next_task(ann)
    assert task is not None
    with pytest.raises(UserError, match="practice"):
        desk.skip(ann, task.lease, "needs an expert")
    judge_next(desk, ann, BEST_FIRST)
    assert not desk.can_undo(ann)
    assert not desk.undo(ann)


def test_gold_tasks_come_at_the_rate_asked_for_and_leave_no_trace_outside(
    place: str, tmp_path: Path
) -> None:
    store = filled(place, count=40)
    store.add_known_tasks([gold(f"g{i}") for i in range(20)], practice_tasks=0)
    desk = desk_of(store, gold_fraction=0.1)
    # The first goes through everything: between two gold tasks are at most twice as many others.
    ann = store.add_labeler("ann").id
    kinds = [judge_next(desk, ann, BEST_FIRST)[0] for _ in range(43)]
    assert 3 <= kinds.count("gold") <= 5
    places = [index for index, kind in enumerate(kinds) if kind == "gold"]
    assert all(later - earlier <= 21 for earlier, later in pairwise(places))
    assert store.progress().done == kinds.count("sampled")
    assert {row.prompt_id[0] for row in store.rankings()} == {"p"}
    counts = store.export(tmp_path)
    assert counts["rankings.jsonl"] == kinds.count("sampled")
    assert '"g' not in (tmp_path / "rankings.jsonl").read_text(encoding="utf-8")
    before = store.content_hash()
    bob = store.add_labeler("bob").id
    with store.writing() as session:
        session.get_one(Labeler, bob).practiced_at = "2026-01-01"
    assert store.content_hash() == before


def test_another_labeler_gets_gold_at_other_times(place: str) -> None:
    store = filled(place, count=60)
    store.add_known_tasks([gold(f"g{i}") for i in range(20)], practice_tasks=0)
    desk = desk_of(store, gold_fraction=0.2)
    orders = []
    for name in ("ann", "bob"):
        labeler = store.add_labeler(name, f"labeler-{name}").id
        orders.append([judge_next(desk, labeler, BEST_FIRST)[:2] for _ in range(25)])
    first, second = ([name for kind, name in order if kind == "gold"] for order in orders)
    assert len(first) >= 3
    assert first != second[: len(first)]


def test_the_same_responses_as_a_task_of_the_run_are_another_task(place: str) -> None:
    store = filled(place, count=1)
    sample = sample_set("p0")
    row = gold("p0").model_copy(
        update={"prompt": sample.prompt, "responses": store_responses(sample)}
    )
    store.add_known_tasks([row], practice_tasks=1)
    ann, desk = store.add_labeler("ann").id, desk_of(store)
    assert [judge_next(desk, ann, BEST_FIRST)[0] for _ in range(2)] == ["practice", "sampled"]
    assert store.progress() == Progress(done=1, open=0, skipped=0)


def store_responses(sample: SampleSet) -> list[RankedResponse]:
    fields = ("response_id", "text", "policy", "finished")
    return [
        RankedResponse(**{name: getattr(response, name) for name in fields})
        for response in sample.responses
    ]


def test_a_gold_file_that_changes_takes_its_tasks_out_of_use_and_back(place: str) -> None:
    store = filled(place, count=2)
    store.add_known_tasks([gold("g0"), gold("g1")], practice_tasks=1)
    ann, desk = store.add_labeler("ann").id, desk_of(store)
    assert judge_next(desk, ann, BEST_FIRST)[1] == "g0"
    store.add_known_tasks([], practice_tasks=1)
    assert judge_next(desk, ann, BEST_FIRST)[0] == "sampled"
    store.add_known_tasks([gold("g1"), gold("g0")], practice_tasks=1)  # the other one is practice
    bob = store.add_labeler("bob").id
    assert judge_next(desk, bob, BEST_FIRST)[1] == "g1"


def test_a_new_set_of_samples_is_a_new_round(place: str) -> None:
    store = filled(place, count=2)
    sets = [sample_set("p0"), sample_set("p1")]
    store.add_tasks(sets, QUESTIONS, "Be fair.")  # nothing new
    store.add_tasks([*sets, sample_set("p2")], QUESTIONS, "Be fair.")
    store.add_tasks([sample_set("p3")], QUESTIONS, "Be fair.")
    with store.reading() as session:
        found = session.connection().exec_driver_sql("SELECT prompt_id, round FROM task")
        rounds = {row[0]: row[1] for row in found}
    assert rounds == {"p0": 1, "p1": 1, "p2": 2, "p3": 3}


# --- the gold file ------------------------------------------------------------------------------


def test_the_file_s_first_rows_are_the_practice(place: str, tmp_path: Path) -> None:
    store = filled(place, count=0)
    write_rows(tmp_path / "gold.jsonl", [gold(f"g{i}") for i in range(3)])
    section = LabelSection(gold="gold.jsonl", practice_tasks=2, shared_fraction=0)
    add_tasks(store, [sample_set("p0")], [], section, QUESTIONS, tmp_path)
    ann, desk = store.add_labeler("ann").id, desk_of(store)
    seen = [judge_next(desk, ann, BEST_FIRST)[:2] for _ in range(3)]
    assert seen == [("practice", "g0"), ("practice", "g1"), ("sampled", "p0")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([gold("g0", [1, 1, 1])], "row 1: ties all responses"),
        ([gold("g0"), gold("g0").model_copy(update={"submission_id": "x"})], "row 2: is a second"),
    ],
)
def test_a_gold_file_that_is_of_no_use_is_refused_in_one_line(
    rows: list[Ranking], message: str, tmp_path: Path, place: str
) -> None:
    write_rows(tmp_path / "gold.jsonl", rows)
    with pytest.raises(UserError, match=message):
        read_gold(tmp_path / "gold.jsonl")
    store = filled(place, count=1)
    section = LabelSection(gold="gold.jsonl")
    with pytest.raises(UserError, match=message):
        add_tasks(store, [sample_set("p9")], [], section, QUESTIONS, tmp_path)
    assert store.progress().open == 1  # as it was
    assert json.loads((tmp_path / "gold.jsonl").read_text().splitlines()[0])["prompt_id"] == "g0"
