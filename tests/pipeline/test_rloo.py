"""RLOO: the ids that were sampled are what is scored, and advantages leave one out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.alternatives_config import RlooSection
from pipeline.errors import UserError
from pipeline.gpt2_format import load_gpt, save_gpt
from pipeline.language_model import LanguageModel
from pipeline.reward import RewardModel
from pipeline.rloo import Reward, check_prompts, make_trainer, optimize_policy
from pipeline.tokenizer import Tokenizer
from tests.pipeline.trainer_runs import make_run, same, train_until

PROMPTS = ["the fox", "an owl and <|response|> a kite", "plums", "the old mill"]
SECTION = RlooSection(
    learning_rate=1e-3,
    total_episodes=48,
    batch_size=8,
    num_generations=4,
    num_iterations=1,
    num_mini_batches=2,
    response_length=10,
    checkpoint_every_updates=1,
)


@pytest.fixture
def reward_model(tiny_model_folder: Path) -> RewardModel:
    head = torch.Generator().manual_seed(4)
    return RewardModel(load_gpt(tiny_model_folder), head).eval()


class Spy(Reward):
    """The reward, and everything that it was asked."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.asked: list[tuple[str, list[int], float]] = []

    def __call__(
        self, prompts: Sequence[str], completion_ids: Sequence[Sequence[int]], **_: Any
    ) -> list[float]:
        scores = super().__call__(prompts, completion_ids)
        self.asked += [
            (prompt, list(ids), score)
            for prompt, ids, score in zip(prompts, completion_ids, scores, strict=True)
        ]
        return scores


def first_batch(trainer: Any) -> dict[str, torch.Tensor]:
    """What the trainer made of its first prompts, before any step; minibatches put together."""
    prompts = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    trainer._prepare_inputs(prompts)
    parts = trainer._buffered_inputs
    assert len(parts) == 2
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def test_what_is_scored_is_what_was_sampled(
    tiny_model_folder: Path,
    tiny_tokenizer: Tokenizer,
    reward_model: RewardModel,
    tmp_path: Path,
) -> None:
    """Marks stand around the prompt, are never sampled, and text that spells one is only text."""
    biased = load_gpt(tiny_model_folder)
    with torch.no_grad():  # each would be the likeliest token of all
        biased.wte.weight[list(tiny_tokenizer.never_sampled_ids)] += 3 * biased.ln_f.weight
    folder = tmp_path / "sft"
    save_gpt(biased, folder, tiny_tokenizer)
    spy = Spy(reward_model, tiny_tokenizer, 0.5)
    trainer = make_trainer(folder, PROMPTS, spy, tiny_tokenizer, SECTION, make_run(tmp_path / "r"))
    batch = first_batch(trainer)

    assert len(spy.asked) == 8
    seen = {
        (
            tuple(prompt[mask.bool()].tolist()),
            tuple(response[counted.bool()].tolist()),
        )
        for prompt, mask, response, counted in zip(
            batch["prompt_ids"], batch["prompt_mask"], batch["completion_ids"],
            batch["completion_mask"], strict=True,
        )
    }  # fmt: skip
    assert seen == {
        (tuple(tiny_tokenizer.encode_prompt(prompt)), tuple(ids)) for prompt, ids, _ in spy.asked
    }
    for prompt, ids, score in spy.asked:
        assert not set(ids) & set(tiny_tokenizer.never_sampled_ids)
        assert tiny_tokenizer.eos_id not in ids[:-1]
        row = torch.tensor([tiny_tokenizer.encode_prompt(prompt) + ids])
        with torch.no_grad():
            expected = float(reward_model(row, torch.tensor([row.shape[1]]))[0])
        expected -= 0.0 if ids[-1] == tiny_tokenizer.eos_id else 0.5
        assert score == pytest.approx(expected, abs=1e-5)


def test_a_response_is_judged_against_the_others_to_its_prompt(
    tiny_model_folder: Path, tiny_tokenizer: Tokenizer, reward_model: RewardModel, tmp_path: Path
) -> None:
    """Before the first step there is no divergence: reward minus the mean of the other three."""
    spy = Spy(reward_model, tiny_tokenizer, 0.5)
    trainer = make_trainer(
        tiny_model_folder, PROMPTS, spy, tiny_tokenizer, SECTION, make_run(tmp_path)
    )
    batch = first_batch(trainer)
    expected: list[float] = []
    for start in (0, 4):
        group = [score for _, _, score in spy.asked[start : start + 4]]
        assert len({prompt for prompt, _, _ in spy.asked[start : start + 4]}) == 1
        expected += [score - (sum(group) - score) / 3 for score in group]
    assert sorted(batch["advantages"].tolist()) == pytest.approx(sorted(expected), abs=1e-5)


