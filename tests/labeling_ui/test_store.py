"""The store: what it refuses, what it shows to whom, what it exports, what it never loses."""

from __future__ import annotations

import json
import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labeling_ui import desk
from labeling_ui.content import sqlite_content_hash
from labeling_ui.desk import Desk, Place
from labeling_ui.store import Progress, open_store
from pipeline.errors import UserError
from pipeline.records import RankedResponse, Ranking, Skip, iter_rows, read_rows
from tests.labeling_ui.conftest import Places
from tests.labeling_ui.judging import QUESTIONS, count_rows, filled, judge, sample_set, shown

# --- tasks --------------------------------------------------------------------------------------


def test_adding_the_same_samples_again_adds_nothing(place: str) -> None:
    store = open_store(place)
    samples = [sample_set("a"), sample_set("b")]
    assert store.add_tasks(samples, QUESTIONS, "x") == 2
    assert store.add_tasks(samples, QUESTIONS, "x") == 0
    assert store.progress() == Progress(done=0, open=2, skipped=0)


def test_tasks_of_earlier_samples_are_neither_shown_nor_exported(place: str) -> None:
    store = filled(place, count=2)
    ann = store.add_labeler("ann").id
    judge(store, ann, shown(store, ann))
    judged_hash = store.content_hash()
    store.add_tasks([sample_set("new")], QUESTIONS, "Be fair.")
    assert store.progress() == Progress(done=0, open=1, skipped=0)
    assert shown(store, ann).prompt_id == "new"
    assert store.rankings() == []
    assert store.content_hash() != judged_hash
    store.add_tasks([sample_set("p0"), sample_set("p1")], QUESTIONS, "Be fair.")
    assert [row.prompt_id for row in store.rankings()] == ["p0"]
    assert store.content_hash() == judged_hash


def test_a_task_keeps_its_shuffled_order_and_orders_differ(place: str) -> None:
    store = filled(place, count=30, size=5)
    ann = store.add_labeler("ann").id
    orders: list[tuple[int, ...]] = []
    for _ in range(30):
        task = shown(store, ann)
        assert shown(store, ann) == task
        assert sorted(task.display_order) == [0, 1, 2, 3, 4]
        for spot, position in enumerate(task.display_order):
            assert task.responses[spot].response_id == f"{task.prompt_id}-{position}"
        orders.append(task.display_order)
        judge(store, ann, task)
    firsts = [order[0] for order in orders]
    assert set(firsts) == {0, 1, 2, 3, 4}  # P(one never first) < 30·0.8^30·5 = 0.6 %, and fixed
    assert Desk(store).next_task(ann) is None


def test_calls_together_are_written_all_or_none(place: str) -> None:
    store = filled(place)
    ann = store.add_labeler("ann").id

    def one_good_one_bad() -> None:
        with store.together():
            judge(store, ann, shown(store, ann))
            assert store.progress().done == 1
            judge(store, ann, shown(store, ann), ratings=[9, 9, 9])

    with pytest.raises(UserError, match="ratings"):
        one_good_one_bad()
    assert store.progress().done == count_rows(store, "submission") == 0
    other = open_store(place)
    with store.together():
        judge(store, ann, shown(store, ann))
        judge(store, ann, shown(store, ann))
        assert count_rows(other, "submission") == 0
    assert store.progress().done == count_rows(other, "submission") == 2


# --- labelers -----------------------------------------------------------------------------------


def test_pseudonyms_are_random_unless_given_and_never_shared(place: str) -> None:
    store = open_store(place)
    ann = store.add_labeler("ann")
    assert store.add_labeler("ann").id == ann.id
    assert ann.pseudonym.startswith("labeler-")
    assert "ann" not in ann.pseudonym
    assert store.add_labeler("robot", "scripted-1").pseudonym == "scripted-1"
    with pytest.raises(UserError, match="taken"):
        store.add_labeler("other", "scripted-1")
    with pytest.raises(UserError, match="no name"):
        store.add_labeler(" ")


