"""A run in which dpo, rloo and best_of_n have run on a tiny model, and compare after them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.artifacts import verify
from pipeline.config import RunConfig
from pipeline.gpt2_format import load_gpt
from pipeline.hugging_face import load_language_model
from pipeline.records import Prompt, RankedResponse, Ranking, write_rows
from pipeline.reward import RewardModel
from pipeline.reward_files import save_reward_model
from pipeline.tokenizer import Tokenizer
from stages import best_of_n, compare, dpo, rloo

Publish = Callable[[Path, Callable[[Path], object]], None]
WORDS = ("the fox", "an owl", "a kite", "plums", "the old mill")
RLOO = {
    "learning_rate": 1e-3,
    "total_episodes": 16,
    "batch_size": 8,
    "num_generations": 4,
    "response_length": 12,
}


def alternatives_config(**sections: Any) -> RunConfig:
    comparison = {"judge": "reward", "max_response_tokens": 12, "bootstrap_samples": 20}
    values = {
        "name": "tiny",
        "precision": "fp32",
        "data": {"tinyworld": {}},
        "import_base": {"path": "base"},
        "dpo": {"learning_rate": 1e-2, "batch_pairs": 2},
        "rloo": RLOO,
        "best_of_n": {"n": 3},
        "ppo": {"total_episodes": 8, "batch_size": 4, "response_length": 12, "learning_rate": 1e-3},
        "compare": comparison | {"examples": 3},
    }
    return RunConfig.model_validate(values | sections)


def read_rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def assert_published_and_learned(run_folder: Path, stage: str) -> None:
    """The stage's folder is whole; its policy is not sft, and transformers loads the same one."""
    folder = run_folder / stage
    assert verify(folder) is None
    ids = torch.tensor([Tokenizer.load(folder).encode_prompt("the fox")])
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
        ours, before = load_gpt(folder)(ids), load_gpt(run_folder / "sft")(ids)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert float((ours - before).abs().max()) > 1e-4


def make_rankings() -> list[Ranking]:
    return [
        Ranking(
            submission_id=words,
            prompt_id=words,
            prompt=words,
            labeler="ann",
            responses=[
                RankedResponse(response_id=f"{words}{i}", text=text, policy="sft")
                for i, text in enumerate(("it lives in the mill", words))
            ],
            ratings=[5, 2],
            ranks=[1, 2],
        )
        for words in WORDS
    ]


def make_alternatives_run(run_folder: Path, model_folder: Path, publish_folder: Publish) -> Path:
    tokenizer = Tokenizer.load(model_folder)

    def write_data(folder: Path) -> None:
        rows = [
            {"prompt_id": f"{split}{i}", "prompt": f"{words} {split}", "split": split}
            for i, words in enumerate(WORDS)
            for split in ("ppo", "heldout")
        ]
        write_rows(folder / "prompts.jsonl", [Prompt.model_validate(row) for row in rows])

    def write_model(folder: Path) -> None:
        shutil.copytree(model_folder, folder, dirs_exist_ok=True)

    def write_reward(folder: Path) -> None:
        head = torch.Generator().manual_seed(4)
        save_reward_model(RewardModel(load_language_model(model_folder), head), folder, tokenizer)

    publish_folder(run_folder / "data", write_data)
    for name in ("base", "sft", "ppo"):
        publish_folder(run_folder / name, write_model)
    publish_folder(run_folder / "reward", write_reward)
    publish_folder(
        run_folder / "labels", lambda to: write_rows(to / "rankings.jsonl", make_rankings())
    )
    return run_folder


@pytest.fixture(scope="session")
def optimized(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path, publish_folder: Publish
) -> Path:
    """A run in which the three stages have run, and compare after them. Read it only."""
    run_folder = make_alternatives_run(
        tmp_path_factory.mktemp("run"), tiny_model_folder, publish_folder
    )
    for stage in (dpo, rloo, best_of_n, compare):
        stage.run(alternatives_config(), run_folder)
    return run_folder
