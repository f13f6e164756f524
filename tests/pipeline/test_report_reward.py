"""The report's section on the reward model: every number it stands on, and nothing it lacks."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pipeline.evaluation import Leaf
from pipeline.report import render_html
from pipeline.report_reward import reward_section
from tests.pipeline.test_report import Page, make_report


def leaf(mean: float | None, n: int = 40) -> Leaf:
    ends = None if mean is None else [mean - 0.05, mean + 0.05]
    return Leaf(mean=mean, ci95=ends, n=n)


def reward_report() -> dict[str, Any]:
    bins = [
        {"mean_confidence": 0.55, "accuracy": 0.5, "ci95": [0.4, 0.6], "n": 80},
        {"mean_confidence": 0.95, "accuracy": 0.9, "ci95": [0.8, 0.95], "n": 60},
    ]
    epochs = [
        {"epoch": 1, "training_log_loss": 0.6, "validation_log_loss": 0.62},
        {"epoch": 2, "training_log_loss": 0.4, "validation_log_loss": 0.7},
    ]
    return {
        "validation": {
            "accuracy_by_prompt": leaf(0.71),
            "log_loss": leaf(0.58),
            "brier": leaf(0.199),
            "calibration_slope": leaf(0.83),
            "ece": {"mean": 0.041, "expected_if_calibrated": 0.032, "n": 140},
            "accuracy_by_rating_gap": {"1": leaf(0.61), "6": leaf(None, 0)},
            "accuracy_by_length_difference": {
                "better_is_longer": leaf(0.72),
                "similar_length": leaf(0.73),
                "better_is_shorter": leaf(0.74),
            },
            "accuracy_by_labeler": {"ann": leaf(0.75), "<ben>": leaf(0.76)},
            "reliability": bins,
        },
        "length_baseline": {"prefers": "longer", "accuracy": leaf(0.56)},
        "labeler_agreement": None,
        "validation_labeler_agreement": None,
        "questions": {
            "rude": {
                "precision": leaf(0.91),
                "recall": leaf(0.92),
                "average_precision": 0.93,
                "base_rate": leaf(0.14),
            }
        },
        "counts": {"validation_prompts": 43},
        "epochs": epochs,
    }


def words(markup: str) -> str:
    return " ".join("".join(Page(markup).words).split())


def test_every_number_stands_there_once() -> None:
    section = words(reward_section(reward_report()))
    for number in ("71.0%", "56.0%", "0.58", "0.199", "0.83", "61.0%", "72.0%", "73.0%", "74.0%",
                   "75.0%", "76.0%", "91.0%", "92.0%", "0.93", "14.0%"):  # fmt: skip
        assert section.count(number) == 1, number
    assert "4.1% a calibrated model would show 3.2%" in section
    assert "On 43 prompts that it did not learn from" in section
    assert "140 held-out pairs" in section


def test_agreement_that_was_not_measured_is_no_number() -> None:
    report = reward_report()
    assert "not measurable: nobody judged the same responses" in words(reward_section(report))
    report["validation_labeler_agreement"] = {
        "agreement": 0.726, "pair_count": 31, "tie_count": 1, "prompt_count": 9,
        "ci95": [0.6, 0.8],
    }  # fmt: skip
    section = words(reward_section(report))
    assert "not measurable" not in section
    assert re.search(r"72\.6% .*n = 31", section)


def test_labelers_held_out_have_rows_of_their_own() -> None:
    report = reward_report()
    assert "held out, " not in words(reward_section(report))
    report["held_out_labelers"] = {
        "names": ["eve"], "accuracy_by_prompt": leaf(0.69), "less_than_of_the_others": leaf(0.02),
    }  # fmt: skip
    section = words(reward_section(report))
    assert "On labelers held outeve" in section
    assert "69.0%" in section
    assert "2.0%" in section


def test_the_page_stays_well_formed_with_it() -> None:
    page = render_html(make_report(["only"], names=("sft",)), {}, reward_report())
    parsed = Page(page)
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert "reward-model" in ids
    labels = [a.get("aria-label") for tag, a in parsed.elements if tag == "svg"]
    assert "Reliability diagram of the reward model" in labels
    assert "Log-loss by epoch" in labels
    assert "<ben>" not in page


@pytest.mark.parametrize("epochs", [[], [{"epoch": 1}]])
def test_a_single_epoch_has_no_curve(epochs: list[dict[str, Any]]) -> None:
    section = reward_section(reward_report() | {"epochs": epochs, "questions": {}})
    assert "Log-loss by epoch" not in section
    assert "answers to the questions" not in section
