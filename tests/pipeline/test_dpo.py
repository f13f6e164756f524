"""DPO: the equation by hand, the very ids that labelers saw, and the same bits after a kill."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn
from transformers import GPT2LMHeadModel

from pipeline.alternatives_config import DpoSection
from pipeline.dpo import (
    Pair,
    check_batch,
    make_trainer,
    optimize_preferences,
    preference_pairs,
    step_count,
)
from pipeline.errors import UserError
from pipeline.gpt2_format import load_gpt
from pipeline.language_model import LanguageModel
from pipeline.preferences import comparisons_by_prompt
from pipeline.records import RankedResponse, Ranking
from pipeline.reward_config import RewardSection
from pipeline.reward_data import encode_side
from pipeline.tokenizer import Tokenizer
from tests.pipeline.trainer_runs import make_run, same, train_until


def ranking(prompt: str, texts: list[str], ranks: list[int], finished: bool = True) -> Ranking:
    return Ranking(
        submission_id=prompt,
        prompt_id=prompt,
        prompt=prompt,
        labeler="ann",
        responses=[
            RankedResponse(response_id=f"{prompt}{i}", text=text, policy="sft", finished=finished)
            for i, text in enumerate(texts)
        ],
        ratings=[8 - 2 * rank for rank in ranks],
        ranks=ranks,
    )


RANKINGS = [
    ranking("Where?", ["the old mill", "a kite", "plums, and the owl"], [1, 2, 2]),
    ranking("Who eats plums?", ["the red fox", "the fox"], [2, 1]),
    ranking("Cut?", ["the small owl has", "a blue"], [1, 2], finished=False),
]


@pytest.fixture(scope="module")
def pairs(tiny_tokenizer: Tokenizer) -> list[Pair]:
    comparisons = comparisons_by_prompt(RANKINGS)
    side = encode_side(comparisons, tiny_tokenizer, 64, RewardSection(), [])
    return preference_pairs(side, tiny_tokenizer)


def test_pairs_are_the_ids_of_what_was_ranked(pairs: list[Pair], tiny_tokenizer: Tokenizer) -> None:
    """Ties are no pair; a response that was cut off gets no end token."""

    def triple(prompt: str, chosen: str, rejected: str, end: bool = True) -> Pair:
        last = [tiny_tokenizer.eos_id] if end else []
        return {
            "prompt_ids": tiny_tokenizer.encode_prompt(prompt),
            "chosen_ids": tiny_tokenizer.encode(chosen) + last,
            "rejected_ids": tiny_tokenizer.encode(rejected) + last,
        }

    expected = [
        triple("Where?", "the old mill", "a kite"),
        triple("Where?", "the old mill", "plums, and the owl"),
        triple("Who eats plums?", "the fox", "the red fox"),
        triple("Cut?", "the small owl has", "a blue", end=False),
    ]
    assert sorted(pairs, key=str) == sorted(expected, key=str)


def total_logprob(model: GPT2LMHeadModel, pair: Pair, response: list[int]) -> float:
    """Token by token, each from a forward pass over nothing but what precedes it."""
    total, ids = 0.0, list(pair["prompt_ids"])
    for token in response:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].double()
        total += float(logits[token] - logits.logsumexp(-1))
        ids.append(token)
    return total


def test_the_loss_is_the_papers_equation(
    pairs: list[Pair], tiny_tokenizer: Tokenizer, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """log 2 before the first step, and equation 7 by hand once the policy has moved."""
    section = DpoSection(beta=0.3, batch_pairs=4)
    trainer = make_trainer(
        tiny_model_folder, pairs, pairs, tiny_tokenizer, section, make_run(tmp_path)
    )
    model = cast(nn.Module, trainer.model)
    batch = next(iter(trainer.get_train_dataloader()))
    assert float(trainer.compute_loss(model, batch).detach()) == pytest.approx(
        math.log(2), abs=1e-6
    )

    with torch.no_grad():
        cast(Any, model).transformer.ln_f.bias.add_(torch.linspace(-0.5, 0.5, 32))
    policy = cast(GPT2LMHeadModel, model)
    reference = GPT2LMHeadModel.from_pretrained(tiny_model_folder).eval()
    # The trainer's head is fused: a plain model with the same weights is asked.
    plain = GPT2LMHeadModel(policy.config).eval()
    plain.load_state_dict(policy.state_dict())
    losses: list[float] = []
    for pair in pairs:
        chosen, rejected = (
            total_logprob(plain, pair, ids) - total_logprob(reference, pair, ids)
            for ids in (pair["chosen_ids"], pair["rejected_ids"])
        )
        losses.append(math.log1p(math.exp(-0.3 * (chosen - rejected))))
    expected = math.fsum(losses) / len(losses)
    assert abs(expected - math.log(2)) > 1e-3
    assert float(trainer.compute_loss(model, batch).detach()) == pytest.approx(expected, abs=1e-5)


def test_every_setting_reaches_the_trainer(
    pairs: list[Pair], tiny_tokenizer: Tokenizer, tiny_model_folder: Path, tmp_path: Path
) -> None:
    section = DpoSection(
        learning_rate=3e-4, beta=0.07, epochs=5, batch_pairs=4, per_device_batch_pairs=2,
        warmup_fraction=0.4, weight_decay=0.3, checkpoint_every_steps=7,
    )  # fmt: skip
    trainer: Any = make_trainer(
        tiny_model_folder, pairs, pairs[:1], tiny_tokenizer, section, make_run(tmp_path)
    )
    expected = {
        "learning_rate": 3e-4, "beta": 0.07, "num_train_epochs": 5, "warmup_steps": 2,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "weight_decay": 0.3,
        "save_steps": 7, "eval_steps": 1, "lr_scheduler_type": "cosine", "max_length": None,
    }  # fmt: skip
    assert {name: getattr(trainer.args, name) for name in expected} == expected


def test_a_batch_with_other_ids_is_refused() -> None:
    batch = {
        "input_ids": torch.tensor([[5, 6, 7, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0]]),
        "completion_mask": torch.tensor([[0, 0, 1, 0]]),
    }
    check_batch(batch, [[5, 6]], [[7]])
    for prompt, response in (([5], [6, 7]), ([5, 6], [8]), ([5, 6], [7, 0])):
        with pytest.raises(RuntimeError, match="row 0"):
            check_batch(batch, [prompt], [response])


SECTION = DpoSection(learning_rate=1e-2, epochs=3, batch_pairs=2, checkpoint_every_steps=2)


def optimize_until(
    folder: Path, pairs: list[Pair], tokenizer: Tokenizer, sft: Path, last_step: int | None = None
) -> tuple[LanguageModel | None, list[int], list[dict[str, Any]]]:
    """As ``train_until``."""
    run = make_run(folder)
    train = partial(optimize_preferences, sft, pairs, pairs[:2], tokenizer, SECTION, run)
    return train_until(last_step, run, train)


@pytest.mark.slow
def test_it_learns_and_a_killed_run_ends_with_the_same_bits(
    pairs: list[Pair], tiny_tokenizer: Tokenizer, tiny_model_folder: Path, tmp_path: Path
) -> None:
    common = (pairs, tiny_tokenizer, tiny_model_folder)
    whole, steps, logged = optimize_until(tmp_path / "whole", *common)
    assert steps == [1, 2, 3, 4, 5, 6]
    assert step_count(len(pairs), SECTION) == 6
    evaluated = [row for row in logged if "eval_loss" in row]
    assert [row["step"] for row in evaluated] == [0, 2, 4, 6]
    assert evaluated[0]["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert evaluated[-1]["eval_loss"] < 0.5
    assert evaluated[-1]["eval_rewards/accuracies"] == 1.0
    for last_step, first in ((3, 1), (5, 3), (None, 5)):
        resumed, steps, again = optimize_until(tmp_path / "killed", *common, last_step)
        assert steps == list(range(first, (last_step or 6) + 1))
    assert same(resumed, whole)
    assert again == logged
    assert not same(load_gpt(tiny_model_folder), whole)


def test_divergence_is_a_user_error(
    pairs: list[Pair], tiny_tokenizer: Tokenizer, tiny_model_folder: Path, tmp_path: Path
) -> None:
    section = DpoSection(learning_rate=1e30, epochs=3)
    with pytest.raises(UserError, match=r"dpo\.learning_rate"):
        optimize_preferences(
            tiny_model_folder, pairs, pairs[:2], tiny_tokenizer, section, make_run(tmp_path),
            on_metrics=lambda step, values: None, on_step=lambda step: None,
        )  # fmt: skip
