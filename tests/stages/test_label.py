"""The stage label: scripted, by people, from a file; the same labels whatever happened between."""

from __future__ import annotations

import json
import re
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from labeling_ui.desk import Desk
from labeling_ui.store import Progress, Store, open_store
from pipeline.artifacts import Identity, WorkRecord, publish, read_manifest, temporary_folder
from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.records import (
    Prompt,
    RankedResponse,
    Ranking,
    SampledResponse,
    SampleSet,
    iter_rows,
    read_rows,
    write_rows,
)
from pipeline.tinyworld import QUESTIONS
from stages.label import LabelsPending, label_questions, run

TEXTS = ["The red fox lives in the mill.", "You fool, go away.", "", "the the fox fox and"]
TASKS = 7


def config(seed: int = 3, **label: Any) -> RunConfig:
    label = {"shared_fraction": 0} | label
    values = {"name": "x", "seed": seed, "data": {"tinyworld": {}}, "pretrain": {}, "label": label}
    if label.get("judge") == "overlap":  # which needs references, and so data of one's own
        source = {"path": "x.jsonl", "prompt_columns": ["p"], "response_column": "r"}
        values["data"] = {
            "instructions": source,
            "corpus": [{"name": "a", "path": "a.txt", "proportion": 1}],
        }
        values["compare"] = {"judge": "overlap"}
    return RunConfig.model_validate(values)


def prompt(index: int) -> Prompt:
    text = f"Write a story about the fox and the lantern, number {index}."
    meta = {"reference": "The red fox lives in the mill."}
    return Prompt(prompt_id=f"p{index}", prompt=text, split="label", meta=meta)


def samples(count: int = TASKS) -> list[SampleSet]:
    return [
        SampleSet(
            prompt_id=f"p{index}",
            prompt=prompt(index).prompt,
            responses=[
                SampledResponse(
                    response_id=f"p{index}-{k}",
                    text=text,
                    policy="sft",
                    seed=k,
                    temperature=1.0,
                    top_p=1.0,
                    finished=k != 3,
                )
                for k, text in enumerate(TEXTS)
            ],
        )
        for index in range(count)
    ]


def publish_rows(folder: Path, stage: str, name: str, rows: list[Any]) -> None:
    temporary = temporary_folder(folder)
    write_rows(temporary / name, rows)
    work = WorkRecord({}, "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:01+00:00", 1.0, 1)
    publish(temporary, folder, Identity(stage, {}, 0, {}, 1), work)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def make_run(folder: Path, rows: list[SampleSet] | None = None) -> Path:
    publish_rows(folder / "data", "data", "prompts.jsonl", [prompt(i) for i in range(20)])
    publish_rows(folder / "samples", "sample", "samples.jsonl", rows or samples())
    return folder


def exported(run_folder: Path) -> list[Ranking]:
    return read_rows(run_folder / "labels" / "rankings.jsonl", Ranking)


def label_bytes(run_folder: Path) -> dict[str, bytes]:
    files = (run_folder / "labels").glob("*.jsonl")
    return {file.name: file.read_bytes() for file in files}


def judge_next(store: Store, rating: int = 4) -> None:
    labeler = store.add_labeler("ann").id
    task = Desk(store).next_task(labeler)
    assert task is not None
    size = len(task.responses)
    Desk(store).submit(labeler, task.lease, ratings=[rating] * size, ranks=[1] * size, answers={})


def test_scripted_labelers_take_turns_and_judge_every_task(run_folder: Path) -> None:
    run(config(labelers=3), run_folder)
    rows = exported(run_folder)
    assert [row.prompt_id for row in rows] == [f"p{i}" for i in range(TASKS)]
    assert all([r.text for r in row.responses] == TEXTS for row in rows)
    labelers = [row.labeler for row in rows]
    assert labelers == [labelers[i % 3] for i in range(TASKS)]
    assert sorted(Counter(labelers).values()) == [2, 2, 3]
    assert all(row.answers.keys() == QUESTIONS.keys() for row in rows)
    assert list(iter_rows(run_folder / "labels" / "skips.jsonl", Prompt)) == []
    # What no labeler can miss on average: the polite answer is better than the rude one.
    assert sum(row.ratings[0] for row in rows) > sum(row.ratings[1] for row in rows)
    rude = [row.answers["rude"] for row in rows]
    assert sum(bool(answers[1]) for answers in rude) > TASKS / 2
    assert sum(bool(answers[0]) for answers in rude) < TASKS / 2


