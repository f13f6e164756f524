"""What leaves the database: the same bytes as a reading of whole tables, of one state, streamed."""

from __future__ import annotations

import gc
import json
import sqlite3
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from benchmarks.label_fill import fill
from labeling_ui import exports, tables
from labeling_ui.content import sqlite_content_hash
from labeling_ui.desk import Desk
from labeling_ui.exports import Selection
from labeling_ui.store import Store, open_store
from labeling_ui.tables import SkippedTask, Submission
from labeling_ui.tasks import add_tasks
from labeling_ui.writing_desk import WritingDesk
from pipeline.errors import UserError
from pipeline.label_config import LabelSection
from pipeline.records import Demonstration, Guideline, SampleSet, Skip, write_rows
from tests.labeling_ui.conftest import Places
from tests.labeling_ui.judging import QUESTIONS, filled, judge, sample_set, shown
from tests.labeling_ui.test_known_tasks import gold

ODD = "a\0b \x1b0 \u202e\u2028 \"quoted\" 'too' <b> \U0001f98a e\u0301"
NAME = 'Zoë "Nail" O\'Łódź <\u202e王>'


def odd_samples(count: int) -> list[SampleSet]:
    samples = [sample_set(f"p{i}", 2 + i % 3) for i in range(count)]
    first = samples[0].responses[0].model_copy(update={"text": ODD, "finished": False})
    responses = [first, *samples[0].responses[1:]]
    samples[0] = samples[0].model_copy(update={"prompt": ODD, "responses": responses})
    return samples


def worked_on(place: str, folder: Path) -> Store:
    """A store in which everything has happened: people, scripts, gold, practice, rounds, skips."""
    store = open_store(place)
    write_rows(folder / "gold.jsonl", [gold("g0"), gold("g1"), gold("g2")])
    section = LabelSection(
        source="browser", gold="gold.jsonl", practice_tasks=1, shared_fraction=0.0, overlap=2
    )
    add_tasks(store, [sample_set("old")], [], section, QUESTIONS, folder)
    people = [store.add_labeler(NAME, "ünn"), store.add_labeler("bob", "Bob")]
    robot = store.add_labeler("robot", "robot", scripted=True).id
    gone = store.add_labeler("earlier", "earlier", scripted=True).id
    work(store, people[0].id, 3)
    judge(store, gone, shown(store, gone))
    add_tasks(store, odd_samples(9), [], section, QUESTIONS, folder)
    for labeler, tasks in ((robot, 9), (people[0].id, 7), (people[1].id, 8), (gone, 2)):
        work(store, labeler, tasks)
    store.keep_scripted(["robot"])
    desk = WritingDesk(store)
    written = desk.own_prompt(people[0].id)
    desk.finish(people[0].id, written.id, response="Mine.", prompt=ODD, kind="plain")
    desk.finish(people[1].id, desk.next_prompt(people[1].id).id, response=ODD)  # type: ignore[union-attr]
    return store


def work(store: Store, labeler: int, most: int) -> None:
    desk = Desk(store, gold_fraction=0.4, pass_mark=0.1)
    for number in range(most):
        task = desk.next_task(labeler)
        if task is None:
            return
        if number % 4 == 3 and task.kind != "practice":
            desk.skip(labeler, task.lease, f"reason {number}", "NOTE")
            continue
        size = len(task.responses)
        ranks = [1 + place // 2 for place in range(size)]  # tied two by two
        values: dict[str, Any] = {"ratings": [7 - rank for rank in ranks], "ranks": ranks}
        values["answers"] = {"rude": [None, True, False, None][:size]}
        values = {
            name: task.displayed(given) for name, given in values.items() if name != "answers"
        }
        values["answers"] = {"rude": task.displayed([None, True, False, None][:size])}
        values |= {"note": "NOTE" if number % 2 else None, "seconds": 1.5}
        desk.submit(labeler, task.lease, confidence="low" if number % 3 else None, **values)
        desk.feedback(labeler, task.lease)


# --- a reading of whole tables --------------------------------------------------------------------


def whole_tables(store: Store) -> dict[str, bytes]:
    """The files of an export, by reading every row and sorting in memory."""
    with store.reading() as session:
        submissions = [one for one in session.scalars(select(Submission)) if counts(session, one)]
        skipped = [
            one
            for one in session.scalars(select(SkippedTask))
            if one.labeler.active and one.task.active and one.task.kind in ("sampled", "imported")
        ]
        written = [
            one
            for one in session.scalars(select(tables.Demonstration))
            if one.state == "done" and one.labeler.active
        ]
        rankings = [ranking_fields(one) for one in sorted(submissions, key=place_of)]
        skips = [{**about(one), "reason": one.reason} for one in sorted(skipped, key=place_of)]
        demonstrations = [
            {
                "prompt": one.prompt,
                "response": one.response,
                "labeler": one.labeler.pseudonym,
                "demonstration_id": one.id,
                "kind": one.kind,
                "edited_from": one.edited_from,
            }
            for one in sorted(written, key=lambda one: one.id.encode())
        ]
    files = {"rankings": rankings, "skips": skips, "demonstrations": demonstrations}
    return {f"{name}.jsonl": as_lines(rows) for name, rows in files.items()}


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    kept = [{name: value for name, value in row.items() if value is not None} for row in rows]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept).encode()


