"""``report.json`` from hand-made responses whose every number can be counted by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pipeline.comparison import CheckpointResult, JudgedResponse, build_report


def response(index: int, rating: float | None, **values: Any) -> JudgedResponse:
    defaults: dict[str, Any] = {
        "prompt_id": f"p{index}",
        "prompt": f"prompt {index}",
        "text": f"text {index}",
        "finished": True,
        "length_tokens": 10 + index,
        "rating": rating,
        "answers": {"rude": index == 0},
        "reward": float(index),
        "kl_to_sft": 0.5,
        "token_losses": [math.log(4)] * 3,
    }
    return JudgedResponse(**(defaults | values))


def checkpoint(name: str, ratings: Sequence[float | None], **values: Any) -> CheckpointResult:
    rows = [response(i, rating, **values) for i, rating in enumerate(ratings)]
    return CheckpointResult(name, name, rows)


def report_of(*results: CheckpointResult, **values: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "judge": "tinyworld",
        "seed": 0,
        "bootstrap_samples": 50,
        "examples": 4,
        "settings": {"run": "r"},
    }
    return build_report(results, **(arguments | values))


def test_the_report_holds_what_the_format_says() -> None:
    report = report_of(checkpoint("base", [1, 2, 3, 4]), checkpoint("sft", [3, 2, 5, 1]))
    keys = {"judge", "checkpoints", "pairs", "ranking", "examples", "settings", "ppo"}
    assert set(report) == keys
    assert report["ppo"] is None
    required = {
        "path",
        "rating",
        "reward",
        "kl_to_sft",
        "length_tokens",
        "perplexity",
        "answers",
        "distinct_answers",
        "empty",
    }
    for values in report["checkpoints"].values():
        assert required <= set(values)
        leaves = [values[name] for name in required - {"path", "answers"}]
        for leaf in [*leaves, *values["answers"].values()]:
            assert set(leaf) == {"mean", "ci95", "n"}
            assert leaf["ci95"][0] <= leaf["mean"] <= leaf["ci95"][1]
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_numbers_counted_by_hand() -> None:
    report = report_of(checkpoint("sft", [1, 2, 3, 6.5]))
    values = report["checkpoints"]["sft"]
    assert values["rating"]["mean"] == pytest.approx(12.5 / 4)
    assert values["rating_counts"] == {
        "1": 1,
        "2": 1,
        "3": 1,
        "4": 0,
        "5": 0,
        "6": 0,
        "7": 1,
    }
    assert values["reward"]["mean"] == 1.5
    assert values["length_tokens"]["mean"] == 11.5
    assert values["perplexity"]["mean"] == pytest.approx(4)
    assert values["answers"]["rude"]["mean"] == 0.25
    assert values["distinct_answers"]["mean"] == 1
    assert values["empty"]["mean"] == 0


def test_empty_and_repeated_texts_are_counted() -> None:
    values = report_of(checkpoint("sft", [1, 1, 1, 1], text=" \n"))["checkpoints"]["sft"]
    assert values["empty"]["mean"] == 1
    assert values["distinct_answers"]["mean"] == 0.25


def test_every_pair_once_with_the_later_checkpoint_as_a() -> None:
    report = report_of(
        checkpoint("base", [1, 1, 1, 1]),
        checkpoint("sft", [2, 1, 3, 3]),
        checkpoint("ppo", [3, 1, 2, 4]),
    )
    pairs = {(pair["a"], pair["b"]): pair for pair in report["pairs"]}
    assert list(pairs) == [("sft", "base"), ("ppo", "base"), ("ppo", "sft")]
    pair = pairs["ppo", "sft"]
    assert (pair["wins"], pair["ties"], pair["losses"], pair["n"]) == (2, 1, 1, 4)
    assert pair["win_rate"] == pytest.approx(2.5 / 4)
    assert pair["score_difference"]["mean"] == pytest.approx(0.25)
    assert pair["answer_differences"]["rude"]["mean"] == 0
    assert pair["judge"] == "tinyworld"
    assert report["ranking"][0]["name"] == "ppo"
    assert report["ranking"][-1]["name"] == "base"


def test_without_ratings_rewards_decide() -> None:
    weak = checkpoint("base", [None] * 4)
    strong = CheckpointResult(
        "sft", "sft", [replace(row, reward=row.reward + 1) for row in weak.responses]
    )
    report = report_of(weak, strong, judge="reward")
    assert report["checkpoints"]["sft"]["rating"] is None
    assert report["pairs"][0]["wins"] == 4
    assert report["ranking"][0]["name"] == "sft"


def test_half_rated_responses_are_refused() -> None:
    with pytest.raises(ValueError, match="some responses are rated"):
        report_of(checkpoint("base", [1, 2]), checkpoint("sft", [None, 2]))


def test_identical_checkpoints_tie_everywhere() -> None:
    report = report_of(*(checkpoint(name, [1, 5, 7, 3]) for name in ("base", "sft", "ppo")))
    for pair in report["pairs"]:
        assert (pair["wins"], pair["ties"], pair["losses"]) == (0, 4, 0)
        assert pair["win_rate"] == pair["length_controlled_win_rate"] == 0.5
        assert pair["score_difference"]["mean"] == 0
        assert pair["answer_differences"]["rude"]["mean"] == 0
    assert [row["strength"] for row in report["ranking"]] == pytest.approx([0, 0, 0], abs=1e-9)
    assert all(example["chosen"] == "drawn at random" for example in report["examples"])


def test_one_prompt_has_numbers_and_few_intervals() -> None:
    report = report_of(checkpoint("base", [2]), checkpoint("sft", [6]))
    assert report["checkpoints"]["sft"]["rating"] == {"mean": 6, "ci95": None, "n": 1}
    assert report["pairs"][0]["win_rate"] == 1
    assert [row["ci95"] for row in report["ranking"]] == [None, None]
    # Wilson at 1 of 1: the lower end is 1 / (1 + z²).
    assert report["pairs"][0]["ci95"] == pytest.approx([1 / (1 + 1.959964**2), 1], abs=1e-6)
    json.dumps(report, allow_nan=False)


def test_checkpoints_must_answer_the_same_prompts() -> None:
    one, other = checkpoint("base", [1, 2]), checkpoint("sft", [1, 2])
    swapped = CheckpointResult("sft", "sft", other.responses[::-1])
    with pytest.raises(ValueError, match="different prompts"):
        report_of(one, swapped)


def test_examples_show_the_winner_losing_and_repeat_with_the_seed() -> None:
    sft = checkpoint("sft", [3.0] * 29 + [7.0])
    ppo = checkpoint("ppo", [5.0] * 29 + [1.0])
    examples = report_of(sft, ppo, examples=6)["examples"]
    assert len(examples) == 6
    assert len({example["prompt_id"] for example in examples}) == 6
    losses = [e for e in examples if e["chosen"] != "drawn at random"]
    assert [example["prompt_id"] for example in losses] == ["p29"]
    assert losses[0]["responses"]["ppo"]["rating"] == 1.0
    assert losses[0]["responses"]["sft"]["rating"] == 7.0
    assert report_of(sft, ppo, examples=6)["examples"] == examples
    assert report_of(sft, ppo, examples=6, seed=5)["examples"] != examples


def test_more_examples_than_prompts_shows_all() -> None:
    examples = report_of(checkpoint("sft", [1, 2]), checkpoint("ppo", [2, 1]), examples=9)[
        "examples"
    ]
    assert sorted(example["prompt_id"] for example in examples) == ["p0", "p1"]


def test_what_alignment_cost_is_the_perplexity_of_pretraining_text() -> None:
    """By hand: exp of the mean over all tokens of both rows; no text, no number."""
    base, sft = checkpoint("base", [1, 2, 3, 4]), checkpoint("sft", [3, 2, 5, 1])
    losses = [[0.5, 1.5], [2.0, 0.0]]
    report = report_of(replace(base, pretraining_losses=losses), sft)["checkpoints"]
    leaf = report["base"]["pretraining_perplexity"]
    assert leaf["mean"] == pytest.approx(math.exp(1.0))
    assert leaf["n"] == 2
    assert report["sft"]["pretraining_perplexity"] is None


def test_how_ppo_went_is_in_the_report() -> None:
    alarm = {"name": "kl", "update": 7, "message": "far away", "advice": "raise kl_coef"}
    training = {"updates": 9, "stopped": None, "alarms": [alarm], "evaluations": []}
    report = report_of(checkpoint("sft", [3, 2]), checkpoint("ppo", [4, 5]), training=training)
    assert report["ppo"] == {"updates": 9, "stopped": None, "alarms": [alarm]}
