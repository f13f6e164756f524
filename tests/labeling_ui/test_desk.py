"""The desk: who gets which task, leases, drafts, judgments that are refused, taking back."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labeling_ui.desk import Desk, LeaseLost
from labeling_ui.rows import in_shared_pool
from labeling_ui.store import Progress, Store, Task, open_store
from labeling_ui.tables import Event, Response
from pipeline.errors import UserError
from tests.labeling_ui.conftest import Places
from tests.labeling_ui.judging import QUESTIONS, count_rows, filled, judge, sample_set, shown

DAY = 24 * 60 * 60.0


@dataclass
class Clock:
    """A clock that goes when it is told to."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def people(store: Store, *names: str) -> list[int]:
    return [store.add_labeler(name).id for name in names]


def with_overlap(place: str, count: int, overlap: int, shared_fraction: float = 0.0) -> Store:
    store = open_store(place)
    samples = [sample_set(f"p{i}") for i in range(count)]
    more = {"overlap": overlap, "shared_fraction": shared_fraction}
    store.add_tasks(samples, QUESTIONS, "Be fair.", **more)
    return store


def end(desk: Desk, labeler_id: int, task: Task) -> str:
    size = len(task.responses)
    return desk.submit(labeler_id, task.lease, ratings=[4] * size, ranks=[1] * size, answers={})


def taken(desk: Desk, labeler_id: int) -> Task:
    task = desk.next_task(labeler_id)
    assert task is not None
    return task


# --- who gets which task ------------------------------------------------------------------------


def test_a_judged_task_is_shown_to_nobody_else(place: str) -> None:
    store = filled(place, count=2)
    desk, (ann, bob) = Desk(store), people(store, "ann", "bob")
    first = taken(desk, ann)
    assert taken(desk, bob).prompt_id != first.prompt_id  # it is before ann
    judge(store, ann, first)
    judge(store, bob, taken(desk, bob))
    assert desk.next_task(ann) is None
    assert desk.next_task(bob) is None


def test_overlap_is_reached_and_never_passed(place: str) -> None:
    store = with_overlap(place, count=5, overlap=2)
    desk, everybody = Desk(store), people(store, "ann", "bob", "eva")
    seen: Counter[str] = Counter()
    for _ in range(5):
        for labeler in everybody:
            task = desk.next_task(labeler)
            if task is not None:
                end(desk, labeler, task)
                seen[task.prompt_id] += 1
    assert dict(seen) == {f"p{i}": 2 for i in range(5)}
    assert store.progress() == store.progress(people_only=True) == Progress(5, 0, 0)
    by_task = Counter((row.prompt_id, row.labeler) for row in store.rankings())
    assert set(by_task.values()) == {1}


def test_the_shared_pool_is_seen_by_all_and_waits_for_nobody(place: str) -> None:
    store = with_overlap(place, count=40, overlap=1, shared_fraction=0.25)
    shared = {
        identity
        for identity in (f"p{i}" for i in range(40))
        if in_shared_pool(_identity(store, identity), 0.25)
    }
    assert 3 <= len(shared) <= 18  # P(outside) < 0.2 % at a fair quarter of 40, and fixed
    desk, (ann, bob) = Desk(store), people(store, "ann", "bob")
    while (task := desk.next_task(ann)) is not None:
        end(desk, ann, task)
    assert store.progress(people_only=True) == Progress(40, 0, 0)
    again: set[str] = set()
    while (task := desk.next_task(bob)) is not None:
        end(desk, bob, task)
        again.add(task.prompt_id)
    assert again == shared


def _identity(store: Store, prompt_id: str) -> str:
    with store.reading() as session:
        statement = f"SELECT identity FROM task WHERE prompt_id = '{prompt_id}'"
        return str(session.connection().exec_driver_sql(statement).scalar())


def test_the_shared_pool_has_its_share() -> None:
    for fraction in (0.0, 0.15, 0.5, 1.0):
        share = sum(in_shared_pool(f"task-{i}", fraction) for i in range(4000)) / 4000
        assert abs(share - fraction) < 0.03  # four standard errors at a half


