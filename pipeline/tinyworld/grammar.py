"""The grammar of responses: sentence templates with slots, to write with and to parse with.

A template's role says where in a response it stands. A response of a kind is a sequence of roles
in the order of ``FORMS[kind]``.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.tinyworld.world import ANIMALS, FACT_VALUES, FACTS, OBJECTS, Task, World

# "animal" and "thing" are good English, but they name no subject.
GENERIC_ANIMAL, GENERIC_OBJECT = "animal", "thing"
SLOT_WORDS: dict[str, frozenset[str]] = {
    "animal": frozenset({*ANIMALS, GENERIC_ANIMAL}),
    "object": frozenset({*OBJECTS, GENERIC_OBJECT}),
    "look": frozenset({"big", "fine", "lovely", "new", "pretty", "small"}),
    "name": frozenset({"Ann", "Ben", "Eva", "Max", "Mia", "Sam", "Tom"}),
    **{fact: frozenset(words) for fact, words in FACT_VALUES.items()},
}

ROLES: dict[str, tuple[str, ...]] = {
    # A story. Every opening states a fact, so a story cannot do without.
    "opening": (
        "Once there was a {color} {animal} who lived in the {home}.",
        "Long ago a {color} {animal} lived in the {home}.",
        "There once was a {color} {animal} who loved {food}.",
        "In the {home} lived a {animal} who loved to {hobby}.",
        "A {animal} lived in the {home} and ate {food} every day.",
        "Once a {color} {animal} went out to {hobby}.",
    ),
    "finding": (
        "One day it found a {object} under a tree.",
        "One day the {animal} found a {look} {object} by the road.",
        "One morning it saw a {look} {object} in the grass.",
        "One day a friend gave the {animal} a {object}.",
        "Then it came upon a {object} near the water.",
        "One night the {animal} saw a {object} in the moonlight.",
    ),
    "doing": (
        "It took the {object} home and looked at it all day.",
        "The {animal} showed the {object} to all of its friends.",
        "At first it did not know what the {object} was for.",
        "At first the {animal} was afraid of the {object}.",
        "It picked up the {object} with great care.",
    ),
    "ending": (
        "From then on the {animal} kept the {object} close.",
        "In the end it gave the {object} to a good friend.",
        "The {animal} was happy and slept well that night.",
        "That night it put the {object} by the bed and slept.",
        "The {object} made the {animal} happy for a long time.",
        "After that day the {animal} was never sad again.",
    ),
    # A thank-you note.
    "greeting": (
        "Dear {animal}, thank you for the {object}.",
        "Dear {animal}, thank you so much for the {object}.",
        "Dear {animal}, many thanks for the {look} {object}.",
        "Dear {animal}, I want to thank you for the {object}.",
    ),
    "wish": (
        "I use it every day.",
        "It is just what I wanted.",
        "It made me very happy.",
        "I keep the {object} next to my bed.",
        "I showed the {object} to all of my friends.",
        "I hope you are well in the {home}.",
        "Next week I will bring you some {food}.",
        "I hope we can {hobby} together soon.",
    ),
    "closing": (
        "Your friend, {name}.",
        "Your good friend, {name}.",
        "With love, {name}.",
        "Best wishes, {name}.",
    ),
    # A description opens with a sentence that names the animal; so does the answer to a question.
    "opener": (
        "The {animal} is {color}.",
        "The color of the {animal} is {color}.",
        "The {animal} lives in the {home}.",
        "The home of the {animal} is the {home}.",
        "The {animal} eats {food}.",
        "The {animal} loves to eat {food}.",
        "The {animal} likes to {hobby}.",
        "The {animal} loves to {hobby} all day.",
        "The {color} {animal} lives in the {home}.",
        "The {color} {animal} likes to {hobby}.",
        "The {animal} is {color} and eats {food}.",
    ),
    "detail": (
        "It is {color}.",
        "Its color is {color}.",
        "It lives in the {home}.",
        "Its home is the {home}.",
        "It eats {food}.",
        "Every morning it eats {food}.",
        "It likes to {hobby}.",
        "In the evening it likes to {hobby}.",
        "It eats {food} and likes to {hobby}.",
        "It lives in the {home} and eats {food}.",
    ),
    "polite": (
        "I hope this helps.",
        "Thank you for asking.",
        "I am happy to help.",
    ),
    # Good English, bad manners: belongs to no kind.
    "rude": (
        "You are a fool.",
        "Go away now.",
        "That was a stupid thing to ask.",
        "I hate your question.",
        "Shut up and read this.",
        "Only an idiot would ask that.",
        "What a dumb thing to want.",
    ),
}


class RoleCount(NamedTuple):
    """How often a role may stand in a response."""

    role: str
    least: int
    most: int


FORMS: dict[str, tuple[RoleCount, ...]] = {
    "story": (
        RoleCount("opening", 1, 1),
        RoleCount("finding", 1, 1),
        RoleCount("doing", 0, 1),
        RoleCount("ending", 1, 1),
    ),
    "note": (
        RoleCount("greeting", 1, 1),
        RoleCount("wish", 1, 2),
        RoleCount("closing", 1, 1),
    ),
    "description": (RoleCount("opener", 1, 1), RoleCount("detail", 1, 3)),
    "question": (
        RoleCount("opener", 1, 1),
        RoleCount("detail", 0, 1),
        RoleCount("polite", 0, 1),
    ),
}


class _Word(NamedTuple):
    """One word of a template: literal text around at most one slot."""

    before: str
    slot: str | None
    after: str


@dataclass(frozen=True)
class Template:
    """A sentence with slots, and its role."""

    text: str
    role: str
    words: tuple[_Word, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(_compile_word(w) for w in self.text.split()))

    @property
    def facts(self) -> frozenset[str]:
        """The facts that a sentence of this template states."""
        return frozenset(word.slot for word in self.words if word.slot in FACTS)


def _compile_word(word: str) -> _Word:
    before, opened, rest = word.partition("{")
    slot, _, after = rest.partition("}")
    return _Word(before, slot if opened else None, after)


@dataclass(frozen=True)
class Sentence:
    """A template with its slots filled."""

    template: Template
    slots: Mapping[str, str]

    @property
    def text(self) -> str:
        return self.template.text.format(**self.slots)


TEMPLATES: dict[str, tuple[Template, ...]] = {
    role: tuple(Template(text, role) for text in texts) for role, texts in ROLES.items()
}


def _by_length() -> dict[int, list[Template]]:
    index: dict[int, list[Template]] = defaultdict(list)
    for templates in TEMPLATES.values():
        for template in templates:
            index[len(template.words)].append(template)
    return dict(index)


_TEMPLATES_BY_LENGTH = _by_length()
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text; the last one may lack its end."""
    text = " ".join(text.split())
    return _SENTENCE_END.split(text) if text else []


