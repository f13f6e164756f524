"""Judges score responses; scripted labelers are judges with noise and a personality."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from pipeline.errors import UserError
from pipeline.records import Prompt
from pipeline.tinyworld import constants
from pipeline.tinyworld.rubric import QUESTIONS, Rubric, Verdict, round_to_rating
from pipeline.tinyworld.world import World

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


class Judge(Protocol):
    """Whoever can rate a response. ``questions`` are the yes/no questions that it answers too."""

    @property
    def questions(self) -> dict[str, str]: ...

    def judge(self, prompt: Prompt, response: str, finished: bool) -> Verdict: ...


class RubricJudge:
    """The embedded world's own rubric: noise-free."""

    def __init__(self, world: World) -> None:
        self._rubric = Rubric(world)

    @property
    def questions(self) -> dict[str, str]:
        return QUESTIONS

    def judge(self, prompt: Prompt, response: str, finished: bool) -> Verdict:
        return self._rubric.judge(prompt.prompt, response, finished)


class OverlapJudge:
    """ROUGE-L (Lin 2004, F-measure of the longest common subsequence, stemmed) with the reference
    in ``prompt.meta["reference"]``: no overlap is 1, the reference itself is 7."""

    @property
    def questions(self) -> dict[str, str]:
        return {}

    @cached_property
    def _scorer(self) -> RougeScorer:
        from rouge_score.rouge_scorer import RougeScorer  # it takes a second to import

        return RougeScorer(["rougeL"], use_stemmer=True)

    def judge(self, prompt: Prompt, response: str, finished: bool) -> Verdict:
        """The verdict.

        Raises:
            UserError: the prompt carries no reference.
        """
        reference = (prompt.meta or {}).get("reference")
        if not isinstance(reference, str) or not reference.strip():
            raise UserError(
                f"prompt {prompt.prompt_id}",
                'has no text under meta["reference"], which the overlap judge compares with.',
                "use prompts that come with a reference response, or another judge.",
            )
        overlap = self._scorer.score(reference, response)["rougeL"].fmeasure
        score = 1 + (constants.BEST_RATING - 1) * overlap
        return Verdict(score, round_to_rating(score), {}, {})


@dataclass(frozen=True)
class Judgement:
    """One labeler's view of the K responses to a prompt; all lists have K entries.

    ``ranks`` are 1 = best with equal numbers for ties, and never contradict ``ratings``;
    ``seconds`` is how long it took.
    """

    ratings: list[int]
    ranks: list[int]
    answers: dict[str, list[bool]]
    seconds: float


@dataclass(frozen=True)
class ScriptedLabeler:
    """A labeler in software: the judge's score, noise, a constant severity, a pet peeve and a pace.

    A pure function of (seed, name, prompt, responses): labeling again gives the same labels.
    """

    name: str
    judge: Judge
    seed: int
    severity: float = 0.0
    pet_peeve: str | None = None
    noise: float = constants.LABELER_NOISE
    random_share: float = constants.LABELER_RANDOM_SHARE
    seconds_per_word: float = constants.LABELER_SECONDS_PER_WORD

    def label(self, prompt: Prompt, responses: Sequence[tuple[str, bool]]) -> Judgement:
        """The judgement of ``(text, finished)`` responses."""
        rng = random.Random(json.dumps([self.seed, self.name, prompt.prompt_id, list(responses)]))
        verdicts = [self.judge.judge(prompt, text, finished) for text, finished in responses]
        latents = [self._latent(verdict, rng) for verdict in verdicts]
        ratings = [round_to_rating(latent) for latent in latents]
        flips = constants.LABELER_ANSWER_FLIP_SHARE
        answers = {
            key: [verdict.flags[key] != (rng.random() < flips) for verdict in verdicts]
            for key in self.judge.questions
        }
        ranks = ranks_with_ties(latents, ratings)
        # Last, so that nothing else depends on it. People's times are skewed like this one.
        words = sum(len(text.split()) for text, _ in responses)
        pace = self.seconds_per_word * rng.lognormvariate(0.0, constants.LABELER_PACE_SPREAD)
        return Judgement(ratings, ranks, answers, seconds=round(pace * (1 + words), 1))

    def _latent(self, verdict: Verdict, rng: random.Random) -> float:
        """What the labeler feels, before rounding."""
        if rng.random() < self.random_share:
            return rng.uniform(0.5, constants.BEST_RATING + 0.5)
        latent = verdict.score - self.severity + rng.gauss(0.0, self.noise)
        if self.pet_peeve is not None and verdict.flags[self.pet_peeve]:
            latent -= constants.LABELER_PET_PEEVE
        return latent


def ranks_with_ties(latents: Sequence[float], ratings: Sequence[int]) -> list[int]:
    """Ranks (1 = best) by latent value.

    Neighbors tie if their ratings are equal and the lower is within ``LABELER_TIE_WIDTH`` of the
    best of its tie, so that ties do not chain across a whole rating.
    """
    order = sorted(range(len(latents)), key=lambda i: -latents[i])
    ranks = [0] * len(latents)
    head = -1  # the best response of the current tie
    for place, index in enumerate(order, start=1):
        tied = (
            place > 1
            and ratings[index] == ratings[head]
            and latents[head] - latents[index] < constants.LABELER_TIE_WIDTH
        )
        if not tied:
            head = index
        ranks[index] = ranks[head] if tied else place
    return ranks


def make_labelers(count: int, judge: Judge, seed: int) -> list[ScriptedLabeler]:
    """``count`` labelers, each with a severity, a pet peeve and a pace of its own."""
    labelers: list[ScriptedLabeler] = []
    for index in range(count):
        rng = random.Random(f"{seed}/labeler/{index}")
        limit = constants.LABELER_MAX_SEVERITY
        severity = rng.uniform(-limit, limit)
        pet_peeve = rng.choice(sorted(judge.questions)) if judge.questions else None
        pace = constants.LABELER_SECONDS_PER_WORD * rng.uniform(0.5, 1.5)
        name = f"scripted-{index + 1}"
        labelers.append(
            ScriptedLabeler(name, judge, seed, severity, pet_peeve, seconds_per_word=pace)
        )
    return labelers
