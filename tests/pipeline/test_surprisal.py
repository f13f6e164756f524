"""Surprisals against plain transformers, their loss against a slow loop; what can be learned."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.gpt2_format import load_gpt
from pipeline.model import GPT
from pipeline.surprisal import (
    MOST_NATS,
    SurprisalModel,
    SurprisalRow,
    explained_variance,
    sample_surprisals,
    squared_error_sum,
    surprisal_targets,
)
from pipeline.tokenizer import Tokenizer

PROMPTS = ["Where is the fox?", "Who?"]


@pytest.fixture
def rows(tiny_gpt: GPT, tiny_tokenizer: Tokenizer) -> list[SurprisalRow]:
    return sample_surprisals(tiny_gpt.eval(), PROMPTS, 3, 12, tiny_tokenizer, seed=1)


def test_surprisals_are_what_transformers_says_of_each_token(
    rows: list[SurprisalRow], tiny_model_folder: Path, tiny_tokenizer: Tokenizer
) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(tiny_model_folder).eval()
    assert len(rows) == 6
    assert len({row.ids for row in rows}) > 4  # every response has a seed of its own
    for number, row in enumerate(rows):
        prompt = tiny_tokenizer.encode_prompt(PROMPTS[number // 3])
        assert list(row.ids[: len(prompt)]) == prompt
        assert len(row.surprisals) == len(row.ids) - len(prompt)
        with torch.no_grad():
            logits = theirs(torch.tensor([row.ids])).logits[0]
        logits[:, list(tiny_tokenizer.never_sampled_ids)] = -math.inf
        for place, surprisal in enumerate(row.surprisals, start=len(prompt)):
            expected = -logits[place - 1].log_softmax(-1)[row.ids[place]]
            assert surprisal == pytest.approx(float(expected), abs=1e-4)


def test_the_same_seed_gives_the_same_rows(
    rows: list[SurprisalRow], tiny_gpt: GPT, tiny_tokenizer: Tokenizer
) -> None:
    again = sample_surprisals(tiny_gpt.eval(), PROMPTS, 3, 12, tiny_tokenizer, seed=1)
    other = sample_surprisals(tiny_gpt.eval(), PROMPTS, 3, 12, tiny_tokenizer, seed=2)
    assert again == rows
    assert [row.ids for row in other] != [row.ids for row in rows]


def test_targets_stand_at_the_tokens_that_surprised() -> None:
    rows = [SurprisalRow((5, 6, 7, 8), (0.5, 20.0)), SurprisalRow((5, 9), (1.5,))]
    input_ids, targets, mask = surprisal_targets(rows, pad_id=1)
    assert input_ids.tolist() == [[5, 6, 7, 8], [5, 9, 1, 1]]
    assert targets.tolist() == [[0, 0, 0.5, MOST_NATS], [0, 1.5, 0, 0]]
    assert mask.tolist() == [[False, False, True, True], [False, True, False, False]]
    predicted = torch.tensor([[9.0, 9.0, 1.0, 6.0], [9.0, 1.0, 9.0, 9.0]])
    assert float(squared_error_sum(predicted, targets, mask)) == 0.25 + 4.0 + 0.25


def test_explained_variance_by_hand_and_whatever_the_batches(
    tiny_gpt: GPT, rows: list[SurprisalRow]
) -> None:
    model = SurprisalModel(tiny_gpt, torch.Generator().manual_seed(0)).eval()
    known: list[float] = []
    predicted: list[float] = []
    with torch.no_grad():
        for row in rows:
            first = len(row.ids) - len(row.surprisals)
            predicted += model(torch.tensor([row.ids]))[0, first:].tolist()
            known += [min(value, MOST_NATS) for value in row.surprisals]
    mean = sum(known) / len(known)
    error = sum((p - k) ** 2 for p, k in zip(predicted, known, strict=True))
    expected = 1 - error / sum((k - mean) ** 2 for k in known)
    for size in (1, 4, 100):
        assert explained_variance(model, rows, 1, size) == pytest.approx(expected, abs=1e-4)


def test_the_trunk_learns_it(tiny_model_folder: Path, tiny_tokenizer: Tokenizer) -> None:
    policy = load_gpt(tiny_model_folder).eval()
    with torch.no_grad():
        policy.wte.weight *= 12  # some tokens are likely, some are not
    rows = sample_surprisals(policy, PROMPTS, 24, 12, tiny_tokenizer, seed=3)
    model = SurprisalModel(load_gpt(tiny_model_folder), torch.Generator().manual_seed(0))
    before = explained_variance(model, rows, tiny_tokenizer.pad_id)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(120):
        input_ids, targets, mask = surprisal_targets(rows, tiny_tokenizer.pad_id)
        loss = squared_error_sum(model(input_ids), targets, mask) / mask.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert before < 0.1
    assert explained_variance(model, rows, tiny_tokenizer.pad_id) > 0.5
