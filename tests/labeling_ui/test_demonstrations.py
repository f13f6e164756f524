"""What labelers write: who gets which prompt, drafts, finishing, edits, withdrawing, the export."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from labeling_ui.accounts import Accounts
from labeling_ui.demonstrations import CONTENT_QUERY, Piece, exported
from labeling_ui.desk import Desk, LeaseLost
from labeling_ui.store import Store, open_store
from labeling_ui.tables import Demonstration, Event, Labeler, Task
from labeling_ui.writing_desk import LIST_LENGTH, WritingDesk
from pipeline import records
from pipeline.config_file import load_config
from pipeline.errors import UserError
from pipeline.records import Prompt, read_rows, write_rows
from stages import data
from tests.labeling_ui.judging import QUESTIONS, filled, sample_set

HOUR = 3600.0
LABELING = Path(__file__).parents[2] / "docs" / "labeling.md"


@dataclass
class Clock:
    """A clock that goes when it is told to."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Office:
    """A store with three tasks, ann and bob, and the desk they write at."""

    store: Store
    clock: Clock
    desk: WritingDesk
    ann: int
    bob: int

    def begin(self, labeler: int) -> Piece:
        piece = self.desk.next_prompt(labeler)
        assert piece is not None
        return piece

    def write(self, labeler: int, text: str = "Mine.") -> str:
        return self.desk.finish(labeler, self.begin(labeler).id, response=text)

    def own(self, labeler: int, prompt: str, text: str, kind: str = "plain") -> str:
        name = self.desk.own_prompt(labeler).id
        return self.desk.finish(labeler, name, response=text, prompt=prompt, kind=kind)

    def exported(self) -> list[records.Demonstration]:
        with self.store.reading() as session:
            return list(exported(session))

    def content(self) -> list[tuple[Any, ...]]:
        with self.store.reading() as session:
            found = session.connection().exec_driver_sql(CONTENT_QUERY).all()
        return sorted(tuple(row) for row in found)


@pytest.fixture
def office(place: str) -> Iterator[Office]:
    clock = Clock()
    with closing(filled(place, count=3)) as store:
        ann, bob = (store.add_labeler(name).id for name in ("ann", "bob"))
        yield Office(store, clock, WritingDesk(store, lease_seconds=HOUR, clock=clock), ann, bob)


# --- who gets which prompt ------------------------------------------------------------------------


def test_a_prompt_goes_to_one_and_what_is_begun_comes_first(office: Office) -> None:
    first = office.begin(office.ann)
    assert (first.prompt, first.kind, first.response) == ("Prompt p0", "given", "")
    assert sorted(first.sampled) == [f"answer {i} to p0" for i in range(3)]
    assert office.begin(office.bob).prompt == "Prompt p1"
    assert office.begin(office.ann).id == first.id
    office.desk.finish(office.ann, first.id, response="Mine.")
    assert office.begin(office.ann).prompt == "Prompt p2"
    assert office.desk.counts(office.ann) == (1, 2)
    assert office.desk.counts(office.bob) == (0, 2)
    office.write(office.ann)
    office.write(office.bob)
    assert office.desk.next_prompt(office.ann) is office.desk.next_prompt(office.bob) is None
    assert office.desk.counts(office.bob) == (1, 0)


def test_only_current_sampled_prompts_come_the_highest_priority_first(place: str) -> None:
    store = open_store(place)
    names = ["old", "low", "gold", "practice", "imported", "high"]
    store.add_tasks([sample_set(name) for name in names], QUESTIONS, "x", priorities={"high": 2})
    with store.writing() as session:
        for task in session.scalars(select(Task)):
            task.kind = task.prompt_id if task.prompt_id in names[2:5] else "sampled"
            task.active = task.prompt_id != "old"
    ann, desk = store.add_labeler("ann").id, WritingDesk(store)
    prompts: list[str] = []
    while (piece := desk.next_prompt(ann)) is not None:
        prompts.append(piece.prompt)
        desk.finish(ann, piece.id, response="x")
    assert prompts == ["Prompt high", "Prompt low"]


