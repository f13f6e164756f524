"""Normalized scores and the saved folder against the closed form and Hugging Face's class."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline.errors import UserError
from pipeline.model import GPT, GPTConfig
from pipeline.reward import RewardModel, normalize, score_rows
from pipeline.reward_batches import pad_rows
from pipeline.reward_files import load_reward_model, save_reward_model
from pipeline.tokenizer import Tokenizer, train_tokenizer

PAD = 31
CONFIG = GPTConfig(vocab_size=32, context_tokens=24, layers=2, heads=2, width=16)


@pytest.fixture
def model() -> RewardModel:
    torch.manual_seed(0)
    model = RewardModel(GPT(CONFIG))
    with torch.no_grad():  # away from the initialization, where biases and norms hide mistakes
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def random_rows(seed: int) -> list[list[int]]:
    """20 rows of 1 to 12 tokens, with no pad in them."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 13, (20,), generator=generator).tolist()
    return [torch.randint(0, PAD, (n,), generator=generator).tolist() for n in lengths]


def save_with_pad(model: RewardModel, folder: Path) -> None:
    """A folder whose pad is ``PAD``, for a model of 32 ids that no real tokenizer fits."""
    save_reward_model(model, folder, train_tokenizer(["a"], 260))
    config = json.loads((folder / "config.json").read_text())
    config |= {"pad_token_id": PAD, "eos_token_id": 0, "bos_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("normalized", [False, True])
def test_hugging_face_gives_the_same_scores(
    model: RewardModel, tmp_path: Path, normalized: bool
) -> None:
    rows = random_rows(10)
    input_ids, lengths = pad_rows(rows, PAD)
    with torch.no_grad():
        expected = model(input_ids, lengths)
        if normalized:
            mean, std = float(expected.mean()), float(expected.std(correction=0))
            normalize(model, mean, std)
            expected = (expected - mean) / std
    save_with_pad(model, tmp_path)
    theirs, report = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert type(theirs).__name__ == "GPT2ForSequenceClassification"
    assert theirs.num_labels == 1
    with torch.no_grad():
        scores = theirs(input_ids).logits.squeeze(-1)
        reloaded = load_reward_model(tmp_path)(input_ids, lengths)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(reloaded, expected, atol=1e-5, rtol=0)
    if normalized:
        assert scores.mean().item() == pytest.approx(0, abs=1e-5)
        assert scores.square().mean().item() == pytest.approx(1, abs=1e-5)


def test_real_tokenizer_pads_so_that_hugging_face_reads_the_end_token(
    tiny_tokenizer: Tokenizer, tiny_gpt: GPT, tmp_path: Path
) -> None:
    model = RewardModel(tiny_gpt, torch.Generator().manual_seed(0))
    save_reward_model(model, tmp_path, tiny_tokenizer)
    hf_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert theirs.config.pad_token_id == hf_tokenizer.pad_token_id == tiny_tokenizer.pad_id
    assert theirs.config.pad_token_id != theirs.config.eos_token_id
    prompt = tiny_tokenizer.encode_prompt("Where is the fox?")
    rows = [prompt + tiny_tokenizer.encode_response(text) for text in ("In the old mill.", "Mill")]
    padded = hf_tokenizer.pad({"input_ids": rows}, return_tensors="pt")
    with torch.no_grad():
        scores = theirs(**padded).logits.squeeze(-1)
    ours = score_rows(model, rows, tiny_tokenizer.pad_id)
    torch.testing.assert_close(scores, ours, atol=1e-5, rtol=0)
    without_end = score_rows(model, [row[:-1] for row in rows], tiny_tokenizer.pad_id)
    assert (scores - without_end).abs().min() > 1e-3


def test_normalization_is_the_closed_form_at_every_position(model: RewardModel) -> None:
    input_ids = torch.randint(0, 32, (4, 9), generator=torch.Generator().manual_seed(0))
    model.double()
    with torch.no_grad():
        before = model.token_scores(input_ids)
        normalize(model, mean=5.0, std=0.25)
        after = model.token_scores(input_ids)
    torch.testing.assert_close(after, (before - 5) / 0.25, atol=1e-10, rtol=0)


def test_normalization_keeps_the_order_of_scores(model: RewardModel) -> None:
    rows = random_rows(11)
    before = score_rows(model, rows, PAD)
    normalize(model, mean=-3.0, std=2.0)
    assert score_rows(model, rows, PAD).argsort().tolist() == before.argsort().tolist()


@pytest.mark.parametrize(
    ("mean", "std", "problem"),
    [
        (0.0, 0.0, "the same score"),
        (math.nan, 1.0, "not finite"),
        (0.0, math.nan, "not finite"),
        (0.0, math.inf, "not finite"),
    ],
)
def test_scores_that_cannot_be_scaled_are_an_error(
    model: RewardModel, mean: float, std: float, problem: str
) -> None:
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=problem):
        normalize(model, mean, std)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_a_folder_without_a_head_is_an_error(tiny_model_folder: Path) -> None:
    with pytest.raises(UserError, match="no scalar head"):
        load_reward_model(tiny_model_folder)
