"""What is to be known of each labeler. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.judgments import Ints, Judgments
from pipeline.label_agreement import Comparisons
from pipeline.label_intervals import Estimate, ratio_of, share_of
from pipeline.labeler_findings import Finding
from pipeline.labeler_sums import Sums


@dataclass(frozen=True)
class LabelerReport:
    """One labeler's work. None is what cannot be measured; ``why_not`` says why, by the field's
    name (``question:KEY`` for the share of yes).

    Attributes:
        labeler: the pseudonym.
        submissions: how many tasks of the run they have judged.
        median_seconds: for one of them.
        agreement: the share of comparisons with others that both ordered alike.
        gold_agreement: the share of known pairs that they ordered so, ties half.
        rating_bias: points above the others' mean on the same responses.
        order_bias: rating points that a response gains by each place further down.
        rank_order_bias: ranks that a response gains (is ranked further up) by each place further
            down.
        confirmed: the share of submissions whose ranks contradict their ratings, confirmed.
        tied: the share of pairs that they tie.
        one_rating: the share of submissions that rate all responses alike.
        yes: by question, the share of yes among yes and no.
        findings: what a lead should look at; none before all checks are taken together.
    """

    labeler: str
    submissions: int
    median_seconds: float | None
    agreement: Estimate | None
    gold_agreement: Estimate | None
    rating_bias: Estimate | None
    order_bias: Estimate | None
    rank_order_bias: Estimate | None
    confirmed: float
    tied: float
    one_rating: float
    yes: Mapping[str, Estimate | None]
    why_not: Mapping[str, str]
    findings: Sequence[Finding] = field(default_factory=list[Finding])


def labeler_report(
    name: str,
    judgments: Judgments,
    comparisons: Comparisons,
    sums: Sums,
    own: Ints,
    gold_agreement: Estimate | None,
) -> LabelerReport:
    """The figures of one labeler.

    Args:
        judgments: of the run's tasks; ``comparisons`` and ``sums`` are of them.
        own: the labeler's submissions.
        gold_agreement: of the labeler, from elsewhere.
    """
    count = len(own)
    seconds = judgments.seconds[own]
    seconds = seconds[np.isfinite(seconds)]
    pairs = float(comparisons.pairs[own].sum())
    several = int(sums.several[own].sum())
    places = int(sums.places[own].sum())
    compared = sums.compared[own]
    figures = {
        "agreement": share_of(comparisons.alike[own], comparisons.decided[own]),
        "gold_agreement": gold_agreement,
        "rating_bias": ratio_of(sums.bias[own], compared, int(compared.sum())),
        "order_bias": ratio_of(sums.slope[own], sums.spread[own], places),
        "rank_order_bias": ratio_of(sums.rank_slope[own], sums.rank_spread[own], places),
    }
    yes = {key: share_of(sums.yes[key][own], sums.answered[key][own]) for key in sums.yes}
    shared = "no task shared with another labeler"
    reasons = {
        "agreement": "no pair that another labeler has decided, too" if compared.any() else shared,
        "gold_agreement": "no gold task judged",
        "rating_bias": shared,
        "order_bias": "the order of responses is not known",
        "rank_order_bias": "the order of responses is not known",
    }
    why_not = {key: reasons[key] for key, value in figures.items() if value is None}
    if not len(seconds):
        why_not["median_seconds"] = "times are not known"
    why_not |= {f"question:{key}": "not answered" for key, value in yes.items() if value is None}
    return LabelerReport(
        labeler=name,
        submissions=count,
        median_seconds=float(np.median(seconds)) if len(seconds) else None,
        agreement=figures["agreement"],
        gold_agreement=gold_agreement,
        rating_bias=figures["rating_bias"],
        order_bias=figures["order_bias"],
        rank_order_bias=figures["rank_order_bias"],
        confirmed=float(judgments.contradicts[own].mean()) if count else 0.0,
        tied=float(comparisons.tied[own].sum()) / pairs if pairs else 0.0,
        one_rating=float(sums.alike[own].sum()) / several if several else 0.0,
        yes=yes,
        why_not=why_not,
    )