def test_an_answered_prompt_is_answered_whatever_is_sampled_for_it_later(office: Office) -> None:
    office.write(office.ann)
    begun = office.begin(office.ann)
    again = [sample_set(f"p{i}", policy="ppo", size=2) for i in range(3)]
    office.store.add_tasks(again, QUESTIONS, "x")
    assert office.begin(office.ann) == begun  # what was begun is not lost
    assert office.begin(office.bob).prompt == "Prompt p2"  # nor is it written by two
    assert [row.prompt for row in office.exported()] == ["Prompt p0"]
    office.desk.finish(office.ann, begun.id, response="Both.")
    assert {row.prompt for row in office.exported()} == {"Prompt p0", "Prompt p1"}


def test_what_is_skipped_goes_to_others_and_the_reason_is_kept(office: Office) -> None:
    piece = office.begin(office.ann)
    for bad in ("", " \n", "x" * 201, None, 3):
        with pytest.raises(UserError):
            office.desk.skip(office.ann, piece.id, bad)  # type: ignore[arg-type]
    for _ in range(2):
        office.desk.skip(office.ann, piece.id, "needs an expert \0")
    assert office.begin(office.ann).prompt == "Prompt p1"
    assert office.begin(office.bob).prompt == "Prompt p0"
    with pytest.raises(UserError, match="already skipped"):
        office.desk.finish(office.ann, piece.id, response="after all")
    with office.store.reading() as session:
        events = session.scalars(select(Event)).all()
    assert [(one.action, one.detail["reason"]) for one in events] == [
        ("demonstration skipped", "needs an expert \0")
    ]
    done = office.write(office.bob)
    with pytest.raises(UserError, match="already ended"):
        office.desk.skip(office.bob, done, "too late")
    with pytest.raises(UserError, match="new to you"):
        office.desk.skip(office.bob, office.desk.own_prompt(office.bob).id, "no")


@pytest.mark.parametrize("end", ["disabled", "set aside"])
def test_who_may_not_label_neither_writes_nor_keeps_a_prompt(office: Office, end: str) -> None:
    piece = office.begin(office.ann)
    with office.store.writing() as session:
        labeler = session.get_one(Labeler, office.ann)
        labeler.disabled, labeler.active = end == "disabled", end != "set aside"
    for act in (office.desk.next_prompt, office.desk.own_prompt):
        with pytest.raises(UserError, match="may not label"):
            act(office.ann)
    with pytest.raises(UserError, match="may not label"):
        office.desk.finish(office.ann, piece.id, response="x")
    assert office.begin(office.bob).prompt == "Prompt p0"


# --- leases ---------------------------------------------------------------------------------------


def test_a_draft_renews_the_lease_and_who_was_away_for_long_loses_it(office: Office) -> None:
    piece = office.begin(office.ann)
    for seq in range(1, 4):
        office.clock.now += 0.9 * HOUR
        office.desk.save_draft(office.ann, piece.id, "page", seq, response="begun")
    assert office.begin(office.bob).prompt == "Prompt p1"
    office.clock.now += 1.1 * HOUR
    # Until somebody else has it, it can still be finished.
    office.desk.skip(office.bob, office.begin(office.bob).id, "no")
    assert office.begin(office.bob).prompt == "Prompt p0"
    with pytest.raises(LeaseLost, match="somebody else"):
        office.desk.finish(office.ann, piece.id, response="late")
    with pytest.raises(LeaseLost, match="somebody else"):
        office.desk.save_draft(office.ann, piece.id, "page", 4, response="kept all the same")
    assert office.begin(office.ann).prompt == "Prompt p1"
    # Bob goes away in turn: what ann had written is still there.
    lost = office.begin(office.bob)
    office.clock.now += 1.1 * HOUR
    office.desk.skip(office.ann, office.begin(office.ann).id, "no")
    back = office.begin(office.ann)
    assert (back.id, back.response) == (piece.id, "kept all the same")
    office.desk.finish(office.ann, piece.id, response="In the end.")
    with pytest.raises(LeaseLost, match="somebody else"):
        office.desk.finish(office.bob, lost.id, response="x")
    assert [row.response for row in office.exported()] == ["In the end."]


@pytest.mark.parametrize("jump", [-10 * 365 * 24 * HOUR, 10 * 365 * 24 * HOUR])
def test_a_clock_that_was_wrong_keeps_no_prompt_for_ever(office: Office, jump: float) -> None:
    office.clock.now += jump
    piece = office.begin(office.ann)
    office.clock.now -= jump
    # Ahead of the clock or long past: in either case the lease holds nothing.
    assert office.begin(office.bob).prompt == "Prompt p0"
    with pytest.raises(LeaseLost):
        office.desk.finish(office.ann, piece.id, response="x")
    assert office.write(office.bob)


