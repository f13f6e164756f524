"""Labelers whose noise, bias and habits are known, as columns of judgments.

A response has a worth, drawn anew for each task; a labeler feels it with noise of their own, adds
what their habits add, rates by rounding and ranks by what they feel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.judgments import Judgments

K = 5
WORTH = (4.0, 1.5)  # mean and standard deviation
YES_BELOW = 2.5  # worth below which the question deserves a yes
DAY = 86_400.0


@dataclass(frozen=True)
class Habits:
    """One labeler.

    Attributes:
        noise: standard deviation of what they feel, in rating points; infinite judges blindly.
        severity: points that they take off.
        per_place: points that they add for each place further down.
        seconds: that a task takes them, typically.
        one_rating: the share of tasks in which they rate everything 4.
        drift: points that they add by and by, from the first task to the last.
        tiring: noise that comes by and by, in points.
        slip: the share of answers to the question that are the wrong way round.
        step: responses are tied where what is felt lies in the same step of so many points; 0
            ties none.
    """

    noise: float = 0.8
    severity: float = 0.0
    per_place: float = 0.0
    seconds: float = 60.0
    one_rating: float = 0.0
    drift: float = 0.0
    tiring: float = 0.0
    slip: float = 0.1
    step: float = 0.0


HONEST = Habits()


def simulate(
    rng: np.random.Generator,
    labelers: list[Habits],
    own_tasks: int,
    shared_tasks: int,
    gold_tasks: int = 0,
) -> Judgments:
    """Everybody's judgments: ``own_tasks`` each that nobody else has, and those that all have."""
    count = len(labelers)
    tasks = count * own_tasks + shared_tasks + gold_tasks
    worth = rng.normal(*WORTH, size=(tasks, K))
    common = np.arange(count * own_tasks, tasks)
    columns: list[dict[str, np.ndarray]] = []
    for number, habits in enumerate(labelers):
        task = np.concatenate([np.arange(number * own_tasks, (number + 1) * own_tasks), common])
        rng.shuffle(task)
        columns.append({"task": task, "labeler": np.full(len(task), number)})
        columns[-1] |= _judged(rng, habits, worth[task])
    merged = {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
    size = len(merged["task"])
    is_gold = (
        np.repeat(merged["task"] >= tasks - gold_tasks, K) if gold_tasks else np.zeros(size * K)
    )
    known = worth[merged["task"]]
    known_rank = 1 + (known[:, :, None] < known[:, None, :]).sum(2)
    return Judgments(
        labelers=[f"labeler-{number:02}" for number in range(count)],
        tasks=[f"task-{number}" for number in range(tasks)],
        task=merged["task"],
        labeler=merged["labeler"],
        at=merged["at"],
        seconds=merged["seconds"],
        contradicts=np.zeros(size, dtype=np.bool_),
        submission=np.repeat(np.arange(size), K),
        response=np.tile(np.arange(K), size),
        shown_at=merged["place"].ravel().astype(float),
        rating=merged["rating"].ravel(),
        rank=merged["rank"].ravel(),
        answers={"bad": merged["bad"].ravel().astype(float)},
        known_rating=np.where(is_gold, _rounded(known).ravel(), np.nan),
        known_rank=np.where(is_gold, known_rank.ravel(), np.nan),
    )


def _judged(rng: np.random.Generator, habits: Habits, worth: np.ndarray) -> dict[str, np.ndarray]:
    size = len(worth)
    place = np.argsort(rng.random((size, K)), axis=1)
    if np.isinf(habits.noise):
        felt = rng.normal(*WORTH, size=(size, K))
    else:
        noise = habits.noise + habits.tiring * np.linspace(0, 1, size)[:, None]
        felt = worth + noise * rng.standard_normal((size, K))
    felt = felt - habits.severity + habits.per_place * (place - (K - 1) / 2)
    felt = felt + habits.drift * np.linspace(0, 1, size)[:, None]
    rating = _rounded(felt)
    lazy = rng.random(size) < habits.one_rating
    rating = np.where(lazy[:, None], 4, rating)
    felt = np.where(lazy[:, None], 4.0, felt)
    if habits.step:
        felt = np.floor(felt / habits.step)
    slips = rng.random((size, K)) < habits.slip
    return {
        "place": place,
        "rating": rating,
        "rank": 1 + (felt[:, :, None] < felt[:, None, :]).sum(2),
        "bad": (worth < YES_BELOW) != slips,
        "seconds": habits.seconds * rng.lognormal(0, 0.4, size),
        "at": 1.7e9 + DAY * np.arange(size),
    }


def _rounded(felt: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(felt + 0.5), 1, 7).astype(np.int64)
