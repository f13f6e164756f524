"""How well scores agree with the labelers' choices, on pairs. No torch here.

Ties are no pairs and so have no part in any number; two equal scores on a pair count as half right.
Shares have Wilson's interval over pairs. Pairs of one prompt hang together, so the same share is
also given with an interval that takes prompts as the independent units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import Leaf, mean_interval
from pipeline.preferences import PromptComparisons, wilson_interval


@dataclass(frozen=True)
class ScoredPairs:
    """The P pairs of some prompts, flat.

    Attributes:
        margins: (P,) score of the better minus score of the worse response.
        length_margins: (P,) the same with lengths in tokens.
        rating_gaps: (P,) the same with ratings; below 0 where a labeler confirmed a contradiction.
        prompts: (P,) which prompt a pair belongs to.
    """

    margins: NDArray[np.float64]
    length_margins: NDArray[np.float64]
    rating_gaps: NDArray[np.int64]
    prompts: NDArray[np.int64]


def scored_pairs(
    comparisons: Sequence[PromptComparisons], scores: Sequence[float], lengths: Sequence[int]
) -> ScoredPairs:
    """The pairs of ``comparisons`` with their scores.

    Args:
        scores: (N,) one for each response, prompt after prompt.
        lengths: (N,) tokens of each response, in the same order.
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
    return ScoredPairs(
        margins=score_values[better] - score_values[worse],
        length_margins=length_values[better] - length_values[worse],
        rating_gaps=np.array([gap for one in comparisons for gap in one.rating_gaps], np.int64),
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


def evaluate_pairs(pairs: ScoredPairs) -> dict[str, object]:
    """Accuracy, log-loss (mean over pairs, in nats) and accuracy by rating gap, as JSON values."""
    prompts = pairs.prompts.tolist()
    by_prompt = mean_interval(_credits(pairs.margins), prompts)
    if by_prompt["ci95"] is not None:  # Student's t knows nothing of the ends of a share
        by_prompt["ci95"] = [min(max(end, 0.0), 1.0) for end in by_prompt["ci95"]]
    return {
        "accuracy": accuracy(pairs.margins),
        "accuracy_by_prompt": by_prompt,
        "log_loss": mean_interval(log_losses(pairs.margins), prompts),
        "accuracy_by_rating_gap": {
            str(gap): accuracy(pairs.margins[pairs.rating_gaps == gap])
            for gap in sorted(set(pairs.rating_gaps.tolist()))
        },
    }


def length_baseline(training: ScoredPairs, validation: ScoredPairs) -> dict[str, object]:
    """What length alone would score: prefer longer or shorter, whichever training pairs favor."""
    longer_is_better = _credits(training.length_margins).sum() * 2 >= training.length_margins.size
    sign = 1 if longer_is_better else -1
    return {
        "prefers": "longer" if longer_is_better else "shorter",
        "accuracy": accuracy(sign * validation.length_margins),
    }


def _credits(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    """(P,) 1 where the better response leads, 0 where it trails, 0.5 where they are equal."""
    return (np.sign(margins) + 1) / 2
