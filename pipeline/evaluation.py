"""Numbers with intervals: means, shares, win rates, Bradley-Terry strengths. No torch here.

Every interval is a 95% interval. Which one, and why:

- means: Student's t over independent clusters (a response, or all tokens of one);
- shares of yes: Wilson's score interval, which stays honest at 0 of n;
- win rates and differences of paired shares: Tango's score interval, its paired counterpart;
- the share of distinct texts: a jackknife;
- Bradley-Terry strengths: a Bayesian bootstrap over prompts.

A prompt is the unit throughout: checkpoints answer the same prompts, so they are compared prompt
by prompt. An outcome is 1 where a's response is better, 0 where b's is, 0.5 for a tie.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypedDict

import evalica
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import stdtrit

from pipeline.preferences import Z_95, wilson_interval

Vector = NDArray[np.float64]
# Half a win for each side of each pair (Haldane 1956): strengths stay finite without a loss.
PRIOR_WINS = 0.5


class Leaf(TypedDict):
    """A number of a report. ``ci95`` is None where n is too small to tell, ``mean`` if n is 0."""

    mean: float | None
    ci95: list[float] | None
    n: int


class WinRate(TypedDict):
    """How a fared against b on the same n prompts; ``win_rate`` counts a tie as half a win."""

    wins: int
    ties: int
    losses: int
    n: int
    win_rate: float | None
    ci95: list[float] | None


class Strength(TypedDict):
    """A Bradley-Terry strength: a difference of two is the log odds of the one beating the other.

    Strengths are centered on 0.
    """

    name: str
    strength: float
    ci95: list[float] | None


# --- means and shares ---------------------------------------------------------------------------


def mean_interval(values: ArrayLike, clusters: Sequence[Hashable] | None = None) -> Leaf:
    """The mean with Student's t interval; ``n`` counts clusters.

    Args:
        values: (N,) numbers.
        clusters: (N,) what each value belongs to; values of one cluster may depend on each other,
            so the variance is that of the cluster totals' residuals (the ratio estimator of
            Cochran, Sampling Techniques). None: each value is a cluster.
    """
    numbers = np.asarray(values, dtype=np.float64).reshape(-1)
    if not numbers.size:
        return Leaf(mean=None, ci95=None, n=0)
    mean = float(numbers.mean())
    residuals = numbers - mean
    if clusters is not None:
        _, members = np.unique(_as_codes(clusters), return_inverse=True)
        residuals = np.bincount(members, weights=residuals)
    count = residuals.size
    if count == 1:
        return Leaf(mean=mean, ci95=None, n=1)
    error = math.sqrt(count / (count - 1) * float(residuals @ residuals)) / numbers.size
    half_width = float(stdtrit(count - 1, 0.975)) * error
    return Leaf(mean=mean, ci95=[mean - half_width, mean + half_width], n=count)


def _as_codes(clusters: Sequence[Hashable]) -> NDArray[np.int64]:
    codes = {cluster: code for code, cluster in enumerate(dict.fromkeys(clusters))}
    return np.array([codes[cluster] for cluster in clusters], dtype=np.int64)


def share(answers: Iterable[bool | None]) -> Leaf:
    """The share of True among the answers given, with Wilson's interval; None is no answer."""
    given = [answer for answer in answers if answer is not None]
    if not given:
        return Leaf(mean=None, ci95=None, n=0)
    lower, upper = wilson_interval(sum(given), len(given))
    return Leaf(mean=sum(given) / len(given), ci95=[lower, upper], n=len(given))


def perplexity(token_losses: Sequence[Sequence[float]]) -> Leaf:
    """exp of the mean loss (nats) per token over all texts; ``n`` counts texts that have tokens.

    The interval is that of the mean loss, tokens clustered by text, taken through exp.
    """
    losses = [loss for text in token_losses for loss in text]
    leaf = mean_interval(losses, [i for i, text in enumerate(token_losses) for _ in text])
    return Leaf(
        mean=None if leaf["mean"] is None else math.exp(leaf["mean"]),
        ci95=None if leaf["ci95"] is None else [math.exp(end) for end in leaf["ci95"]],
        n=leaf["n"],
    )


def distinct_share(texts: Sequence[str]) -> Leaf:
    """The number of distinct texts divided by the number of texts.

    Leaving one text out loses a distinct one if, and only if, it occurs once; so the jackknife
    (Efron and Stein 1981) gives this share the variance of the share of texts that occur once.
    The interval is Wilson's for the latter, moved to the former: it has a width at 1, too.
    """
    if not texts:
        return Leaf(mean=None, ci95=None, n=0)
    if len(texts) == 1:
        return Leaf(mean=1.0, ci95=None, n=1)
    counts = Counter(texts)
    n, once = len(texts), sum(count == 1 for count in counts.values())
    mean, center = len(counts) / n, once / n
    lower, upper = wilson_interval(once, n)
    interval = [max(1 / n, mean - (center - lower)), min(1.0, mean + (upper - center))]
    return Leaf(mean=mean, ci95=interval, n=n)


# --- paired comparisons -------------------------------------------------------------------------


def outcomes(a_scores: ArrayLike, b_scores: ArrayLike) -> Vector:
    """(N,) 1 where a's score is higher, 0 where b's is, 0.5 where they are equal.

    Raises:
        ValueError: the scores are not paired, or one is not a finite number.
    """
    a, b = np.asarray(a_scores, dtype=np.float64), np.asarray(b_scores, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"scores of shapes {a.shape} and {b.shape} are not paired")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a score is not a finite number")
    return (np.sign(a - b) + 1) / 2


