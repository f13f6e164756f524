"""The stage on a tiny base: what it publishes, that it repeats itself, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.artifacts import verify
from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.gpt2_format import load_gpt
from pipeline.records import Demonstration, write_rows
from stages import sft

Publish = Callable[[Path, Callable[[Path], object]], None]
RunStage = Callable[..., Path]

DEMONSTRATIONS = [
    Demonstration(prompt=f"Where is the {name}?", response=f"The {name} is in the mill.")
    for name in ("fox", "owl", "kite", "plum", "mill")
]


@pytest.fixture
def run_stage(tmp_path: Path, tiny_model_folder: Path, publish_folder: Publish) -> RunStage:
    def run(name: str, demonstrations: list[Demonstration], **values: Any) -> Path:
        folder = tmp_path / name
        publish_folder(
            folder / "base", lambda to: shutil.copytree(tiny_model_folder, to, dirs_exist_ok=True)
        )
        publish_folder(
            folder / "data", lambda to: write_rows(to / "demonstrations.jsonl", demonstrations)
        )
        section = {"learning_rate": 1e-2, "epochs": 3, "batch_rows": 2, "validation_fraction": 0.2}
        config = {"data": {"tinyworld": {}}, "pretrain": {}, "sft": section, "precision": "fp32"}
        sft.run(RunConfig.model_validate(config | values), folder)
        return folder / "sft"

    return run


def test_publishes_a_hugging_face_folder_and_its_metrics(run_stage: RunStage) -> None:
    folder = run_stage("run", DEMONSTRATIONS)
    assert verify(folder) is None
    ids = AutoTokenizer.from_pretrained(folder)("Where is the fox?", return_tensors="pt").input_ids
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
        torch.testing.assert_close(load_gpt(folder)(ids), theirs, atol=1e-4, rtol=1e-4)

    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    # Five prompts, one of them held out: four rows in batches of two, three times.
    assert [row["step"] for row in metrics if "eval_loss" in row] == [0, 2, 4, 6]
    assert [row["step"] for row in metrics if "loss" in row] == [1, 2, 3, 4, 5, 6]
    validation = [row["eval_loss"] for row in metrics if "eval_loss" in row]
    assert validation[-1] < validation[0]


@pytest.mark.slow
def test_the_seed_decides_the_weights(run_stage: RunStage) -> None:
    def weights(name: str, seed: int) -> bytes:
        folder = run_stage(name, DEMONSTRATIONS, seed=seed)
        return (folder / "model.safetensors").read_bytes()

    assert weights("a", 1) == weights("b", 1)
    assert weights("a", 1) != weights("c", 2)


@pytest.mark.slow
def test_bf16_trains_and_publishes_fp32(run_stage: RunStage) -> None:
    exact = load_gpt(run_stage("fp32", DEMONSTRATIONS)).state_dict()
    folder = run_stage("bf16", DEMONSTRATIONS, precision="bf16")
    half = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert {weight.dtype for weight in half.values()} == {torch.float32}
    weight, reference = half["transformer.wte.weight"], exact["wte.weight"]
    assert not torch.equal(weight, reference)
    torch.testing.assert_close(weight, reference, atol=0.03, rtol=0)


def test_a_demonstration_beyond_the_context_leaves_nothing_behind(
    run_stage: RunStage, tmp_path: Path
) -> None:
    long = Demonstration(prompt="Tell me more", response="It lives in the old mill. " * 20)
    with pytest.raises(UserError, match=r"demonstrations\.jsonl: demonstration 6.*1 of 6"):
        run_stage("run", [*DEMONSTRATIONS, long])
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir()) == [
        "base",
        "data",
    ]
