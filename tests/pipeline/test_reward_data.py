"""Which prompts are learned from, and whose agreement is the ceiling."""

from __future__ import annotations

from typing import Literal

import pytest

from pipeline.records import RankedResponse, Ranking
from pipeline.reward_config import RewardSection
from pipeline.reward_data import Side, divide
from pipeline.reward_report import label_report


def ranking(prompt: str, ranks: list[int], labeler: str = "ann") -> Ranking:
    return Ranking(
        submission_id=f"{prompt}/{labeler}",
        prompt_id=prompt,
        prompt=prompt,
        labeler=labeler,
        responses=[
            RankedResponse(response_id=f"{i}", text=f"text {i}", policy="sft")
            for i in range(len(ranks))
        ],
        ratings=[8 - rank for rank in ranks],
        ranks=ranks,
    )


@pytest.mark.parametrize("ties", ["drop", "soft"])
def test_where_ties_count_a_prompt_of_nothing_else_is_learned_from(
    ties: Literal["drop", "soft"],
) -> None:
    rankings = [ranking(f"tied {i}", [1, 1]) for i in range(8)]
    rankings += [ranking(f"decided {i}", [1, 2]) for i in range(2)]
    division = divide(rankings, [], RewardSection(ties=ties), seed=0, where="labels")
    learned = {one.prompt for one in division.training}
    tied = {f"tied {i}" for i in range(8)}
    assert len(learned - tied) == len(division.validation) == 1
    assert learned & tied == (tied if ties == "soft" else set())
    assert {one.prompt for one in division.tied} == (set() if ties == "soft" else tied)


def test_the_ceiling_is_that_of_the_labelers_it_is_measured_on() -> None:
    """ann and bob agree on everything; eve, who is held out, says the opposite."""
    rankings = [
        ranking(f"p{i}", [2, 1] if labeler == "eve" else [1, 2], labeler)
        for i in range(6)
        for labeler in ("ann", "bob", "eve")
    ]
    section = RewardSection(held_out_labelers=["eve"])
    division = divide(rankings, [], section, seed=0, where="labels")
    training, validation = (Side(part, []) for part in (division.training, division.validation))
    report = label_report(rankings, section.held_out_labelers, training, validation)
    for name in ("labeler_agreement", "validation_labeler_agreement"):
        measured = report[name]
        assert isinstance(measured, dict)
        assert measured["agreement"] == 1.0
    everybody = label_report(rankings, [], training, validation)["labeler_agreement"]
    assert isinstance(everybody, dict)
    assert everybody["agreement"] == pytest.approx(1 / 3)


def test_the_ceiling_on_held_out_prompts_is_that_of_these_prompts() -> None:
    """ann and bob agree on what is held out and on nothing else."""
    names = [f"p{i}" for i in range(8)]
    by_ann = [ranking(name, [1, 2], "ann") for name in names]
    division = divide(by_ann, [], RewardSection(), seed=0, where="labels")
    held_out = {one.prompt for one in division.validation}
    by_bob = [ranking(name, [1, 2] if name in held_out else [2, 1], "bob") for name in names]
    training, validation = (Side(part, []) for part in (division.training, division.validation))
    report = label_report([*by_ann, *by_bob], [], training, validation)
    everywhere, on_held_out = report["labeler_agreement"], report["validation_labeler_agreement"]
    assert isinstance(everywhere, dict)
    assert isinstance(on_held_out, dict)
    assert on_held_out["agreement"] == 1.0
    assert everywhere["agreement"] == pytest.approx(len(held_out) / 8)
