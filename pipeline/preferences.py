"""From ratings to ranks to pairs. No torch here.

A pair is (better, worse) and comes from ranks alone; ratings only tell how wide the gap is. Tied
ranks make no pair: a tie says that the labeler saw no difference, not that either one won.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from pipeline.records import RankedResponse, Ranking

Pair = tuple[int, int]


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


def comparisons_of(
    prompt: str,
    responses: Sequence[RankedResponse],
    ranks: Sequence[int],
    labeler: str,
    ratings: Sequence[int] | None = None,
    group: str | None = None,
) -> PromptComparisons:
    """What one labeler's ranks of distinct responses to a prompt say: pairs and ties."""
    pairs = pairs_from_ranks(ranks)
    gaps = [None if ratings is None else ratings[a] - ratings[b] for a, b in pairs]
    return PromptComparisons(
        prompt=prompt,
        responses=tuple(responses),
        pairs=tuple(pairs),
        rating_gaps=tuple(gaps),
        labelers=(labeler,) * len(pairs),
        ties=tuple((a, b) for a, b in combinations(range(len(ranks)), 2) if ranks[a] == ranks[b]),
        group=prompt if group is None else group,
    )


def comparisons_by_prompt(rankings: Sequence[Ranking]) -> list[PromptComparisons]:
    """One entry for each distinct prompt text, in order of first appearance.

    Prompts on which every labeler tied all responses are kept, with no pairs.
    """
    pooled = pool_comparisons(
        [comparisons_of(r.prompt, r.responses, r.ranks, r.labeler, r.ratings) for r in rankings]
    )
    of_prompt = rankings_by_prompt(rankings)
    return [
        replace(one, answers=_answer_shares(one.responses, of_prompt[one.prompt])) for one in pooled
    ]


def _answer_shares(
    responses: Sequence[RankedResponse], rankings: Sequence[Ranking]
) -> tuple[dict[str, float], ...]:
    given: dict[RankedResponse, dict[str, list[bool]]] = {response: {} for response in responses}
    for ranking in rankings:
        for question, answers in ranking.answers.items():
            for response, answer in zip(ranking.responses, answers, strict=True):
                if answer is not None:
                    given[response].setdefault(question, []).append(answer)
    return tuple(
        {question: sum(yes) / len(yes) for question, yes in answers.items()}
        for answers in given.values()
    )


def pool_comparisons(comparisons: Sequence[PromptComparisons]) -> list[PromptComparisons]:
    """One entry for each distinct prompt text, in order of first appearance; groups are joined.

    Entries of one prompt may come from several places, such as the run's labels and the sources of
    others: their pairs and ties all count.

    Raises:
        ValueError: two entries answer the same question about the same response.
    """
    of_prompt: dict[str, list[PromptComparisons]] = {}
    for one in join_groups(comparisons):
        of_prompt.setdefault(one.prompt, []).append(one)
    return [_pool(parts) for parts in of_prompt.values()]


def _pool(parts: Sequence[PromptComparisons]) -> PromptComparisons:
    """Entries of one prompt and one group as one."""
    index_of: dict[RankedResponse, int] = {}
    pairs: list[Pair] = []
    gaps: list[int | None] = []
    labelers: list[str] = []
    ties: list[Pair] = []
    answers: list[dict[str, float]] = []
    for part in parts:
        indices = [index_of.setdefault(r, len(index_of)) for r in part.responses]
        pairs += [(indices[better], indices[worse]) for better, worse in part.pairs]
        gaps += part.rating_gaps
        labelers += part.labelers or ("",) * len(part.pairs)
        for first, second in part.ties:
            low, high = sorted((indices[first], indices[second]))
            ties.append((low, high))
        answers += [{} for _ in range(len(index_of) - len(answers))]
        for index, given in zip(indices if part.answers else [], part.answers, strict=True):
            if given.keys() & answers[index].keys():  # shares say nothing of how many answered
                raise ValueError("two entries answer one question about one response")
            answers[index].update(given)
    return PromptComparisons(
        parts[0].prompt, tuple(index_of), tuple(pairs), tuple(gaps), tuple(labelers), tuple(ties),
        tuple(answers), parts[0].group,
    )  # fmt: skip