def test_higher_priorities_come_first(place: str) -> None:
    store = open_store(place)
    samples = [sample_set(name) for name in ("a", "b", "c", "d")]
    store.add_tasks(samples, QUESTIONS, "x", priorities={"c": 2, "d": 1, "a": -1})
    ann = store.add_labeler("ann").id
    order: list[str] = []
    while (task := Desk(store).next_task(ann)) is not None:
        order.append(task.prompt_id)
        end(Desk(store), ann, task)
    assert order == ["c", "d", "b", "a"]


def test_a_skip_counts_towards_the_overlap(place: str) -> None:
    store = with_overlap(place, count=1, overlap=2)
    desk, (ann, bob, eva) = Desk(store), people(store, "ann", "bob", "eva")
    desk.skip(ann, taken(desk, ann).lease, "needs an expert")
    assert store.progress(people_only=True) == Progress(0, 1, 0)
    end(desk, bob, taken(desk, bob))
    assert store.progress(people_only=True) == Progress(1, 0, 0)
    assert desk.next_task(eva) is None


def test_a_disabled_labeler_gets_nothing_and_holds_nothing(place: str) -> None:
    store = filled(place, count=1)
    desk, (ann, bob) = Desk(store), people(store, "ann", "bob")
    lease = taken(desk, ann).lease
    assert desk.next_task(bob) is None
    with store.writing() as session:
        session.connection().exec_driver_sql(f"UPDATE labeler SET disabled = true WHERE id = {ann}")
    for call in (
        lambda: desk.next_task(ann),
        lambda: desk.skip(ann, lease, "unclear"),
        lambda: desk.save_draft(ann, lease, "page", 1, {}),
        lambda: desk.undo(ann),
    ):
        with pytest.raises(UserError, match="may not label"):
            call()
    assert taken(desk, bob).prompt_id == "p0"


# --- leases -------------------------------------------------------------------------------------


def test_a_lease_keeps_a_task_until_it_runs_out(place: str) -> None:
    store, clock = filled(place, count=1), Clock()
    desk, (ann, bob) = Desk(store, 100.0, clock), people(store, "ann", "bob")
    first = taken(desk, ann)
    clock.now += 99
    assert desk.next_task(bob) is None
    clock.now += 2
    assert taken(desk, bob).prompt_id == first.prompt_id
    with pytest.raises(LeaseLost, match="gone to somebody else"):
        end(desk, ann, first)
    assert desk.next_task(ann) is None
    end(desk, bob, taken(desk, bob))
    with pytest.raises(LeaseLost, match="gone to somebody else"):
        end(desk, ann, first)
    assert store.progress() == Progress(1, 0, 0)


def test_whoever_comes_late_may_still_submit_while_nobody_else_has_the_task(place: str) -> None:
    store, clock = filled(place, count=1), Clock()
    desk, (ann, bob) = Desk(store, 100.0, clock), people(store, "ann", "bob")
    task = taken(desk, ann)
    clock.now += 10 * DAY
    end(desk, ann, task)
    assert desk.next_task(bob) is None


def test_a_draft_renews_the_lease(place: str) -> None:
    store, clock = filled(place, count=1), Clock()
    desk, (ann, bob) = Desk(store, 100.0, clock), people(store, "ann", "bob")
    lease = taken(desk, ann).lease
    for seq in range(1, 6):
        clock.now += 90
        desk.save_draft(ann, lease, "page", seq, {"note": str(seq)})
        assert desk.next_task(bob) is None
    clock.now += 101
    assert desk.next_task(bob) is not None


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_a_clock_that_jumps_by_a_day_changes_no_ownership(place: str, jump: float) -> None:
    store, clock = filled(place, count=2), Clock()
    desk, (ann, bob) = Desk(store, 100.0, clock), people(store, "ann", "bob")
    first = taken(desk, ann)
    desk.save_draft(ann, first.lease, "page", 1, {"note": "begun"})
    clock.now += jump
    again = taken(desk, ann)
    assert (again.lease, again.draft) == (first.lease, {"note": "begun"})
    assert taken(desk, bob).prompt_id != first.prompt_id
    end(desk, ann, again)
    end(desk, bob, taken(desk, bob))
    assert store.progress() == Progress(2, 0, 0)


