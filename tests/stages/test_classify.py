"""The stage classify on a tiny model: what it publishes, that it learns, and what it refuses."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from pipeline import chain
from pipeline.artifacts import Identity, WorkRecord, publish, temporary_folder, verify
from pipeline.config import RunConfig
from pipeline.config_file import load_config
from pipeline.errors import UserError
from stages import classify
from stages.score import classified, score

ROOT = Path(__file__).parents[2]
SECONDS = 120
WORDS = ("red", "owl", "kite", "mill", "small", "blue")


def make_config(root: Path, **section: Any) -> RunConfig:
    values = {"source": {"path": "texts.jsonl"}, "learning_rate": 3e-3, "epochs": 6}
    return RunConfig.model_validate(
        {
            "seed": 3,
            "precision": "fp32",
            "data_root": str(root),
            "data": {"tinyworld": {}},
            "pretrain": {},
            "classify": values | section,
        }
    )


def write_texts(path: Path, count: int = 160) -> None:
    """Planted rule: a text with plums in it is about fruit."""
    rng = random.Random(0)
    rows = []
    for number in range(count):
        words = rng.choices(WORDS, k=4) + (["plums"] if number % 2 else [])
        rng.shuffle(words)
        label = "fruit" if number % 2 else "other"
        rows.append({"text": f"{number} {' '.join(words)}", "label": label})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_run(root: Path, model_folder: Path, start: str = "base") -> Path:
    write_texts(root / "texts.jsonl")
    run_folder = root / "run"
    run_folder.mkdir()
    temporary = temporary_folder(run_folder / start)
    shutil.copytree(model_folder, temporary, dirs_exist_ok=True)
    identity = Identity(start, {}, 0, {}, 1)
    publish(temporary, run_folder / start, identity, WorkRecord({}, "", "", 0.0, 0))
    return run_folder


def test_learns_the_rule_reports_it_and_labels_new_texts(
    tmp_path: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder = make_run(tmp_path, tiny_model_folder)
    classify.run(make_config(tmp_path), run_folder)
    folder = run_folder / "classifier"
    assert verify(folder) is None
    report = json.loads((folder / "report.json").read_text())
    assert report["accuracy"]["mean"] > 0.9
    assert report["accuracy"]["n"] == report["texts"]["validation"] == 32
    assert 0.4 < report["largest_class"]["mean"] < 0.65
    assert report["texts"] == {"training": 128, "validation": 32, "left_out": 0}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sum("validation_accuracy" in row for row in rows) == 6

    new = [{"text": "owl plums red"}, {"text": "the blue mill", "id": 7}]
    path = tmp_path / "new.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in new))
    capsys.readouterr()
    score(folder, path)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == list(classified(folder, path))
    assert [row["label"] for row in printed] == ["fruit", "other"]
    assert printed[1]["id"] == 7
    assert sum(printed[0]["probabilities"].values()) == pytest.approx(1)
    for row in ({"prompt": "x"}, {"text": 3}, {"text": " "}):
        path.write_text(json.dumps(row) + "\n")
        with pytest.raises(UserError, match=r"new\.jsonl:1: needs a text in the field text"):
            score(folder, path)


@pytest.mark.parametrize(
    ("batch_rows", "part_rows", "steps"),
    # The last batch of 128 texts: 8 in parts of 3, 3 and 2; or 2 in 7 parts, 5 of them empty.
    [(12, 4, 11), (21, 3, 7)],
)
def test_parts_of_a_batch_give_the_losses_of_the_whole(
    tmp_path: Path, tiny_model_folder: Path, batch_rows: int, part_rows: int, steps: int
) -> None:
    losses: list[list[float]] = []
    for name, rows in (("whole", None), ("parts", part_rows)):
        (tmp_path / name).mkdir()
        run_folder = make_run(tmp_path / name, tiny_model_folder)
        changes = {"batch_rows": batch_rows, "per_device_batch_rows": rows, "epochs": 2}
        classify.run(make_config(tmp_path / name, **changes), run_folder)
        lines = (run_folder / "classifier" / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert len(losses[0]) == 2 * steps
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_texts_that_are_too_long_are_left_out_up_to_a_limit(
    tmp_path: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder = make_run(tmp_path, tiny_model_folder)
    with (tmp_path / "texts.jsonl").open("a") as file:
        for tokens in (63, 64):  # and the end token
            file.write(json.dumps({"text": "x" * tokens, "label": "other"}) + "\n")
    with pytest.raises(UserError, match=r"texts\.jsonl:162: 1 of 162 texts have more than 64"):
        classify.run(make_config(tmp_path), run_folder)
    assert not (run_folder / "classifier").exists()
    capsys.readouterr()
    classify.run(make_config(tmp_path, epochs=1, max_left_out_fraction=0.01), run_folder)
    assert "texts.jsonl: 1 of 162 texts are too long and left out" in capsys.readouterr().out
    report = json.loads((run_folder / "classifier" / "report.json").read_text())
    assert report["texts"]["left_out"] == 1


def test_it_may_start_from_the_fine_tuned_model(tmp_path: Path, tiny_model_folder: Path) -> None:
    from_base, from_sft = (make_config(tmp_path, start=start) for start in ("base", "sft"))
    before = ["data", "pretrain"]
    chained = [links.stage for links in chain.chain_of(from_base)]
    assert chained[:4] == [*before, "classify", "sft"]
    chained = [links.stage for links in chain.chain_of(from_sft)]
    assert chained[:5] == [*before, "sft", "classify", "sample"]
    assert chain.links_of("classify", from_sft).reads == ("sft",)

    run_folder = make_run(tmp_path, tiny_model_folder, "sft")
    with pytest.raises(UserError, match="base: is missing, and classify reads it"):
        classify.run(from_base, run_folder)
    classify.run(make_config(tmp_path, start="sft", epochs=1, learning_rate=1e-12), run_folder)
    trained = safetensors.torch.load_file(run_folder / "classifier" / "model.safetensors")
    given = safetensors.torch.load_file(tiny_model_folder / "model.safetensors")
    assert trained.keys() - given.keys() == {"score.weight"}
    for name, weight in given.items():
        torch.testing.assert_close(trained[name], weight, atol=1e-6, rtol=0)


def test_a_config_without_the_section_makes_no_classifier(tmp_path: Path) -> None:
    config = make_config(tmp_path).model_copy(update={"classify": None})
    assert "classify" not in [links.stage for links in chain.chain_of(config)]
    with pytest.raises(UserError, match="classify: the config has no such section"):
        classify.run(config, tmp_path / "run")


def test_bad_labels_are_one_line_before_any_training(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    run_folder = make_run(tmp_path, tiny_model_folder)
    path = tmp_path / "texts.jsonl"
    rows = [{"text": f"text {i}", "label": "a"} for i in range(8)]
    for added, problem in (
        ([], "has texts of one label only: a"),
        ([{"text": "lone", "label": "b"}] * 3, "all texts of label '[ab]' are held out"),
    ):
        kept = rows if not added else rows[:1]  # two distinct texts: one is held out
        path.write_text("".join(json.dumps(row) + "\n" for row in [*kept, *added]))
        with pytest.raises(UserError, match=problem) as error:
            classify.run(make_config(tmp_path), run_folder)
        assert "\n" not in str(error.value)
        assert not (run_folder / "classifier").exists()


# --- killed, and in two processes -----------------------------------------------------------------

CONFIG = """
seed: 3
precision: fp32
data:
  tinyworld: {documents: 60, demonstrations: 6, label_prompts: 6, ppo_prompts: 6,
              heldout_prompts: 6}