def test_scripted_labels_of_another_configuration_are_set_aside(place: str) -> None:
    store = filled(place, count=2)
    ann = store.add_labeler("ann").id
    old = store.add_labeler("old", "old", scripted=True).id
    judge(store, ann, shown(store, ann))
    judge(store, old, shown(store, old))
    store.keep_scripted([])
    assert store.progress() == Progress(done=1, open=1, skipped=0)
    assert [row.prompt_id for row in store.rankings()] == ["p0"]
    judge(store, ann, shown(store, ann))
    assert store.progress() == Progress(done=2, open=0, skipped=0)
    assert len({row.labeler for row in store.rankings()}) == 1


def test_a_person_may_judge_what_a_script_has_and_replaces_it(place: str) -> None:
    store = filled(place, count=3)
    robot = store.add_labeler("robot", "robot", scripted=True).id
    while (task := Desk(store).next_task(robot)) is not None:
        judge(store, robot, task)
    scripted = store.content_hash()
    assert store.progress() == Progress(done=3, open=0, skipped=0)
    assert store.progress(people_only=True) == Progress(done=0, open=3, skipped=0)
    ann = store.add_labeler("ann")
    judge(store, ann.id, shown(store, ann.id), ratings=[1, 1, 1], ranks=[1, 1, 1])
    Desk(store).skip(ann.id, shown(store, ann.id).lease, "unclear")
    by_prompt = {row.prompt_id: (row.labeler, row.ratings[0]) for row in store.rankings()}
    assert by_prompt == {"p0": (ann.pseudonym, 1), "p2": ("robot", 7)}
    assert len(store.rankings()) == 2
    assert store.progress(people_only=True) == Progress(done=1, open=1, skipped=1)
    assert store.content_hash() != scripted
    if "://" not in place:
        assert sqlite_content_hash(place) == store.content_hash()


# --- export -------------------------------------------------------------------------------------


def test_the_export_carries_pseudonyms_and_no_names_notes_or_times(
    place: str, tmp_path: Path
) -> None:
    store = filled(place)
    ann = store.add_labeler("ann.secret@example.org")
    task = shown(store, ann.id)
    judge(store, ann.id, task, note="PLANTED NOTE", seconds=41.37)
    Desk(store).skip(ann.id, shown(store, ann.id).lease, "unclear", "PLANTED NOTE")
    out = tmp_path / "labels"
    out.mkdir()
    assert store.export(out) == {
        "rankings.jsonl": 1,
        "skips.jsonl": 1,
        "demonstrations.jsonl": 0,
    }
    written = "".join(file.read_text() for file in sorted(out.iterdir()))
    for private in ("secret", "PLANTED", "41.3", "created_at", "seconds"):
        assert private not in written
    row = read_rows(out / "rankings.jsonl", Ranking)[0]
    assert row.labeler == ann.pseudonym
    assert row.prompt == "Prompt p0"
    assert row.responses[2] == RankedResponse(
        response_id="p0-2", text="answer 2 to p0", policy="sft"
    )
    assert row.answers == {"rude": [True, None, None], "off_topic": [None, None, None]}
    assert row.display_order == list(task.display_order)
    assert row.instructions_version
    assert read_rows(out / "skips.jsonl", Skip)[0].reason == "unclear"
    assert list(iter_rows(out / "demonstrations.jsonl", Skip)) == []


def test_the_content_hash_ignores_row_ids_and_sees_one_changed_answer(new_place: Places) -> None:
    def label(first: str, answer: bool | None) -> str:
        place = new_place()
        store = filled(place, count=4)
        if first == "bob":  # other row ids, other order of writing
            store.add_labeler("bob", "labeler-bob")
        ann = store.add_labeler("ann", "labeler-ann").id
        tasks = [shown(store, ann)]
        judge(store, ann, tasks[0], answers={"rude": [answer, None, None]})
        judge(store, ann, shown(store, ann))
        digest = store.content_hash()
        store.close()
        if "://" not in place:
            assert sqlite_content_hash(place) == digest
        return digest

    reference = label("ann", True)
    assert label("bob", True) == reference
    assert label("ann", False) != reference
    assert label("ann", None) != reference


