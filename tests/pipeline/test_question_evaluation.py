"""Metrics of the question heads by hand, by a brute-force loop, and where nothing can be said."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.question_evaluation import average_precision, question_metrics


def test_by_hand() -> None:
    logits = np.array([2.0, 1.0, -1.0, 0.5, -2.0, 3.0])
    truth = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 0.5])  # the last one is undecided
    metrics = question_metrics(logits, truth)
    shares = {name: metrics[name]["mean"] for name in ("precision", "recall", "base_rate")}  # type: ignore[index]
    assert shares == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "base_rate": 3 / 5})
    # In order of score: yes, no, yes, yes, no: recall grows at places 1, 3 and 4.
    assert metrics["average_precision"] == pytest.approx((1 / 1 + 2 / 3 + 3 / 4) / 3)


def test_average_precision_equals_a_loop_over_thresholds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = rng.integers(0, 6, 30).astype(float)  # many equal scores
        truth = rng.random(30) < 0.4
        total, before = 0.0, 0.0
        for threshold in sorted(set(scores), reverse=True):
            said = scores >= threshold
            recall = (said & truth).sum() / truth.sum()
            total += (recall - before) * (said & truth).sum() / said.sum()
            before = recall
        assert average_precision(scores, truth) == pytest.approx(total)


def test_what_cannot_be_measured_is_none() -> None:
    never = question_metrics(np.array([-1.0, -2.0]), np.array([1.0, 0.0]))
    assert never["precision"] == {"mean": None, "ci95": None, "n": 0}
    nobody = question_metrics(np.array([1.0, -2.0]), np.array([0.0, 0.0]))
    assert nobody["recall"] == {"mean": None, "ci95": None, "n": 0}
    assert nobody["average_precision"] is None
    assert question_metrics(np.empty(0), np.empty(0))["base_rate"] == never["precision"]
