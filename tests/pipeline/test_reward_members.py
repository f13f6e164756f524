"""Several heads on one trunk: their mean is the score, their losses are a bootstrap's."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import AutoModelForSequenceClassification

from pipeline.errors import UserError
from pipeline.model import GPT
from pipeline.reward import RewardModel, disagreement, normalize, score_rows
from pipeline.reward_batches import EncodedComparisons, collate
from pipeline.reward_files import load_reward_model, save_reward_model
from pipeline.reward_loss import members_loss_sum
from pipeline.tokenizer import Tokenizer

ROWS = [(5, 6, 7), (5, 9), (5, 8, 8, 4), (7, 7)]


@pytest.fixture
def model(tiny_gpt: GPT) -> RewardModel:
    return RewardModel(tiny_gpt, torch.Generator().manual_seed(0), members=3).eval()


def member_scores(model: RewardModel) -> torch.Tensor:
    """(N, M) by hand: each head on the last hidden state."""
    assert model.members is not None
    with torch.no_grad():
        lasts = [model.trunk.hidden_states(torch.tensor([row]))[0, -1] for row in ROWS]
    return torch.stack(lasts) @ model.members.weight.detach().T


def test_the_score_is_the_members_mean_in_plain_transformers_too(
    model: RewardModel, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    expected = member_scores(model).mean(1)
    torch.testing.assert_close(score_rows(model, ROWS, 1), expected, atol=1e-5, rtol=0)
    model.member_means = torch.tensor([0.25, -0.5, 0.25])
    save_reward_model(model, tmp_path, tiny_tokenizer)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        scores = [theirs(torch.tensor([row])).logits.item() for row in ROWS]
    assert scores == pytest.approx(expected.tolist(), abs=1e-5)
    again = load_reward_model(tmp_path).eval()
    torch.testing.assert_close(disagreement(again, ROWS, 1), disagreement(model, ROWS, 1))
    safetensors.torch.save_file({"weight": torch.zeros(3, 32)}, tmp_path / "members.safetensors")
    with pytest.raises(UserError, match=r"members\.safetensors: does not hold heads"):
        load_reward_model(tmp_path)


def test_disagreement_is_what_a_member_gives_beyond_the_mean(model: RewardModel) -> None:
    model.member_means = torch.tensor([0.5, 0.0, -0.5])
    scores = member_scores(model).tolist()
    beyond = disagreement(model, ROWS, 1, batch_rows=3).tolist()
    for row, values in zip(beyond, scores, strict=True):
        mean = sum(values) / 3
        expected = [v - mean - m for v, m in zip(values, (0.5, 0.0, -0.5), strict=True)]
        assert row == pytest.approx(expected, abs=1e-5)


def test_normalization_scales_the_members_with_the_score(model: RewardModel) -> None:
    before = member_scores(model)
    normalize(model, mean=0.75, std=2.0)
    after = member_scores(model)
    torch.testing.assert_close(after.mean(1), (before.mean(1) - 0.75) / 2, atol=1e-5, rtol=0)
    for head in range(3):  # all but an offset of its own
        moved = after[:, head] - before[:, head] / 2
        torch.testing.assert_close(moved, moved[:1].expand(4), atol=1e-5, rtol=0)


def test_a_head_learns_from_a_prompt_as_often_as_it_drew_it() -> None:
    elements = [
        EncodedComparisons(((4, 5), (4, 6), (4, 7)), ((0, 1), (0, 2), (1, 2))),
        EncodedComparisons(((8, 5), (8, 6)), ((1, 0),)),
    ]
    batch = collate(elements, 1)
    scores = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws = [np.array([2, 0]), np.array([1, 3])]

    def loss(better: float, worse: float) -> float:
        return math.log1p(math.exp(worse - better))

    heads: list[float] = []
    for head, draw in enumerate(draws):
        s = scores[:, head].tolist()
        first = (loss(s[0], s[1]) + loss(s[0], s[2]) + loss(s[1], s[2])) / 3
        heads.append(draw[0] * first + draw[1] * loss(s[4], s[3]))
    assert float(members_loss_sum(scores, batch, draws)) == pytest.approx(sum(heads) / 2)
    assert batch.pair_prompts.tolist() == [0, 0, 0, 1]


def test_only_the_members_learn(model: RewardModel) -> None:
    scores, _ = model.member_scores(torch.tensor([ROWS[0]]), torch.tensor([3]))
    scores.sum().backward()
    assert model.members is not None
    assert model.members.weight.grad is not None
    assert model.score.weight.grad is None
