"""The parts of a score, by hand and in their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import UserError
from pipeline.model import GPT
from pipeline.ppo import PPOConfig
from pipeline.ppo.reward_functions import load_reward_functions
from pipeline.ppo.rollout import Rollout
from pipeline.ppo.scoring import RewardFunction, Scorer
from pipeline.ppo_config import RewardFunctionSource
from pipeline.reward import RewardModel
from pipeline.tokenizer import Tokenizer


@pytest.fixture
def rollout(make_rollout: Callable[..., Rollout]) -> Rollout:
    finished = torch.tensor([True, False, True])
    return replace(make_rollout([(2, 4), (3, 1), (1, 6)]), finished=finished)


@pytest.fixture
def reward_model(make_policy: Callable[..., GPT]) -> RewardModel:
    """Its question is answered with even odds."""
    model = RewardModel(make_policy(), torch.Generator().manual_seed(1), ["rude"])
    assert model.questions is not None
    with torch.no_grad():
        model.questions.weight.zero_()
        model.score.weight.mul_(3)
    return model.eval()


def lengths(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    return [float(len(ids)) for ids in completion_ids]


@torch.no_grad()
def test_clip_then_functions_then_penalties(
    config: PPOConfig, tokenizer: Tokenizer, reward_model: RewardModel, rollout: Rollout
) -> None:
    changes: dict[str, Any] = {"reward_clip": 0.5, "reward_weight": 2.0}
    changes |= {"question_penalties": {"rude": 3.0}, "missing_eos_penalty": 7.0}
    args = config.model_copy(update=changes)
    functions = [RewardFunction("lengths", lengths, 0.25)]
    scores, parts = Scorer(args, tokenizer, reward_model, functions)(rollout, ["a", "b", "c"])
    raw = reward_model(rollout.input_ids, rollout.lengths).tolist()
    assert max(map(abs, raw)) > 0.5  # or the clip proves nothing
    clipped = [2 * min(max(score, -0.5), 0.5) for score in raw]
    expected = [
        score + 0.25 * length - 3 / 2 - (0 if ends else 7)
        for score, length, ends in zip(clipped, [4, 1, 6], [True, False, True], strict=True)
    ]
    assert scores.tolist() == pytest.approx(expected, abs=1e-5)
    assert parts == pytest.approx(
        {
            "rewards/reward_model": sum(clipped) / 3,
            "rewards/lengths": 0.25 * 11 / 3,
            "rewards/question_penalties": -1.5,
            "rewards/missing_eos_penalty": -7 / 3,
        },
        abs=1e-5,
    )


def test_a_function_is_given_prompts_texts_and_the_ids_that_were_sampled(
    config: PPOConfig, tokenizer: Tokenizer, reward_model: RewardModel, rollout: Rollout
) -> None:
    given: dict[str, Any] = {}

    def look(**arguments: Any) -> list[float]:
        given.update(arguments)
        return [1, 2, 3]

    Scorer(config, tokenizer, reward_model, [RewardFunction("look", look)])(
        rollout, ["one", "two", "three"]
    )
    assert given["prompts"] == ["one", "two", "three"]
    assert given["completion_ids"] == rollout.response_ids()
    assert given["completions"] == [tokenizer.decode(ids) for ids in rollout.response_ids()]


def test_what_a_function_does_to_its_lists_is_not_seen_by_the_next(
    config: PPOConfig, tokenizer: Tokenizer, reward_model: RewardModel, rollout: Rollout
) -> None:
    seen: list[Any] = []

    def spoil(prompts: list[str], completions: list[str], completion_ids: list[list[int]]) -> Any:
        prompts.clear()
        completions[:] = ["x"] * 3
        for ids in completion_ids:
            ids.append(0)
        return [0.0] * 3

    def look(prompts: list[str], completions: list[str], completion_ids: list[list[int]]) -> Any:
        seen.extend([prompts, completions, completion_ids])
        return [0.0] * 3

    functions = [RewardFunction("spoil", spoil), RewardFunction("look", look)]
    Scorer(config, tokenizer, reward_model, functions)(rollout, ["a", "b", "c"])
    ids = rollout.response_ids()
    assert seen == [["a", "b", "c"], [tokenizer.decode(one) for one in ids], ids]


@pytest.mark.parametrize(
    "given", [[1.0], None, ["x", "y", "z"], [10**400] * 3, {0: 1.0, 1: 1.0, 2: 1.0}, "123"]
)
def test_anything_but_a_number_for_each_response_is_refused(
    config: PPOConfig,
    tokenizer: Tokenizer,
    reward_model: RewardModel,
    rollout: Rollout,
    given: Any,
) -> None:
    function = RewardFunction("odd", lambda **_: given)
    with pytest.raises(UserError, match="odd: gave something other than 3 numbers"):
        Scorer(config, tokenizer, reward_model, [function])(rollout, ["a", "b", "c"])


@pytest.mark.parametrize("names", [["reward_model"], ["one", "one"]])
def test_no_part_of_the_score_hides_another(
    config: PPOConfig, tokenizer: Tokenizer, reward_model: RewardModel, names: list[str]
) -> None:
    functions = [RewardFunction(name, lambda **_: [0.0]) for name in names]
    with pytest.raises(UserError, match=f"has the name of another part of the score, {names[-1]}"):
        Scorer(config, tokenizer, reward_model, functions)


def test_a_file_may_define_what_looks_its_module_up(tmp_path: Path) -> None:
    lines = ["from __future__ import annotations", "from dataclasses import dataclass"]
    lines += ["@dataclass", "class Weight:", "    value: float"]
    lines += ["def one(completions, **_):", "    return [Weight(1.0).value]"]
    (tmp_path / "mine.py").write_text("\n".join(lines))
    entry = RewardFunctionSource(file="mine.py", function="one")
    (loaded,) = load_reward_functions([entry], tmp_path)
    assert loaded.function(completions=["x"]) == [1.0]


@pytest.mark.parametrize("lazily", [False, True])
def test_what_a_function_raises_is_one_line(
    config: PPOConfig,
    tokenizer: Tokenizer,
    reward_model: RewardModel,
    rollout: Rollout,
    lazily: bool,
) -> None:
    def fail() -> float:
        raise KeyError("no such word")

    def broken(**_: Any) -> Any:
        return (fail() for _ in range(3)) if lazily else [fail()]

    match = r"function odd: raised KeyError: 'no such word' \(test_scoring\.py:\d+\)"
    with pytest.raises(UserError, match=match):
        Scorer(config, tokenizer, reward_model, [RewardFunction("odd", broken)])(
            rollout, ["a", "b", "c"]
        )


def test_functions_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def brief(completions, **_):\n    return [1.0]\n")
    entry = RewardFunctionSource(file="mine.py", function="brief", weight=0.5)
    (loaded,) = load_reward_functions([entry], tmp_path)
    assert (loaded.name, loaded.weight) == ("brief", 0.5)
    assert loaded.function(completions=["x"]) == [1.0]
    with pytest.raises(UserError, match="no function 'long'"):
        load_reward_functions([entry.model_copy(update={"function": "long"})], tmp_path)
    (tmp_path / "mine.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(UserError, match="does not run"):
        load_reward_functions([entry], tmp_path)