def test_a_lease_from_the_future_keeps_nothing_for_a_day(place: str) -> None:
    store, clock = filled(place, count=1), Clock()
    desk, (ann, bob) = Desk(store, 100.0, clock), people(store, "ann", "bob")
    taken(desk, ann)
    clock.now -= DAY  # the clock had been ahead
    assert desk.next_task(bob) is not None


NO_LEASES = ["", "x", "x" * 5000, None, 7, True, ["a"], {"a": 1}, "a\0b", "\ud83d"]


@pytest.mark.parametrize("lease", NO_LEASES)
def test_what_is_no_lease_ends_nothing(place: str, lease: Any) -> None:
    store = filled(place)
    desk, (ann,) = Desk(store), people(store, "ann")
    taken(desk, ann)
    with pytest.raises(LeaseLost):
        desk.submit(ann, lease, ratings=[1, 1, 1], ranks=[1, 1, 1], answers={})
    with pytest.raises(LeaseLost):
        desk.skip(ann, lease, "unclear")
    assert count_rows(store, "submission") == count_rows(store, "skipped_task") == 0


def test_another_labelers_lease_is_refused(place: str) -> None:
    store = filled(place)
    desk, (ann, bob) = Desk(store), people(store, "ann", "bob")
    task = taken(desk, ann)
    with pytest.raises(LeaseLost, match="not before you"):
        end(desk, bob, task)
    with pytest.raises(LeaseLost, match="not before you"):
        desk.skip(bob, task.lease, "unclear")
    with pytest.raises(LeaseLost, match="not before you"):
        desk.save_draft(bob, task.lease, "page", 1, {"note": "mine now"})
    assert taken(desk, ann).draft is None
    assert count_rows(store, "submission") == 0


def test_a_task_whose_response_vanished_is_shown_to_nobody(place: str) -> None:
    store = filled(place, count=2)
    desk, (ann, bob) = Desk(store), people(store, "ann", "bob")
    task = taken(desk, ann)
    with store.writing() as session:
        session.delete(session.get_one(Response, (1, 2)))
    with pytest.raises(LeaseLost, match="taken out of use"):
        end(desk, ann, task)
    assert taken(desk, ann).prompt_id == "p1"
    assert desk.next_task(bob) is None
    with store.reading() as session:
        events = [event.action for event in session.query(Event)]
    assert events == ["task damaged"]


# --- drafts -------------------------------------------------------------------------------------


def test_a_draft_comes_back_whatever_it_holds(place: str) -> None:
    store = filled(place)
    desk, (ann,) = Desk(store), people(store, "ann")
    lease = taken(desk, ann).lease
    draft = {
        "note": "tab\t nul\0 half\ud83d 'quotes\"",
        "ratings": [None, 7, 1.5],
        "deep": {"a": []},
    }
    desk.save_draft(ann, lease, "page", 1, draft)
    assert taken(Desk(open_store(place)), ann).draft == draft


def test_a_draft_that_was_overtaken_is_passed_over(place: str) -> None:
    store = filled(place)
    desk, (ann,) = Desk(store), people(store, "ann")
    lease = taken(desk, ann).lease
    for page, seq, note in (("a", 2, "later"), ("a", 1, "earlier"), ("b", 1, "other window")):
        desk.save_draft(ann, lease, page, seq, {"note": note})
        expected = "later" if page == "a" else "other window"
        assert taken(desk, ann).draft == {"note": expected}


def test_a_draft_is_kept_even_where_the_task_has_gone(place: str) -> None:
    store, clock = filled(place, count=1), Clock()
    desk, (ann, bob) = Desk(store, 100.0, clock), people(store, "ann", "bob")
    lease = taken(desk, ann).lease
    clock.now += 101
    bobs = taken(desk, bob)
    with pytest.raises(LeaseLost):
        desk.save_draft(ann, lease, "page", 1, {"note": "long thought"})
    clock.now += 101  # bob has gone home: it may come back
    assert taken(desk, ann).draft == {"note": "long thought"}
    with pytest.raises(LeaseLost):
        end(desk, bob, bobs)


