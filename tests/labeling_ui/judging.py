"""Tasks to judge and judgments of them, for the tests of the label store."""

from __future__ import annotations

from typing import Any

from labeling_ui.desk import Desk
from labeling_ui.store import Store, Task, open_store
from pipeline.records import SampledResponse, SampleSet

QUESTIONS = {"rude": "Is it rude?", "off_topic": "Is it off topic?"}


def sample_set(name: str, size: int = 3, policy: str = "sft") -> SampleSet:
    return SampleSet(
        prompt_id=name,
        prompt=f"Prompt {name}",
        responses=[
            SampledResponse(
                response_id=f"{name}-{i}",
                text=f"answer {i} to {name}",
                policy=policy,
                seed=i,
                temperature=1.0,
                top_p=1.0,
                finished=True,
            )
            for i in range(size)
        ],
    )


def filled(place: str, count: int = 3, size: int = 3) -> Store:
    store = open_store(place)
    store.add_tasks([sample_set(f"p{i}", size) for i in range(count)], QUESTIONS, "Be fair.")
    return store


def judge(store: Store, labeler_id: int, task: Task, **changes: Any) -> str:
    """Submits lists that are given in canonical order."""
    size = len(task.responses)
    values: dict[str, Any] = {
        "ratings": [7 - i for i in range(size)],
        "ranks": [i + 1 for i in range(size)],
        "answers": {"rude": [True] + [None] * (size - 1)},
    }
    values |= changes
    for name in ("ratings", "ranks"):
        values[name] = task.displayed(values[name])
    values["answers"] = {key: task.displayed(column) for key, column in values["answers"].items()}
    return Desk(store).submit(labeler_id, task.lease, **values)


def shown(store: Store, labeler_id: int) -> Task:
    task = Desk(store).next_task(labeler_id)
    assert task is not None
    return task


def count_rows(store: Store, table: str) -> int:
    with store.reading() as session:
        return session.connection().exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() or 0
