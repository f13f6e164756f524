"""Only what is missing or stale runs; what changed is said; corruption stops a run.

The stages here are small stand-ins that write through ``open_stage`` what depends on their inputs,
section and seed: what runs when does not depend on what a stage computes. Labels are a real store.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from labeling_ui.desk import Desk
from labeling_ui.store import open_store
from pipeline.artifacts import read_manifest
from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.records import SampledResponse, SampleSet
from pipeline.stage_context import open_stage
from stages import run as run_module
from stages.chain import chain_states
from stages.run import run_chain

ROOT = Path(__file__).parents[2]
ALL = ["data", "pretrain", "sft", "sample", "label", "reward", "ppo", "compare"]


def make_config(**changes: Any) -> RunConfig:
    values = {"name": "x", "data": {"tinyworld": {}}, "pretrain": {}}
    return RunConfig.model_validate(values | changes)


CONFIG = make_config()


def samples(count: int) -> list[SampleSet]:
    def response(prompt: int, k: int) -> SampledResponse:
        return SampledResponse(
            response_id=f"r{prompt}.{k}",
            text=f"response {k}",
            policy="sft",
            seed=k,
            temperature=1.0,
            top_p=1.0,
            finished=True,
        )

    return [
        SampleSet(
            prompt_id=f"p{i}", prompt=f"Prompt {i}", responses=[response(i, 0), response(i, 1)]
        )
        for i in range(count)
    ]


def judge_one(run: Path, ratings: list[int]) -> bool:
    """One more label in the store, as a person would give it; False when no task is open."""
    with closing(open_store(run / "labels.db")) as store:
        labeler = store.add_labeler("ann")
        task = Desk(store).next_task(labeler.id)
        if task is None:
            return False
        ranks = [1 + sum(other > rating for other in ratings) for rating in ratings]
        Desk(store).submit(labeler.id, task.lease, ratings=ratings, ranks=ranks, answers={})
        return True


class Runs:
    """Runs a chain of stand-ins and keeps what ran and what was said."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.ran: list[str] = []
        self.said: list[str] = []
        self.constant: set[str] = set()  # stages that write the same bytes whatever they read
        monkeypatch.setattr(run_module, "run_stage", self.run_stage)
        monkeypatch.setattr(run_module, "say_results", lambda *arguments: None)

    def run_stage(self, name: str, config: RunConfig) -> str | None:
        self.ran.append(name)
        with open_stage(name, config, self.folder) as stage:
            if name == "label":
                return self.label(stage, config)
            seen = {} if name in self.constant else {"in": stage.inputs, "seed": stage.seed}
            values = seen | {"section": stage.section.model_dump(mode="json")}
            (stage.output / "model.bin").write_text(json.dumps(values, sort_keys=True))
            stage.log(0, loss=1.0)
        return None

    def label(self, stage: Any, config: RunConfig) -> str | None:
        with closing(open_store(self.folder / "labels.db")) as store:
            store.add_tasks(samples(4), {}, "Rate.")
            stage.record_input("store", store.content_hash())
            store.export(stage.output)
        return None

    def __call__(self, config: RunConfig = CONFIG, **options: Any) -> list[str]:
        self.ran.clear()
        self.said.clear()
        run_chain(config, self.folder, say=self.said.append, **options)
        return list(self.ran)

    def states(self, config: RunConfig = CONFIG) -> dict[str, str]:
        found = chain_states(config, self.folder)
        return {s.links.stage: f"{s.state} {s.reason}".strip() for s in found}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path / "run", monkeypatch)


def test_a_finished_run_runs_nothing_again(runs: Runs) -> None:
    assert set(runs.states().values()) == {"missing"}
    assert not runs.folder.exists()
    assert runs() == ALL
    assert runs() == []
    assert runs.said == [f"{stage:<12}fresh" for stage in ALL]
    assert set(runs.states().values()) == {"fresh"}


def test_a_changed_value_reruns_its_stage_and_what_follows(runs: Runs) -> None:
    runs()
    config = make_config(reward={"epochs": 3})
    assert runs.states(config) == dict.fromkeys(ALL[:5], "fresh") | {
        "reward": "stale reward.epochs changed from 1 to 3",
        "ppo": "stale follows reward",
        "compare": "stale follows ppo",
    }
    assert runs(config) == ["reward", "ppo", "compare"]
    assert runs(config) == []


def test_the_seed_is_part_of_every_key(runs: Runs) -> None:
    runs()
    states = runs.states(make_config(seed=5))
    assert all(state == "stale seed changed from 0 to 5" for state in states.values())
    assert runs(make_config(seed=5)) == ALL