@pytest.mark.parametrize(
    ("page", "seq", "draft"),
    [
        ("", 1, {}),
        ("p" * 65, 1, {}),
        (None, 1, {}),
        ("p", 0, {}),
        ("p", -1, {}),
        ("p", True, {}),
        ("p", 1.0, {}),
        ("p", 2**31, {}),
        ("p", 1, None),
        ("p", 1, [1]),
        ("p", 1, "text"),
        ("p", 1, {"note": "x" * 40_000}),
        ("p", 1, {"rating": float("nan")}),
    ],
)
def test_a_bad_draft_is_refused(place: str, page: Any, seq: Any, draft: Any) -> None:
    store = filled(place)
    desk, (ann,) = Desk(store), people(store, "ann")
    lease = taken(desk, ann).lease
    with pytest.raises(UserError, match="draft"):
        desk.save_draft(ann, lease, page, seq, draft)
    assert taken(desk, ann).draft is None


def test_a_draft_after_the_end_is_refused(place: str) -> None:
    store = filled(place)
    desk, (ann,) = Desk(store), people(store, "ann")
    task = taken(desk, ann)
    end(desk, ann, task)
    with pytest.raises(LeaseLost, match="already ended"):
        desk.save_draft(ann, task.lease, "page", 1, {"note": "late"})


# --- submitting ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ratings": [0, 5, 5]}, "ratings"),
        ({"ratings": [8, 5, 5]}, "ratings"),
        ({"ratings": [99, 5, 5]}, "ratings"),
        ({"ratings": [True, 1, 1]}, "ratings"),
        ({"ratings": [3.0, 2, 1]}, "ratings"),
        ({"ratings": ["3", 2, 1]}, "ratings"),
        ({"ratings": [None, 2, 1]}, "ratings"),
        ({"ratings": [3, 2]}, "each of its 3 responses"),
        ({"ratings": 3}, "each of its 3 responses"),
        ({"ranks": [1, 2]}, "each of its 3 responses"),
        ({"ranks": [0, 1, 2]}, "ranks"),
        ({"ranks": [1, 2, 4]}, "rank 4 is impossible"),
        ({"answers": {"rude": [True, False]}}, "each of its 3 responses"),
        ({"answers": {"rude": [1, 0, 1]}}, "answers"),
        ({"answers": {"funny": [True, True, True]}}, "no question"),
        ({"note": "x" * 5001}, "5000 characters"),
        ({"note": "half \ud83d"}, "half a character"),
        ({"note": 7}, "no text"),
        ({"seconds": -1.0}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"seconds": True}, "seconds"),
        ({"confidence": "sure"}, "confidence"),
        ({"confidence": 3}, "confidence"),
        ({"confirmed_contradiction": "yes"}, "confirmed_contradiction"),
    ],
)
def test_a_bad_judgment_is_refused_and_nothing_written(
    place: str, changes: dict[str, Any], message: str
) -> None:
    store = filled(place)
    desk, (ann,) = Desk(store), people(store, "ann")
    task = taken(desk, ann)
    values = {"ratings": [4, 4, 4], "ranks": [1, 1, 1], "answers": {}, **changes}
    with pytest.raises(UserError, match=message):
        desk.submit(ann, task.lease, **values)
    assert count_rows(store, "submission") == count_rows(store, "judgment") == 0
    assert store.progress() == Progress(done=0, open=3, skipped=0)


def test_a_rank_that_contradicts_a_rating_has_to_be_confirmed(place: str) -> None:
    store = filled(place)
    desk, (ann,) = Desk(store), people(store, "ann")
    with pytest.raises(UserError, match="ranked above"):
        judge(store, ann, taken(desk, ann), ranks=[3, 2, 1])
    judge(store, ann, taken(desk, ann), ranks=[3, 2, 1], confirmed_contradiction=True)
    row = store.rankings()[0]
    assert (row.ranks, row.ratings, row.confirmed_contradiction) == ([3, 2, 1], [7, 6, 5], True)