def test_two_at_once_never_get_the_same_prompt(place: str) -> None:
    store = filled(place, count=24)
    people = [store.add_labeler(f"labeler {i}").id for i in range(4)]
    desk, start, failed = WritingDesk(store), threading.Barrier(4), []

    def write_all(labeler: int) -> None:
        start.wait()
        try:
            for _ in range(6):
                piece = desk.next_prompt(labeler)
                assert piece is not None
                desk.save_draft(labeler, piece.id, "page", 1, response="begun")
                names = {desk.finish(labeler, piece.id, response="x") for _ in range(2)}
                assert names == {piece.id}
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write_all, args=(labeler,)) for labeler in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with store.reading() as session:
        found = list(exported(session))
    assert Counter(row.prompt for row in found) == {f"Prompt p{i}": 1 for i in range(24)}
    assert sorted(Counter(row.labeler for row in found).values()) == [6, 6, 6, 6]


def test_nobody_reaches_what_is_anothers(office: Office) -> None:
    draft = office.begin(office.ann)
    done = office.own(office.ann, "Whose?", "Ann's.")
    edit = office.desk.edit(office.ann, done)
    desk, bob = office.desk, office.bob
    text: dict[str, Any] = {"response": "Bob's."}
    for name in (
        draft.id,
        done,
        edit.id,
        "",
        "x",
        "x" * 10_000,
        "a\0b",
        "\ud83d",
        None,
        3,
        [draft.id],
    ):
        name: Any
        for act in (
            lambda name=name: desk.save_draft(bob, name, "page", 1, **text),
            lambda name=name: desk.finish(bob, name, **text),
            lambda name=name: desk.skip(bob, name, "why"),
            lambda name=name: desk.edit(bob, name),
            lambda name=name: desk.leave(bob, name),
            lambda name=name: desk.withdraw(bob, name),
        ):
            with pytest.raises(LeaseLost, match="not before you"):
                act()
    assert office.begin(office.ann).response == ""
    assert [row.response for row in office.exported()] == ["Ann's."]


# --- drafts and texts -----------------------------------------------------------------------------

TEXT = ' \t{"a": 1}\r\n\0\x1b\x1b0 \u202e \u2028 é e\u0301 😀 \' OR 1=1; -- %s {} \\ud83d\n\n'


def test_drafts_and_answers_are_kept_verbatim(office: Office) -> None:
    piece = office.begin(office.ann)
    office.desk.save_draft(office.ann, piece.id, "page", 1, response=TEXT)
    assert office.begin(office.ann).response == TEXT
    assert office.begin(office.ann).saved == ("page", 1)
    office.desk.finish(office.ann, piece.id, response=TEXT)
    office.own(office.ann, TEXT, TEXT, "few-shot")
    rows = sorted(office.exported(), key=lambda row: row.kind or "")
    assert [(row.kind, row.prompt, row.response) for row in rows] == [
        ("few-shot", TEXT, TEXT),
        ("given", "Prompt p0", TEXT),
    ]


def test_what_a_page_sent_earlier_but_came_later_is_passed_over(office: Office) -> None:
    name = office.begin(office.ann).id
    for page, seq, text in [("a", 2, "two"), ("a", 1, "one"), ("a", 2, "again"), ("b", 1, "other")]:
        office.desk.save_draft(office.ann, name, page, seq, response=text)
        assert office.begin(office.ann).response == ("other" if page == "b" else "two")
    office.desk.finish(office.ann, name, response="done")
    with pytest.raises(LeaseLost, match="already ended"):
        office.desk.save_draft(office.ann, name, "b", 9, response="after it was finished")
    assert [row.response for row in office.exported()] == ["done"]


