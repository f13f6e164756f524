"""The rubric: what a response is worth, from 1 to 7, and what is wrong with it.

It starts at 7 and takes off the world's penalties. It knows the world's grammar and facts, so only
scripted labelers and the judge of the comparison may look at it: never a model's training.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.tinyworld.constants import BEST_RATING, PENALTIES, WRONG_FACTS_COUNTED
from pipeline.tinyworld.grammar import (
    FORMS,
    GENERIC_ANIMAL,
    Sentence,
    begins_sentence,
    parse_sentence,
    split_sentences,
)
from pipeline.tinyworld.prompts import parse_prompt
from pipeline.tinyworld.world import ANIMALS, FACTS, OBJECTS, Task, World

# The yes/no questions of the world, as a person is asked them.
QUESTIONS = {
    "ungrammatical": "Is any of it not proper English?",
    "rude": "Is it rude?",
    "off_topic": "Is it (partly) about something that was not asked for?",
    "fabricated": "Does it say something untrue about an animal?",
    "unfinished": "Does it stop before it is finished?",
}

_WORD = re.compile(r"[a-z'-]+")
_RUDE = re.compile(r"\b(fool|hate|stupid|idiot|dumb|shut up|go away)\b", re.IGNORECASE)
_SUBJECTS = frozenset({*ANIMALS, *OBJECTS})


@dataclass(frozen=True)
class Verdict:
    """A judge's view of one response.

    ``score`` is in [1, 7], ``rating`` is it rounded (halves up), ``flags`` answers the judge's
    questions, and ``penalties`` says what was taken off for what.
    """

    score: float
    rating: int
    flags: dict[str, bool]
    penalties: dict[str, float]


def round_to_rating(score: float) -> int:
    """The nearest of the ratings 1..7; halves go up."""
    return min(max(math.floor(score + 0.5), 1), BEST_RATING)


@dataclass(frozen=True)
class _Reading:
    """A response taken apart: its ``sentences`` (equal ones once), how many others no template
    fits, and whether the text ends in the ``beginning`` of a sentence that would fit."""

    sentences: list[Sentence]
    words: frozenset[str]
    garbled_count: int
    beginning: bool
    unfinished: bool
    repeated: bool


class Rubric:
    """Scores any string as a response to any prompt.

    For a prompt that the world does not know, only grammar, manners and repetition are judged,
    and whether the response is finished.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    def judge(self, prompt: str, response: str, finished: bool = True) -> Verdict:
        """The verdict; ``finished`` is False for a response that was cut off by a length limit."""
        reading = _read(response, finished)
        penalties = _manners(response, reading)
        task = parse_prompt(prompt)
        if task is not None:
            penalties |= self._content(task, reading)
        score = BEST_RATING - sum(penalties.values())
        if not reading.words:
            score = 1.0
        score = min(max(score, 1.0), float(BEST_RATING))
        flags = {
            "ungrammatical": "ungrammatical" in penalties,
            "rude": "rude" in penalties,
            "off_topic": task is not None and _strays(task, reading),
            "fabricated": "wrong_fact" in penalties,
            "unfinished": "unfinished" in penalties,
        }
        return Verdict(score, round_to_rating(score), flags, penalties)

    def _content(self, task: Task, reading: _Reading) -> dict[str, float]:
        """Penalties for what is said about what: these need the prompt's task."""
        claims = _claims(task, reading.sentences)
        counts = {
            "missing_subject": sum(subject not in reading.words for subject in task.subjects),
            "off_topic": _has_other_subject(task, reading),
            "wrong_fact": min(self._wrong_fact_count(claims), WRONG_FACTS_COUNTED),
            "no_answer": any((task.animal, fact) not in claims for fact in task.facts),
        }
        if _has_wrong_form(task, reading):
            counts["wrong_form"] = 1
        elif _is_too_short(task, reading):  # a whole note, asked for a story, is not too short
            counts["too_short"] = 1
        if any(len(values) > 1 for values in claims.values()):
            counts["repetition"] = 1  # the same fact is told twice, in other words
        return {name: count * PENALTIES[name] for name, count in counts.items() if count}

    def _wrong_fact_count(self, claims: dict[tuple[str, str], list[str]]) -> int:
        return sum(
            value != self.world.facts[animal][fact]
            for (animal, fact), values in claims.items()
            for value in values
        )


