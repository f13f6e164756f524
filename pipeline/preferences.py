"""From ratings to ranks to pairs, and how far labelers agree. No torch here.

A pair is (better, worse) and comes from ranks alone; ratings only tell how wide the gap is. Tied
ranks make no pair: a tie says that the labeler saw no difference, not that either one won.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import krippendorff

from pipeline.records import RankedResponse, Ranking

Pair = tuple[int, int]
LevelOfMeasurement = Literal["nominal", "ordinal", "interval", "ratio"]


# --- ratings, ranks, pairs ----------------------------------------------------------------------


def ranks_from_ratings(ratings: Sequence[float]) -> list[int]:
    """Dense ranks, 1 = the highest rating; equal ratings share a rank and no rank is left out."""
    tiers = sorted(set(ratings), reverse=True)
    return [tiers.index(rating) + 1 for rating in ratings]


def pairs_from_ranks(ranks: Sequence[int]) -> list[Pair]:
    """``(better_index, worse_index)`` for every two responses that do not tie.

    At most K(K − 1)/2 pairs, ordered by better and then worse index.
    """
    size = range(len(ranks))
    return [(better, worse) for better in size for worse in size if ranks[better] < ranks[worse]]


def tie_count(ranks: Sequence[int]) -> int:
    """The number of unordered pairs of responses that share a rank."""
    return sum(first == second for first, second in combinations(ranks, 2))


def contradiction_count(ratings: Sequence[int], ranks: Sequence[int]) -> int:
    """The number of pairs whose better response, by rank, has the lower rating."""
    return sum(ratings[better] < ratings[worse] for better, worse in pairs_from_ranks(ranks))


@dataclass(frozen=True)
class PromptComparisons:
    """All that labelers said about the responses to one prompt: one element of a K-wise batch.

    Several rankings of a prompt are pooled: a response that two labelers saw stands here once,
    and a pair that they both ordered stands in ``pairs`` twice, perhaps in both directions.
    Labelers are only pooled, never compared: each pair lies within one ranking.

    Attributes:
        prompt: the text of the prompt.
        responses: the distinct responses, in order of first appearance.
        pairs: ``(better, worse)`` as indices into ``responses``.
        rating_gaps: for each pair the better minus the worse rating; negative where a labeler
            confirmed a rank that contradicts the rating, None where there are no ratings.
        labelers: for each pair the pseudonym of who ordered it.
        ties: ``(first, second)``, first < second, that a labeler tied; once for each labeler.
        answers: for each response the share of yes to each question, among the labelers who
            answered it with yes or no; a question that nobody answered is absent.
        group: what a split keeps together; the prompt itself where nothing else is said.
    """

    prompt: str
    responses: tuple[RankedResponse, ...]
    pairs: tuple[Pair, ...]
    rating_gaps: tuple[int | None, ...]
    labelers: tuple[str, ...] = ()
    ties: tuple[Pair, ...] = ()
    answers: tuple[Mapping[str, float], ...] = ()
    group: str = ""


def comparisons_by_prompt(rankings: Sequence[Ranking]) -> list[PromptComparisons]:
    """One entry for each distinct prompt text, in order of first appearance.

    Prompts on which every labeler tied all responses are kept, with no pairs.
    """
    return [_pool(prompt, group) for prompt, group in _group_by_prompt(rankings).items()]


def _pool(prompt: str, rankings: Sequence[Ranking]) -> PromptComparisons:
    index_of: dict[RankedResponse, int] = {}
    pairs: list[Pair] = []
    gaps: list[int] = []
    labelers: list[str] = []
    ties: list[Pair] = []
    given: list[dict[str, list[bool]]] = []
    for ranking in rankings:
        indices = [index_of.setdefault(r, len(index_of)) for r in ranking.responses]
        for better, worse in pairs_from_ranks(ranking.ranks):
            pairs.append((indices[better], indices[worse]))
            gaps.append(ranking.ratings[better] - ranking.ratings[worse])
            labelers.append(ranking.labeler)
        for first, second in combinations(range(len(indices)), 2):
            if ranking.ranks[first] == ranking.ranks[second]:
                low, high = sorted((indices[first], indices[second]))
                ties.append((low, high))
        given += [{} for _ in range(len(index_of) - len(given))]
        for question, answers in ranking.answers.items():
            for index, answer in zip(indices, answers, strict=True):
                if answer is not None:
                    given[index].setdefault(question, []).append(answer)
    shares = [{name: sum(yes) / len(yes) for name, yes in answers.items()} for answers in given]
    return PromptComparisons(
        prompt, tuple(index_of), tuple(pairs), tuple(gaps), tuple(labelers), tuple(ties),
        tuple(shares), group=prompt,
    )  # fmt: skip


def split_comparisons(
    comparisons: Sequence[PromptComparisons], fraction: float, seed: int
) -> tuple[list[PromptComparisons], list[PromptComparisons]]:
    """``(training, validation)``: the comparisons divided by a hash of their group.

    ``fraction`` counts groups, rounded to the nearest but at least one on either side; which groups
    those are depends on their names and ``seed``, not on the order of the rows.

    Raises:
        ValueError: fewer than two groups, ``fraction`` outside (0, 1), or one prompt in two groups.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction {fraction} is not between 0 and 1")
    groups = sorted({one.group for one in comparisons}, key=lambda group: _hash(group, seed))
    if len(groups) < 2:
        raise ValueError(f"{len(groups)} distinct prompts cannot be divided")
    size = min(max(round(fraction * len(groups)), 1), len(groups) - 1)
    held_out = frozenset(groups[:size])
    training = [one for one in comparisons if one.group not in held_out]
    validation = [one for one in comparisons if one.group in held_out]
    if {one.prompt for one in training} & {one.prompt for one in validation}:
        raise ValueError("one prompt stands in two groups")
    return training, validation


