"""Training killed in the middle, in one process and in two, ends with the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pipeline.artifacts import read_manifest, verify

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIG = """
seed: 3
precision: fp32
data:
  tinyworld: {documents: 120, demonstrations: 40, label_prompts: 26, ppo_prompts: 4,
              heldout_prompts: 4}
pretrain: {vocab_size: 320, layers: 1, heads: 2, width: 32, context_tokens: 192, row_tokens: 24,
           batch_rows: 8, steps: 60, checkpoint_every_steps: 7}
sft: {learning_rate: 1e-3, epochs: 2, batch_rows: 2, checkpoint_every_steps: 5}
sample: {responses_per_prompt: 3, max_response_tokens: 16}
label: {shared_fraction: 0}
reward: {learning_rate: 1e-3, epochs: 8, batch_prompts: 5, question_weight: 1.0, ties: soft,
         early_stopping: true, validation_fraction: 0.2, checkpoint_every_steps: 3,
         surprisal: {responses_per_prompt: 2, batch_rows: 4}}
dpo: {learning_rate: 1e-3, batch_pairs: 4, checkpoint_every_steps: 3}
ppo: {learning_rate: 1e-3, batch_size: 8, total_episodes: 80, response_length: 16,
      checkpoint_every_updates: 2, eval_prompts: 2, eval_every_updates: 3, ptx_coef: 0.5,
      kl_target: 1.0}
compare: {max_response_tokens: 16}
"""
SECONDS = 120


def start(work: Path, name: str, processes: int, *overrides: str) -> subprocess.Popen[str]:
    arguments = ["run", "x.yaml", "--until", "ppo", f"name={name}", f"processes={processes}"]
    arguments += overrides
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


def kill_at_a_checkpoint(work: Path, name: str, processes: int, stage: str, pattern: str) -> None:
    """Runs until a whole checkpoint of ``stage`` is there, then SIGKILLs every process."""
    process = start(work, name, processes)
    folder = work / "runs" / name / ".checkpoints" / stage
    end = time.monotonic() + SECONDS
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "no checkpoint"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def steps_logged(folder: Path) -> list[int]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    (folder / "x.yaml").write_text(CONFIG)
    finish(start(folder, "whole-1", 1))
    copy_data(folder, "whole-2")
    finish(start(folder, "whole-2", 2))
    return folder


def copy_data(work: Path, name: str) -> None:
    shutil.copytree(work / "runs" / "whole-1" / "data", work / "runs" / name / "data")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(work: Path, processes: int) -> None:
    runs, name = work / "runs", f"killed-{processes}"
    copy_data(work, name)
    kill_at_a_checkpoint(work, name, processes, "pretrain", "step-*/index.json")
    assert not (runs / name / "base").exists()
    kill_at_a_checkpoint(work, name, processes, "sft", "checkpoint-*/index.json")
    assert not (runs / name / "sft").exists()
    kill_at_a_checkpoint(work, name, processes, "reward-surprisal", "step-*/index.json")
    assert not (runs / name / "reward").exists()
    kill_at_a_checkpoint(work, name, processes, "reward", "step-*/index.json")
    assert not (runs / name / "reward").exists()
    kill_at_a_checkpoint(work, name, processes, "dpo", "checkpoint-*/index.json")
    assert not (runs / name / "dpo").exists()
    kill_at_a_checkpoint(work, name, processes, "ppo", "step-*/index.json")
    assert not (runs / name / "ppo").exists()
    finish(start(work, name, processes))
    for stage in ("base", "sft", "reward", "dpo", "ppo"):
        killed, whole = runs / name / stage, runs / f"whole-{processes}" / stage
        assert verify(killed) is None
        ours, theirs = (folder / "model.safetensors" for folder in (killed, whole))
        assert ours.read_bytes() == theirs.read_bytes(), stage
        assert steps_logged(killed) == steps_logged(whole)
        manifest = read_manifest(killed)
        assert manifest is not None
        assert manifest.environment["processes"] == processes
    assert not list((runs / name / ".checkpoints").iterdir())


def test_two_processes_train_as_one(work: Path) -> None:
    # Sums over the batch have another order, which Muon in bf16 and Adam's division make more of.
    for stage, tolerance in (("base", 1e-4), ("sft", 5e-3)):
        one, two = (losses_logged(work / "runs" / f"whole-{n}" / stage) for n in (1, 2))
        assert len(one) > 5
        assert two == pytest.approx(one, rel=tolerance)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_batch_of_prompts_may_be_cut_as_one_likes(work: Path, processes: int) -> None:
    """Reward model and DPO of the same labels, whatever a device takes at a time."""
    runs, name = work / "runs", f"cut-{processes}"
    shutil.copytree(runs / "whole-1", runs / name)
    cut = ("reward.per_device_batch_prompts=1", "dpo.per_device_batch_pairs=1")
    finish(start(work, name, processes, *cut))
    by_dpo = (losses_logged(runs / one / "dpo") for one in ("whole-1", name))
    assert next(by_dpo) == pytest.approx(next(by_dpo), rel=1e-3)
    whole, cut = runs / "whole-1" / "reward", runs / name / "reward"
    assert losses_logged(cut) == pytest.approx(losses_logged(whole), rel=1e-4)
    for one, other in zip(losses_logged(whole)[:3], losses_logged(cut)[:3], strict=True):
        assert other == pytest.approx(one, rel=1e-5)
    scores, questions = (
        [safetensors.torch.load_file(folder / file) for folder in (whole, cut)]
        for file in ("model.safetensors", "questions.safetensors")
    )
    for ours, theirs in (scores, questions):
        for key, weight in ours.items():
            torch.testing.assert_close(theirs[key], weight, atol=1e-3, rtol=0)


def losses_logged(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_one_process_that_fails_ends_the_other_and_leaves_nothing(work: Path) -> None:
    copy_data(work, "bad")
    arguments = ["run", "x.yaml", "--until", "pretrain", "name=bad", "processes=2"]
    result = subprocess.run(
        [sys.executable, "-m", "stages", *arguments, "pretrain.copy_probe_minimum=1.0"],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert result.returncode == 2, result.stdout + result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert "copy_probe_minimum" in lines[0]
    assert not (work / "runs" / "bad" / "base").exists()