def win_rate(a_ratings: ArrayLike, b_ratings: ArrayLike) -> WinRate:
    """a's wins, ties and losses against b, prompt by prompt, with Tango's interval.

    Without ties the interval is Wilson's; unlike a bootstrap's it has a width at 0% and 100%.
    """
    results = outcomes(a_ratings, b_ratings)
    wins, losses, n = int((results == 1).sum()), int((results == 0).sum()), results.size
    interval = None
    if n:
        interval = [(1 + end) / 2 for end in tango_interval(wins, losses, n)]
    return WinRate(
        wins=wins,
        ties=n - wins - losses,
        losses=losses,
        n=n,
        win_rate=float(results.mean()) if n else None,
        ci95=interval,
    )


def paired_difference(a_answers: Sequence[bool | None], b_answers: Sequence[bool | None]) -> Leaf:
    """a's share of True minus b's, over the prompts that both have an answer for; Tango."""
    pairs = [
        (a, b) for a, b in zip(a_answers, b_answers, strict=True) if a is not None and b is not None
    ]
    n = len(pairs)
    if not n:
        return Leaf(mean=None, ci95=None, n=0)
    only_a, only_b = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    return Leaf(mean=(only_a - only_b) / n, ci95=tango_interval(only_a, only_b, n), n=n)


def tango_interval(more: int, less: int, n: int) -> list[float]:
    """The score interval of (more − less) / n, where each of n trials counts +1, −1 or 0.

    Tango 1998, "Equivalence test and confidence interval for the difference in proportions for
    the paired-sample design", Statistics in Medicine 17.
    """

    def statistic(difference: float) -> float:
        b = -more - less + (2 * n - more + less) * difference
        c = -less * difference * (1 - difference)
        root = math.sqrt(max(0.0, b * b - 8 * n * c))
        less_probability = max(0.0, (root - b) / (4 * n))
        variance = n * (2 * less_probability + difference * (1 - difference))
        return (more - less - n * difference) / math.sqrt(max(variance, 1e-300))

    estimate = (more - less) / n
    edge = 1 - 1e-12
    lower = brentq(lambda x: statistic(x) - Z_95, -edge, estimate) if estimate > -1 else -1.0
    upper = brentq(lambda x: statistic(x) + Z_95, estimate, edge) if estimate < 1 else 1.0
    return [float(lower), float(upper)]  # pyright: ignore[reportArgumentType]


# --- ranking ------------------------------------------------------------------------------------


def bradley_terry(
    names: Sequence[str],
    comparisons: Mapping[tuple[str, str], Sequence[float]],
    prior_wins: float = PRIOR_WINS,
) -> Vector:
    """(M,) strengths in the order of ``names``: natural logs, centered on 0.

    Bradley and Terry 1952 by Newman's iteration (evalica). A tie counts as half a win for each.

    Args:
        comparisons: for (a, b) the numbers of a's wins, ties and losses against b.
        prior_wins: added to both sides of each pair; 0 gives the plain maximum likelihood.
    """
    if len(names) < 2:
        return np.zeros(len(names))
    xs, ys, winners, weights = [], [], [], []
    for (a, b), (wins, ties, losses) in comparisons.items():
        xs += [a] * 3
        ys += [b] * 3
        winners += [evalica.Winner.X, evalica.Winner.Draw, evalica.Winner.Y]
        weights += [wins + prior_wins, ties, losses + prior_wins]
    result = evalica.bradley_terry(xs, ys, winners, weights=weights, tolerance=1e-9, limit=10_000)
    strengths = np.log(result.scores.reindex(list(names)).to_numpy(dtype=np.float64))
    return strengths - strengths.mean()


def ranking(
    names: Sequence[str],
    results: Mapping[tuple[str, str], Vector],
    bootstrap_samples: int,
    seed: int,
) -> list[Strength]:
    """Bradley-Terry strengths, the strongest first, with percentile intervals over prompts.

    The bootstrap is Rubin's (1981): a draw weighs each prompt, in all pairs alike, by a standard
    exponential, and each half win of the prior by a gamma variate of shape one half. Two
    checkpoints without ties get Jeffreys' interval for a proportion. Unlike redrawn prompts this
    has a width where one of two wins every time.

    Args:
        results: for each pair (a, b) the outcomes (N,) on the same N prompts in the same order.
        bootstrap_samples: how often the prompts are weighed anew.
    """
    prior = {pair: np.full(2, PRIOR_WINS) for pair in results}
    strengths = bradley_terry(names, _weighted(results, None, prior), prior_wins=0.0)
    n = min((len(values) for values in results.values()), default=0)
    intervals: list[list[float] | None] = [None] * len(names)
    if n > 1:
        rng = np.random.default_rng(seed)
        draws: list[Vector] = []
        for _ in range(bootstrap_samples):
            weights = rng.standard_exponential(n)
            prior = {pair: rng.standard_gamma(PRIOR_WINS, 2) for pair in results}
            comparisons = _weighted(results, weights, prior)
            draws.append(bradley_terry(names, comparisons, prior_wins=0.0))
        intervals = list(np.quantile(np.stack(draws), [0.025, 0.975], axis=0).T.tolist())
    order: list[int] = np.argsort(-strengths, kind="stable").tolist()
    return [Strength(name=names[i], strength=float(strengths[i]), ci95=intervals[i]) for i in order]


def _weighted(
    results: Mapping[tuple[str, str], Vector],
    weights: Vector | None,
    prior: Mapping[tuple[str, str], Vector],
) -> dict[tuple[str, str], list[float]]:
    """For each pair the total weight of its wins, ties and losses, the prior's included."""
    totals: dict[tuple[str, str], list[float]] = {}
    for pair, values in results.items():
        wins, ties, losses = np.bincount((2 - 2 * values).astype(np.int64), weights, 3).tolist()
        totals[pair] = [wins + prior[pair][0], ties, losses + prior[pair][1]]
    return totals