def test_a_second_submission_gets_the_first_id_and_changes_nothing(place: str) -> None:
    store = filled(place)
    ann = store.add_labeler("ann").id
    task = shown(store, ann)
    first = judge(store, ann, task, note="first\0", confidence="high")
    before = store.content_hash()
    assert judge(store, ann, task, ratings=[1, 1, 1], ranks=[1, 1, 1]) == first
    assert store.content_hash() == before
    assert store.rankings()[0].ratings == [7, 6, 5]
    with pytest.raises(UserError, match="already judged"):
        Desk(store).skip(ann, task.lease, "unclear")


def test_a_skip_ends_a_task_once(place: str) -> None:
    store = filled(place)
    desk, (ann,) = Desk(store), people(store, "ann")
    task = taken(desk, ann)
    for reason in ("", "  ", "x" * 201, None, 7, "a\0b", "\ud83d"):
        with pytest.raises(UserError, match="reason"):
            desk.skip(ann, task.lease, reason)  # type: ignore[arg-type]
    first = desk.skip(ann, task.lease, "the prompt is unclear", "what fox?")
    assert desk.skip(ann, task.lease, "other") == first
    assert store.progress() == Progress(done=0, open=2, skipped=1)
    with pytest.raises(UserError, match="already skipped"):
        judge(store, ann, task)
    assert taken(desk, ann).prompt_id != task.prompt_id


# --- taking back --------------------------------------------------------------------------------


def test_undo_gives_the_task_back_as_it_was_left(place: str) -> None:
    store = filled(place, count=2, size=4)
    desk, (ann, bob) = Desk(store), people(store, "ann", "bob")
    assert not desk.can_undo(ann)
    assert not desk.undo(ann)
    task = taken(desk, ann)
    empty = store.content_hash()
    judgment = {"ratings": [7, 1, 4, 4], "ranks": [1, 4, 2, 2], "note": "n", "confidence": "low"}
    answers = {"rude": [True, False, None, True], "off_topic": [False] * 4}
    desk.submit(ann, task.lease, answers=answers, **judgment)
    after = taken(desk, ann)
    assert not desk.can_undo(bob)
    assert desk.can_undo(ann)
    assert desk.undo(ann)
    assert store.content_hash() == empty
    assert store.progress(people_only=True) == Progress(0, 2, 0)
    again = taken(desk, ann)
    assert again.prompt_id == task.prompt_id
    assert [r.text for r in again.responses] == [r.text for r in task.responses]
    expected = {"from": "submission", "confirmed": False, "answers": answers, **judgment}
    assert again.draft == expected
    assert desk.next_task(bob) is None  # one is before ann again, and so is the one after it
    with pytest.raises(LeaseLost, match="not before you"):
        end(desk, ann, task)  # a late copy of the call that was taken back
    desk.submit(ann, again.lease, ratings=[1] * 4, ranks=[1] * 4, answers={})
    assert store.rankings()[0].ratings == [1] * 4
    assert taken(desk, ann).prompt_id == after.prompt_id
    with store.reading() as session:
        event = session.query(Event).one()
    assert (event.action, event.labeler_id) == ("taken back", ann)
    assert event.detail["ratings"] == judgment["ratings"]


def test_undo_of_a_skip_and_of_what_came_before(place: str) -> None:
    store = filled(place, count=2)
    desk, (ann,) = Desk(store), people(store, "ann")
    first = taken(desk, ann)
    end(desk, ann, first)
    second = taken(desk, ann)
    desk.save_draft(ann, second.lease, "page", 1, {"ratings": [3, None, None], "note": "in"})
    desk.skip(ann, second.lease, "needs an expert", "in law")
    assert desk.undo(ann)
    task = taken(desk, ann)
    assert task.prompt_id == second.prompt_id
    skipped = {"from": "skip", "reason": "needs an expert", "note": "in law"}
    assert task.draft == {"ratings": [3, None, None], **skipped}
    assert desk.undo(ann)
    assert taken(desk, ann).prompt_id == first.prompt_id
    assert not desk.undo(ann)
    assert store.progress() == Progress(0, 2, 0)


