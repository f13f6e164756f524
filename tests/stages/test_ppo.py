"""The stage on tiny models: what it publishes, that it repeats itself, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from pipeline.artifacts import Identity, WorkRecord, publish, temporary_folder, verify
from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.gpt2_format import load_gpt
from pipeline.records import Prompt, write_rows
from pipeline.reward import RewardModel
from pipeline.reward_files import save_reward_model
from pipeline.tokenizer import Tokenizer, train_tokenizer
from stages import ppo


def make_config(**section: Any) -> RunConfig:
    values = {
        "learning_rate": 1e-3,
        "total_episodes": 24,
        "batch_size": 8,
        "num_ppo_epochs": 1,
        "num_mini_batches": 2,
        "response_length": 12,
    }
    return RunConfig.model_validate(
        {
            "seed": 3,
            "precision": "fp32",
            "data": {"tinyworld": {}},
            "pretrain": {},
            "ppo": values | section,
        }
    )


def make_run(
    run_folder: Path, model_folder: Path, split: str = "ppo", reward_tokenizer: Any = None
) -> Path:
    """A run folder with what the stage reads: sft, a reward model with a random head, prompts."""
    tokenizer = reward_tokenizer or Tokenizer.load(model_folder)
    for name in ("sft", "reward", "data"):
        temporary = temporary_folder(run_folder / name)
        if name == "sft":
            shutil.copytree(model_folder, temporary, dirs_exist_ok=True)
        if name == "reward":
            head = torch.Generator().manual_seed(4)
            save_reward_model(RewardModel(load_gpt(model_folder), head), temporary, tokenizer)
        if name == "data":
            texts = ("the fox", "the owl", "a kite", "plums")
            rows = [
                Prompt.model_validate({"prompt_id": f"p{i}", "prompt": text, "split": split})
                for i, text in enumerate(texts)
            ]
            heldout = {"prompt_id": "h", "prompt": "the mill", "split": "heldout"}
            write_rows(temporary / "prompts.jsonl", [*rows, Prompt.model_validate(heldout)])
        identity = Identity(name, {}, 0, {}, 1)
        publish(temporary, run_folder / name, identity, WorkRecord({}, "", "", 0.0, 0))
    return run_folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A run in which the stage has run. Read it only."""
    run_folder = make_run(tmp_path_factory.mktemp("trained"), tiny_model_folder)
    ppo.run(make_config(), run_folder)
    return run_folder


def test_publishes_a_policy_and_a_critic_that_plain_transformers_loads(trained: Path) -> None:
    assert verify(trained / "ppo") is None
    policy = AutoModelForCausalLM.from_pretrained(trained / "ppo").eval()
    ids = torch.tensor([Tokenizer.load(trained / "ppo").encode_prompt("the fox")])
    with torch.no_grad():
        logits, before = policy(ids).logits, load_gpt(trained / "sft")(ids)
    torch.testing.assert_close(logits, load_gpt(trained / "ppo")(ids).detach(), atol=1e-5, rtol=0)
    assert float((logits - before).abs().max()) > 1e-4  # it learned
    critic = AutoModelForSequenceClassification.from_pretrained(trained / "ppo" / "critic")
    assert critic.config.num_labels == 1


def test_metrics_have_one_row_per_update(trained: Path) -> None:
    lines = (trained / "ppo" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["episode"] for row in rows] == [8, 16, 24]
    assert all(row["objective/scores"] is not None for row in rows)
    assert rows[0]["objective/kl"] == pytest.approx(0, abs=1e-6)
    assert rows[2]["objective/kl"] != 0


def test_the_same_seed_publishes_the_same_weights(
    trained: Path, tmp_path: Path, tiny_model_folder: Path
) -> None:
    again = make_run(tmp_path, tiny_model_folder)
    ppo.run(make_config(), again)
    for name in ("model.safetensors", "critic/model.safetensors"):
        assert (again / "ppo" / name).read_bytes() == (trained / "ppo" / name).read_bytes()


def test_prompts_of_other_splits_are_not_trained_on(trained: Path) -> None:
    path = trained / "data" / "prompts.jsonl"
    assert ppo.ppo_prompts(path, 0) == (["the fox", "the owl", "a kite", "plums"], [])
    training, kept = ppo.ppo_prompts(path, 1)
    assert len(kept) == 1
    assert sorted(training + kept) == ["a kite", "plums", "the fox", "the owl"]


def test_no_prompts_of_its_split_are_refused(tmp_path: Path, tiny_model_folder: Path) -> None:
    run_folder = make_run(tmp_path, tiny_model_folder, split="label")
    with pytest.raises(UserError, match="holds 0 prompts of split ppo"):
        ppo.run(make_config(), run_folder)
    assert not (run_folder / "ppo").exists()


def test_another_tokenizer_is_refused(tmp_path: Path, tiny_model_folder: Path) -> None:
    other = train_tokenizer(["quite other words in here, zebra zebra"] * 5, vocab_size=300)
    run_folder = make_run(tmp_path, tiny_model_folder, reward_tokenizer=other)
    with pytest.raises(UserError, match="another tokenizer"):
        ppo.run(make_config(), run_folder)


def test_a_prompt_without_room_for_a_response_is_refused(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    run_folder = make_run(tmp_path, tiny_model_folder)
    with pytest.raises(UserError, match="context"):
        ppo.run(make_config(response_length=60), run_folder)
    assert not (run_folder / "ppo").exists()