def _read(response: str, finished: bool) -> _Reading:
    """The response taken apart, whatever it is."""
    texts = split_sentences(response)
    cut = texts.pop() if texts and texts[-1][-1] not in ".!?" else None
    beginning = cut is not None and begins_sentence(cut)
    parsed = [parse_sentence(text) for text in texts]
    sentences = [sentence for sentence in parsed if sentence is not None]
    return _Reading(
        sentences=list({sentence.text: sentence for sentence in sentences}.values()),
        words=frozenset(_WORD.findall(response.lower())),
        garbled_count=len(texts) - len(sentences) + (cut is not None and not beginning),
        beginning=beginning,
        unfinished=not finished or cut is not None or not texts,
        repeated=len(set(texts)) < len(texts),
    )


def _manners(response: str, reading: _Reading) -> dict[str, float]:
    """Penalties that need no task."""
    found = {
        "rude": _RUDE.search(response) is not None,
        "ungrammatical": reading.garbled_count > 0,
        "unfinished": reading.unfinished,
        "repetition": reading.repeated,
    }
    return {name: PENALTIES[name] for name, is_so in found.items() if is_so}


def _claims(task: Task, sentences: Sequence[Sentence]) -> dict[tuple[str, str], list[str]]:
    """(animal, fact) -> the values that the response states; "it" is the animal last named."""
    claims: dict[tuple[str, str], list[str]] = {}
    animal = task.animal
    for sentence in sentences:
        named = sentence.slots.get("animal", GENERIC_ANIMAL)
        animal = animal if named == GENERIC_ANIMAL else named
        for fact in FACTS:
            if fact in sentence.slots:
                claims.setdefault((animal, fact), []).append(sentence.slots[fact])
    return claims


def _roles(reading: _Reading) -> list[str]:
    """The roles of the parsed sentences; rude ones have their own penalty."""
    roles = [sentence.template.role for sentence in reading.sentences]
    return [role for role in roles if role != "rude"]


def _has_other_subject(task: Task, reading: _Reading) -> bool:
    """An animal or object that the prompt does not name: listing all of them must not pay."""
    return bool((reading.words & _SUBJECTS) - set(task.subjects))


def _has_foreign_sentence(task: Task, reading: _Reading) -> bool:
    """A sentence of another kind of text: a greeting in a story."""
    form = {count.role for count in FORMS[task.kind]}
    return any(role not in form for role in _roles(reading))


def _strays(task: Task, reading: _Reading) -> bool:
    """Whether a reader would call (part of) the response off topic."""
    return _has_other_subject(task, reading) or _has_foreign_sentence(task, reading)


def _has_wrong_form(task: Task, reading: _Reading) -> bool:
    """A sentence of another kind of text, a wrong order, too many sentences, or mostly garble."""
    form = [count.role for count in FORMS[task.kind]]
    roles = _roles(reading)
    if reading.garbled_count > len(roles) or _has_foreign_sentence(task, reading):
        return True
    places = [form.index(role) for role in roles]
    most = {count.role: count.most for count in FORMS[task.kind]}
    return places != sorted(places) or any(n > most[role] for role, n in Counter(roles).items())


def _is_too_short(task: Task, reading: _Reading) -> bool:
    """More parts of the form are missing than there are sentences that could not be read."""
    present = Counter(_roles(reading))
    missing = sum(max(0, count.least - present[count.role]) for count in FORMS[task.kind])
    return missing > reading.garbled_count + reading.beginning