BAD: dict[str, dict[str, Any]] = {
    "empty": {"response": ""},
    "only space": {"response": " \n\t\u3000"},
    "no text": {"response": None},
    "a list": {"response": ["x"]},
    "half a character": {"response": "\ud83d"},
    "too long": {"response": "x" * 20_001},
    "too many bytes": {"response": "😀" * 15_001},
    "a prompt for a given one": {"response": "x", "prompt": "mine"},
    "a kind for a given one": {"response": "x", "kind": "plain"},
    "a sampled answer too far": {"response": "x", "started_from": 3},
    "a sampled answer before": {"response": "x", "started_from": -1},
    "a sampled answer true": {"response": "x", "started_from": True},
    "a sampled answer's text": {"response": "x", "started_from": "p0-0"},
    "seconds below zero": {"response": "x", "seconds": -1},
    "seconds not finite": {"response": "x", "seconds": float("nan")},
}
BAD_OWN: dict[str, dict[str, Any]] = {
    "no prompt": {},
    "empty prompt": {"prompt": " "},
    "prompt too long": {"prompt": "x" * 20_001},
    "together too many bytes": {"prompt": "€" * 10_001, "response": "€" * 10_000},
    "half a character": {"prompt": "\udfff"},
    "no kind": {"kind": None},
    "given": {"kind": "given"},
    "unknown kind": {"kind": "planted"},
    "kind as list": {"kind": ["plain"]},
    "a sampled answer": {"started_from": 0},
}


def test_what_does_not_fit_is_refused_and_changes_nothing(office: Office) -> None:
    given, own = office.begin(office.ann), office.desk.own_prompt(office.ann)
    office.desk.save_draft(office.ann, given.id, "page", 1, response="begun")
    for why, values in BAD.items():
        with pytest.raises(UserError):
            office.desk.finish(office.ann, given.id, **values)
        assert office.begin(office.ann).response == "begun", why
    for why, values in BAD_OWN.items():
        fine: dict[str, Any] = {"response": "x", "kind": "plain"}
        fine |= {} if why == "no prompt" else {"prompt": "x"}
        with pytest.raises(UserError):
            office.desk.finish(office.ann, own.id, **(fine | values))
        assert office.desk.own_prompt(office.ann).prompt == "", why
    for page, seq in [("", 1), ("x" * 300, 1), (None, 1), ("p", 0), ("p", True), ("p", 2**31)]:
        with pytest.raises(UserError, match="which of its page"):
            office.desk.save_draft(office.ann, given.id, page, seq, response="x")  # type: ignore[arg-type]
    assert office.exported() == []


def test_the_longest_texts_fit(office: Office) -> None:
    office.write(office.ann, "€" * 20_000)
    office.own(office.ann, "x" * 20_000, "y" * 20_000)
    assert sorted(len(row.response) for row in office.exported()) == [20_000, 20_000]


def test_what_a_sampled_answer_was_begun_with_is_kept(office: Office) -> None:
    piece = office.begin(office.bob)
    place = piece.sampled.index("answer 2 to p0")
    values: dict[str, Any] = {"response": "answer 2, better", "started_from": place}
    office.desk.save_draft(office.bob, piece.id, "page", 1, **values)
    assert office.begin(office.bob).started_from == place
    office.desk.save_draft(office.bob, piece.id, "page", 2, response="anew")
    assert office.begin(office.bob).started_from is None
    office.desk.finish(office.bob, piece.id, **values)
    assert [row.edited_from for row in office.exported()] == ["p0-2"]


# --- own prompts, editing, withdrawing ------------------------------------------------------------


def test_an_own_prompt_needs_no_task_and_leaves_no_blank_behind(office: Office) -> None:
    first = office.desk.own_prompt(office.ann)
    assert (first.prompt, first.kind, first.sampled) == ("", "plain", ())
    assert office.desk.own_prompt(office.ann).id == first.id
    fields: dict[str, Any] = {"response": "b", "prompt": "a", "kind": "user-based"}
    office.desk.save_draft(office.ann, first.id, "page", 1, **fields)
    begun = office.desk.own_prompt(office.ann)
    assert (begun.prompt, begun.response, begun.kind) == ("a", "b", "user-based")
    assert office.begin(office.ann).kind == "given"  # the two do not get in each other's way
    office.desk.finish(office.ann, first.id, **fields)
    # An own prompt that is one of the run's answers it.
    office.own(office.ann, "Prompt p1", "Mine.", "few-shot")
    assert office.begin(office.bob).prompt == "Prompt p2"
    kinds = {row.prompt: row.kind for row in office.exported()}
    assert kinds == {"a": "user-based", "Prompt p1": "few-shot"}


