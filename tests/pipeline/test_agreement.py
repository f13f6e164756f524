"""Krippendorff's alpha against published examples and tables worked by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.agreement import krippendorff_alpha, rating_alpha
from pipeline.records import RankedResponse, Ranking


def rated(prompt: str, labeler: str, ratings: dict[str, int]) -> Ranking:
    """A ranking of the named responses in which all tie: only the ratings matter here."""
    return Ranking(
        submission_id=f"{prompt}/{labeler}",
        prompt_id=prompt,
        prompt=prompt,
        labeler=labeler,
        responses=[RankedResponse(response_id=n, text=f"text {n}", policy="sft") for n in ratings],
        ratings=list(ratings.values()),
        ranks=[1] * len(ratings),
    )


@pytest.mark.parametrize(
    ("example", "level", "digits"),
    [
        ("HayesKrippendorff2007", "ordinal", 4),
        ("Krippendorff2004_p224", "nominal", 3),
        ("Krippendorff2004_p230_missing", "nominal", 3),
    ],
)
def test_alpha_of_published_examples(
    data_root: Path, example: str, level: str, digits: int
) -> None:
    path = data_root / "metrics" / "agreement_examples.json"
    case = json.loads(path.read_text())[example]
    alpha = krippendorff_alpha(case["items"], level)  # pyright: ignore[reportArgumentType]
    assert alpha is not None
    assert round(alpha, digits) == case[f"alpha_{level}"]


def test_alpha_of_two_raters_by_hand() -> None:
    # Values 1 1 | 2 2 | 1 2: observed disagreement 2/6; expected 2·3·3/(6·5) = 0.6.
    items: list[list[float | str | None]] = [[1, 1], [2, 2], [1, 2]]
    assert krippendorff_alpha(items, "nominal") == pytest.approx(1 - (2 / 6) / 0.6)
    assert krippendorff_alpha([*items, [5, None], [None, None]], "nominal") == pytest.approx(4 / 9)


@pytest.mark.parametrize("items", [[], [[1, None]], [[1, None], [None, 2]], [[3, 3], [3, 3], [4]]])
def test_alpha_that_cannot_be_measured_is_none(items: list[list[float | str | None]]) -> None:
    assert krippendorff_alpha(items, "ordinal") is None


def test_rating_alpha_takes_responses_as_items_and_labelers_as_raters() -> None:
    # a: 6 6, b: 2 2, and c that only ann rated. Perfect agreement, with a missing rating.
    agreeing = [
        rated("p", "ann", {"a": 6, "b": 2, "c": 4}),
        rated("p", "bob", {"b": 2, "a": 6}),
    ]
    assert rating_alpha(agreeing) == pytest.approx(1.0)
    # The same response_id under another prompt is another item: nothing was rated twice.
    elsewhere = [agreeing[0], rated("q", "bob", {"b": 2, "a": 6})]
    assert rating_alpha(elsewhere) is None
