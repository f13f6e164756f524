"""Pairs, pooling, splits and agreement against tables worked by hand and brute force."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm
from scipy.stats import t as student_t

from pipeline.agreement import agreement_on, pairwise_agreement
from pipeline.preferences import (
    PromptComparisons,
    clustered_wilson_interval,
    comparisons_by_prompt,
    contradiction_count,
    join_groups,
    pairs_from_ranks,
    pool_comparisons,
    ranks_from_ratings,
    split_comparisons,
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


def test_answers_are_shares_of_those_who_answered() -> None:
    answered = [
        replace_answers(ranking("p", "ann", [1, 2], ids="ab"), {"rude": [True, None]}),
        replace_answers(ranking("p", "bob", [1, 2], ids="ba"), {"rude": [False, False]}),
        replace_answers(
            ranking("p", "carl", [1, 2], ids="ac"), {"rude": [True, True], "x": [None] * 2}
        ),
    ]
    (pooled,) = comparisons_by_prompt(answered)
    # a: ann yes, bob no, carl yes; b: bob no; c: carl yes. Nobody answered x.
    assert [dict(shares) for shares in pooled.answers] == [
        {"rude": pytest.approx(2 / 3)},
        {"rude": 0.0},
        {"rude": 1.0},
    ]


def replace_answers(row: Ranking, answers: dict[str, list[bool | None]]) -> Ranking:
    return row.model_copy(update={"answers": answers})


def others(prompt: str, ids: str, group: str, **changes: Any) -> PromptComparisons:
    """What somebody else says about two responses: the first is the better one."""
    responses = tuple(RankedResponse(response_id=n, text=n, policy="external") for n in ids)
    one = PromptComparisons(prompt, responses, ((0, 1),), (None,), ("external",), group=group)
    return replace(one, **changes)


def test_labels_and_sources_of_one_prompt_become_one_entry() -> None:
    labeled = comparisons_by_prompt(
        [
            replace_answers(ranking("p", "ann", [1, 2], [6, 3]), {"rude": [True, False]}),
            ranking("q", "ann", [1, 2]),
        ]
    )
    tied = others("p", "yz", "g", pairs=(), rating_gaps=(), labelers=(), ties=((0, 1),))
    pooled = pool_comparisons([*labeled, others("p", "zy", "g"), tied, others("r", "yz", "g")])
    p, q, r = pooled
    assert [one.prompt for one in pooled] == ["p", "q", "r"]
    assert [response.response_id for response in p.responses] == ["a", "b", "z", "y"]
    assert p.pairs == ((0, 1), (2, 3))
    assert p.rating_gaps == (3, None)
    assert p.labelers == ("ann", "external")
    assert p.ties == ((2, 3),)
    assert p.answers == ({"rude": 1.0}, {"rude": 0.0}, {}, {})
    # Prompt p was a group of its own among the labels, and stands in g: now both are one.
    assert p.group == r.group == "g"
    assert q.group == "q"
    assert pool_comparisons(pooled) == pooled


def test_pairs_of_unknown_labelers_stay_unknown() -> None:
    unknown = others("p", "yz", "p", labelers=())
    (pooled,) = pool_comparisons([unknown, others("p", "zy", "p")])
    assert pooled.pairs == ((0, 1), (1, 0))
    assert pooled.labelers == ("", "external")


def test_shares_of_one_question_about_one_response_cannot_be_pooled() -> None:
    one = others("p", "yz", "p", answers=({"rude": 1.0}, {}))
    (pooled,) = pool_comparisons([one, replace(one, answers=({"kind": 0.5}, {"rude": 0.0}))])
    assert pooled.answers == ({"rude": 1.0, "kind": 0.5}, {"rude": 0.0})
    with pytest.raises(ValueError, match="one question about one response"):
        pool_comparisons([one, one])


# --- groups and splitting -------------------------------------------------------------------------

STANDING = st.lists(
    st.tuples(st.sampled_from("pqrstuvw"), st.sampled_from("ABCDEFGH")), min_size=1, max_size=16
)


def entry(prompt: str, group: str) -> PromptComparisons:
    return PromptComparisons(prompt, (), (), (), group=group)


def component(start: str, standing: list[tuple[str, str]]) -> set[str]:
    """The groups that a chain of shared prompts leads to, by looking again until none is new."""
    reached = {start}
    while True:
        prompts = {prompt for prompt, group in standing if group in reached}
        grown = {group for prompt, group in standing if prompt in prompts}
        if grown == reached:
            return reached
        reached = grown


@given(STANDING)
def test_groups_that_share_a_prompt_become_one(standing: list[tuple[str, str]]) -> None:
    joined = join_groups([entry(prompt, group) for prompt, group in standing])
    assert [one.prompt for one in joined] == [prompt for prompt, _ in standing]
    for one, (_, group) in zip(joined, standing, strict=True):
        assert one.group == min(component(group, standing))
    backward = join_groups([entry(prompt, group) for prompt, group in standing[::-1]])
    assert backward == joined[::-1]


def test_a_prompt_without_a_group_is_its_own() -> None:
    assert [one.group for one in join_groups([entry("p", ""), entry("q", "")])] == ["p", "q"]


@given(standing=STANDING, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_a_split_keeps_prompts_and_groups_on_one_side(
    standing: list[tuple[str, str]], fraction: float, seed: int
) -> None:
    comparisons = join_groups([entry(prompt, group) for prompt, group in standing])
    groups = {frozenset(component(group, standing)) for _, group in standing}
    if len(groups) < 2:
        with pytest.raises(ValueError, match="1 groups cannot be divided"):
            split_comparisons(comparisons, fraction, seed)
        return
    training, validation = split_comparisons(comparisons, fraction, seed)
    assert training
    assert validation
    side_of: dict[str, bool] = {}
    for (prompt, group), one in zip(standing, comparisons, strict=True):
        held_out = one in validation
        assert held_out != (one in training)
        assert side_of.setdefault(f"prompt {prompt}", held_out) == held_out
        assert side_of.setdefault(f"group {group}", held_out) == held_out
    backward = split_comparisons(comparisons[::-1], fraction, seed)[1]
    assert {one.prompt for one in backward} == {one.prompt for one in validation}


def test_a_split_counts_prompts_and_depends_on_the_seed() -> None:
    comparisons = [entry(f"prompt {i}", f"group {i // 3}") for i in range(600)]
    held_out = [
        {one.group for one in split_comparisons(comparisons, 0.1, seed)[1]} for seed in (0, 0, 1)
    ]
    assert [len(side) for side in held_out] == [20, 20, 20]
    assert held_out[0] == held_out[1]
    # Two random sets of 20 out of 200 share 2 groups on average; 10 or more would be no accident.
    assert len(held_out[0] & held_out[2]) < 10


@pytest.mark.parametrize("seed", range(10))
def test_a_group_too_large_to_be_held_out_is_learned_from(seed: int) -> None:
    """100 conversations that share a prompt and nine others: 11 may be held out, not 100."""
    comparisons = [entry(f"turn {i}", "joined") for i in range(100)]
    comparisons += [entry(f"other {i}", f"other {i}") for i in range(9)]
    _, validation = split_comparisons(comparisons, 0.1, seed)
    assert sorted(one.prompt for one in validation) == [f"other {i}" for i in range(9)]
    two = [entry(f"turn {i}", "joined") for i in range(5)]
    two += [entry(f"side {i}", "smaller") for i in range(3)]
    _, validation = split_comparisons(two, 0.1, seed)
    assert {one.group for one in validation} == {"smaller"}


def test_what_cannot_be_split() -> None:
    labeled = comparisons_by_prompt([ranking("p", "ann", [1, 2]), ranking("p", "bob", [1, 2])])
    with pytest.raises(ValueError, match="1 groups"):
        split_comparisons(labeled, 0.5, 0)
    with pytest.raises(ValueError, match="not between"):
        split_comparisons([entry("p", "p"), entry("q", "q")], 1.0, 0)
    with pytest.raises(ValueError, match="two groups"):
        split_comparisons([entry("p", "A"), entry("p", "B")], 0.5, 0)


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


def test_agreement_on_some_prompts_is_that_of_their_rankings() -> None:
    rankings = [
        ranking("p", "ann", [1, 2, 3]),
        ranking("p", "bob", [1, 3, 2]),  # 2 of 3 pairs alike
        ranking("q", "ann", [1, 2]),
        ranking("q", "bob", [2, 1]),  # 0 of 1
        ranking("r", "ann", [1, 2]),  # nobody else saw r
    ]
    everywhere, on_p = agreement_on(rankings, {"p", "q", "r"}), agreement_on(rankings, ["p"])
    assert everywhere is not None
    assert on_p is not None
    assert (everywhere.agreement, everywhere.pair_count) == (pytest.approx(2 / 4), 4)
    assert (on_p.agreement, on_p.pair_count) == (pytest.approx(2 / 3), 3)
    assert on_p.ci95 is None  # one prompt says nothing of how prompts differ
    # Residuals 2 − 1.5 and 0 − 0.5: variance 2 · 0.5 / 16, that of 0.25 · 16 = 4 trials, of which
    # two prompts tell little: t of one degree is 12.706.
    trials = 4 * (1.959964 / 12.706205) ** 2
    assert everywhere.ci95 == pytest.approx(wilson_interval(trials / 2, trials), rel=1e-4)
    assert agreement_on(rankings, ["r"]) is None
    assert agreement_on(rankings, []) is None


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


@given(st.lists(st.booleans(), min_size=2, max_size=50), st.integers(1, 5))
def test_clusters_whose_trials_end_alike_count_once_each(outcomes: list[bool], size: int) -> None:
    """But one: of n of them the variance is n − 1 in n, and Student's t knows n − 1 of it."""
    clusters = [(size * outcome, size) for outcome in outcomes]
    n = len(outcomes)
    known = float(norm.ppf(0.975)) / float(student_t.ppf(0.975, n - 1))
    trials = min((n - 1) * known**2, size * n)
    expected = wilson_interval(sum(outcomes) / n * trials, trials)
    assert clustered_wilson_interval(clusters) == pytest.approx(expected)