def join_groups(comparisons: Sequence[PromptComparisons]) -> list[PromptComparisons]:
    """The same comparisons, each prompt in one group only: groups that share a prompt become one.

    So no split by group can put a prompt on both sides. A joined group bears the first of its
    names in alphabetical order, whatever the order of the comparisons.
    """
    parents: dict[str, str] = {}
    group_of: dict[str, str] = {}

    def joined(group: str) -> str:
        parents.setdefault(group, group)
        while parents[group] != group:
            parents[group] = group = parents[parents[group]]
        return group

    for one in comparisons:
        group = one.group or one.prompt
        first, last = sorted((joined(group), joined(group_of.setdefault(one.prompt, group))))
        parents[last] = first
    return [replace(one, group=joined(one.group or one.prompt)) for one in comparisons]


def split_comparisons(
    comparisons: Sequence[PromptComparisons], fraction: float, seed: int
) -> tuple[list[PromptComparisons], list[PromptComparisons]]:
    """``(training, validation)``: the comparisons divided by a hash of their group.

    ``fraction`` counts prompts, rounded to the nearest: groups are held out in the order of their
    hashes, and one that would make them too many is passed over; if all would, the smallest is
    held out. Which groups those are depends on their names, sizes and ``seed``, not on the order
    of the rows.

    Raises:
        ValueError: fewer than two groups, ``fraction`` outside (0, 1), or one prompt in two groups.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction {fraction} is not between 0 and 1")
    groups = sorted({one.group for one in comparisons}, key=lambda group: _hash(group, seed))
    if len(groups) < 2:
        raise ValueError(f"{len(groups)} groups cannot be divided")
    sizes = Counter(one.group for one in comparisons)
    most = min(max(round(fraction * len(comparisons)), 1), len(comparisons) - 1)
    held_out: set[str] = set()
    left = most
    for group in groups:
        if sizes[group] <= left:
            held_out.add(group)
            left -= sizes[group]
    if not held_out:
        held_out = {min(groups, key=lambda group: sizes[group])}
    training = [one for one in comparisons if one.group not in held_out]
    validation = [one for one in comparisons if one.group in held_out]
    if {one.prompt for one in training} & {one.prompt for one in validation}:
        raise ValueError("one prompt stands in two groups")
    return training, validation


def _hash(group: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{group}".encode()).digest()


def rankings_by_prompt(rankings: Sequence[Ranking]) -> dict[str, list[Ranking]]:
    groups: dict[str, list[Ranking]] = {}
    for ranking in rankings:
        groups.setdefault(ranking.prompt, []).append(ranking)
    return groups


# --- shares -------------------------------------------------------------------------------------


Z_95 = 1.959963984540054


def wilson_interval(successes: float, trials: float) -> tuple[float, float]:
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


def clustered_wilson_interval(clusters: Sequence[tuple[int, int]]) -> tuple[float, float] | None:
    """The 95% score interval of a share over (successes, trials) of clusters; None for one cluster.

    Trials of a cluster may depend on each other: the interval is that of as many independent
    trials as would give the share the variance that its clusters do, never more than there are
    trials, and fewer still for what few clusters tell of that variance (Korn and Graubard 1998).
    Where all trials end alike a cluster counts as one.
    """
    count = len(clusters)
    if count < 2:
        return None
    total = sum(trials for _, trials in clusters)
    share = sum(successes for successes, _ in clusters) / total
    squares = sum((yes - share * trials) ** 2 for yes, trials in clusters)
    return wilson_of_clusters(share, squares, total, count)


def wilson_of_clusters(
    share: float, squares: float, total: float, count: int
) -> tuple[float, float]:
    """The interval of ``clustered_wilson_interval`` from what it needs of the clusters.

    Args:
        share: successes over trials.
        squares: Σ (successes − share · trials)² over clusters.
        total: trials.
        count: clusters, two at least.
    """
    from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs]

    variance = squares * count / (count - 1) / total**2
    independent = float(count - 1)
    if 0 < share < 1:
        independent = share * (1 - share) / variance if variance else total
    freedom = (Z_95 / float(stdtrit(count - 1, 0.975))) ** 2
    independent = min(independent * freedom, total)
    return wilson_interval(share * independent, independent)
