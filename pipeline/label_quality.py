"""Whether labels can be trusted: everything that is measured of judgments, in one report.

No torch here: the dashboard and ``align labels stats`` show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.judgments import Ints, Judgments, of_submissions, response_keys, rows_of, sum_by
from pipeline.label_agreement import (
    Comparisons,
    TaskPairs,
    compare,
    pair_orders,
    pairwise_agreement,
)
from pipeline.label_alpha import answer_alpha, rating_alpha
from pipeline.label_drift import Drift, drifts
from pipeline.label_intervals import Estimate, share_of
from pipeline.labeler_findings import Finding, checks_of, findings_of
from pipeline.labeler_report import LabelerReport, labeler_report
from pipeline.labeler_sums import sums_of

# Percent, ± as published: of those who labeled to train, and of others (Ouyang et al. 2022, section
# 3.4).
INSTRUCTGPT_AGREEMENT = {"training": (72.6, 1.5), "held-out": (77.3, 1.3)}
MOST_LISTED = 50
GRAVEST_FIRST = ("gold", "agreement", "one_rating", "order", "speed", "bias", "drift")


@dataclass(frozen=True)
class Disagreement:
    """A task, and the share of ``comparisons`` in which two of its labelers order two responses
    differently."""

    task: str
    share: float
    comparisons: int
    labelers: int


@dataclass(frozen=True)
class FlaggedResponse:
    """A response, by its canonical place in its task, that ``yes`` of ``labelers`` have marked."""

    task: str
    response: int
    yes: int
    labelers: int


@dataclass(frozen=True)
class Flagged:
    """How often a question was answered with yes, among yes and no, and on which responses."""

    yes: int
    answered: int
    responses: list[FlaggedResponse]


@dataclass(frozen=True)
class QualityReport:
    """What is measured of the judgments of a run. None is what cannot be measured; ``why_not`` says
    why, by the field's name (``question:KEY`` for a question's alpha).

    Attributes:
        submissions: judgments of the run's tasks.
        tasks: how many tasks have any.
        shared_tasks: how many have those of two labelers at least.
        agreement: the share of comparisons of two labelers that both order alike; n comparisons.
        ties: comparisons left out, since one of the two ties them.
        rating_alpha: Krippendorff's ordinal alpha; n responses that were rated twice at least.
        question_alphas: Krippendorff's nominal alpha of each question.
        gold_agreement: the share of known pairs ordered so, ties half; n pairs.
        labelers: by pseudonym.
        drift: everybody's first.
        disagreements: most disputed first.
        flagged: by question.
        findings: the gravest first.
    """

    submissions: int
    tasks: int
    shared_tasks: int
    agreement: Estimate | None
    ties: int
    rating_alpha: Estimate | None
    question_alphas: Mapping[str, Estimate | None]
    gold_agreement: Estimate | None
    labelers: list[LabelerReport]
    drift: list[Drift]
    disagreements: list[Disagreement]
    flagged: Mapping[str, Flagged]
    findings: list[Finding]
    why_not: Mapping[str, str]


def quality_report(judgments: Judgments) -> QualityReport:
    """All there is to say. Tasks with a known rating are gold: they tell of labelers alone."""
    known = np.zeros(len(judgments.task), dtype=np.bool_)
    known[judgments.submission[np.isfinite(judgments.known_rating)]] = True
    of_run, gold = of_submissions(judgments, ~known), of_submissions(judgments, known)
    comparisons, pairs = compare(of_run, pair_orders(of_run))
    gold_comparisons, _ = compare(gold, pair_orders(gold))
    sums = sums_of(of_run)
    parts = [rows_of(part.labeler, len(judgments.labelers)) for part in (of_run, gold)]
    own = {
        name: (rows, gold_rows)
        for name, rows, gold_rows in sorted(zip(judgments.labelers, *parts, strict=True))
        if len(rows) or len(gold_rows)
    }
    drift, trends = drifts(of_run, sums, gold, gold_comparisons, own)
    both = (comparisons, gold_comparisons)
    findings = findings_of([*checks_of(of_run, gold, both, pairs, sums, own), *trends])
    labelers = [
        replace(
            labeler_report(name, of_run, comparisons, sums, rows, _known(gold_comparisons, found)),
            findings=[finding for finding in findings if finding.labeler == name],
        )
        for name, (rows, found) in own.items()
    ]
    labelers_of_task = np.bincount(of_run.task, minlength=len(of_run.tasks))
    figures = {
        "agreement": pairwise_agreement(pairs),
        "rating_alpha": rating_alpha(of_run),
        "gold_agreement": _gold_agreement(gold, gold_comparisons),
    }
    alphas = {key: answer_alpha(of_run, key) for key in of_run.answers}
    return QualityReport(
        submissions=len(of_run.task),
        tasks=int((labelers_of_task > 0).sum()),
        shared_tasks=int((labelers_of_task > 1).sum()),
        agreement=figures["agreement"],
        ties=round(float(pairs.ties.sum())),
        rating_alpha=figures["rating_alpha"],
        question_alphas=alphas,
        gold_agreement=figures["gold_agreement"],
        labelers=labelers,
        drift=[replace(one, finding=_drift_of(findings, one.labeler)) for one in drift],
        disagreements=_disagreements(of_run, pairs, labelers_of_task),
        flagged={key: _flagged(of_run, key) for key in of_run.answers},
        findings=sorted(findings, key=lambda finding: GRAVEST_FIRST.index(finding.kind)),
        why_not=_reasons(of_run, gold, figures, alphas, drift),
    )


def _known(comparisons: Comparisons, own: Ints) -> Estimate | None:
    """One labeler's agreement with what is known: each gold task is judged once."""
    return share_of(comparisons.known_alike[own], comparisons.known_decided[own])