def place_of(one: Submission | SkippedTask) -> tuple[int, bytes]:
    return one.task.position, one.labeler.pseudonym.encode()


def counts(session: Any, one: Submission) -> bool:
    task, labeler = one.task, one.labeler
    if not (task.active and task.kind in ("sampled", "imported") and labeler.active):
        return False
    ends = [
        end
        for table in (Submission, SkippedTask)
        for end in session.scalars(select(table).where(table.task_id == task.id))
    ]
    by_people = [end for end in ends if end.labeler.active and not end.labeler.scripted]
    return not (labeler.scripted and by_people)


def about(one: Submission | SkippedTask) -> dict[str, Any]:
    return {
        "submission_id": one.id,
        "prompt_id": one.task.prompt_id,
        "prompt": one.task.prompt,
        "labeler": one.labeler.pseudonym,
    }


def ranking_fields(one: Submission) -> dict[str, Any]:
    fields = ("response_id", "text", "policy", "finished")
    return {
        **about(one),
        "responses": [{f: getattr(r, f) for f in fields} for r in one.task.responses],
        "ratings": [judgment.rating for judgment in one.judgments],
        "answers": {
            question: [judgment.answers[question] for judgment in one.judgments]
            for question in one.judgments[0].answers
        },
        "ranks": [judgment.rank for judgment in one.judgments],
        "confirmed_contradiction": one.confirmed_contradiction,
        "confidence": one.confidence,
        "display_order": one.display_order,
        "instructions_version": one.instructions_version,
    }


def test_the_export_is_what_a_reading_of_whole_tables_gives(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "ROWS_AT_ONCE", 3)  # several pieces
    store = worked_on(place, tmp_path)
    (tmp_path / "labels").mkdir()
    counted = store.export(tmp_path / "labels")
    expected = whole_tables(store)
    written = {name: (tmp_path / "labels" / name).read_bytes() for name in expected}
    assert written == expected
    assert counted == {name: lines.count(b"\n") for name, lines in expected.items()}
    assert counted["skips.jsonl"] == 4
    assert counted["demonstrations.jsonl"] == 2
    labelers = [json.loads(line)["labeler"] for line in expected["rankings.jsonl"].splitlines()]
    assert set(labelers) == {"ünn", "Bob", "robot"}
    assert labelers.count("robot") < 6  # of those that it judged, people have judged others, too
    everything = b"".join(expected.values()) + repr(store.rankings()).encode()
    for private in (NAME, "Zoë", "Łódź", "NOTE", "earlier", "g0", '"old"'):
        assert private.encode() not in everything


def test_rounds_labelers_and_notes_are_chosen(place: str, tmp_path: Path) -> None:
    store = worked_on(place, tmp_path)
    with store.reading() as session:

        def chosen(**choice: Any) -> list[dict[str, Any]]:
            return list(exports.rankings(session, Selection(**choice)))

        current, every = chosen(), chosen(round="all")
        assert {row["prompt_id"] for row in chosen(round=1)} == {"old"}
        assert chosen(round=2) == current
        assert chosen(round=3) == []
        assert [row for row in every if row["prompt_id"] != "old"] == current
        own = chosen(labelers=frozenset({"Bob"}))
        assert own == [row for row in current if row["labeler"] == "Bob"] != []
        assert all("note" not in row and "created_at" not in row for row in every)
        assert {row.get("note") for row in chosen(notes=True)} == {None, "NOTE"}
        assert all(row["created_at"] and row["seconds"] == 1.5 for row in chosen(notes=True))
        assert exports.count(session) == len(current)
        skips = list(exports.skips(session, Selection(notes=True), with_responses=True))
        assert all(Skip.model_validate(row).note == "NOTE" for row in skips)
        texts = {
            row["prompt_id"]: [r["text"] for r in row["responses"]] for row in [*every, *skips]
        }
        assert texts["p1"] == [f"answer {i} to p1" for i in range(3)]
        (told,) = exports.guidelines(session, {row["instructions_version"] for row in current})
        assert Guideline.model_validate(told).questions == QUESTIONS
        given = list(exports.demonstrations(session, Selection(round=2)))
        assert [row["kind"] for row in given] == ["given"]
        with pytest.raises(UserError, match="labeler Zoë: is unknown"):
            exports.refuse_unknown(session, ["Bob", "Zoë"])


