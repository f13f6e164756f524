"""How far labelers agree: on the order of two responses, and in their ratings. No torch here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import krippendorff

from pipeline.preferences import clustered_wilson_interval, rankings_by_prompt
from pipeline.records import Ranking

LevelOfMeasurement = Literal["nominal", "ordinal", "interval", "ratio"]


# --- pairs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairwiseAgreement:
    """How often two labelers order the same two responses alike.

    Attributes:
        agreement: the share of ``pair_count`` that both ordered the same way.
        pair_count: comparisons that both labelers decided, over all pairs of labelers.
        tie_count: comparisons left out because at least one of the two labelers tied them.
        prompt_count: prompts that at least two labelers ranked.
        ci95: the interval of ``agreement`` with prompts as units, so that what is said about one
            prompt may depend on each other; None where a single prompt has such comparisons.
    """

    agreement: float
    pair_count: int
    tie_count: int
    prompt_count: int
    ci95: tuple[float, float] | None


def pairwise_agreement(rankings: Sequence[Ranking]) -> PairwiseAgreement | None:
    """Agreement on the prompts that labelers share; None when no pair was decided twice.

    The measure of InstructGPT, section 3.4 (72.6% there). It bounds what a reward model trained
    on these labels can be measured to reach. A labeler's later ranking of a prompt replaces an
    earlier one.
    """
    decided: dict[str, list[bool]] = {}
    tied = shared_prompts = 0
    for prompt, group in rankings_by_prompt(rankings).items():
        latest = {ranking.labeler: ranking for ranking in group}
        shared_prompts += len(latest) > 1
        for first, second in combinations(latest.values(), 2):
            for order_1, order_2 in _orders_of_common_pairs(first, second):
                if order_1 * order_2:
                    decided.setdefault(prompt, []).append(order_1 == order_2)
                else:
                    tied += 1
    if not decided:
        return None
    clusters = [(sum(alike), len(alike)) for alike in decided.values()]
    agreed, pairs = (sum(column) for column in zip(*clusters, strict=True))
    interval = clustered_wilson_interval(clusters)
    return PairwiseAgreement(agreed / pairs, pairs, tied, shared_prompts, interval)


def agreement_on(rankings: Sequence[Ranking], prompts: Collection[str]) -> PairwiseAgreement | None:
    """Agreement on the prompts with these texts alone; None when no pair was decided twice.

    On a reward model's validation prompts it is what the model's accuracy there is held against.
    """
    texts = frozenset(prompts)
    return pairwise_agreement([ranking for ranking in rankings if ranking.prompt in texts])


def _orders_of_common_pairs(first: Ranking, second: Ranking) -> list[tuple[int, int]]:
    """For each two responses that both rankings hold: 1, 0 or −1 as each of them orders the two."""
    ranks_1, ranks_2 = (
        {response.response_id: rank for response, rank in zip(r.responses, r.ranks, strict=True)}
        for r in (first, second)
    )
    common = [key for key in ranks_1 if key in ranks_2]
    return [
        (_sign(ranks_1[b] - ranks_1[a]), _sign(ranks_2[b] - ranks_2[a]))
        for a, b in combinations(common, 2)
    ]


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


# --- ratings ------------------------------------------------------------------------------------


def rating_alpha(rankings: Sequence[Ranking]) -> float | None:
    """Krippendorff's ordinal alpha of the 1–7 ratings; None when it cannot be measured.

    An item is one response to one prompt, a rater one labeler. 1 is perfect agreement, 0 what
    chance would give. A labeler's later rating of a response replaces an earlier one.
    """
    labelers = {labeler: i for i, labeler in enumerate(dict.fromkeys(r.labeler for r in rankings))}
    items: dict[tuple[str, str], list[float | None]] = {}
    for ranking in rankings:
        for response, rating in zip(ranking.responses, ranking.ratings, strict=True):
            key = (ranking.prompt, response.response_id)
            item = items.setdefault(key, [None] * len(labelers))
            item[labelers[ranking.labeler]] = rating
    return krippendorff_alpha(list(items.values()), "ordinal")


def krippendorff_alpha(
    items: Sequence[Sequence[float | str | None]], level: LevelOfMeasurement
) -> float | None:
    """Krippendorff's alpha of items × raters (None = not rated), or None when not measurable.

    It is not measurable when no item has two ratings, or when those that have hold one value
    only: then there is no disagreement that chance could have caused. Text values can only be
    compared at the nominal level.
    """
    # Items with fewer than two ratings have no part in alpha (Krippendorff 2011, step B).
    pairable = [[v for v in item if v is not None] for item in items]
    pairable = [values for values in pairable if len(values) > 1]
    distinct = dict.fromkeys(value for values in pairable for value in values)
    if len(distinct) < 2:
        return None
    domain = list(distinct) if level == "nominal" else sorted(distinct, key=float)
    counts = [[values.count(value) for value in domain] for values in pairable]
    numbers = range(len(domain)) if level == "nominal" else [float(value) for value in domain]
    return float(
        krippendorff.alpha(
            value_counts=counts, value_domain=list(numbers), level_of_measurement=level
        )
    )