def test_scripted_labelers_judge_as_often_as_the_overlap_says(run_folder: Path) -> None:
    run(config(labelers=3, overlap=2), run_folder)
    rows = exported(run_folder)
    judged = Counter(row.prompt_id for row in rows)
    assert dict(judged) == {f"p{i}": 2 for i in range(TASKS)}
    assert len({(row.prompt_id, row.labeler) for row in rows}) == 2 * TASKS
    assert len({row.labeler for row in rows}) == 3


def test_every_scripted_labeler_judges_the_shared_pool(run_folder: Path) -> None:
    run(config(labelers=3, shared_fraction=1.0), run_folder)
    judged = Counter(row.prompt_id for row in exported(run_folder))
    assert dict(judged) == {f"p{i}": 3 for i in range(TASKS)}


def test_more_overlap_than_scripted_labelers_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap 4 needs as many labelers, got 3"):
        config(labelers=3, overlap=4)


def test_each_scripted_labeler_has_a_pace_of_its_own(run_folder: Path) -> None:
    run(config(seed=9, labelers=3, shared_fraction=1.0), run_folder)
    with closing(open_store(run_folder / "labels.db")) as store, store.reading() as session:
        statement = "SELECT labeler_id, avg(seconds), min(seconds) FROM submission GROUP BY 1"
        paces = session.connection().exec_driver_sql(statement).all()
    means = sorted(mean for _, mean, _ in paces)
    assert min(low for _, _, low in paces) > 0
    assert means[2] > 1.3 * means[0]


def test_the_manifest_carries_the_hash_of_the_store(run_folder: Path) -> None:
    run(config(), run_folder)
    manifest = read_manifest(run_folder / "labels")
    assert manifest is not None
    with closing(open_store(run_folder / "labels.db")) as store:
        assert manifest.inputs["store"] == store.content_hash()
        judge_next(store)
        assert manifest.inputs["store"] != store.content_hash()


def test_running_again_or_in_another_place_gives_the_same_bytes(
    run_folder: Path, tmp_path: Path
) -> None:
    run(config(), run_folder)
    first = label_bytes(run_folder)
    run(config(), run_folder)
    assert label_bytes(run_folder) == first
    other = make_run(tmp_path / "other")
    run(config(database=str(tmp_path / "elsewhere.db")), other)
    assert label_bytes(other) == first
    assert not (other / "labels.db").exists()


def test_a_killed_run_goes_on_to_the_same_labels(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config(), run_folder)
    other = make_run(tmp_path / "other")
    submit, calls = Desk.submit, Counter[str]()

    def dies(*arguments: Any, **options: Any) -> str:
        calls["submit"] += 1
        if calls["submit"] == 5:
            raise KeyboardInterrupt
        return submit(*arguments, **options)

    monkeypatch.setattr(Desk, "submit", dies)
    with pytest.raises(KeyboardInterrupt):
        run(config(), other)
    assert not (other / "labels").exists()
    monkeypatch.undo()
    run(config(), other)
    assert label_bytes(other) == label_bytes(run_folder)


@pytest.mark.parametrize("change", [{"seed": 4}, {"labelers": 2}, {"judge": "overlap"}])
def test_another_configuration_labels_anew(run_folder: Path, change: dict[str, Any]) -> None:
    run(config(), run_folder)
    before = exported(run_folder)
    run(config(**change), run_folder)
    after = exported(run_folder)
    assert [row.prompt_id for row in after] == [row.prompt_id for row in before]
    assert {row.labeler for row in after}.isdisjoint(row.labeler for row in before)
    run(config(), run_folder)
    assert exported(run_folder) == before


def test_the_overlap_judge_prefers_the_reference(run_folder: Path) -> None:
    run(config(judge="overlap", labelers=1), run_folder)
    rows = exported(run_folder)
    assert sum(row.ratings[0] for row in rows) > sum(row.ratings[1] for row in rows) + TASKS
    assert all(row.answers == {} for row in rows)


def test_a_persons_label_takes_the_place_of_a_scripted_one(run_folder: Path) -> None:
    run(config(), run_folder)
    before = exported(run_folder)
    with closing(open_store(run_folder / "labels.db")) as store:
        judge_next(store)
        pseudonym = store.add_labeler("ann").pseudonym
    run(config(), run_folder)
    after = exported(run_folder)
    assert [row.prompt_id for row in after] == [row.prompt_id for row in before]
    assert after[1:] == before[1:]
    assert (after[0].labeler, after[0].ratings) == (pseudonym, [4, 4, 4, 4])