def test_a_rerun_that_gives_the_same_bytes_leaves_what_follows_fresh(runs: Runs) -> None:
    runs.constant = {"pretrain"}
    runs()
    runs.said.clear()
    (runs.folder / "base" / "manifest.json").unlink()
    with pytest.raises(UserError, match="corrupt"):
        runs()
    for path in (runs.folder / "base").iterdir():
        path.unlink()
    (runs.folder / "base").rmdir()
    assert runs.states()["sft"] == "stale follows pretrain"
    assert runs() == ["pretrain"]


def test_one_label_makes_the_export_and_what_learns_from_it_stale(runs: Runs) -> None:
    runs()
    assert judge_one(runs.folder, [7, 1])
    expected = dict.fromkeys(ALL[:4], "fresh") | {
        "label": "stale store changed",
        "reward": "stale follows label",
        "ppo": "stale follows reward",
        "compare": "stale follows ppo",
    }
    assert runs.states() == expected
    assert runs() == ["label", "reward", "ppo", "compare"]
    assert runs() == []
    (runs.folder / "labels.db").unlink()
    assert runs.states()["label"] == "stale store is no input any more"


def test_from_makes_a_stage_and_all_after_it_anew(runs: Runs) -> None:
    runs()
    assert runs(first="ppo") == ["ppo", "compare"]
    assert runs(first="sft", last="sample") == ["sft", "sample"]


def test_until_stops(runs: Runs) -> None:
    assert runs(last="sft") == ["data", "pretrain", "sft"]
    assert not (runs.folder / "samples").exists()


def test_from_needs_what_comes_before(runs: Runs) -> None:
    with pytest.raises(UserError, match="data: is missing, and --from sft starts after it"):
        runs(first="sft")
    assert not runs.folder.exists()
    runs(last="sft")
    with pytest.raises(UserError, match=r"base: is stale \(pretrain.steps changed from 400 to 9\)"):
        runs(make_config(pretrain={"steps": 9}), first="sft")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"first": "reword"}, "--from: reword is no stage of this run. Fix: did you mean reward?"),
        ({"last": "xyz"}, "--until: xyz is no stage of this run. Fix: choose one of data, "),
        ({"first": "import_base"}, "import_base is no stage of this run"),
        ({"first": "ppo", "last": "sft"}, "sft comes before ppo"),
    ],
)
def test_stages_that_make_no_sense_are_refused(
    runs: Runs, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError) as caught:
        runs(**options)
    assert words in str(caught.value)


def test_corruption_stops_a_run_and_from_rebuilds(runs: Runs) -> None:
    runs()
    path = runs.folder / "sft" / "model.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    assert runs.states()["sft"] == "corrupt model.bin differs from what was published"
    with pytest.raises(UserError, match=r"sft: is corrupt: model.bin differs .* --from sft"):
        runs()
    assert runs.ran == []
    assert runs(last="pretrain") == []  # what is not touched does not matter
    assert runs(first="sft", last="sft") == ["sft"]
    assert runs() == []  # the same bytes again


def test_a_stage_that_fails_leaves_the_rest_as_it_was(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs()
    before = {path: path.read_bytes() for path in runs.folder.rglob("*.bin")}

    def failing(name: str, config: RunConfig) -> None:
        with open_stage(name, config, runs.folder):
            raise UserError("x", "is wrong.", "mend it.")

    monkeypatch.setattr(run_module, "run_stage", failing)
    with pytest.raises(UserError, match="is wrong"):
        runs(make_config(seed=1))
    assert {path: path.read_bytes() for path in runs.folder.rglob("*.bin")} == before


def test_waiting_for_people_stops_without_an_error(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual: Callable[..., str | None] = runs.run_stage

    def waiting(name: str, config: RunConfig) -> str | None:
        return "3 tasks are open." if name == "label" else usual(name, config)

    monkeypatch.setattr(run_module, "run_stage", waiting)
    assert runs() == ALL[:4]
    assert runs.said[-1] == "label       waits. 3 tasks are open."


def test_the_run_folder_s_config_is_the_last_one_used(runs: Runs) -> None:
    runs(make_config(seed=3), last="data")
    saved = RunConfig.model_validate_json((runs.folder / "config.json").read_text())
    assert saved == make_config(seed=3)
    manifest = read_manifest(runs.folder / "data")
    assert manifest is not None
    assert manifest.seed == 3


def test_a_finished_run_loads_nothing_heavy(runs: Runs) -> None:
    runs(last="ppo")
    program = (
        "import sys; from pathlib import Path\n"
        "from pipeline.config import RunConfig; from stages.run import run_chain\n"
        f"config = RunConfig.model_validate_json({CONFIG.model_dump_json()!r})\n"
        "run_chain(config, Path(sys.argv[1]), last='ppo')\n"
        "print({'torch', 'transformers', 'sqlalchemy', 'numpy'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, runs.folder], cwd=ROOT, capture_output=True, text=True
    )
    assert result.stdout.splitlines() == [f"{s:<12}fresh" for s in ALL[:7]] + ["set()"], (
        result.stderr
    )