def test_undo_takes_the_last_even_where_the_clock_went_back(place: str) -> None:
    store, clock = filled(place, count=2), Clock()
    desk, (ann,) = Desk(store, 100.0, clock), people(store, "ann")
    end(desk, ann, taken(desk, ann))
    clock.now -= 500
    second = taken(desk, ann)
    end(desk, ann, second)
    assert desk.undo(ann)
    assert taken(desk, ann).prompt_id == second.prompt_id


# --- whatever happens ---------------------------------------------------------------------------


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_whatever_people_do_the_overlap_holds_and_the_counts_are_right(
    data: st.DataObject, new_place: Places
) -> None:
    overlap = data.draw(st.integers(1, 3))
    store, clock = with_overlap(new_place(), 3, overlap, shared_fraction=0.3), Clock()
    desk, everybody = Desk(store, 100.0, clock), people(store, "ann", "bob", "eva", "ida")
    with store.reading() as session:
        statement = "SELECT prompt_id, shared FROM task"
        shared = dict(row for row in session.connection().exec_driver_sql(statement))
    leases: dict[int, Task] = {}
    mine: dict[int, list[tuple[str, str]]] = {labeler: [] for labeler in everybody}
    for _ in range(data.draw(st.integers(1, 30))):
        labeler = data.draw(st.sampled_from(everybody))
        act = data.draw(st.sampled_from(["next", "submit", "submit", "skip", "undo", "wait"]))
        try:
            if act == "next":
                task = desk.next_task(labeler)
                if task is not None:
                    leases[labeler] = task
                    assert task.prompt_id not in [prompt for prompt, _ in mine[labeler]]
            elif act == "wait":
                clock.now += data.draw(st.sampled_from([1.0, 101.0, -500.0]))
            elif act == "undo":
                undone = desk.undo(labeler)
                assert undone == bool(mine[labeler])
                if undone:
                    mine[labeler].pop()
            elif labeler in leases:
                task = leases.pop(labeler)
                if act == "submit":
                    end(desk, labeler, task)
                else:
                    desk.skip(labeler, task.lease, "unclear")
                mine[labeler].append((task.prompt_id, act))
        except LeaseLost:
            leases.pop(labeler, None)
        clock.now += 1e-3
    ends = Counter(prompt for ended in mine.values() for prompt, _ in ended)
    assert all(count <= overlap or shared[prompt] for prompt, count in ends.items())
    judged = Counter(p for ended in mine.values() for p, act in ended if act == "submit")
    complete = [prompt for prompt, count in ends.items() if count >= overlap]
    done = sum(judged[prompt] > 0 for prompt in complete)
    expected = Progress(done, 3 - len(complete), len(complete) - done)
    assert store.progress() == store.progress(people_only=True) == expected
    assert len(store.rankings()) == sum(judged.values())
    store.close()


def _label_all(place: str, name: str, take_back: bool) -> None:
    store = open_store(place)
    labeler, desk = store.add_labeler(name).id, Desk(store)
    count = 0
    while (task := desk.next_task(labeler)) is not None:
        end(desk, labeler, task)
        count += 1
        if take_back and count % 7 == 0:
            desk.undo(labeler)


@pytest.mark.parametrize("overlap", [1, 2])
def test_four_processes_at_once_keep_the_overlap(place: str, overlap: int) -> None:
    with_overlap(place, count=40, overlap=overlap).close()
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_label_all, args=(place, name, name == "ann"))
        for name in ("ann", "bob", "eva", "ida")
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    store = open_store(place)
    judged = Counter(row.prompt_id for row in store.rankings())
    assert dict(judged) == {f"p{i}": overlap for i in range(40)}
    assert store.progress(people_only=True) == Progress(40, 0, 0)
