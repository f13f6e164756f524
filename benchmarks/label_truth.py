"""What the measures of labeling come to over endlessly many tasks, for the labelers of
label_simulation: by integrals over a response's worth, without any judgments.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations

import numpy as np
from scipy.special import ndtr  # pyright: ignore[reportMissingTypeStubs]

from benchmarks.label_simulation import WORTH, YES_BELOW, Habits, K

NODES = 801
REACH = 7.0  # standard deviations on both sides
RATINGS = np.arange(1, 8)
PLACES = np.arange(K) - (K - 1) / 2


def worths() -> tuple[np.ndarray, np.ndarray]:
    """(NODES,) worths and the weights with which they occur."""
    z = np.linspace(-REACH, REACH, NODES)
    weights = np.exp(-(z**2) / 2)
    return WORTH[0] + WORTH[1] * z, weights / weights.sum()


def felt_below(habits: Habits, bound: np.ndarray, place: float) -> np.ndarray:
    """(NODES, B) the probability that what is felt of each worth lies below each of B bounds."""
    worth = worths()[0][:, None]
    mean = worth - habits.severity + habits.per_place * place
    return ndtr((bound[None, :] - mean) / habits.noise)


def rating_at(habits: Habits, place: float) -> np.ndarray:
    """(NODES, 7) the probability of each rating at this place, centered."""
    below = felt_below(habits, RATINGS[:-1] + 0.5, place)
    ends = np.zeros((NODES, 1)), np.ones((NODES, 1))
    return np.diff(np.concatenate([ends[0], below, ends[1]], axis=1), axis=1)


def ratings_of(habits: Habits) -> np.ndarray:
    """(NODES, 7) the same over all places."""
    return np.mean([rating_at(habits, place) for place in PLACES], axis=0)


def better(habits: Habits, place: float, other: float) -> np.ndarray:
    """(NODES, NODES) the probability that the first worth, at ``place``, is ranked above the
    second, at ``other``."""
    if not habits.step:
        worth = worths()[0]
        gap = worth[:, None] - worth[None, :] + habits.per_place * (place - other)
        return ndtr(gap / (habits.noise * np.sqrt(2)))
    bounds = np.arange(-12, 21, habits.step)
    above = np.diff(felt_below(habits, bounds, place), axis=1)
    return above @ felt_below(habits, bounds[:-1], other).T


def orders_of(habits: Habits) -> tuple[np.ndarray, np.ndarray]:
    """(NODES, NODES) the probabilities that the first is ranked above the second and below it, at
    two places drawn by lot."""
    places = list(permutations(PLACES, 2)) if habits.per_place else [(0.0, 0.0)]
    above = np.mean([better(habits, *pair) for pair in places], axis=0)
    return above, above.T


def mean_of(joint: np.ndarray) -> float:
    """Over two worths."""
    weights = worths()[1]
    return float(weights @ joint @ weights)


def agreement(labelers: Sequence[Habits], among: Sequence[tuple[int, int]]) -> float:
    """The share of comparisons that two labelers order alike, over these pairs of labelers."""
    orders = [orders_of(habits) for habits in labelers]
    alike = decided = 0.0
    for first, second in among:
        (above, below), (above_2, below_2) = orders[first], orders[second]
        alike += mean_of(above * above_2 + below * below_2)
        decided += mean_of((above + below) * (above_2 + below_2))
    return alike / decided


def gold_agreement(habits: Habits) -> float:
    """The share of pairs ordered as their worths are, ties half."""
    worth, weights = worths()
    above, below = orders_of(habits)
    sign = np.sign(worth[:, None] - worth[None, :])
    # On the diagonal, where the two are worth the same, either order is right half of the time.
    return float(weights @ (0.5 * (1 + sign * (above - below))) @ weights)


def rating_alpha(labelers: Sequence[Habits]) -> float:
    """Krippendorff's ordinal alpha where all labelers rate all responses."""
    each = [ratings_of(habits) for habits in labelers]
    weights = worths()[1][:, None]
    both = np.zeros((7, 7))
    for first, second in permutations(range(len(labelers)), 2):
        both += (weights * each[first]).T @ each[second]
    both /= both.sum()
    share = both.sum(axis=0)
    distance = np.zeros((7, 7))
    for low, high in combinations(range(7), 2):
        between = share[low : high + 1].sum() - (share[low] + share[high]) / 2
        distance[low, high] = distance[high, low] = between**2
    return 1 - float((both * distance).sum() / (np.outer(share, share) * distance).sum())


def answer_alpha(slip: float) -> float:
    """Krippendorff's nominal alpha of the question, where all labelers slip as often."""
    bad = float(ndtr((YES_BELOW - WORTH[0]) / WORTH[1]))
    yes = bad * (1 - slip) + (1 - bad) * slip
    differently = 2 * slip * (1 - slip)
    return 1 - differently / (2 * yes * (1 - yes))


def mean_rating(habits: Habits, place: float | None = None) -> float:
    found = ratings_of(habits) if place is None else rating_at(habits, place)
    return float(worths()[1] @ found @ RATINGS)


def order_bias(habits: Habits) -> float:
    """Rating points by each place further down."""
    means = np.array([mean_rating(habits, place) for place in PLACES])
    return float((PLACES * means).sum() / (PLACES**2).sum())


def rank_order_bias(habits: Habits) -> float:
    """Ranks gained by each place further down."""
    gained = [
        sum(-mean_of(better(habits, other, place)) for other in PLACES if other != place)
        for place in PLACES
    ]
    return float((PLACES * gained).sum() / (PLACES**2).sum())
