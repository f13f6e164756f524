"""How well the question heads answer as labelers do. No torch here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import Leaf
from pipeline.preferences import wilson_interval


def question_metrics(
    logits: NDArray[np.float64], shares_of_yes: NDArray[np.float64]
) -> dict[str, object]:
    """Precision and recall of a yes at logit > 0, average precision and base rate of one question.

    What cannot be measured is None: precision where the head never says yes, recall where no
    labeler does.

    Args:
        logits: (N,) of yes.
        shares_of_yes: (N,) among the labelers who answered; exactly half is no answer.
    """
    decided = shares_of_yes != 0.5
    scores, truth = logits[decided], shares_of_yes[decided] > 0.5
    said = scores > 0
    right = int((said & truth).sum())
    return {
        "precision": _share(right, int(said.sum())),
        "recall": _share(right, int(truth.sum())),
        "average_precision": average_precision(scores, truth),
        "base_rate": _share(int(truth.sum()), len(truth)),
    }


def average_precision(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> float | None:
    """Σ over thresholds of (recall gained there) · (precision there); None where nothing is true.

    Equal scores share a threshold. A head that knows nothing has the base rate.
    """
    if not truth.any():
        return None
    order = np.argsort(-scores, kind="stable")
    last_of_equals = np.append(np.diff(scores[order]) != 0, True)
    hits = np.cumsum(truth[order])[last_of_equals]
    asked = np.flatnonzero(last_of_equals) + 1
    gained = np.diff(hits, prepend=0) / truth.sum()
    return float((gained * hits / asked).sum())


def _share(successes: int, trials: int) -> Leaf:
    if trials == 0:
        return Leaf(mean=None, ci95=None, n=0)
    return Leaf(mean=successes / trials, ci95=[*wilson_interval(successes, trials)], n=trials)
