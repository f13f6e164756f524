"""Intervals against textbook values, closed forms, SciPy, and their coverage by simulation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pipeline.evaluation import (
    bradley_terry,
    distinct_share,
    mean_interval,
    outcomes,
    paired_difference,
    perplexity,
    ranking,
    share,
    tango_interval,
    win_rate,
)

# --- means ------------------------------------------------------------------------------------


def test_mean_interval_is_students_t() -> None:
    values = [5.0, 7.0, 4.0, 6.0, 3.0]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    leaf = mean_interval(values)
    assert leaf["mean"] == 5.0
    assert leaf["n"] == 5
    assert leaf["ci95"] == pytest.approx([expected.low, expected.high], rel=1e-9)


def test_clusters_of_one_value_change_nothing_and_copies_add_no_information() -> None:
    values = [5.0, 7.0, 4.0, 6.0, 3.0]
    assert mean_interval(values, list("abcde")) == mean_interval(values)
    tripled = mean_interval(values * 3, list("abcde") * 3)
    plain = mean_interval(values)
    assert tripled["ci95"] == pytest.approx(plain["ci95"])
    assert tripled["n"] == 5


def test_too_few_values_have_no_interval() -> None:
    assert mean_interval([]) == {"mean": None, "ci95": None, "n": 0}
    assert mean_interval([4.0]) == {"mean": 4.0, "ci95": None, "n": 1}
    assert mean_interval([4.0, 6.0], ["a", "a"]) == {"mean": 5.0, "ci95": None, "n": 1}
    for empty in (share([]), share([None]), perplexity([]), distinct_share([])):
        assert empty == {"mean": None, "ci95": None, "n": 0}
    assert win_rate([], []) == {
        "wins": 0,
        "ties": 0,
        "losses": 0,
        "n": 0,
        "win_rate": None,
        "ci95": None,
    }


def test_share_leaves_out_missing_answers() -> None:
    leaf = share([True, None, False, False, None, False])
    assert leaf["mean"] == 0.25
    assert leaf["n"] == 4


def test_share_is_honest_at_zero() -> None:
    # Wilson at 0 of n: the upper end is z² / (n + z²).
    z2 = stats.norm.ppf(0.975) ** 2
    assert share([False] * 300)["ci95"] == pytest.approx([0, z2 / (300 + z2)])


def test_perplexity_of_a_uniform_guess_is_the_vocabulary() -> None:
    leaf = perplexity([[math.log(1024)] * 7, [], [math.log(1024)] * 3])
    assert leaf["mean"] == pytest.approx(1024)
    assert leaf["ci95"] == pytest.approx([1024, 1024])
    assert leaf["n"] == 2


def test_perplexity_weighs_tokens_not_texts() -> None:
    assert perplexity([[1.0], [2.0, 2.0, 2.0]])["mean"] == pytest.approx(math.exp(7 / 4))


# --- paired comparisons -----------------------------------------------------------------------


def test_win_rate_counts_by_prompt_and_ties_as_half() -> None:
    result = win_rate([5, 3, 4, 7, 1], [4, 3, 6, 1, 0])
    assert (result["wins"], result["ties"], result["losses"], result["n"]) == (3, 1, 1, 5)
    assert result["win_rate"] == pytest.approx(3.5 / 5)


def test_win_rate_of_the_other_side_is_the_complement() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(1, 8, 40), rng.integers(1, 8, 40)
    one, other = win_rate(a, b), win_rate(b, a)
    assert one["win_rate"] == pytest.approx(1 - (other["win_rate"] or 0))
    assert one["ci95"] is not None
    assert other["ci95"] is not None
    assert one["ci95"] == pytest.approx([1 - end for end in reversed(other["ci95"])])


@pytest.mark.parametrize(("wins", "n"), [(0, 20), (7, 20), (150, 300), (20, 20)])
def test_without_ties_the_interval_is_wilsons(wins: int, n: int) -> None:
    expected = stats.binomtest(wins, n).proportion_ci(method="wilson")
    result = win_rate([1] * wins + [0] * (n - wins), [0] * wins + [1] * (n - wins))
    assert result["ci95"] == pytest.approx([expected.low, expected.high], abs=1e-8)


def test_all_ties_leave_a_width() -> None:
    # Tango with no discordant trial: ± z² / (n + z²).
    z2 = stats.norm.ppf(0.975) ** 2
    assert tango_interval(0, 0, 50) == pytest.approx([-z2 / (50 + z2), z2 / (50 + z2)], abs=1e-9)


def test_tango_on_a_large_sample_is_the_normal_interval() -> None:
    more, less, n = 30_000, 22_000, 100_000
    difference = (more - less) / n
    error = math.sqrt(((more + less) / n - difference**2) / n)
    expected = [difference - 1.96 * error, difference + 1.96 * error]
    assert tango_interval(more, less, n) == pytest.approx(expected, abs=2e-5)


def test_paired_difference_uses_prompts_that_both_answered() -> None:
    leaf = paired_difference([True, True, None, False], [False, True, True, False])
    assert leaf["mean"] == pytest.approx(1 / 3)
    assert leaf["n"] == 3


def test_unpaired_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="not paired"):
        outcomes([1, 2], [1])
    for broken in (math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            outcomes([1, broken], [1, 2])


# --- coverage: 95 % must hold the truth about 95 times in 100 ---------------------------------


def _covers(interval: list[float] | None, truth: float) -> bool:
    assert interval is not None
    return interval[0] <= truth <= interval[1]


def test_coverage_of_means_with_clusters() -> None:
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(25), 4).tolist()
    hits, naive_hits = 0, 0
    for _ in range(600):
        values = 3 + np.repeat(rng.normal(size=25), 4) + 0.5 * rng.normal(size=100)
        hits += _covers(mean_interval(values, clusters)["ci95"], 3.0)
        naive_hits += _covers(mean_interval(values)["ci95"], 3.0)
    assert 0.925 <= hits / 600 <= 0.975
    assert naive_hits / 600 < 0.85


@pytest.mark.parametrize("probabilities", [(0.5, 0.3, 0.2), (0.02, 0.96, 0.02), (0.9, 0.09, 0.01)])
def test_coverage_of_win_rates_with_ties(probabilities: tuple[float, float, float]) -> None:
    wins, ties, _ = probabilities
    draws = np.random.default_rng(2).multinomial(100, probabilities, size=600)
    counted: dict[tuple[int, int], list[float]] = {}
    hits = 0
    for win, _, loss in draws.tolist():
        if (win, loss) not in counted:
            counted[win, loss] = [(1 + end) / 2 for end in tango_interval(win, loss, 100)]
        hits += _covers(counted[win, loss], wins + ties / 2)
    assert 0.925 <= hits / 600 <= 0.99


def test_coverage_of_the_distinct_share() -> None:
    rng = np.random.default_rng(3)
    weights = 1 / np.arange(1, 401) ** 0.8
    weights /= weights.sum()
    truth = float((1 - (1 - weights) ** 200).sum()) / 200  # expected distinct texts of 200
    samples = [rng.choice(400, size=200, p=weights).astype(str).tolist() for _ in range(400)]
    hits = [_covers(distinct_share(texts)["ci95"], truth) for texts in samples]
    assert np.mean(hits) >= 0.94


def test_distinct_share_counts_texts() -> None:
    leaf = distinct_share(["a", "b", "a", "c"])
    assert leaf["mean"] == 0.75
    assert leaf["n"] == 4
    assert distinct_share(["a"]) == {"mean": 1.0, "ci95": None, "n": 1}
    assert distinct_share(["a"] * 10)["mean"] == pytest.approx(0.1)
    all_distinct = distinct_share([str(i) for i in range(100)])
    assert all_distinct["mean"] == 1.0
    assert all_distinct["ci95"] is not None
    assert all_distinct["ci95"][0] < 0.97


# --- Bradley-Terry ----------------------------------------------------------------------------


def test_bradley_terry_reaches_the_published_estimate(data_root: Path) -> None:
    path = data_root / "metrics" / "bradley_terry_example.json"
    example = json.loads(path.read_text(encoding="utf-8"))
    names = [str(i) for i in range(example["n_items"])]
    comparisons = {(str(winner), str(loser)): (1, 0, 0) for winner, loser in example["data"]}
    for prior in (0.0, 0.5):
        strengths = bradley_terry(names, comparisons, prior_wins=prior)
        assert strengths == pytest.approx(example["ml_est"], abs=1e-6)


def test_bradley_terry_of_two_is_the_log_odds() -> None:
    strengths = bradley_terry(["a", "b"], {("a", "b"): (20, 10, 5)}, prior_wins=0.0)
    assert strengths[0] - strengths[1] == pytest.approx(math.log(25 / 10), abs=1e-6)
    with_prior = bradley_terry(["a", "b"], {("a", "b"): (300, 0, 0)})
    assert with_prior[0] - with_prior[1] == pytest.approx(math.log(300.5 / 0.5), abs=1e-5)


def test_bradley_terry_solves_the_likelihood_equations() -> None:
    names = ["a", "b", "c"]
    comparisons = {("a", "b"): (9, 4, 3), ("a", "c"): (2, 0, 8), ("b", "c"): (5, 6, 5)}
    strengths = dict(zip(names, bradley_terry(names, comparisons, prior_wins=0.0), strict=True))
    for name in names:  # each one's wins equal its expected wins
        surplus = 0.0
        for (a, b), (wins, ties, losses) in comparisons.items():
            expected = 1 / (1 + math.exp(strengths[b] - strengths[a])) * (wins + ties + losses)
            sign = (name == a) - (name == b)
            surplus += sign * (wins + ties / 2 - expected)
        assert surplus == pytest.approx(0, abs=1e-5)
    assert sum(strengths.values()) == pytest.approx(0, abs=1e-9)


def test_ranking_puts_the_stronger_first_and_is_reproducible() -> None:
    rng = np.random.default_rng(4)
    ratings = {name: rng.normal(shift, 1, 200) for name, shift in (("x", 0), ("y", 2), ("z", 1))}
    pairs = {(a, b): outcomes(ratings[a], ratings[b]) for a, b in ("xy", "xz", "yz")}
    result = ranking(["x", "y", "z"], pairs, bootstrap_samples=100, seed=7)
    assert [row["name"] for row in result] == ["y", "z", "x"]
    for row in result:
        assert row["ci95"] is not None
        assert row["ci95"][0] < row["strength"] < row["ci95"][1]
    assert result == ranking(["x", "y", "z"], pairs, bootstrap_samples=100, seed=7)


@pytest.mark.parametrize(("wins", "losses"), [(40, 0), (30, 12)])
def test_the_ranking_interval_of_two_is_jeffreys(wins: int, losses: int) -> None:
    results = np.array([1.0] * wins + [0.0] * losses)
    first, second = ranking(["a", "b"], {("a", "b"): results}, bootstrap_samples=1000, seed=0)
    low, high = stats.beta(wins + 0.5, losses + 0.5).ppf([0.025, 0.975])
    expected = [math.log(share / (1 - share)) / 2 for share in (low, high)]
    assert first["ci95"] is not None
    assert second["ci95"] is not None
    # Compared as shares of wins: at 40 of 40 the upper end of the log odds is far out and noisy.
    shares = [1 / (1 + math.exp(-2 * end)) for end in first["ci95"]]
    assert shares == pytest.approx([low, high], abs=0.03)
    assert first["ci95"][0] == pytest.approx(expected[0], abs=0.15)
    assert second["ci95"] == pytest.approx([-end for end in reversed(first["ci95"])])


def test_equal_checkpoints_are_equally_strong() -> None:
    results = {pair: np.full(30, 0.5) for pair in (("a", "b"), ("a", "c"), ("b", "c"))}
    for row in ranking(["a", "b", "c"], results, bootstrap_samples=200, seed=0):
        assert row["strength"] == pytest.approx(0, abs=1e-9)
        assert row["ci95"] is not None
        assert row["ci95"][0] < 0 < row["ci95"][1]


def test_ranking_of_one_checkpoint_has_nothing_to_say() -> None:
    assert ranking(["a"], {}, bootstrap_samples=10, seed=0) == [
        {"name": "a", "strength": 0.0, "ci95": None}
    ]
