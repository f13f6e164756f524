"""Progress, pace, skips and practice on the dashboard, against what was done."""

from __future__ import annotations

import pytest

from labeling_ui.dashboard_progress import poisson_interval, read_overview
from labeling_ui.desk import Desk
from labeling_ui.store import open_store
from pipeline.records import RankedResponse, Ranking
from tests.labeling_ui.judging import QUESTIONS, sample_set

# Exact limits of a Poisson mean (Garwood 1936), as printed in tables.
GARWOOD = {1: (0.0253, 5.572), 5: (1.623, 11.668), 10: (4.795, 18.390), 100: (81.36, 121.63)}


def known(name: str) -> Ranking:
    responses = [
        RankedResponse(response_id=f"{name}{i}", text=f"{i}", policy="x", finished=True)
        for i in range(2)
    ]
    said = {"ratings": [7, 1], "ranks": [1, 2], "submission_id": name, "labeler": "lead"}
    values = {"prompt_id": name, "prompt": name, "responses": responses}
    return Ranking.model_validate(values | said)


def test_what_was_done_is_what_is_shown(place: str) -> None:
    store, now = open_store(place), [1_000_000.0]
    start = now[0]
    desk = Desk(store, lease_seconds=600, clock=lambda: now[0])
    store.add_tasks([sample_set(f"p{i}") for i in range(10)], QUESTIONS, "", overlap=2)
    store.add_known_tasks([known("practice")], 1)
    ann, bob, cat = (store.add_labeler(name, f"p-{name}").id for name in ("ann", "bob", "cat"))
    store.add_labeler("script", "p-script", scripted=True)

    def submit(labeler: int, seconds: float) -> None:
        task = desk.next_task(labeler)
        assert task is not None
        now[0] += seconds
        size = len(task.responses)
        ranks = list(range(1, size + 1))
        desk.submit(labeler, task.lease, ratings=[4] * size, ranks=ranks, answers={},
                    confirmed_contradiction=True)  # fmt: skip
        desk.feedback(labeler, task.lease)

    overview = read_overview(store, now[0])
    assert (overview.pace.per_hour, overview.ends_left, overview.practice_tasks) == (None, 20, 1)
    submit(ann, 30)  # the practice
    for _ in range(4):
        submit(ann, 3600)
    submit(bob, 60)
    for _ in range(3):
        submit(bob, 600)
    skipped = desk.next_task(bob)
    assert skipped is not None
    now[0] += 600
    desk.skip(bob, skipped.lease, "unclear prompt", "what does \x1b\u202e mean?")
    assert desk.next_task(cat) is not None  # the practice, which is no open task
    assert desk.next_task(ann) is not None  # now before her
    overview = read_overview(store, now[0] + 60)
    people = {person.name: person for person in overview.people}
    assert overview.progress.open + overview.progress.done == 10
    assert overview.before_somebody == 1
    assert overview.ends_left == 20 - 4 - 3 - 1
    assert set(people) == {"ann", "bob", "cat"}
    assert [people[name].working for name in ("ann", "bob", "cat")] == [True, False, True]
    assert [people[name].skipped for name in ("ann", "bob", "cat")] == [0, 1, 0]
    assert people["bob"].last_at == now[0]
    assert people["cat"].last_at is None
    # Ends of the run's tasks: ann's at each full hour, then bob's four, ten minutes apart.
    assert overview.pace.ended == 4 + 1
    assert overview.pace.hours == 1.0
    assert overview.pace.per_hour == pytest.approx(5)
    assert overview.pace.ci95 == pytest.approx(poisson_interval(5))
    assert sum(overview.pace.hourly) == 8
    assert overview.pace.hourly[-4:] == (1, 1, 1, 5)
    assert overview.reasons == (("unclear prompt", 1),)
    (skip,) = overview.latest_skips
    assert (skip.name, skip.reason, skip.note) == (
        "bob", "unclear prompt", "what does \x1b\u202e mean?",
    )  # fmt: skip
    assert skip.prompt == skipped.prompt
    later = read_overview(store, now[0] + 3700)  # leases have run out, nobody went on
    assert later.before_somebody == 0
    assert (later.pace.ended, later.pace.per_hour) == (0, None)
    assert not any(person.working for person in later.people)
    assert start < now[0]


def test_the_first_tasks_tell_a_pace_too(place: str) -> None:
    store, now = open_store(place), [1_000_000.0]
    desk = Desk(store, clock=lambda: now[0])
    store.add_tasks([sample_set(f"p{i}") for i in range(9)], QUESTIONS, "")
    ann = store.add_labeler("ann").id
    for _ in range(4):
        task = desk.next_task(ann)
        assert task is not None
        now[0] += 300
        desk.submit(ann, task.lease, ratings=[4] * 3, ranks=[1] * 3, answers={})
    pace = read_overview(store, now[0]).pace
    assert (pace.ended, pace.hours) == (3, pytest.approx(0.25))  # since the first end
    assert pace.per_hour == pytest.approx(12)


@pytest.mark.parametrize("count", GARWOOD)
def test_the_interval_of_a_count_is_that_of_the_tables(count: int) -> None:
    low, high = GARWOOD[count]
    assert poisson_interval(count) == pytest.approx((low, high), rel=0.005, abs=0.02)
    assert poisson_interval(0) == pytest.approx((0, 3.689), abs=0.03)
