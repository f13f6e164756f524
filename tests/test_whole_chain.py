"""The real chain through the real command, tiny: what runs, what is redone, what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from labeling_ui.desk import Desk
from labeling_ui.store import open_store
from pipeline.gpt2_format import load_gpt
from pipeline.judges import RubricJudge
from pipeline.tinyworld import build_world

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "quickstart.yaml"
TINY = [
    "name=tiny",
    "data.tinyworld.documents=300",
    "data.tinyworld.demonstrations=40",
    "data.tinyworld.label_prompts=20",
    "data.tinyworld.ppo_prompts=40",
    "ppo.eval_prompts=8",
    "data.tinyworld.heldout_prompts=20",
    "pretrain.layers=2",
    "pretrain.width=64",
    "pretrain.steps=30",
    "pretrain.copy_probe_minimum=null",
    "sft.epochs=1",
    "reward.epochs=1",
    "ppo.total_episodes=128",
]
STAGES = ["data", "pretrain", "sft", "sample", "label", "reward", "ppo", "compare"]


def align(folder: Path, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """``align …`` as a user types it, in ``folder``."""
    result = subprocess.run(
        [sys.executable, "-m", "stages", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == expect, result.stdout + result.stderr
    return result


def run_tiny(folder: Path, *options: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    return align(folder, "run", str(CONFIG), *options, *TINY, expect=expect)


def stages_that_ran(output: str) -> list[str]:
    return [line.split()[0] for line in output.splitlines() if " ran in " in line]


def weights_hash(folder: Path, stage: str) -> str:
    weights = folder / "runs" / "tiny" / stage / "model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    first = run_tiny(folder)
    assert stages_that_ran(first.stdout) == STAGES
    assert "ppo over sft" in first.stdout
    return folder


def test_a_finished_run_is_left_alone_and_quickly(finished: Path) -> None:
    before = (finished / "runs/tiny/ppo/manifest.json").read_bytes()
    started = time.monotonic()
    again = run_tiny(finished)
    assert time.monotonic() - started < 5
    assert stages_that_ran(again.stdout) == []
    assert again.stdout.count("fresh") == len(STAGES)
    assert (finished / "runs/tiny/ppo/manifest.json").read_bytes() == before


def test_folders_load_in_transformers_and_hold_no_secrets(finished: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    run = finished / "runs" / "tiny"
    for stage in ("base", "sft", "ppo"):
        theirs = AutoModelForCausalLM.from_pretrained(run / stage)
        assert theirs.num_parameters() == load_gpt(run / stage).parameter_count()
    assert AutoModelForSequenceClassification.from_pretrained(run / "reward").num_labels == 1
    for manifest in run.glob("*/manifest.json"):
        text = manifest.read_text()
        assert str(finished) not in text
        assert str(Path.home()) not in text


def test_report_has_every_promised_number(finished: Path) -> None:
    report = json.loads((finished / "runs/tiny/compare/report.json").read_text())
    assert list(report["checkpoints"]) == ["base", "sft", "ppo"]
    for checkpoint in report["checkpoints"].values():
        for key in ("rating", "reward", "kl_to_sft", "length_tokens", "perplexity", "empty"):
            assert set(checkpoint[key]) >= {"mean", "ci95", "n"}
            assert checkpoint[key]["n"] > 0
    assert {(pair["a"], pair["b"]) for pair in report["pairs"]} == {
        ("sft", "base"),
        ("ppo", "base"),
        ("ppo", "sft"),
    }
    assert report["checkpoints"]["sft"]["kl_to_sft"]["mean"] == 0
    for checkpoint in report["checkpoints"].values():
        assert checkpoint["pretraining_perplexity"]["mean"] > 1
    assert set(report["ppo"]) == {"updates", "stopped", "alarms"}
    assert report["settings"]["world"]["LABELER_NOISE"] == 0.8


def test_a_killed_stage_leaves_nothing_and_ends_with_the_same_weights(finished: Path) -> None:
    """Rebuilds pretrain in another run folder, killed in the middle the first time."""
    command = [sys.executable, "-m", "stages", "run", str(CONFIG), "--until", "pretrain"]
    other = finished / "killed"
    other.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, *TINY], cwd=other, env=environment, stdout=subprocess.PIPE, text=True
    )
    run = other / "runs" / "tiny"
    deadline = time.monotonic() + 120
    while not list(run.glob(".base.tmp-*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (run / "base").exists()
    align(other, "run", str(CONFIG), "--until", "pretrain", *TINY)
    assert weights_hash(other, "base") == weights_hash(finished, "base")
    assert not list(run.glob(".base.tmp-*"))


def test_a_changed_label_reruns_what_learns_from_labels(finished: Path) -> None:
    run = finished / "runs" / "tiny"
    with closing(open_store(run / "labels.db")) as store:
        labeler = store.add_labeler("ann")
        task = Desk(store).next_task(labeler.id)
        assert task is not None
        ratings = [1, 7, 3, 2, 5]
        ranks = [5, 1, 3, 4, 2]
        Desk(store).submit(labeler.id, task.lease, ratings=ratings, ranks=ranks, answers={})
    before = weights_hash(finished, "sft"), weights_hash(finished, "reward")
    status = align(finished, "status", "runs/tiny").stdout
    assert [line.split()[1] for line in status.splitlines() if " fresh " in line] == [
        "data",
        "pretrain",
        "sft",
        "sample",
    ]
    again = run_tiny(finished)
    assert stages_that_ran(again.stdout) == ["label", "reward", "ppo", "compare"]
    assert weights_hash(finished, "sft") == before[0]
    assert weights_hash(finished, "reward") != before[1]


def test_people_who_label_in_the_browser_are_waited_for(finished: Path) -> None:
    waiting = run_tiny(finished, "label.source=browser")
    assert "open for labeling" in waiting.stdout
    assert "align label" in waiting.stdout
    run_tiny(finished)  # the scripted labels are back


@pytest.mark.parametrize("file", ["sft/model.safetensors", "labels/rankings.jsonl"])
def test_a_flipped_bit_is_noticed(finished: Path, file: str) -> None:
    path = finished / "runs" / "tiny" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    try:
        refused = run_tiny(finished, expect=2)
        assert len(refused.stderr.strip().splitlines()) == 1
        assert Path(file).name in refused.stderr
        assert "corrupt" in align(finished, "status", "runs/tiny").stdout
    finally:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def test_a_broken_database_is_one_line(finished: Path) -> None:
    database = finished / "runs" / "tiny" / "labels.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = database.read_bytes()
    database.write_bytes(b"no database at all" * 100)
    try:
        refused = run_tiny(finished, expect=2)
        assert len(refused.stderr.strip().splitlines()) == 1
        assert "labels.db" in refused.stderr
    finally:
        database.write_bytes(whole)


def test_chat_answers_from_standard_input(finished: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "stages", "chat", "runs/tiny/ppo"],
        cwd=finished,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        input="Tell me a story about a wolf and a basket.\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_scripted_labels_come_from_the_rubric_with_noise(finished: Path) -> None:
    """Ratings lie near the rubric's, but not on it: noise 0.8 and personalities."""
    from pipeline.records import Prompt, Ranking, read_rows

    run = finished / "runs" / "tiny"
    prompts = {p.prompt_id: p for p in read_rows(run / "data/prompts.jsonl", Prompt)}
    judge = RubricJudge(build_world(0))
    gaps = [
        rating - judge.judge(prompts[ranking.prompt_id], response.text, response.finished).score
        for ranking in read_rows(run / "labels/rankings.jsonl", Ranking)
        if ranking.labeler.startswith("scripted")
        for rating, response in zip(ranking.ratings, ranking.responses, strict=True)
    ]
    assert len(gaps) >= 90
    assert 0.3 < sum(abs(gap) for gap in gaps) / len(gaps) < 1.3
