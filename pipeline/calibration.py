"""Whether the probabilities that scores give to pairs come true. No torch here.

Under the model of Bradley and Terry the response that scores higher by d is the better one with
probability σ(d), its *confidence*. A margin is the better minus the worse score of a decided pair,
so |margin| is that d, and the pair came out right where the margin is above 0; two equal scores
have a confidence of one half and are half right, whatever was chosen.

Which response of a pair is called the first is a convention. Seen from both sides, each pair would
stand at σ(d) and at 1 − σ(d), and the reliability curve would be its own mirror image through
(½, ½). So it is folded here: confidences from ½ to 1, each pair once, nothing lost.

Pairs of one prompt hang together. ``clusters`` (P,) says which prompt each pair belongs to; None
takes every pair as a prompt of its own.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, stdtrit

from pipeline.evaluation import Leaf, mean_interval
from pipeline.preferences import wilson_interval

Vector = NDArray[np.float64]
BINS = 10
MEAN_OF_HALF_NORMAL = math.sqrt(2 / math.pi)  # of |x|, x standard normal


class ReliabilityBin(TypedDict):
    """The pairs whose confidence lies in [lower, upper); the last bin holds 1 as well.

    ``accuracy`` is the share of them that came out right, ``ci95`` Wilson's interval over pairs.
    """

    lower: float
    upper: float
    mean_confidence: float
    accuracy: float
    ci95: list[float]
    n: int


class CalibrationError(TypedDict):
    """The expected calibration error of n pairs, and what chance alone gives a calibrated model."""

    mean: float | None
    expected_if_calibrated: float | None
    n: int


def reliability(margins: ArrayLike, bins: int = BINS) -> list[ReliabilityBin]:
    """How often pairs come out right, by confidence; bins of equal width, empty ones left out."""
    confidences, credits = _folded(margins)
    members = _bin_indices(confidences, bins)
    return [_bin(index, bins, confidences, credits, members) for index in np.unique(members)]


def _bin(
    index: int, bins: int, confidences: Vector, credits: Vector, members: NDArray[np.int64]
) -> ReliabilityBin:
    inside = members == index
    n, right = int(inside.sum()), float(credits[inside].sum())
    return ReliabilityBin(
        lower=0.5 + index / (2 * bins),
        upper=0.5 + (index + 1) / (2 * bins),
        mean_confidence=float(confidences[inside].mean()),
        accuracy=right / n,
        ci95=[*wilson_interval(right, n)],
        n=n,
    )


def expected_calibration_error(
    margins: ArrayLike, bins: int = BINS, clusters: Sequence[Hashable] | None = None
) -> CalibrationError:
    """|accuracy − mean confidence| of the bins of ``reliability``, each weighed by its pairs.

    Folded and two-sided error are the same. It is never 0 in a sample, and resampling only adds to
    it, so in place of an interval stands what a calibrated model with these confidences would be
    expected to show: each bin's sum of (right − confidence) is then nearly normal around 0, with
    the variance of independent pairs, times how much more (Kish's design effect) the pairs of a
    prompt vary together than alone. None for fewer than two prompts.
    """
    confidences, credits = _folded(margins)
    n = confidences.size
    if n == 0:
        return CalibrationError(mean=None, expected_if_calibrated=None, n=0)
    members, count = _members(clusters, n)
    inside = _bin_indices(confidences, bins)
    sums = np.bincount(inside, weights=credits - confidences, minlength=bins)
    error = float(np.abs(sums).sum()) / n
    if count < 2:
        return CalibrationError(mean=error, expected_if_calibrated=None, n=n)
    chosen = confidences * (1 - confidences) * (np.abs(credits - 0.5) > 0)  # ties vary not at all
    alone = np.bincount(inside, weights=chosen, minlength=bins)
    effect = _design_effect(credits - confidences, inside, members)
    chance = MEAN_OF_HALF_NORMAL * float(np.sqrt(effect * alone).sum()) / n
    return CalibrationError(mean=error, expected_if_calibrated=chance, n=n)


def _design_effect(errors: Vector, bins: NDArray[np.int64], members: NDArray[np.int64]) -> float:
    """How many times as much sums over the pairs of a prompt within a bin vary as if independent.

    Errors count from their bin's mean, so that a model that is not calibrated does not seem to have
    pairs that hang together. At least 1, at most the largest number of such pairs.
    """
    means = np.bincount(bins, weights=errors) / np.maximum(np.bincount(bins), 1)
    centered = errors - means[bins]
    _, cells, sizes = np.unique(
        np.stack([bins, members]), axis=1, return_inverse=True, return_counts=True
    )
    together = float((np.bincount(cells, weights=centered) ** 2).sum())
    alone = float((centered**2).sum())
    return min(max(together / alone if alone else 1.0, 1.0), float(sizes.max()))


def brier(margins: ArrayLike, clusters: Sequence[Hashable] | None = None) -> Leaf:
    """The mean of (1 − σ(margin))², with Student's t interval; ``n`` counts prompts.

    The squared error of the probability that the better response is the better one: 0 is perfect,
    ¼ is a model that knows nothing. Seen from the other side a pair has the probability
    1 − σ(margin) and the outcome 0, which is the same error, so the mean over both sides is this
    number; Brier's sum over both outcomes (1950) is twice it.
    """
    values = expit(-_finite(margins)) ** 2
    leaf = mean_interval(values, clusters)
    if leaf["ci95"] is not None:  # Student's t knows nothing of the ends
        leaf["ci95"] = [min(max(end, 0.0), 1.0) for end in leaf["ci95"]]
    return leaf


def calibration_slope(margins: ArrayLike, clusters: Sequence[Hashable] | None = None) -> Leaf:
    """The b at which P(better wins) = σ(b · margin) is most likely; ``n`` counts prompts.

    1 is calibrated; below 1 the model is too sure of itself, above 1 not sure enough. There is no
    intercept, since turning a pair round turns the sign of its margin. The interval is the sandwich
    estimate's with prompts as clusters and Student's t (one prompt: None).

    The mean is None where no finite b is the most likely: all pairs that differ in score are right,
    or all are wrong, or there are none.
    """
    x = _finite(margins)
    members, count = _members(clusters, x.size)
    if not ((x > 0).any() and (x < 0).any()):
        return Leaf(mean=None, ci95=None, n=count)
    scale = float(np.abs(x).max())  # in units of the largest margin: b grows as margins shrink
    x = x / scale
    slope = _most_likely_slope(x)
    if count == 1:
        return Leaf(mean=slope / scale, ci95=None, n=1)
    wrong = expit(-slope * x)
    gradients = np.bincount(members, weights=x * wrong)
    curvature = float((x * x * wrong * (1 - wrong)).sum())
    error = math.sqrt(count / (count - 1) * float(gradients @ gradients)) / curvature
    half_width = float(stdtrit(count - 1, 0.975)) * error
    ends = [(slope - half_width) / scale, (slope + half_width) / scale]
    return Leaf(mean=slope / scale, ci95=ends, n=count)


def _most_likely_slope(x: Vector) -> float:
    """The root of Σ x σ(−b x), which falls with b, for x of both signs and |x| up to 1.

    Newton's method, kept within a bracket; where a step would leave it, the bracket is halved.
    """

    def gradient(b: float) -> float:
        return float((x * expit(-b * x)).sum())

    low, high = -1.0, 1.0
    while gradient(low) < 0:
        low *= 2
    while gradient(high) > 0:
        high *= 2
    b = 0.0
    for _ in range(200):
        value = gradient(b)
        low, high = (b, high) if value > 0 else (low, b)
        curvature = float((x * x * expit(b * x) * expit(-b * x)).sum())
        after = b + value / curvature if curvature > 0 else math.inf
        if not low <= after <= high:
            after = (low + high) / 2
        if abs(after - b) <= 1e-13 * max(1.0, abs(b)):
            return after
        b = after
    return b


def _folded(margins: ArrayLike) -> tuple[Vector, Vector]:
    """(P,) confidences in [½, 1], and 1 where the pair came out right, 0 if not, ½ if equal."""
    values = _finite(margins)
    return expit(np.abs(values)), (np.sign(values) + 1) / 2


def _bin_indices(confidences: Vector, bins: int) -> NDArray[np.int64]:
    """(P,) which of the bins of equal width on [½, 1] holds each confidence."""
    return np.minimum(((2 * confidences - 1) * bins).astype(np.int64), bins - 1)


def _members(clusters: Sequence[Hashable] | None, size: int) -> tuple[NDArray[np.int64], int]:
    """(P,) the number of each pair's cluster, and how many clusters there are."""
    if clusters is None:
        return np.arange(size), size
    codes = {cluster: code for code, cluster in enumerate(dict.fromkeys(clusters))}
    return np.array([codes[cluster] for cluster in clusters], dtype=np.int64), len(codes)


def _finite(margins: ArrayLike) -> Vector:
    values = np.asarray(margins, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError("margins must be a row of finite numbers")
    return values