def test_two_databases_with_the_same_labels_export_the_same_bytes(
    new_place: Places, tmp_path: Path
) -> None:
    exports: list[dict[str, bytes]] = []
    for name in ("a", "b"):
        store = filled(new_place())
        robot = store.add_labeler("robot", "scripted-1", scripted=True).id
        while (task := Desk(store).next_task(robot)) is not None:
            judge(store, robot, task)
            time.sleep(0.01)
        out = tmp_path / name
        out.mkdir()
        store.export(out)
        exports.append({file.name: file.read_bytes() for file in out.iterdir()})
    assert exports[0] == exports[1]
    assert exports[0]["rankings.jsonl"].count(b"\n") == 3


# --- rankings from a file -----------------------------------------------------------------------


def ranking(name: str, labeler: str = "anna", submission: str | None = None) -> Ranking:
    sample = sample_set(name)
    return Ranking(
        submission_id=submission or f"s-{name}-{labeler}",
        prompt_id=sample.prompt_id,
        prompt=sample.prompt,
        labeler=labeler,
        responses=[
            RankedResponse(response_id=r.response_id, text=r.text, policy=r.policy)
            for r in sample.responses
        ],
        ratings=[2, 7, 2],
        ranks=[2, 1, 2],
        answers={"own question": [None, True, False]},
    )


def test_imported_rankings_come_out_as_they_went_in(place: str) -> None:
    store = open_store(place)
    rows = [ranking("a"), ranking("b"), ranking("a", "bert")]
    assert store.import_rankings(rows) == 3
    assert {row.submission_id: row for row in store.rankings()} == {
        row.submission_id: row for row in rows
    }
    digest = store.content_hash()
    store.import_rankings(rows)
    assert store.content_hash() == digest
    store.import_rankings(rows[:1])
    assert store.rankings() == rows[:1]


def test_an_import_that_repeats_itself_is_refused_whole(place: str) -> None:
    store = open_store(place)
    store.import_rankings([ranking("a")])
    with pytest.raises(UserError, match="second ranking of b by anna"):
        store.import_rankings([ranking("b"), ranking("b", submission="again")])
    with pytest.raises(UserError, match="comes twice"):
        store.import_rankings([ranking("b", submission="x"), ranking("c", submission="x")])
    assert store.rankings() == [ranking("a")]


# --- properties ---------------------------------------------------------------------------------


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data(), size=st.integers(2, 9))
def test_whatever_is_valid_comes_back_unchanged(
    data: st.DataObject, size: int, new_place: Places
) -> None:
    def column(element: st.SearchStrategy[Any]) -> list[Any]:
        return data.draw(st.lists(element, min_size=size, max_size=size))

    ratings, ranks = column(st.integers(1, 7)), column(st.integers(1, size))
    answers = {question: column(st.sampled_from([True, False, None])) for question in QUESTIONS}
    texts = column(st.text(max_size=30))
    sample = sample_set("p", size)
    responses = [
        response.model_copy(update={"text": text})
        for response, text in zip(sample.responses, texts, strict=True)
    ]
    store = open_store(new_place())
    store.add_tasks([sample.model_copy(update={"responses": responses})], QUESTIONS, "x")
    ann = store.add_labeler("ann").id
    task = shown(store, ann)
    backwards = any(
        ranks[a] < ranks[b] and ratings[a] < ratings[b] for a in range(size) for b in range(size)
    )
    values = {"ratings": ratings, "ranks": ranks, "answers": answers}
    if backwards:
        with pytest.raises(UserError, match="not confirmed"):
            judge(store, ann, task, **values)
    judge(store, ann, task, **values, confirmed_contradiction=backwards)
    row = store.rankings()[0]
    assert (row.ratings, row.ranks, row.answers) == (ratings, ranks, answers)
    assert [response.text for response in row.responses] == texts
    store.close()


# --- several processes, and a sudden end --------------------------------------------------------


def _label_all(place: str, name: str) -> None:
    store = open_store(place)
    labeler = store.add_labeler(name).id
    while (task := Desk(store).next_task(labeler)) is not None:
        judge(store, labeler, task)


