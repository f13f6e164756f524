"""Do the 95% intervals of the labeling report hold the truth 95% of the time?

    python -m benchmarks.label_intervals
    python -m benchmarks.label_intervals --quick

Four labelers of known noise, who tie, one of them severe and one of them swayed by the place of an
answer, judge 30, 60 and 200 tasks together and as many gold ones, 1,000 times. The truth is an
integral (``label_truth``). Beside it: the percentile bootstrap over tasks (1,000 draws).

The last line is one JSON object: ``coverage`` by figure and number of tasks, ``least``, ``most``
and ``mean`` of them, those of the bootstrap, ``n`` runs each.
"""

from __future__ import annotations

import argparse
import json
import platform
from itertools import combinations

import numpy as np

from benchmarks import label_truth
from benchmarks.label_simulation import Habits, simulate
from pipeline.judgments import Judgments
from pipeline.label_agreement import compare, pair_orders
from pipeline.label_alpha import RATINGS, coincidences_of, disagreement
from pipeline.label_intervals import Estimate
from pipeline.label_quality import QualityReport, quality_report

STEP = 0.4
LABELERS = [
    Habits(step=STEP),
    Habits(step=STEP, noise=1.2),
    Habits(step=STEP, severity=0.7),
    Habits(step=STEP, per_place=0.3),
]
NOISY, SEVERE, SWAYED = 1, 2, 3
TASKS = (30, 60, 200)
BOOTSTRAP_DRAWS = 1_000


def truth() -> dict[str, float]:
    """The figures over endlessly many tasks."""
    pairs = list(combinations(range(len(LABELERS)), 2))
    others = [habits for number, habits in enumerate(LABELERS) if number != SEVERE]
    gold = [label_truth.gold_agreement(habits) for habits in LABELERS]
    usual = float(np.mean([label_truth.mean_rating(habits) for habits in others]))
    return {
        "agreement": label_truth.agreement(LABELERS, pairs),
        "rating_alpha": label_truth.rating_alpha(LABELERS),
        "answer_alpha": label_truth.answer_alpha(LABELERS[0].slip),
        "gold_agreement": float(np.mean(gold)),
        "labeler_agreement": label_truth.agreement(LABELERS, [p for p in pairs if NOISY in p]),
        "labeler_gold_agreement": gold[NOISY],
        "rating_bias": label_truth.mean_rating(LABELERS[SEVERE]) - usual,
        "order_bias": label_truth.order_bias(LABELERS[SWAYED]),
        "rank_order_bias": label_truth.rank_order_bias(LABELERS[SWAYED]),
    }


def estimates(report: QualityReport) -> dict[str, Estimate | None]:
    """What the report says of the same."""
    return {
        "agreement": report.agreement,
        "rating_alpha": report.rating_alpha,
        "answer_alpha": report.question_alphas["bad"],
        "gold_agreement": report.gold_agreement,
        "labeler_agreement": report.labelers[NOISY].agreement,
        "labeler_gold_agreement": report.labelers[NOISY].gold_agreement,
        "rating_bias": report.labelers[SEVERE].rating_bias,
        "order_bias": report.labelers[SWAYED].order_bias,
        "rank_order_bias": report.labelers[SWAYED].rank_order_bias,
    }


def coverage(tasks: int, runs: int, true: dict[str, float]) -> dict[str, float]:
    """The share of runs whose interval holds the truth."""
    hits = dict.fromkeys(true, 0)
    for seed in range(runs):
        judgments = simulate(np.random.default_rng([tasks, seed]), LABELERS, 0, tasks, tasks)
        for name, estimate in estimates(quality_report(judgments)).items():
            assert estimate is not None
            assert estimate.ci95 is not None
            low, high = estimate.ci95
            hits[name] += low <= true[name] <= high
    return {name: count / runs for name, count in hits.items()}


def bootstrap_coverage(tasks: int, runs: int, true: dict[str, float]) -> dict[str, float]:
    """Of percentile bootstraps over tasks."""
    hits = {"agreement": 0, "rating_alpha": 0}
    for seed in range(runs):
        rng = np.random.default_rng([tasks, seed])
        judgments = simulate(rng, LABELERS, 0, tasks)
        weights = rng.multinomial(tasks, np.full(tasks, 1 / tasks), BOOTSTRAP_DRAWS)
        for name, draws in bootstrap(judgments, weights).items():
            low, high = np.quantile(draws, [0.025, 0.975])
            hits[name] += bool(low <= true[name] <= high)
    return {name: count / runs for name, count in hits.items()}


def bootstrap(judgments: Judgments, weights: np.ndarray) -> dict[str, np.ndarray]:
    """(draws,) the figures where each task counts as often as the weights (draws, tasks) say."""
    _, pairs = compare(judgments, pair_orders(judgments))
    _, coincidences = coincidences_of(judgments, judgments.rating - 1, RATINGS)
    return {
        "agreement": (weights @ pairs.alike) / (weights @ pairs.decided),
        "rating_alpha": 1 - disagreement(weights @ coincidences, ordinal=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true", help="200 runs")
    runs = 200 if parser.parse_args().quick else 1_000
    true = truth()
    found = {tasks: coverage(tasks, runs, true) for tasks in TASKS}
    bootstraps = {tasks: bootstrap_coverage(tasks, runs, true) for tasks in TASKS}
    print(f"{runs} runs; {platform.machine()}")
    print(f"{'':26}{'truth':>8}" + "".join(f"{tasks:>8}" for tasks in TASKS))
    for name, value in true.items():
        cells = "".join(f"{found[tasks][name]:>8.1%}" for tasks in TASKS)
        print(f"{name:26}{value:>8.3f}{cells}")
    for name in bootstraps[TASKS[0]]:
        cells = "".join(f"{bootstraps[tasks][name]:>8.1%}" for tasks in TASKS)
        print(f"{name + ', bootstrap':34}{cells}")
    each = [share for shares in found.values() for share in shares.values()]
    figures = {
        "coverage": found,
        "least": min(each),
        "most": max(each),
        "mean": float(np.mean(each)),
        "bootstrap": bootstraps,
        "n": runs,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