def test_an_export_sees_one_state_of_the_database(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "ROWS_AT_ONCE", 1)
    store = filled(place, count=4)
    ann, bob = (store.add_labeler(name, name).id for name in ("ann", "bob"))
    for _ in range(3):
        judge(store, ann, shown(store, ann))
    with store.reading() as session:
        rows = exports.rankings(session)
        before = [next(rows)]
        with closing(open_store(place)) as other:
            judge(other, bob, shown(other, bob))
            Desk(other).undo(ann)
        before += rows
        assert [row["prompt_id"] for row in before] == ["p0", "p1", "p2"]
        assert [row["reason"] for row in exports.skips(session)] == []
    assert [(row.prompt_id, row.labeler) for row in store.rankings()] == [
        ("p0", "ann"), ("p1", "ann"), ("p3", "bob"),
    ]  # fmt: skip


def test_memory_does_not_grow_with_the_labels(new_place: Places, tmp_path: Path) -> None:
    def peak(submissions: int) -> int:
        place = new_place()
        fill(place, submissions)
        store = open_store(place)
        store.export(tmp_path)  # what is loaded and compiled once
        gc.collect()
        tracemalloc.start()
        store.export(tmp_path)
        store.content_hash()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exports, "ROWS_AT_ONCE", 50)
        few, many = peak(300), peak(3000)
    assert many < 1.5 * few


# --- the hash -------------------------------------------------------------------------------------


def test_the_hash_sees_what_is_exported_and_nothing_else(place: str, tmp_path: Path) -> None:
    store = worked_on(place, tmp_path)

    def after(statement: str, **values: Any) -> str:
        with store.writing() as session:
            session.connection().exec_driver_sql(statement)
        return store.content_hash()

    digest = store.content_hash()
    gold_tasks = "(SELECT id FROM task WHERE kind IN ('gold', 'practice'))"
    of_gold = f"(SELECT id FROM submission WHERE task_id IN {gold_tasks})"
    assert after(f"UPDATE judgment SET rating = 1 WHERE submission_id IN {of_gold}") == digest
    assert after("UPDATE submission SET note = 'x', seconds = 9, created_at = 'x'") == digest
    assert after("UPDATE demonstration SET seconds = 9, created_at = 'x'") == digest
    if "://" not in place:
        store.close()
        assert sqlite_content_hash(place) == digest
    seen = {digest}
    for change in (
        "UPDATE demonstration SET response = 'Other.' WHERE kind = 'plain'",
        "UPDATE demonstration SET state = 'withdrawn' WHERE kind = 'plain'",
        "UPDATE skipped_task SET reason = 'other'",
        "UPDATE submission SET confidence = 'high'",
        "UPDATE task SET kind = 'gold' WHERE prompt_id = 'p3'",
        "UPDATE labeler SET pseudonym = 'other' WHERE pseudonym = 'Bob'",
    ):
        seen.add(after(change))
    assert len(seen) == 7


def test_a_file_of_the_first_tables_has_the_hash_that_it_will_have(tmp_path: Path) -> None:
    """``align status`` reads the file as it is; opening it brings it up to date."""
    path = tmp_path / "labels.db"
    store = filled(str(path))
    ann = store.add_labeler("ann", "ann").id
    judge(store, ann, shown(store, ann))
    Desk(store).skip(ann, shown(store, ann).lease, "unclear")
    digest = store.content_hash()
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "DROP TABLE demonstration; DROP INDEX ix_task_queue; ALTER TABLE task DROP COLUMN kind;"
        )
    assert sqlite_content_hash(path) == digest


def test_the_same_labels_have_the_same_hash_in_another_database(
    new_place: Places, tmp_path: Path
) -> None:
    first = worked_on(new_place(), tmp_path)
    second = open_store(new_place())
    with first.reading() as session:
        demonstrations = list(exports.demonstrations(session))
        skips = list(exports.skips(session, with_responses=True))
    second.import_labels(
        rankings=[("r", row) for row in reversed(first.rankings())],
        skips=[("s", Skip.model_validate(row)) for row in reversed(skips)],
        demonstrations=[("d", Demonstration.model_validate(row)) for row in demonstrations],
    )
    assert second.content_hash() == first.content_hash()
