"""Pairs, splits and agreement against tables worked by hand and published values."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from pipeline.preferences import (
    comparisons_by_prompt,
    contradiction_count,
    krippendorff_alpha,
    pairs_from_ranks,
    pairwise_agreement,
    ranks_from_ratings,
    rating_alpha,
    split_by_prompt,
    tie_count,
    wilson_interval,
)
from pipeline.records import RankedResponse, Ranking

RANKS = st.lists(st.integers(1, 9), min_size=2, max_size=9)


def ranking(
    prompt: str, labeler: str, ranks: list[int], ratings: list[int] | None = None, ids: str = ""
) -> Ranking:
    """A ranking whose responses are named a, b, c … unless ``ids`` names them."""
    names = list(ids) or [chr(ord("a") + i) for i in range(len(ranks))]
    return Ranking(
        submission_id=f"{prompt}/{labeler}",
        prompt_id=prompt,
        prompt=prompt,
        labeler=labeler,
        responses=[RankedResponse(response_id=n, text=f"text {n}", policy="sft") for n in names],
        ratings=ratings if ratings is not None else [8 - rank for rank in ranks],
        ranks=ranks,
        confirmed_contradiction=True,
    )


# --- ranks and pairs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratings", "ranks"),
    [
        ([7, 1], [1, 2]),
        ([1, 7], [2, 1]),
        ([4, 4], [1, 1]),
        ([5, 7, 5, 1], [2, 1, 2, 3]),
        ([1, 1, 1, 1, 2], [2, 2, 2, 2, 1]),
    ],
)
def test_ranks_from_ratings_by_hand(ratings: list[int], ranks: list[int]) -> None:
    assert ranks_from_ratings(ratings) == ranks


@pytest.mark.parametrize(
    ("ranks", "pairs", "ties"),
    [
        ([1, 2], [(0, 1)], 0),
        ([2, 1], [(1, 0)], 0),
        ([1, 1], [], 1),
        ([2, 1, 3], [(0, 2), (1, 0), (1, 2)], 0),
        ([1, 2, 2, 4], [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)], 1),
        ([3, 3, 3], [], 3),
    ],
)
def test_pairs_and_ties_by_hand(ranks: list[int], pairs: list[tuple[int, int]], ties: int) -> None:
    assert pairs_from_ranks(ranks) == pairs
    assert tie_count(ranks) == ties


def test_competition_and_dense_ranks_give_the_same_pairs() -> None:
    assert pairs_from_ranks([1, 2, 2, 4]) == pairs_from_ranks([1, 2, 2, 3])


@given(RANKS)
def test_every_two_responses_are_one_pair_or_one_tie(ranks: list[int]) -> None:
    pairs = pairs_from_ranks(ranks)
    assert len(pairs) + tie_count(ranks) == len(ranks) * (len(ranks) - 1) // 2
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)
    assert all(ranks[better] < ranks[worse] for better, worse in pairs)


@given(st.lists(st.integers(1, 7), min_size=2, max_size=9))
def test_ranks_from_ratings_order_as_the_ratings_do(ratings: list[int]) -> None:
    ranks = ranks_from_ratings(ratings)
    assert set(ranks) == set(range(1, max(ranks) + 1))
    for a, b in combinations(range(len(ratings)), 2):
        assert (ranks[a] < ranks[b]) == (ratings[a] > ratings[b])
        assert (ranks[a] == ranks[b]) == (ratings[a] == ratings[b])
    assert contradiction_count(ratings, ranks) == 0


def test_contradictions_are_pairs_rated_the_other_way() -> None:
    # Ranked a, b, c. Rated 3, 5, 4: a above b and a above c contradict; b above c does not.
    assert contradiction_count([3, 5, 4], [1, 2, 3]) == 2
    assert contradiction_count([3, 5, 4], [1, 1, 2]) == 1  # the tie of a and b is no pair


# --- pooling by prompt ----------------------------------------------------------------------------


def test_rankings_of_one_prompt_are_pooled_and_each_response_stands_once() -> None:
    pooled = comparisons_by_prompt(
        [
            ranking("p", "ann", [1, 2, 2], [6, 3, 3], ids="abc"),
            ranking("q", "ann", [1, 1]),
            ranking("p", "bob", [1, 2, 3], [7, 5, 2], ids="cda"),
        ]
    )
    assert [entry.prompt for entry in pooled] == ["p", "q"]
    p, q = pooled
    assert [response.response_id for response in p.responses] == ["a", "b", "c", "d"]
    # ann: a over b, a over c. bob: c over d, c over a, d over a.
    assert p.pairs == ((0, 1), (0, 2), (2, 3), (2, 0), (3, 0))
    assert p.rating_gaps == (3, 3, 2, 5, 3)
    assert (len(q.responses), q.pairs) == (2, ())


# --- splitting ------------------------------------------------------------------------------------


@given(
    prompts=st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=30).filter(
        lambda prompts: len(set(prompts)) > 1
    ),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_split_puts_equal_prompts_on_one_side(
    prompts: list[str], fraction: float, seed: int
) -> None:
    rankings = [ranking(prompt, f"labeler {i}", [1, 2]) for i, prompt in enumerate(prompts)]
    training, validation = split_by_prompt(rankings, fraction, seed)
    assert training
    assert validation
    assert not {row.prompt for row in training} & {row.prompt for row in validation}
    assert sorted(row.labeler for row in training + validation) == sorted(
        row.labeler for row in rankings
    )
    reversed_validation = split_by_prompt(rankings[::-1], fraction, seed)[1]
    assert {row.prompt for row in reversed_validation} == {row.prompt for row in validation}


def test_split_counts_prompts_and_depends_on_the_seed() -> None:
    rankings = [ranking(f"prompt {i}", "ann", [1, 2]) for i in range(200)]
    held_out = [
        {row.prompt for row in split_by_prompt(rankings, 0.1, seed)[1]} for seed in (0, 0, 1)
    ]
    assert [len(side) for side in held_out] == [20, 20, 20]
    assert held_out[0] == held_out[1]
    # Two random sets of 20 out of 200 share 2 prompts on average; 10 or more would be no accident.
    assert len(held_out[0] & held_out[2]) < 10


def test_one_prompt_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="1 distinct prompts"):
        split_by_prompt([ranking("p", "ann", [1, 2]), ranking("p", "bob", [1, 2])], 0.5, 0)
    with pytest.raises(ValueError, match="not between"):
        split_by_prompt([ranking("p", "ann", [1, 2])], 1.0, 0)


# --- agreement ------------------------------------------------------------------------------------


def test_pairwise_agreement_by_hand() -> None:
    measured = pairwise_agreement(
        [
            # ann and bob: ab alike, ac alike, bc not. carl ties a and b; ac, bc as ann has them.
            ranking("p", "ann", [1, 2, 3]),
            ranking("p", "bob", [1, 3, 2]),
            ranking("p", "carl", [1, 1, 2]),
            ranking("q", "ann", [1, 2]),  # nobody else saw q
        ]
    )
    # ann-bob 2 of 3; ann-carl 2 of 2, one tie; bob-carl: ac alike, bc not, one tie.
    assert measured is not None
    assert measured.agreement == pytest.approx(5 / 7)
    assert (measured.pair_count, measured.tie_count, measured.prompt_count) == (7, 2, 1)


def test_agreement_compares_only_responses_in_common_and_the_latest_submission() -> None:
    measured = pairwise_agreement(
        [
            ranking("p", "ann", [2, 1, 3], ids="abc"),
            ranking("p", "bob", [2, 1, 3], ids="bax"),  # in common: a and b; b below a
            ranking("p", "ann", [1, 2, 3], ids="abc"),  # ann changed her mind
        ]
    )
    assert measured is not None
    assert (measured.agreement, measured.pair_count) == (1.0, 1)


@pytest.mark.parametrize(
    "rankings",
    [
        [],
        [ranking("p", "ann", [1, 2])],
        [ranking("p", "ann", [1, 2]), ranking("p", "ann", [2, 1])],
        [ranking("p", "ann", [1, 2]), ranking("q", "bob", [1, 2])],
        [ranking("p", "ann", [1, 2]), ranking("p", "bob", [1, 1])],
        [ranking("p", "ann", [1, 2], ids="ab"), ranking("p", "bob", [1, 2], ids="ax")],
    ],
    ids=["none", "one", "one labeler", "no common prompt", "all tied", "no common pair"],
)
def test_agreement_that_cannot_be_measured_is_none(rankings: list[Ranking]) -> None:
    assert pairwise_agreement(rankings) is None


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
        ranking("p", "ann", [1, 3, 2], [6, 2, 4], ids="abc"),
        ranking("p", "bob", [2, 1], [2, 6], ids="ba"),
    ]
    assert rating_alpha(agreeing) == pytest.approx(1.0)
    # The same response_id under another prompt is another item: nothing was rated twice.
    elsewhere = [agreeing[0], ranking("q", "bob", [2, 1], [2, 6], ids="ba")]
    assert rating_alpha(elsewhere) is None


@pytest.mark.parametrize(("k", "n"), [(0, 5), (5, 5), (1, 1), (7, 10), (430, 1000)])
def test_wilson_interval_equals_scipy(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(method="wilson")
    assert wilson_interval(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, 2 * n), st.just(n))))
def test_wilson_interval_holds_the_share(halves_and_trials: tuple[int, int]) -> None:
    halves, trials = halves_and_trials
    lower, upper = wilson_interval(halves / 2, trials)
    assert 0 <= lower <= halves / 2 / trials <= upper <= 1
    assert (lower == 0) == (halves == 0)
    assert (upper == 1) == (halves == 2 * trials)


def test_wilson_interval_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no trials"):
        wilson_interval(0, 0)
