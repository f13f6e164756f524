"""Agreement on columns against the measures on rankings, a double loop and published examples."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from benchmarks.label_simulation import HONEST, Habits, simulate
from pipeline.agreement import pairwise_agreement as agreement_of_rankings
from pipeline.judgments import Judgments, of_submissions
from pipeline.label_agreement import (
    compare,
    pair_orders,
    pairwise_agreement,
)
from pipeline.records import Ranking

LABELERS = [HONEST, Habits(noise=1.5), Habits(severity=1), Habits(one_rating=0.3)]


def ragged(seed: int) -> Judgments:
    """Some own, some shared tasks; some submissions left out, so that overlap differs."""
    rng = np.random.default_rng(seed)
    judgments = simulate(rng, LABELERS, own_tasks=3, shared_tasks=12, gold_tasks=4)
    return of_submissions(judgments, rng.random(len(judgments.task)) < 0.7)


def rankings_of(judgments: Judgments) -> list[Ranking]:
    found: list[Ranking] = []
    for submission, task in enumerate(judgments.task):
        rows = np.flatnonzero(judgments.submission == submission)
        name = judgments.tasks[task]
        labeler = judgments.labelers[judgments.labeler[submission]]
        found.append(
            Ranking.model_validate(
                {
                    "submission_id": f"{name} {labeler}",
                    "prompt_id": name,
                    "prompt": name,
                    "labeler": labeler,
                    "responses": [
                        {
                            "response_id": f"{name} {judgments.response[row]}",
                            "text": "",
                            "policy": "p",
                        }
                        for row in rows
                    ],
                    "ratings": judgments.rating[rows].tolist(),
                    "ranks": judgments.rank[rows].tolist(),
                    "confirmed_contradiction": True,
                }
            )
        )
    return found


@pytest.mark.parametrize("seed", range(5))
def test_it_is_what_the_rankings_say(seed: int) -> None:
    judgments = ragged(seed)
    _, pairs = compare(judgments, pair_orders(judgments))
    found, expected = pairwise_agreement(pairs), agreement_of_rankings(rankings_of(judgments))
    assert found is not None
    assert expected is not None
    assert found.value == pytest.approx(expected.agreement, abs=1e-12)
    assert (found.n, round(pairs.ties.sum())) == (expected.pair_count, expected.tie_count)
    assert found.ci95 == pytest.approx(expected.ci95, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_each_submission_against_the_others_by_a_double_loop(seed: int) -> None:
    judgments = ragged(seed)
    comparisons, _ = compare(judgments, pair_orders(judgments))
    ranks = [judgments.rank[judgments.submission == s] for s in range(len(judgments.task))]
    known = [judgments.known_rank[judgments.submission == s] for s in range(len(judgments.task))]
    for one, task in enumerate(judgments.task):
        alike = decided = right = decidable = tied = 0.0
        for a, b in combinations(range(len(ranks[one])), 2):
            mine = np.sign(ranks[one][b] - ranks[one][a])
            tied += mine == 0
            truth = known[one][b] - known[one][a]
            if np.isfinite(truth) and truth:
                decidable += 1
                right += 0.5 if mine == 0 else float(mine == np.sign(truth))
            for other in np.flatnonzero(judgments.task == task):
                theirs = np.sign(ranks[other][b] - ranks[other][a])
                if other != one and mine and theirs:
                    decided += 1
                    alike += mine == theirs
        assert comparisons.alike[one] == alike
        assert comparisons.decided[one] == decided
        assert comparisons.known_alike[one] == right
        assert comparisons.known_decided[one] == decidable
        assert comparisons.tied[one] == tied


def test_the_order_of_responses_within_a_submission_changes_nothing() -> None:
    judgments = ragged(0)
    rng = np.random.default_rng(1)
    order = np.lexsort((rng.random(len(judgments.submission)), judgments.submission))
    columns = ("response", "shown_at", "rating", "rank", "known_rating", "known_rank")
    mixed = replace(
        judgments,
        **{name: getattr(judgments, name)[order] for name in columns},
        answers={key: values[order] for key, values in judgments.answers.items()},
    )
    for found, expected in zip(
        compare(mixed, pair_orders(mixed)), compare(judgments, pair_orders(judgments)), strict=True
    ):
        for name in vars(expected):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name