def test_the_interval_of_unequal_clusters_by_hand() -> None:
    # Shares 4 of 4, 0 of 3, 2 of 3: 0.6 in all. Residuals 1.6, −1.8, 0.2: sum of squares 5.84,
    # variance 0.0584 · 3/2, that of 0.24 / 0.0876 independent trials; t of 2 degrees is 4.3027.
    trials = 0.24 / 0.0876 * (1.959964 / 4.302653) ** 2
    expected = wilson_interval(0.6 * trials, trials)
    assert clustered_wilson_interval([(4, 4), (0, 3), (2, 3)]) == pytest.approx(expected, rel=1e-5)
    assert expected[0] < wilson_interval(6, 10)[0]  # wider than that of ten independent trials


@pytest.mark.parametrize("count", [5, 10, 40])
def test_the_interval_of_clusters_covers_the_truth(count: int) -> None:
    """Clusters of 6 trials whose own shares vary as Beta(4, 2) does around 2/3."""
    rng = np.random.default_rng(count)
    covered, draws = 0, 2000
    for _ in range(draws):
        yes = rng.binomial(6, rng.beta(4, 2, size=count))
        interval = clustered_wilson_interval([(int(one), 6) for one in yes])
        assert interval is not None
        covered += interval[0] <= 2 / 3 <= interval[1]
    assert covered / draws > 0.95 - 3 * (0.95 * 0.05 / draws) ** 0.5
    assert covered / draws < 0.985


def test_an_interval_takes_no_more_trials_than_there_are() -> None:
    # Every cluster has the same share: its variance is 0, which 6 trials cannot show.
    trials = 6 * (1.959964 / 4.302653) ** 2
    expected = wilson_interval(trials / 2, trials)
    assert clustered_wilson_interval([(1, 2)] * 3) == pytest.approx(expected, rel=1e-5)
    assert clustered_wilson_interval([(3, 3)]) is None
    assert clustered_wilson_interval([]) is None