pretrain: {vocab_size: 300, layers: 2, heads: 2, width: 32, context_tokens: 192, row_tokens: 24,
           batch_rows: 8, steps: 2}
classify: {source: {path: texts.jsonl}, learning_rate: 3e-3, epochs: 12, batch_rows: 12,
           checkpoint_every_steps: 5}
"""


def start_run(work: Path, name: str, processes: int) -> subprocess.Popen[str]:
    arguments = ["run", "x.yaml", "--until", "classify", f"name={name}", f"processes={processes}"]
    return subprocess.Popen(
        [sys.executable, "-m", "stages", *arguments],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that a signal reaches the stage's processes too
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    return output


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_it_goes_on_and_ends_with_the_same_bits(tmp_path: Path, processes: int) -> None:
    (tmp_path / "x.yaml").write_text(CONFIG)
    write_texts(tmp_path / "texts.jsonl")
    whole, killed = (tmp_path / "runs" / name for name in ("whole", "killed"))
    finish(start_run(tmp_path, "whole", processes))
    for folder in ("data", "base"):
        shutil.copytree(whole / folder, killed / folder)
    process = start_run(tmp_path, "killed", processes)
    end = time.monotonic() + SECONDS
    while not list((killed / ".checkpoints" / "classify").glob("step-*/index.json")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "no checkpoint"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "classifier").exists()
    finish(start_run(tmp_path, "killed", processes))
    weights = [(run / "classifier" / "model.safetensors").read_bytes() for run in (whole, killed)]
    assert weights[0] == weights[1]
    assert losses_of(killed) == losses_of(whole)
    assert len(losses_of(whole)) == 12 * 11

    if processes == 2:  # against one process on the same base
        alone = tmp_path / "runs" / "alone"
        for folder in ("data", "base"):
            shutil.copytree(whole / folder, alone / folder)
        config = load_config(tmp_path / "x.yaml", ["name=alone", f"data_root={tmp_path}"])
        classify.run(config, alone)
        assert losses_of(alone)[:11] == pytest.approx(losses_of(whole)[:11], rel=1e-3)


def losses_of(run: Path) -> list[float]:
    lines = (run / "classifier" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]