def test_an_edit_counts_when_it_is_finished_and_not_before(office: Office) -> None:
    piece = office.begin(office.ann)
    name = office.desk.finish(
        office.ann, piece.id, response="First.", started_from=1, seconds=10.04
    )
    before = office.content()
    edit = office.desk.edit(office.ann, name)
    assert (edit.response, edit.edits, edit.started_from) == ("First.", True, 1)
    assert edit.id != name
    office.desk.save_draft(office.ann, edit.id, "page", 1, response="Seco", started_from=1)
    assert office.desk.edit(office.ann, name).response == "Seco"  # the same draft
    assert office.begin(office.ann).id == edit.id  # also what comes first
    assert office.content() == before
    assert office.begin(office.bob).prompt == "Prompt p1"  # nobody else gets it
    for _ in range(2):
        assert office.desk.finish(office.ann, edit.id, response="Second.", seconds=5) == name
    assert [(row.demonstration_id, row.response, row.edited_from) for row in office.exported()] == [
        (name, "Second.", None)
    ]
    assert office.content() != before
    with office.store.reading() as session:
        kept = {row.state: row for row in session.scalars(select(Demonstration))}
    assert (kept["replaced"].response, kept["replaced"].seconds) == ("First.", 10.0)
    assert kept["done"].seconds == 15.0
    # A late copy of the first call ends no later edit.
    third = office.desk.edit(office.ann, name)
    assert office.desk.finish(office.ann, edit.id, response="Second.") == name
    assert office.begin(office.ann).id == third.id
    office.desk.leave(office.ann, third.id)
    for act in (office.desk.leave, office.desk.edit):
        with pytest.raises(LeaseLost):
            act(office.ann, third.id)
    assert [row.response for row in office.exported()] == ["Second."]
    with pytest.raises(UserError, match="no edit"):
        office.desk.leave(office.ann, name)


def test_what_came_from_a_file_is_edited_by_its_labeler(office: Office) -> None:
    names = [f"file.{number}" for number in range(4)]
    with office.store.writing() as session:
        for name in names:
            row = Demonstration(
                id=name, labeler_id=office.ann, kind="given", prompt=name, response="x",
                edited_from="elsewhere-1", state="done", imported=True,
                leased_at=0.0, expires_at=0.0, created_at="2023-01-01T00:00:00+00:00",
            )  # fmt: skip
            session.add(row)
    begun = [office.begin(office.ann).id]
    for name in names:
        office.clock.now += 1
        begun.insert(0, office.desk.edit(office.ann, name).id)
    for name, edited in zip(begun, [*reversed(names), ""], strict=True):
        piece = office.begin(office.ann)  # the latest comes first
        assert (piece.id, piece.edits) == (name, bool(edited))
        office.desk.finish(office.ann, name, response="y")
    rows = {row.demonstration_id: row for row in office.exported()}
    assert {rows[name].edited_from for name in names} == {"elsewhere-1"}
    assert {row.response for row in rows.values()} == {"y"}
    with office.store.reading() as session:
        assert not any(session.get_one(Demonstration, name).imported for name in names)


def test_what_is_withdrawn_leaves_and_its_prompt_goes_to_others(office: Office) -> None:
    name = office.write(office.ann)
    edit = office.desk.edit(office.ann, name)
    for _ in range(2):
        office.desk.withdraw(office.ann, name)
    assert office.exported() == office.content() == []
    assert office.desk.finished(office.ann) == ([], 0)
    with pytest.raises(LeaseLost):
        office.desk.finish(office.ann, edit.id, response="x")
    with pytest.raises(LeaseLost, match="not finished"):
        office.desk.edit(office.ann, name)
    with pytest.raises(UserError, match="already withdrawn"):
        office.desk.finish(office.ann, name, response="x")
    assert office.begin(office.ann).prompt == "Prompt p1"
    assert office.begin(office.bob).prompt == "Prompt p0"
    with office.store.reading() as session:
        assert session.scalars(select(Event.action)).all() == ["demonstration withdrawn"]
        assert session.get_one(Demonstration, name).response == "Mine."


