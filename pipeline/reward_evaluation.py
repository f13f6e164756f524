"""How well scores agree with the labelers' choices, on pairs. No torch here.

Ties are no pairs and so have no part in any number; two equal scores on a pair count as half right.
Shares have Wilson's interval over pairs. Pairs of one prompt hang together, so the accuracy is also
given with an interval that takes prompts as the independent units, as all that are no shares are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.calibration import (
    brier,
    calibration_slope,
    expected_calibration_error,
    reliability,
)
from pipeline.evaluation import Leaf, mean_interval
from pipeline.preferences import PromptComparisons, wilson_interval

LONGER_BY = 1.25  # from this ratio on, two responses count as of different length


@dataclass(frozen=True)
class ScoredPairs:
    """The P pairs of some prompts, flat.

    Attributes:
        margins: (P,) score of the better minus score of the worse response.
        length_margins: (P,) the same with lengths in tokens.
        length_ratios: (P,) characters of the better over those of the worse response; infinite
            where only the worse one is empty, 1 where both are.
        rating_gaps: (P,) the better minus the worse rating, below 0 where a labeler confirmed a
            contradiction; NaN where there are no ratings.
        labelers: (P,) pseudonym of who ordered a pair, empty where that is not known.
        prompts: (P,) which prompt a pair belongs to.
    """

    margins: NDArray[np.float64]
    length_margins: NDArray[np.float64]
    length_ratios: NDArray[np.float64]
    rating_gaps: NDArray[np.float64]
    labelers: NDArray[np.str_]
    prompts: NDArray[np.int64]


def scored_pairs(
    comparisons: Sequence[PromptComparisons], scores: Sequence[float], lengths: Sequence[int]
) -> ScoredPairs:
    """The pairs of ``comparisons`` with their scores.

    Args:
        scores: (N,) one for each response, prompt after prompt.
        lengths: (N,) tokens of each response, in the same order; they may count the prompt's as
            well, since only differences between responses to one prompt are taken.
    """
    firsts = np.cumsum([0, *(len(one.responses) for one in comparisons)])
    if len(scores) != firsts[-1] or len(lengths) != firsts[-1]:
        raise ValueError(f"{len(scores)} scores, {len(lengths)} lengths, {firsts[-1]} responses")
    pairs = [
        (first + better, first + worse)
        for first, one in zip(firsts[:-1], comparisons, strict=True)
        for better, worse in one.pairs
    ]
    better, worse = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    score_values = np.asarray(scores, dtype=np.float64)
    length_values = np.asarray(lengths, dtype=np.float64)
    gaps = [math.nan if gap is None else gap for one in comparisons for gap in one.rating_gaps]
    labelers = [name for one in comparisons for name in one.labelers or ("",) * len(one.pairs)]
    characters = [len(response.text) for one in comparisons for response in one.responses]
    return ScoredPairs(
        margins=score_values[better] - score_values[worse],
        length_margins=length_values[better] - length_values[worse],
        length_ratios=np.array([_ratio(characters[b], characters[w]) for b, w in pairs]),
        rating_gaps=np.array(gaps, dtype=np.float64),
        labelers=np.array(labelers, dtype=np.str_),
        prompts=np.repeat(np.arange(len(comparisons)), [len(one.pairs) for one in comparisons]),
    )


def accuracy(margins: NDArray[np.float64]) -> Leaf:
    """The share of pairs whose better response scores higher; ``n`` counts pairs."""
    if not margins.size:
        return Leaf(mean=None, ci95=None, n=0)
    right = float(_credits(margins).sum())
    lower, upper = wilson_interval(right, margins.size)
    return Leaf(mean=right / margins.size, ci95=[lower, upper], n=margins.size)


def log_losses(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    """(P,) −log σ(margin) in nats: log 2 for a model that knows nothing."""
    return np.logaddexp(0.0, -margins)


def accuracy_by_prompt(pairs: ScoredPairs) -> Leaf:
    """The share of pairs that came out right, ties half; the interval takes prompts as units."""
    leaf = mean_interval(_credits(pairs.margins), pairs.prompts.tolist())
    if leaf["ci95"] is not None:  # Student's t knows nothing of the ends of a share
        leaf["ci95"] = [min(max(end, 0.0), 1.0) for end in leaf["ci95"]]
    return leaf


def evaluate_pairs(pairs: ScoredPairs) -> dict[str, object]:
    """What the margins say, as JSON values.

    Accuracy, over all pairs and by rating gap (where there are ratings), by which response is the
    longer one, and by labeler; log-loss (nats) and Brier score, means over pairs; expected
    calibration error, calibration slope and reliability table (``pipeline/calibration.py``).
    Accuracy by labeler says whose choices the model follows, whoever it was trained on.
    """
    prompts = pairs.prompts.tolist()
    by_prompt = accuracy_by_prompt(pairs)
    gaps = sorted(set(pairs.rating_gaps[np.isfinite(pairs.rating_gaps)].tolist()))
    labelers = sorted(set(pairs.labelers.tolist()) - {""})
    return {
        "accuracy": accuracy(pairs.margins),
        "accuracy_by_prompt": by_prompt,
        "log_loss": mean_interval(log_losses(pairs.margins), prompts),
        "accuracy_by_rating_gap": {
            str(int(gap)): accuracy(pairs.margins[pairs.rating_gaps == gap]) for gap in gaps
        },
        "accuracy_by_length_difference": accuracy_by_length_difference(pairs),
        "accuracy_by_labeler": {
            name: accuracy(pairs.margins[pairs.labelers == name]) for name in labelers
        },
        "brier": brier(pairs.margins, prompts),
        "ece": expected_calibration_error(pairs.margins, clusters=prompts),
        "calibration_slope": calibration_slope(pairs.margins, prompts),
        "reliability": reliability(pairs.margins),
    }


def accuracy_by_length_difference(pairs: ScoredPairs) -> dict[str, Leaf]:
    """Accuracy where the better response is the longer one, the shorter one, or neither.

    Longer means at least 25% more characters than the other has: characters, because labelers see
    them and no tokenizer changes them. A model that follows length does well on the first kind of
    pair and badly on the last.
    """
    ratios = pairs.length_ratios
    longer, shorter = ratios >= LONGER_BY, ratios <= 1 / LONGER_BY
    return {
        "better_is_longer": accuracy(pairs.margins[longer]),
        "similar_length": accuracy(pairs.margins[~longer & ~shorter]),
        "better_is_shorter": accuracy(pairs.margins[shorter]),
    }


def length_baseline(training: ScoredPairs, validation: ScoredPairs) -> dict[str, object]:
    """What length alone would score: prefer longer or shorter, whichever training pairs favor."""
    longer_is_better = _credits(training.length_margins).sum() * 2 >= training.length_margins.size
    sign = 1 if longer_is_better else -1
    return {
        "prefers": "longer" if longer_is_better else "shorter",
        "accuracy": accuracy(sign * validation.length_margins),
    }


def difference(first: Leaf, second: Leaf) -> Leaf:
    """The first mean minus the second, as if of independent samples; ``n`` counts both.

    Where both judge some of the same prompts the true interval is the narrower one.
    The interval comes from those of the two (Zou and Donner 2008) and is as lopsided as they are.
    """
    n = first["n"] + second["n"]
    if first["mean"] is None or second["mean"] is None:
        return Leaf(mean=None, ci95=None, n=n)
    mean = first["mean"] - second["mean"]
    if first["ci95"] is None or second["ci95"] is None:
        return Leaf(mean=mean, ci95=None, n=n)
    (low_1, high_1), (low_2, high_2) = first["ci95"], second["ci95"]
    below = math.hypot(first["mean"] - low_1, high_2 - second["mean"])
    above = math.hypot(high_1 - first["mean"], second["mean"] - low_2)
    return Leaf(mean=mean, ci95=[mean - below, mean + above], n=n)


def _ratio(better: int, worse: int) -> float:
    if worse == 0:
        return 1.0 if better == 0 else math.inf
    return better / worse


def _credits(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    """(P,) 1 where the better response leads, 0 where it trails, 0.5 where they are equal."""
    return (np.sign(margins) + 1) / 2