def test_every_setting_reaches_the_trainer(
    tiny_model_folder: Path, tiny_tokenizer: Tokenizer, reward_model: RewardModel, tmp_path: Path
) -> None:
    section = RlooSection(
        learning_rate=3e-4, beta=0.07, total_episodes=96, batch_size=24, num_generations=3,
        num_iterations=3, num_mini_batches=2, epsilon=0.3, response_length=11, temperature=0.8,
        normalize_advantages=True, max_grad_norm=0.6, checkpoint_every_updates=2,
    )  # fmt: skip
    reward = Reward(reward_model, tiny_tokenizer, 0.5)
    trainer: Any = make_trainer(
        tiny_model_folder, PROMPTS, reward, tiny_tokenizer, section, make_run(tmp_path)
    )
    expected = {
        "learning_rate": 3e-4, "beta": 0.07, "num_generations": 3, "num_iterations": 3,
        "per_device_train_batch_size": 12, "steps_per_generation": 2, "epsilon": 0.3,
        "max_completion_length": 11, "temperature": 0.8, "normalize_advantages": True,
        "max_grad_norm": 0.6, "max_steps": 4 * 3 * 2, "save_steps": 2 * 3 * 2, "top_k": 0,
        "top_p": 1.0, "lr_scheduler_type": "linear",
    }  # fmt: skip
    assert {name: getattr(trainer.args, name) for name in expected} == expected
    assert set(trainer.generation_config.suppress_tokens) == set(tiny_tokenizer.never_sampled_ids)
    assert trainer.ref_model is not None


def test_scores_that_are_no_numbers_are_refused(
    tiny_tokenizer: Tokenizer, reward_model: RewardModel
) -> None:
    with torch.no_grad():
        reward_model.score.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="scores that are not numbers"):
        Reward(reward_model, tiny_tokenizer, 0.0)(["the fox"], [[5, 6]])


@pytest.mark.parametrize(
    ("prompts", "length", "where"),
    [(PROMPTS[:1], 10, r"rloo\.batch_size"), (PROMPTS, 60, r"rloo\.response_length")],
)
def test_too_few_or_too_long_prompts_are_refused(
    tiny_tokenizer: Tokenizer, prompts: list[str], length: int, where: str
) -> None:
    section = SECTION.model_copy(update={"response_length": length})
    with pytest.raises(UserError, match=where):
        check_prompts(prompts, tiny_tokenizer, section, 64)


def optimize_until(
    folder: Path, tokenizer: Tokenizer, sft: Path, reward: Reward, last_step: int | None = None
) -> tuple[LanguageModel | None, list[int], list[dict[str, Any]]]:
    """As ``train_until``."""
    run = make_run(folder)
    train = partial(optimize_policy, sft, PROMPTS, reward, tokenizer, SECTION, run)
    return train_until(last_step, run, train)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(
    tiny_model_folder: Path, tiny_tokenizer: Tokenizer, reward_model: RewardModel, tmp_path: Path
) -> None:
    reward = Reward(reward_model, tiny_tokenizer, 0.5)
    common = (tiny_tokenizer, tiny_model_folder, reward)
    whole, steps, logged = optimize_until(tmp_path / "whole", *common)
    assert steps == list(range(1, 13))
    assert [row["step"] for row in logged] == [1, 2, 3, 4, 5, 6]
    assert all("objective/scores" in row for row in logged)
    assert logged[0]["objective/kl_per_token"] == pytest.approx(0, abs=1e-6)
    # Two steps an update: killed within one, it goes on where that one began.
    for last_step, first in ((5, 1), (9, 5), (None, 9)):
        resumed, steps, again = optimize_until(tmp_path / "killed", *common, last_step)
        assert steps == list(range(first, (last_step or 12) + 1))
    assert same(resumed, whole)
    assert again == logged
    assert not same(load_gpt(tiny_model_folder), whole)
