"""``align score``: what a reward model or a classifier says of a file, as everywhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from typer.testing import CliRunner

from pipeline.classifier import Classifier, save_classifier
from pipeline.errors import UserError
from pipeline.model import GPT
from pipeline.reward import RewardModel
from pipeline.reward_files import save_reward_model
from pipeline.tokenizer import Tokenizer
from stages.__main__ import app
from stages.score import classified, scored

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


def test_labels_of_texts_are_those_of_plain_transformers(
    tiny_gpt: GPT, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = Classifier(tiny_gpt, ["ham", "spam", "süß"], torch.Generator().manual_seed(0))
    save_classifier(model, tmp_path / "classifier", tiny_tokenizer)
    texts = ["The red fox.", "An owl flies a kite over the mill", "süße plums", "x"]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text, "id": text[0]}) + "\n" for text in texts))
    result = CliRunner().invoke(app, ["score", str(tmp_path / "classifier"), str(path)])
    assert result.exit_code == 0, result.output
    printed = [json.loads(line) for line in result.stdout.splitlines()]
    plain = transformers.pipeline("text-classification", model=str(tmp_path / "classifier"))
    said: Any = plain(texts, top_k=None)
    for text, out, answers in zip(texts, printed, said, strict=True):
        assert (out["text"], out["id"]) == (text, text[0])
        assert out["label"] == answers[0]["label"]  # the likeliest comes first there
        expected = {answer["label"]: answer["score"] for answer in answers}
        assert out["probabilities"] == pytest.approx(expected, abs=1e-5)


def test_a_text_longer_than_the_context_is_refused(
    tiny_gpt: GPT, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save_classifier(Classifier(tiny_gpt, ["a", "b"]), tmp_path / "classifier", tiny_tokenizer)
    path = tmp_path / "rows.jsonl"
    rows = [{"text": "fits"}, {"text": "x" * 64}]  # a token a byte, and the end token
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"rows\.jsonl:2: has 65 tokens in all, the model reads 64"):
        list(classified(tmp_path / "classifier", path))
