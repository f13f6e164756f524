"""``align score``: the reward model's scores from a file, as everywhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from typer.testing import CliRunner

from pipeline.errors import UserError
from pipeline.model import GPT
from pipeline.reward import RewardModel
from pipeline.reward_files import save_reward_model
from pipeline.tokenizer import Tokenizer
from stages.__main__ import app
from stages.score import scored

ROWS = [
    {"prompt": "Where is the fox?", "response": "In the old mill.", "id": "ü"},
    {"prompt": "Who?", "response": "Owl", "finished": False},
]


@pytest.fixture
def folder(tiny_gpt: GPT, tiny_tokenizer: Tokenizer, tmp_path: Path) -> Path:
    model = RewardModel(tiny_gpt, torch.Generator().manual_seed(0), ["rude", "long"])
    save_reward_model(model, tmp_path / "reward", tiny_tokenizer)
    return tmp_path / "reward"


def test_scores_are_those_of_plain_transformers(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    result = CliRunner().invoke(app, ["score", str(folder), str(path)])
    assert result.exit_code == 0, result.output
    printed = [json.loads(line) for line in result.stdout.splitlines()]
    tokenizer = Tokenizer.load(folder)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    for row, out in zip(ROWS, printed, strict=True):
        marks = "<|prompt|>", "<|response|>", "<|endoftext|>"
        prompt, response, end = (tokenizer.backend.token_to_id(mark) for mark in marks)
        ids = [prompt, *tokenizer.encode(str(row["prompt"]))]
        ids += [response, *tokenizer.encode(str(row["response"]))]
        ids += [end] if row.get("finished", True) else []
        with torch.no_grad():
            expected = theirs(torch.tensor([ids])).logits.item()
        assert out["score"] == pytest.approx(expected, abs=1e-5)
        assert set(out["answers"]) == {"rude", "long"}
        assert all(0 < share < 1 for share in out["answers"].values())
        assert {key: out[key] for key in row} == row


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "x"}', r"rows\.jsonl:1: needs the texts prompt and response"),
        ('{"prompt": "x", "response": 3}', "needs the texts"),
        ('{"prompt": "x", "response": "y", "finished": "no"}', "only as true or false"),
        ('{"prompt": "x", "response": "' + "y" * 99 + '"}', "the model reads 64"),
        ("{", r"rows\.jsonl:1"),
    ],
)
def test_a_broken_row_is_one_line_before_anything_is_scored(
    folder: Path, tmp_path: Path, line: str, message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=message) as error:
        list(scored(folder, path))
    assert "\n" not in str(error.value)


def test_what_is_no_reward_model_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n")
    with pytest.raises(UserError, match="holds no scalar head"):
        list(scored(tiny_model_folder, path))