def test_new_samples_leave_old_labels_behind(run_folder: Path) -> None:
    run(config(), run_folder)
    changed = [s for s in samples(3) if s.prompt_id != "p1"]
    publish_rows(run_folder / "samples2", "sample", "samples.jsonl", changed)
    (run_folder / "samples").rename(run_folder / "samples1")
    (run_folder / "samples2").rename(run_folder / "samples")
    run(config(), run_folder)
    assert [row.prompt_id for row in exported(run_folder)] == ["p0", "p2"]


def test_browser_labels_stop_the_run_until_all_are_given(run_folder: Path) -> None:
    browser = config(source="browser", questions={"kind": "Is it kind?"})
    with pytest.raises(LabelsPending, match=rf"^{TASKS} tasks are open.*align label") as pending:
        run(browser, run_folder)
    assert (pending.value.open_count, Path(pending.value.database)) == (
        TASKS,
        run_folder / "labels.db",
    )
    assert not (run_folder / "labels").exists()
    assert not [path for path in run_folder.iterdir() if ".tmp-" in path.name]
    with closing(open_store(run_folder / "labels.db")) as store:
        for _ in range(TASKS - 1):
            judge_next(store)
    with pytest.raises(LabelsPending, match=r"^1 task is open"):
        run(browser, run_folder)
    with closing(open_store(run_folder / "labels.db")) as store:
        judge_next(store)
    run(browser, run_folder)
    rows = exported(run_folder)
    assert len(rows) == TASKS
    assert rows[0].answers == {"kind": [None] * 4}


def test_scripted_labels_do_not_count_where_people_are_asked(run_folder: Path) -> None:
    run(config(), run_folder)
    with pytest.raises(LabelsPending, match=rf"^{TASKS} tasks are open"):
        run(config(source="browser"), run_folder)


def test_labels_that_are_all_skips_are_a_users_mistake(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", samples(1))
    browser = config(source="browser")
    with pytest.raises(LabelsPending):
        run(browser, folder)
    with closing(open_store(folder / "labels.db")) as store:
        labeler = store.add_labeler("ann").id
        task = Desk(store).next_task(labeler)
        assert task is not None
        Desk(store).skip(labeler, task.lease, "unclear")
    with pytest.raises(UserError, match="holds no ranking"):
        run(browser, folder)
    assert not (folder / "labels").exists()


# --- from a file --------------------------------------------------------------------------------


def file_row(name: str) -> Ranking:
    responses = [
        RankedResponse(response_id=f"{name}{k}", text=f"text {k}", policy="other") for k in (0, 1)
    ]
    return Ranking(
        submission_id=f"s-{name}",
        prompt_id=name,
        prompt=f"prompt {name}",
        labeler="labeler-1",
        responses=responses,
        ratings=[6, 2],
        ranks=[1, 2],
    )


def test_a_file_of_rankings_becomes_the_labels(run_folder: Path, tmp_path: Path) -> None:
    run(config(), run_folder)
    rows = [file_row("a"), file_row("b")]
    write_rows(tmp_path / "mine.jsonl", rows)
    from_file = config(source="file", file="mine.jsonl").model_copy(
        update={"data_root": str(tmp_path)}
    )
    run(from_file, run_folder)
    assert sorted(exported(run_folder), key=lambda row: row.prompt_id) == rows
    write_rows(tmp_path / "mine.jsonl", rows[:1])
    run(from_file, run_folder)
    assert exported(run_folder) == rows[:1]
    with closing(open_store(run_folder / "labels.db")) as store:
        assert store.progress() == Progress(done=1, open=0, skipped=0)


def test_a_broken_row_is_named_and_nothing_changes(run_folder: Path, tmp_path: Path) -> None:
    with closing(open_store(run_folder / "labels.db")) as store:
        store.import_rankings([file_row("a")])
        before = store.content_hash()
    good = file_row("a").model_dump(exclude_none=True)
    lines = [json.dumps(row) for row in (good, good | {"ratings": [6, 9]})]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    from_file = config(source="file", file="mine.jsonl").model_copy(
        update={"data_root": str(tmp_path)}
    )
    with pytest.raises(UserError, match=re.escape("mine.jsonl:2")):
        run(from_file, run_folder)
    assert not (run_folder / "labels").exists()
    with closing(open_store(run_folder / "labels.db")) as store:
        assert store.content_hash() == before


def test_questions_are_the_configured_ones_else_the_worlds() -> None:
    assert label_questions(config()) == QUESTIONS
    assert label_questions(config(questions={"kind": "Is it kind?"})) == {"kind": "Is it kind?"}