def parse_sentence(text: str) -> Sentence | None:
    """The template and slots of a complete sentence, or None if no template fits."""
    words = text.split()
    for template in _TEMPLATES_BY_LENGTH.get(len(words), ()):
        slots = _match(template.words, words)
        if slots is not None:
            return Sentence(template, slots)
    return None


def begins_sentence(text: str) -> bool:
    """Whether the text is the beginning of a sentence, its last word perhaps cut off."""
    *words, last = text.split()
    return any(
        _match(template.words[: len(words)], words) is not None
        and any(word.startswith(last) for word in _possible_words(template.words[len(words)]))
        for length, templates in _TEMPLATES_BY_LENGTH.items()
        for template in templates
        if length > len(words)
    )


def _possible_words(word: _Word) -> list[str]:
    values = [""] if word.slot is None else sorted(SLOT_WORDS[word.slot])
    return [word.before + value + word.after for value in values]


def _match(pattern: Sequence[_Word], words: Sequence[str]) -> dict[str, str] | None:
    slots: dict[str, str] = {}
    for expected, word in zip(pattern, words, strict=True):
        if expected.slot is None:
            if word != expected.before:
                return None
            continue
        value = word.removeprefix(expected.before).removesuffix(expected.after)
        if word != expected.before + value + expected.after:
            return None
        if value not in SLOT_WORDS[expected.slot]:
            return None
        slots[expected.slot] = value
    return slots


def fill(template: Template, world: World, task: Task, rng: random.Random) -> Sentence:
    """A true sentence about the task's subjects."""
    values = {"animal": task.animal, "object": task.object or GENERIC_OBJECT}
    values |= world.facts[task.animal]
    values |= {slot: rng.choice(sorted(SLOT_WORDS[slot])) for slot in ("look", "name")}
    used = [word.slot for word in template.words if word.slot]
    return Sentence(template, {slot: values[slot] for slot in used})
