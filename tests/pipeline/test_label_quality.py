"""The report of labeling quality: its counts, and why something cannot be measured."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from benchmarks.label_simulation import HONEST, Habits, simulate
from pipeline.judgments import Judgments, of_submissions
from pipeline.label_quality import INSTRUCTGPT_AGREEMENT, quality_report


def test_the_published_figures_are_those_of_the_paper() -> None:
    """72.6 ± 1.5% among training labelers, 77.3 ± 1.3% among held-out ones (section 3.4)."""
    assert INSTRUCTGPT_AGREEMENT == {"training": (72.6, 1.5), "held-out": (77.3, 1.3)}


def test_gold_tasks_count_in_gold_figures_alone() -> None:
    judgments = simulate(np.random.default_rng(0), [HONEST] * 3, 5, 5, gold_tasks=6)
    is_gold = np.zeros(len(judgments.task), dtype=np.bool_)
    is_gold[judgments.submission[np.isfinite(judgments.known_rating)]] = True
    with_gold = quality_report(judgments)
    without = quality_report(of_submissions(judgments, ~is_gold))
    assert with_gold.gold_agreement is not None
    assert with_gold.gold_agreement.n == 3 * 6 * 10
    for name in ("submissions", "tasks", "shared_tasks", "agreement", "rating_alpha", "flagged"):
        assert getattr(with_gold, name) == getattr(without, name), name


def test_what_several_say_of_a_gold_task_hangs_together() -> None:
    """Four labelers who always judge alike tell no more than one of them."""
    one = simulate(np.random.default_rng(2), [Habits(noise=np.inf)], 0, 0, gold_tasks=20)
    four = copies(one, 4)
    alone, together = quality_report(one).gold_agreement, quality_report(four).gold_agreement
    assert alone is not None
    assert together is not None
    assert together.value == pytest.approx(alone.value)
    assert together.ci95 == pytest.approx(alone.ci95)
    assert together.n == 4 * alone.n
    everybody = quality_report(four).drift[0], quality_report(one).drift[0]
    for of_four, of_one in zip(*(drift.periods for drift in everybody), strict=True):
        assert of_four.submissions == 4 * of_one.submissions == 20
        assert of_four.level is not None
        assert of_one.level is not None
        assert of_four.level.ci95 == pytest.approx(of_one.level.ci95)


def copies(judgments: Judgments, count: int) -> Judgments:
    """The judgments of the one labeler, said by ``count``."""
    submissions = len(judgments.task)
    columns = ("response", "shown_at", "rating", "rank", "known_rating", "known_rank")
    of_submission = ("task", "at", "seconds", "contradicts")
    shifted = [judgments.submission + submissions * number for number in range(count)]
    return replace(
        judgments,
        labelers=[f"labeler-{number}" for number in range(count)],
        labeler=np.repeat(np.arange(count), submissions),
        submission=np.concatenate(shifted),
        answers={"bad": np.tile(judgments.answers["bad"], count)},
        **{name: np.tile(getattr(judgments, name), count) for name in (*columns, *of_submission)},
    )


# --- disagreements and flags ----------------------------------------------------------------------


def test_disagreements_and_flags_are_those_of_a_plain_count() -> None:
    judgments = simulate(np.random.default_rng(1), [HONEST, Habits(noise=2.0), HONEST], 2, 8)
    report = quality_report(judgments)
    assert {found.task for found in report.disagreements} <= set(judgments.tasks[-8:])
    assert len(report.disagreements) == 8  # the noisy one disagrees on each
    for found in report.disagreements:
        task = judgments.tasks.index(found.task)
        submissions = np.flatnonzero(judgments.task == task)
        ranks = [judgments.rank[judgments.submission == number] for number in submissions]
        differ = count = 0
        for mine, theirs in combinations(ranks, 2):
            for a, b in combinations(range(5), 2):
                count += 1
                differ += (mine[a] < mine[b]) != (theirs[a] < theirs[b])
        assert (found.share, found.comparisons, found.labelers) == (differ / count, count, 3)
    shares = [found.share for found in report.disagreements]
    assert shares == sorted(shares, reverse=True)
    flags = report.flagged["bad"]
    answers = judgments.answers["bad"]
    assert (flags.yes, flags.answered) == (answers.sum(), len(answers))
    marked: Counter[tuple[str, int]] = Counter()
    for row in np.flatnonzero(answers):
        task = int(judgments.task[judgments.submission[row]])
        marked[judgments.tasks[task], int(judgments.response[row])] += 1
    assert {(f.task, f.response): f.yes for f in flags.responses} == dict(marked)
    assert [f.yes for f in flags.responses] == sorted(marked.values(), reverse=True)
    shared = set(judgments.tasks[-8:])
    assert {f.labelers for f in flags.responses if f.task in shared} == {3}
    assert {f.labelers for f in flags.responses if f.task not in shared} == {1}


def test_long_lists_hold_the_worst_fifty() -> None:
    judgments = simulate(np.random.default_rng(1), [HONEST, Habits(noise=2.0)], 0, 150)
    report = quality_report(judgments)
    rank = judgments.rank.reshape(-1, 5)[np.lexsort((judgments.labeler, judgments.task))]
    first, second = np.triu_indices(5, 1)
    order = np.sign(rank[:, first] - rank[:, second]).reshape(150, 2, 10)
    shares = np.sort((order[:, 0] != order[:, 1]).mean(axis=1))[::-1]
    assert [found.share for found in report.disagreements] == pytest.approx(shares[:50].tolist())
    assert len(report.flagged["bad"].responses) == 50


# --- what cannot be measured ----------------------------------------------------------------------


def empty() -> Judgments:
    judgments = simulate(np.random.default_rng(0), [HONEST], 1, 0)
    return of_submissions(judgments, np.zeros(1, dtype=np.bool_))


def tied() -> Judgments:
    judgments = simulate(np.random.default_rng(0), [HONEST] * 2, 0, 6)
    ones = np.ones_like(judgments.rank)
    return replace(judgments, rank=ones, rating=4 * ones, answers={"bad": 0.0 * ones})


def apart() -> Judgments:
    return simulate(np.random.default_rng(0), [HONEST] * 2, 6, 0)


def alone() -> Judgments:
    return simulate(np.random.default_rng(0), [HONEST], 0, 6)


@pytest.mark.parametrize(
    ("judgments", "reason"),
    [
        (empty(), "nothing is judged yet"),
        (alone(), "one labeler only"),
        (apart(), "no task was judged by two labelers"),
    ],
    ids=["empty", "alone", "apart"],
)
def test_what_cannot_be_measured_says_why(judgments: Judgments, reason: str) -> None:
    report = quality_report(judgments)
    assert report.agreement is None
    assert report.rating_alpha is None
    assert report.question_alphas == {"bad": None}
    names = ("agreement", "rating_alpha", "question:bad")
    assert {report.why_not[name] for name in names} == {reason}
    assert report.why_not["gold_agreement"] == "no gold task was judged"
    assert report.findings == []


def test_all_ties_say_why() -> None:
    report = quality_report(tied())
    assert (report.agreement, report.rating_alpha, report.ties) == (None, None, 60)
    assert report.why_not["agreement"] == "of each two judgments one ties everything"
    assert report.why_not["rating_alpha"] == "all ratings are the same"
    assert report.why_not["question:bad"] == "all answers are the same"


def test_a_question_that_no_two_have_answered_says_so() -> None:
    judgments = simulate(np.random.default_rng(0), [HONEST] * 2, 0, 6)
    of_first = judgments.labeler[judgments.submission] == 0
    answers = np.where(of_first, judgments.answers["bad"], np.nan)
    report = quality_report(replace(judgments, answers={"bad": answers}))
    assert report.question_alphas == {"bad": None}
    assert report.why_not["question:bad"] == "no response was answered by two labelers"
    assert report.agreement is not None


def test_gold_tasks_whose_known_ranks_tie_say_so() -> None:
    judgments = simulate(np.random.default_rng(0), [HONEST] * 2, 2, 0, 3)
    ties = np.where(np.isfinite(judgments.known_rank), 1.0, np.nan)
    report = quality_report(replace(judgments, known_rank=ties))
    assert report.gold_agreement is None
    assert report.why_not["gold_agreement"] == "what is known of gold tasks ties everything"


def test_hundred_thousand_submissions_take_less_than_a_second() -> None:
    """Of five responses each, by forty labelers, every second task shared; a bound that only a
    loop over submissions or tasks would break."""
    labelers = [HONEST] * 40
    judgments = simulate(np.random.default_rng(0), labelers, 1_250, 1_250)
    assert len(judgments.task) == 100_000
    times: list[float] = []
    for _ in range(3):
        begin = time.process_time()
        quality_report(judgments)
        times.append(time.process_time() - begin)
    assert min(times) < 1.0