def test_ones_own_list_has_the_latest_first_and_long_texts_shortened(office: Office) -> None:
    names: list[str] = []
    for number in range(LIST_LENGTH + 2):
        office.clock.now += 60
        names.insert(0, office.own(office.ann, f"Prompt {number}", f"{number} " + "x" * 500))
    office.own(office.bob, "Bob's", "Bob's")
    shown, total = office.desk.finished(office.ann)
    assert (total, [one.id for one in shown]) == (LIST_LENGTH + 2, names[:LIST_LENGTH])
    assert shown[0].response == f"{LIST_LENGTH + 1} " + "x" * 396 + "…"
    assert [one.id for one in office.desk.finished(office.ann, LIST_LENGTH)[0]] == names[-2:]
    assert shown[0].created_at == "2023-11-14T22:35:20+00:00"  # 22 minutes after 22:13:20
    for after in (-1, True, "0", None, 2**31):
        with pytest.raises(UserError):
            office.desk.finished(office.ann, after)  # type: ignore[arg-type]


# --- what comes out -------------------------------------------------------------------------------


def test_the_export_has_pseudonyms_and_a_fixed_order(office: Office, tmp_path: Path) -> None:
    for number in range(7):
        office.own(office.ann if number % 2 else office.bob, f"Prompt {number}", "x", "plain")
    office.begin(office.ann)  # a draft is not exported
    found = office.exported()
    assert [row.demonstration_id for row in found] == sorted(str(r.demonstration_id) for r in found)
    names = {one.pseudonym for one in Accounts(office.store).list()}
    assert {row.labeler for row in found} == names
    path = tmp_path / "demonstrations.jsonl"
    assert write_rows(path, found) == 7
    assert read_rows(path, records.Demonstration) == found
    text = path.read_text(encoding="utf-8")
    assert "ann" not in text
    assert "bob" not in text
    assert "created_at" not in text
    with office.store.writing() as session:
        session.get_one(Labeler, office.ann).active = False
    assert len(office.exported()) == len(office.content()) == 4


@pytest.mark.parametrize(
    ("before", "after"), [('{"a": 1}', '{"a":1}'), ("[1]", "[1] "), ("x", "x\0"), ("1", "1.0")]
)
def test_every_change_of_a_text_changes_the_content(
    office: Office, before: str, after: str
) -> None:
    name = office.own(office.ann, "Prompt", before)
    first = office.content()
    fields: dict[str, Any] = {"prompt": "Prompt", "kind": "plain"}
    office.desk.finish(office.ann, office.desk.edit(office.ann, name).id, response=after, **fields)
    assert office.content() != first
    office.desk.finish(office.ann, office.desk.edit(office.ann, name).id, response=before, **fields)
    assert office.content() == first


def test_what_is_written_is_a_source_of_the_next_run(office: Office, tmp_path: Path) -> None:
    """The config that the document gives, with files where it says."""
    for number in range(40):
        office.own(office.ann, f"Own prompt {number}?", f"Own answer {number}.")
    office.write(office.bob, "To a given one.")
    rows = office.exported()
    more = tmp_path / "runs" / "first" / "more"
    more.mkdir(parents=True)
    earlier = [records.Demonstration(prompt=f"Prompt {i}.", response="x") for i in range(160)]
    write_rows(more / "demonstrations.jsonl", [*earlier, *rows])
    (text,) = (
        block
        for block in LABELING.read_text(encoding="utf-8").split("```yaml\n")[1:]
        if "demonstrations.jsonl" in block
    )
    path = tmp_path / "second.yaml"
    path.write_text(text.partition("```")[0], encoding="utf-8")
    config = load_config(path)
    assert config.data_root == "runs/first"
    config = load_config(path, [f"data_root={tmp_path / config.data_root}"])
    data.run(config, tmp_path / "runs" / "second")
    written = tmp_path / "runs" / "second" / "data"
    found = read_rows(written / "demonstrations.jsonl", records.Demonstration)
    prompts = read_rows(written / "prompts.jsonl", Prompt)
    answers = {one.prompt: one.response for one in found}
    answers |= {one.prompt: (one.meta or {})["reference"] for one in prompts}
    assert answers == {one.prompt: one.response for one in [*earlier, *rows]}
    assert 150 < len(found) < 190  # 85 % of 201 are 171, give or take 5


def test_what_is_written_ends_no_task(office: Office) -> None:
    progress = office.store.progress(people_only=True)
    office.write(office.ann)
    assert office.store.progress(people_only=True) == progress
    task = Desk(office.store).next_task(office.bob)
    assert task is not None
    assert task.prompt == "Prompt p0"