def _gold_agreement(gold: Judgments, comparisons: Comparisons) -> Estimate | None:
    """Everybody's: what several labelers say of a gold task hangs together."""
    alike, decided = (
        sum_by(gold.task, column, len(gold.tasks))
        for column in (comparisons.known_alike, comparisons.known_decided)
    )
    return share_of(alike, decided)


def _drift_of(findings: Sequence[Finding], labeler: str | None) -> Finding | None:
    found = (one for one in findings if one.kind == "drift" and one.labeler == labeler)
    return next(found, None)


def _disagreements(
    judgments: Judgments, pairs: TaskPairs, labelers: NDArray[np.int64]
) -> list[Disagreement]:
    differently = pairs.decided - pairs.alike
    disputed = np.flatnonzero(differently)
    share = differently[disputed] / pairs.decided[disputed]
    order = disputed[np.lexsort((disputed, -differently[disputed], -share))][:MOST_LISTED]
    return [
        Disagreement(
            task=judgments.tasks[task],
            share=float(differently[task] / pairs.decided[task]),
            comparisons=round(float(pairs.decided[task])),
            labelers=int(labelers[task]),
        )
        for task in map(int, order)
    ]


def _flagged(judgments: Judgments, question: str) -> Flagged:
    answers = judgments.answers[question]
    answered = np.isfinite(answers)
    keys = response_keys(judgments)[answered]
    yes, labelers = np.bincount(keys, weights=answers[answered]), np.bincount(keys)
    marked = np.flatnonzero(yes)
    order = marked[np.lexsort((marked, labelers[marked], -yes[marked]))][:MOST_LISTED]
    most = int(judgments.response.max(initial=0)) + 1
    found = [
        FlaggedResponse(
            task=judgments.tasks[key // most],
            response=key % most,
            yes=int(yes[key]),
            labelers=int(labelers[key]),
        )
        for key in map(int, order)
    ]
    return Flagged(round(float(yes.sum())), int(answered.sum()), found)


def _reasons(
    judgments: Judgments,
    gold: Judgments,
    figures: Mapping[str, Estimate | None],
    alphas: Mapping[str, Estimate | None],
    drift: Sequence[Drift],
) -> dict[str, str]:
    """Why what is None cannot be measured."""
    shared = _nothing_shared(judgments)
    reasons: dict[str, str] = {}
    if figures["agreement"] is None:
        reasons["agreement"] = shared or "of each two judgments one ties everything"
    if figures["rating_alpha"] is None:
        reasons["rating_alpha"] = shared or "all ratings are the same"
    for key, alpha in alphas.items():
        if alpha is None:
            reasons[f"question:{key}"] = shared or _no_alpha(judgments, key)
    if figures["gold_agreement"] is None:
        judged = "what is known of gold tasks ties everything"
        reasons["gold_agreement"] = judged if len(gold.task) else "no gold task was judged"
    if not drift:
        reasons["drift"] = "too few judgments of gold or shared tasks"
    return reasons


def _nothing_shared(judgments: Judgments) -> str:
    """Why nothing can be compared; empty where something can."""
    if not len(judgments.task):
        return "nothing is judged yet"
    if len(np.unique(judgments.labeler)) < 2:
        return "one labeler only"
    if np.bincount(judgments.task).max() < 2:
        return "no task was judged by two labelers"
    return ""


def _no_alpha(judgments: Judgments, question: str) -> str:
    """Why a question has none although tasks are shared."""
    answered = response_keys(judgments)[np.isfinite(judgments.answers[question])]
    if len(np.unique(answered)) == len(answered):
        return "no response was answered by two labelers"
    return "all answers are the same"
