"""Best of n: one by one, by brute force; its divergence by integration."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.best_of_n import best_of_n, divergence_bound
from pipeline.errors import UserError
from pipeline.gpt2_format import load_gpt
from pipeline.model import GPT
from pipeline.reward import RewardModel
from pipeline.sampling import SamplingSettings, generate
from pipeline.tokenizer import Tokenizer

PROMPTS = ["the fox", "an owl and a kite", "plums"]
SEEDS = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]


def test_the_best_of_each_prompt_is_kept(
    tiny_gpt: GPT, tiny_model_folder: Path, tiny_tokenizer: Tokenizer
) -> None:
    reward = RewardModel(load_gpt(tiny_model_folder), torch.Generator().manual_seed(4)).eval()
    settings = SamplingSettings(8, batch_rows=5)
    chosen = best_of_n(tiny_gpt, reward, PROMPTS, SEEDS, settings, tiny_tokenizer)
    assert len(chosen) == 3
    for prompt, seeds, best in zip(PROMPTS, SEEDS, chosen, strict=True):
        ids = tiny_tokenizer.encode_prompt(prompt)
        candidates: list[tuple[float, list[int], bool]] = []
        for seed in seeds:
            one = generate(tiny_gpt, [ids], [seed], SamplingSettings(8), tiny_tokenizer)
            response = one.ids[0, : int(one.lengths[0])].tolist()
            row = torch.tensor([ids + response])
            with torch.no_grad():
                score = float(reward(row, torch.tensor([row.shape[1]]))[0])
            candidates.append((score, response, bool(one.finished[0])))
        score, response, finished = max(candidates)
        assert len({score for score, _, _ in candidates}) > 1
        assert (best.ids, best.finished) == (response, finished)
        assert best.reward == pytest.approx(score, abs=1e-5)


def test_a_score_that_is_no_number_is_refused_though_another_is_the_best(
    tiny_gpt: GPT, tiny_model_folder: Path, tiny_tokenizer: Tokenizer
) -> None:
    """The reward model knows one token less, which is in the second response alone."""
    settings, prompt, seeds = SamplingSettings(8), PROMPTS[:1], [1, 2]
    ids = tiny_tokenizer.encode_prompt(prompt[0])
    drawn = generate(tiny_gpt, [ids, ids], seeds, settings, tiny_tokenizer)
    first, second = (
        row[:length] for row, length in zip(drawn.ids.tolist(), drawn.lengths.tolist(), strict=True)
    )
    trunk = load_gpt(tiny_model_folder)
    with torch.no_grad():
        trunk.wte.weight[min(set(second) - set(first) - set(ids))] = torch.nan
    reward = RewardModel(trunk, torch.Generator().manual_seed(4)).eval()
    with torch.no_grad():
        scores = [
            float(reward(torch.tensor([ids + one]), torch.tensor([len(ids + one)]))[0])
            for one in (first, second)
        ]
    assert [math.isfinite(score) for score in scores] == [True, False]
    with pytest.raises(UserError, match="scores that are not numbers"):
        best_of_n(tiny_gpt, reward, prompt, [seeds], settings, tiny_tokenizer)


@pytest.mark.parametrize("n", [1, 2, 16])
def test_the_bound_is_the_divergence_of_the_largest_of_n_uniforms(n: int) -> None:
    """Its density is n·u^(n−1) where the policy's is 1."""
    u = (np.arange(2_000_000) + 0.5) / 2_000_000
    density = n * u ** (n - 1)
    integral = float(np.mean(density * np.log(density)))
    assert divergence_bound(n) == pytest.approx(integral, abs=1e-5)