def test_two_processes_share_one_database(place: str) -> None:
    filled(place, count=40).close()
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_label_all, args=(place, name)) for name in ("ann", "bob")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    store = open_store(place)
    rows = store.rankings()
    assert store.progress() == Progress(done=40, open=0, skipped=0)
    assert sorted(row.prompt_id for row in rows) == sorted(f"p{i}" for i in range(40))
    assert len(rows) == count_rows(store, "submission") == 40


SUBMIT_FOR_EVER = """
import sys
import threading
from labeling_ui.desk import Desk, Place
from labeling_ui.store import open_store
store = open_store(sys.argv[1])
desk, ann = Desk(store), store.add_labeler("ann").id
while True:
    ratings = dict(ratings=[7, 6, 5], ranks=[1, 2, 3], answers={})
    print(desk.submit(ann, desk.next_task(ann).lease, **ratings), flush=True)
"""


def test_kill_9_loses_nothing_that_was_acknowledged(place: str) -> None:
    filled(place, count=1000).close()
    acknowledged: list[str] = []
    for _ in range(2):
        worker = subprocess.Popen(
            [sys.executable, "-c", SUBMIT_FOR_EVER, place],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert worker.stdout is not None
        acknowledged += [worker.stdout.readline().strip() for _ in range(20)]
        worker.send_signal(signal.SIGKILL)
        rest = worker.stdout.read().splitlines(keepends=True)
        acknowledged += [line.strip() for line in rest if line.endswith("\n")]
        worker.wait()
    store = open_store(place)
    stored = {row.submission_id for row in store.rankings()}
    assert len(set(acknowledged)) == len(acknowledged) >= 40
    assert set(acknowledged) <= stored
    assert len(stored) - len(acknowledged) <= 2  # committed, not yet told: one for each kill
    assert count_rows(store, "judgment") == 3 * len(stored)


def test_the_store_loads_neither_torch_nor_gradio() -> None:
    program = (
        "import sys, labeling_ui.store, json;"
        "print(json.dumps([m for m in ('torch', 'gradio', 'transformers') if m in sys.modules]))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert json.loads(result.stdout) == []


def test_a_response_that_was_cut_off_stays_cut_off(tmp_path: Path) -> None:
    """The reward model must not see an end token where PPO will see none."""
    sample = sample_set("p", 2)
    cut = [sample.responses[0], sample.responses[1].model_copy(update={"finished": False})]
    store = open_store(tmp_path / "labels.db")
    store.add_tasks([sample.model_copy(update={"responses": cut})], QUESTIONS, "x")
    judge(store, store.add_labeler("ann").id, shown(store, store.add_labeler("ann").id))
    assert [response.finished for response in store.rankings()[0].responses] == [True, False]


def test_what_is_only_seen_is_of_one_moment_and_writes_nothing(place: str) -> None:
    store = filled(place, count=2)
    ann = store.add_labeler("ann").id
    with store.seeing():
        before = store.progress()
        done = threading.Thread(target=lambda: judge(store, ann, shown(store, ann)))
        done.start()
        done.join()
        assert store.progress() == before == Progress(done=0, open=2, skipped=0)
        with pytest.raises(AssertionError, match="cannot write"):
            store.add_labeler("bob")
    assert store.progress() == Progress(done=1, open=1, skipped=0)


def test_the_progress_of_very_many_tasks_is_kept_for_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(str(tmp_path / "labels.db"), count=3)
    place = Place(store, Desk(store), "demo", "align run demo.yaml")
    ann = store.add_labeler("ann").id
    assert place.progress().done == 0
    judge(store, ann, shown(store, ann))
    assert place.progress().done == 1  # of three it is counted each time
    monkeypatch.setattr(desk, "MANY_TASKS", 2)
    assert place.progress().done == 1
    judge(store, ann, shown(store, ann))
    assert place.progress().done == 1
    time.sleep(desk.PROGRESS_SECONDS)
    assert place.progress().done == 2