def split_by_prompt(
    rankings: Sequence[Ranking], fraction: float, seed: int
) -> tuple[list[Ranking], list[Ranking]]:
    """``(training, validation)``: the rankings divided by a hash of the prompt's text.

    All rankings of equal prompts fall on one side, so that no validation prompt was trained on.
    ``fraction`` counts prompts, rounded to the nearest but at least one on either side; which
    prompts those are depends on their texts and ``seed``, not on the order of the rows.

    Raises:
        ValueError: fewer than two distinct prompts, or ``fraction`` outside (0, 1).
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction {fraction} is not between 0 and 1")
    prompts = sorted(_group_by_prompt(rankings), key=lambda prompt: _hash(prompt, seed))
    if len(prompts) < 2:
        raise ValueError(f"{len(prompts)} distinct prompts cannot be divided")
    size = min(max(round(fraction * len(prompts)), 1), len(prompts) - 1)
    held_out = frozenset(prompts[:size])
    training = [ranking for ranking in rankings if ranking.prompt not in held_out]
    validation = [ranking for ranking in rankings if ranking.prompt in held_out]
    return training, validation


def _hash(prompt: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{prompt}".encode()).digest()


def _group_by_prompt(rankings: Sequence[Ranking]) -> dict[str, list[Ranking]]:
    groups: dict[str, list[Ranking]] = {}
    for ranking in rankings:
        groups.setdefault(ranking.prompt, []).append(ranking)
    return groups


# --- agreement between labelers -----------------------------------------------------------------


@dataclass(frozen=True)
class PairwiseAgreement:
    """How often two labelers order the same two responses alike.

    Attributes:
        agreement: the share of ``pair_count`` that both ordered the same way.
        pair_count: comparisons that both labelers decided, over all pairs of labelers.
        tie_count: comparisons left out because at least one of the two labelers tied them.
        prompt_count: prompts that at least two labelers ranked.
    """

    agreement: float
    pair_count: int
    tie_count: int
    prompt_count: int


def pairwise_agreement(rankings: Sequence[Ranking]) -> PairwiseAgreement | None:
    """Agreement on the prompts that labelers share; None when no pair was decided twice.

    The measure of InstructGPT, section 3.4 (72.6% there). It bounds what a reward model trained
    on these labels can be measured to reach. A labeler's later ranking of a prompt replaces an
    earlier one.
    """
    agreed = decided = tied = shared_prompts = 0
    for group in _group_by_prompt(rankings).values():
        latest = {ranking.labeler: ranking for ranking in group}
        shared_prompts += len(latest) > 1
        for first, second in combinations(latest.values(), 2):
            for order_1, order_2 in _orders_of_common_pairs(first, second):
                tied += order_1 * order_2 == 0
                decided += order_1 * order_2 != 0
                agreed += order_1 * order_2 == 1
    if decided == 0:
        return None
    return PairwiseAgreement(agreed / decided, decided, tied, shared_prompts)


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


# --- shares -------------------------------------------------------------------------------------


Z_95 = 1.959963984540054


def wilson_interval(successes: float, trials: int) -> tuple[float, float]:
    """The 95% score interval of a share (Wilson 1927). Half successes (ties) are allowed.

    Unlike the normal interval it stays within [0, 1] and has a width at 0 and at 1.
    """
    if trials <= 0:
        raise ValueError("a share of no trials has no interval")
    z, share = Z_95, successes / trials
    denominator = 1 + z * z / trials
    center = (share + z * z / (2 * trials)) / denominator
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / denominator
    # The ends are exactly 0 and 1 at shares of 0 and 1, which rounding would miss by a little.
    lower = center - half if successes > 0 else 0.0
    upper = center + half if successes < trials else 1.0
    return lower, upper
