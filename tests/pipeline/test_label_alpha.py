"""Krippendorff's alpha on columns, against the package, a plain loop and the published examples."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import krippendorff
import numpy as np
import pytest
from scipy import stats

from benchmarks.label_simulation import HONEST, Habits, simulate
from pipeline import label_alpha
from pipeline.judgments import Judgments, of_submissions
from pipeline.label_alpha import answer_alpha, rating_alpha

LABELERS = [HONEST, Habits(noise=1.5), Habits(severity=1), Habits(one_rating=0.3)]


def ragged(seed: int) -> Judgments:
    """Some own, some shared tasks; some submissions and responses left out."""
    rng = np.random.default_rng(seed)
    judgments = simulate(rng, LABELERS, own_tasks=3, shared_tasks=12, gold_tasks=4)
    return of_submissions(judgments, rng.random(len(judgments.task)) < 0.7)


def matrix(judgments: Judgments, values: np.ndarray) -> np.ndarray:
    """(labelers, responses), NaN where a labeler said nothing."""
    found = np.full((len(judgments.labelers), len(judgments.tasks) * 5), np.nan)
    rows = judgments.submission
    found[judgments.labeler[rows], judgments.task[rows] * 5 + judgments.response] = values
    return found


@pytest.mark.parametrize("seed", range(5))
def test_alpha_is_the_krippendorff_package_s(seed: int) -> None:
    judgments = ragged(seed)
    rng = np.random.default_rng(seed)
    unanswered = rng.random(len(judgments.rating)) < 0.2
    answers = np.where(unanswered, np.nan, judgments.answers["bad"])
    judgments.answers["bad"][:] = answers
    ratings = matrix(judgments, judgments.rating)
    found = rating_alpha(judgments)
    assert found is not None
    expected = krippendorff.alpha(ratings, level_of_measurement="ordinal")
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.n == (np.isfinite(ratings).sum(axis=0) > 1).sum()
    found = answer_alpha(judgments, "bad")
    assert found is not None
    expected = krippendorff.alpha(matrix(judgments, answers), level_of_measurement="nominal")
    assert found.value == pytest.approx(expected, abs=1e-12)


def of_items(items: list[list[float | None]]) -> Judgments:
    """Items with a value of each rater: a task of one response each."""
    given = [(i, r, v) for i, item in enumerate(items) for r, v in enumerate(item) if v is not None]
    task, labeler, value = (np.array(column, dtype=np.int64) for column in zip(*given, strict=True))
    nothing = np.full(len(given), np.nan)
    return Judgments(
        labelers=[str(rater) for rater in range(max(map(len, items)))],
        tasks=[str(item) for item in range(len(items))],
        task=task,
        labeler=labeler,
        at=nothing,
        seconds=nothing,
        contradicts=np.zeros(len(given), dtype=np.bool_),
        submission=np.arange(len(given)),
        response=np.zeros(len(given), dtype=np.int64),
        shown_at=nothing,
        rating=value,
        rank=np.ones(len(given), dtype=np.int64),
        answers={},
        known_rating=nothing,
        known_rank=nothing,
    )


def test_the_published_examples_are_exact(data_root: Path) -> None:
    examples = json.loads((data_root / "metrics" / "agreement_examples.json").read_text())
    ordinal = examples["HayesKrippendorff2007"]  # from 0 on: what counts is the order
    shifted = [[v if v is None else v + 1 for v in item] for item in ordinal["items"]]
    found = rating_alpha(of_items(shifted))
    assert found is not None
    assert found.value == pytest.approx(ordinal["alpha_ordinal"], abs=5e-5)
    nominal = examples["Krippendorff2004_p224"]
    judgments = of_items(nominal["items"])
    found = answer_alpha(replace(judgments, answers={"q": 1.0 * judgments.rating}), "q")
    assert found is not None
    assert found.value == pytest.approx(nominal["alpha_nominal"], abs=5e-4)


@pytest.mark.parametrize(
    "items", [[[3, None], [None, 4]], [[3, 3], [3, 3]], [[5], [6]]], ids=["apart", "same", "alone"]
)
def test_what_cannot_be_measured_is_none(items: list[list[float | None]]) -> None:
    assert rating_alpha(of_items(items)) is None


def test_perfect_agreement_is_one_without_an_interval() -> None:
    found = rating_alpha(of_items([[1, 1], [7, 7], [4, 4]]))
    assert found is not None
    assert (found.value, found.ci95, found.n) == (1.0, None, 3)


def test_the_interval_leaves_one_task_out_at_a_time() -> None:
    judgments = ragged(1)
    found = rating_alpha(judgments)
    assert found is not None
    table = matrix(judgments, judgments.rating)
    logarithms: list[float] = []
    for task in range(len(judgments.tasks)):
        own = table[:, 5 * task : 5 * task + 5]
        if (np.isfinite(own).sum(axis=0) > 1).any():
            rest = np.delete(table, range(5 * task, 5 * task + 5), axis=1)
            alpha = krippendorff.alpha(rest, level_of_measurement="ordinal")
            logarithms.append(np.log(1 - alpha))
    units = len(logarithms)
    half = stats.t.ppf(0.975, units - 1) * np.std(logarithms) * np.sqrt(units - 1)
    expected = (1 - (1 - found.value) * np.exp(half), 1 - (1 - found.value) * np.exp(-half))
    assert found.ci95 == pytest.approx(expected)


def test_many_tasks_in_pieces_are_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    judgments = ragged(2)
    at_once = rating_alpha(judgments), answer_alpha(judgments, "bad")
    monkeypatch.setattr(label_alpha, "_CELLS_AT_ONCE", 70)
    in_pieces = rating_alpha(judgments), answer_alpha(judgments, "bad")
    for one, other in zip(in_pieces, at_once, strict=True):
        assert one is not None
        assert other is not None
        assert (one.value, one.n) == (pytest.approx(other.value), other.n)
        assert one.ci95 == pytest.approx(other.ci95)


def test_the_order_of_rows_changes_nothing() -> None:
    judgments = ragged(0)
    rng = np.random.default_rng(1)
    order = np.lexsort((rng.random(len(judgments.submission)), judgments.submission))
    mixed = replace(judgments, response=judgments.response[order], rating=judgments.rating[order])
    assert rating_alpha(mixed) == rating_alpha(judgments)
