"""The stage classify on a tiny model: what it publishes, that it learns, and what it refuses."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import Identity, WorkRecord, publish, temporary_folder, verify
from pipeline.config import RunConfig
from pipeline.errors import UserError
from stages import classify
from stages.score import classified, score

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


def make_run(root: Path, model_folder: Path) -> Path:
    write_texts(root / "texts.jsonl")
    run_folder = root / "run"
    run_folder.mkdir()
    temporary = temporary_folder(run_folder / "base")
    shutil.copytree(model_folder, temporary, dirs_exist_ok=True)
    identity = Identity("base", {}, 0, {}, 1)
    publish(temporary, run_folder / "base", identity, WorkRecord({}, "", "", 0.0, 0))
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
    path.write_text('{"prompt": "x"}\n')
    with pytest.raises(UserError, match=r"new\.jsonl:1: needs the text"):
        score(folder, path)


def test_parts_of_a_batch_give_the_weights_of_the_whole(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    losses: list[list[float]] = []
    for name, rows in (("whole", None), ("parts", 3)):
        (tmp_path / name).mkdir()
        run_folder = make_run(tmp_path / name, tiny_model_folder)
        changes = {"batch_rows": 12, "per_device_batch_rows": rows, "epochs": 1}
        classify.run(make_config(tmp_path / name, **changes), run_folder)
        lines = (run_folder / "classifier" / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert len(losses[0]) == 11  # the last batch has 8 rows
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_texts_that_are_too_long_are_left_out_up_to_a_limit(
    tmp_path: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder = make_run(tmp_path, tiny_model_folder)
    with (tmp_path / "texts.jsonl").open("a") as file:
        file.write(json.dumps({"text": "x" * 200, "label": "other"}) + "\n")
    with pytest.raises(UserError, match=r"texts\.jsonl:161: 1 of 161 texts have more than 64"):
        classify.run(make_config(tmp_path), run_folder)
    assert not (run_folder / "classifier").exists()
    capsys.readouterr()
    classify.run(make_config(tmp_path, epochs=1, max_left_out_fraction=0.01), run_folder)
    assert "texts.jsonl:161: left out, for it has more than 64 tokens" in capsys.readouterr().out
    report = json.loads((run_folder / "classifier" / "report.json").read_text())
    assert report["texts"]["left_out"] == 1
