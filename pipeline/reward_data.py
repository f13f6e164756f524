"""What the reward model learns from and is measured on: comparisons, divided by prompt, as ids."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config import RewardSection
from pipeline.errors import UserError
from pipeline.preference_sources import read_preferences
from pipeline.preferences import (
    PromptComparisons,
    comparisons_by_prompt,
    pool_comparisons,
    split_comparisons,
)
from pipeline.records import Prompt, Ranking, read_rows
from pipeline.reward_batches import EncodedComparisons, encode_comparisons
from pipeline.reward_evaluation import ScoredPairs, scored_pairs
from pipeline.tokenizer import Tokenizer


@dataclass(frozen=True)
class Division:
    """Prompts to learn from, to measure on, and those without a pair that are neither.

    ``strangers`` holds what the held-out labelers said of prompts that are not learned from.
    """

    training: list[PromptComparisons]
    validation: list[PromptComparisons]
    tied: list[PromptComparisons]
    strangers: list[PromptComparisons]


@dataclass(frozen=True)
class Side:
    """Some of the prompts, as read and as ids."""

    comparisons: list[PromptComparisons]
    encoded: list[EncodedComparisons]

    @property
    def rows(self) -> list[tuple[int, ...]]:
        """The ids of all responses, prompt after prompt."""
        return [row for one in self.encoded for row in one.rows]

    def scored(self, scores: Sequence[float]) -> ScoredPairs:
        """The pairs, given the scores of ``rows``."""
        return scored_pairs(self.comparisons, scores, [len(row) for row in self.rows])


def read_sources(
    section: RewardSection, data_root: Path, prompts_path: Path
) -> tuple[list[PromptComparisons], list[dict[str, Any]]]:
    """The comparisons that others collected, and for the report what was read and left out.

    What the run holds out for the comparison of its checkpoints is not learned from. Groups of
    different sources are different ones, whatever their names.

    Args:
        prompts_path: the run's prompts, with their splits.

    Raises:
        UserError: a source is missing or broken.
    """
    comparisons: list[PromptComparisons] = []
    summaries: list[dict[str, Any]] = []
    rows = read_rows(prompts_path, Prompt) if section.preferences else []
    heldout = {row.prompt.strip() for row in rows if row.split == "heldout"}
    for number, source in enumerate(section.preferences):
        found = read_preferences(source, data_root)
        kept = [one for one in found.comparisons if one.prompt.strip() not in heldout]
        comparisons += [replace(one, group=f"{number}\n{one.group}") for one in kept]
        left_out = dict(found.left_out)
        if len(kept) < len(found.comparisons):
            left_out["prompts that the run holds out"] = len(found.comparisons) - len(kept)
        summaries.append(
            {
                "source": source.path or source.dataset,
                "revision": found.revision,
                "rows": found.rows,
                "left_out": left_out,
                "prompts": len(kept),
                "pairs": sum(len(one.pairs) for one in kept),
            }
        )
    return comparisons, summaries


def divide(
    rankings: Sequence[Ranking],
    others: Sequence[PromptComparisons],
    section: RewardSection,
    seed: int,
    where: object,
) -> Division:
    """All comparisons, divided by their groups.

    Raises:
        UserError: fewer than two groups of prompts have a pair, or no ranking is of a held-out
            labeler who is named.
    """
    held_out = set(section.held_out_labelers)
    unknown = sorted(held_out - {ranking.labeler for ranking in rankings})
    if unknown:
        known = ", ".join(sorted({ranking.labeler for ranking in rankings})) or "nobody"
        problem = f"names {unknown[0]!r}, but the rankings are by {known}."
        raise UserError("reward.held_out_labelers", problem, "correct the pseudonym.")
    kept = comparisons_by_prompt([r for r in rankings if r.labeler not in held_out])
    if held_out and not kept and not others:
        problem = "names every labeler there is: nothing is left to learn from."
        raise UserError("reward.held_out_labelers", problem, "hold out fewer.")
    comparisons = pool_comparisons([*kept, *others])
    usable = [one for one in comparisons if one.pairs]
    if len({one.group for one in usable}) < 2:
        raise UserError(
            where,
            f"{len(usable)} of {len(comparisons)} prompts have responses that are not tied.",
            "rank the responses of at least 2 prompts, one to train on and one to validate on.",
        )
    training, validation = split_comparisons(usable, section.validation_fraction, seed)
    tied = [one for one in comparisons if not one.pairs]
    if section.ties == "soft":  # that all responses are worth the same can be learned, too
        groups = {one.group for one in validation}
        learned = [bool(one.ties) and one.group not in groups for one in tied]
        training = [*training, *itertools.compress(tied, learned)]
        tied = [one for one, taken in zip(tied, learned, strict=True) if not taken]
    trained_on = {one.prompt for one in training}
    strangers = comparisons_by_prompt([r for r in rankings if r.labeler in held_out])
    return Division(
        training,
        validation,
        tied,
        strangers=[one for one in strangers if one.pairs and one.prompt not in trained_on],
    )


def encode_side(
    comparisons: list[PromptComparisons],
    tokenizer: Tokenizer,
    context_tokens: int,
    section: RewardSection,
    questions: Sequence[str],
) -> Side:
    """The comparisons with their ids.

    Raises:
        UserError: a response does not fit into the context.
    """
    encoded = [
        encode_comparisons(
            one, tokenizer, context_tokens,
            questions=questions, with_ties=section.ties == "soft", margin=section.margin,
        )
        for one in comparisons
    ]  # fmt: skip
    return Side(comparisons, encoded)


def questions_of(comparisons: Sequence[PromptComparisons]) -> list[str]:
    """The yes/no questions that somebody answered, in alphabetical order."""
    return sorted({name for one in comparisons for answers in one.answers for name in answers})
