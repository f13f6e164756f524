"""Planted flaws: each makes one thing wrong with a good response, and says in words what."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from pipeline.tinyworld.constants import FLAW_WEIGHTS, TWO_FLAWS_SHARE
from pipeline.tinyworld.grammar import GENERIC_ANIMAL, GENERIC_OBJECT, TEMPLATES, Sentence, Template
from pipeline.tinyworld.responses import count_words, join, write_response
from pipeline.tinyworld.world import FACT_VALUES, FACTS, OBJECTS, Task, World, all_tasks

# With a flaw a response may be a little longer than a good one, and still fits 48 tokens.
MAX_FLAWED_WORDS = 45

_NOT_THE_KIND = {
    "story": "The reply is not a story.",
    "note": "The reply is not a note.",
    "description": "The reply is not a description.",
    "question": "The reply does not answer the question.",
}

Planted = tuple[list[Sentence], str]
Planter = Callable[[World, Task, list[Sentence], random.Random], Planted | None]


def _raw(text: str) -> Sentence:
    """A sentence that the grammar does not know."""
    return Sentence(Template(text, "raw"), {})


def _off_topic(
    world: World, task: Task, sentences: list[Sentence], rng: random.Random
) -> Planted | None:
    """A story or a note where another kind was asked for, or something else altogether."""
    tasks = [t for t in all_tasks() if t.kind != task.kind]
    if rng.random() < 0.5:
        others = [t for t in tasks if t.object and set(task.subjects) <= set(t.subjects)]
        remark = _NOT_THE_KIND[task.kind]
    else:
        others = [t for t in tasks if not set(t.subjects) & set(task.subjects)]
        remark = "The reply is about something else."
    kind = rng.choice(sorted({t.kind for t in others}))
    return write_response(world, rng.choice([t for t in others if t.kind == kind]), rng), remark


def _wrong_fact(
    world: World, task: Task, sentences: list[Sentence], rng: random.Random
) -> Planted | None:
    places = [(i, f) for i, s in enumerate(sentences) for f in FACTS if f in s.slots]
    if not places:
        return None
    index, fact = rng.choice(places)
    old = sentences[index]
    wrong = rng.choice([word for word in FACT_VALUES[fact] if word != old.slots[fact]])
    changed = list(sentences)
    changed[index] = Sentence(old.template, {**old.slots, fact: wrong})
    remark = {
        "color": f"The {task.animal} is not {wrong}.",
        "home": f"The {task.animal} does not live in the {wrong}.",
        "food": f"The {task.animal} does not eat {wrong}.",
        "hobby": f"The {task.animal} does not like to {wrong}.",
    }[fact]
    return changed, remark


def _missing_subject(
    world: World, task: Task, sentences: list[Sentence], rng: random.Random
) -> Planted | None:
    """The object is another one or just "thing"; where there is none, the animal "animal"."""
    if task.object is None:
        slot, name, new = "animal", task.animal, GENERIC_ANIMAL
    else:
        others = [word for word in OBJECTS if word != task.object]
        slot, name, new = "object", task.object, rng.choice([GENERIC_OBJECT, rng.choice(others)])
    if not any(s.slots.get(slot) == name for s in sentences):
        return None
    changed = [
        Sentence(s.template, {**s.slots, slot: new}) if slot in s.slots else s for s in sentences
    ]
    return changed, f"The reply does not mention the {name}."


def _too_short(
    world: World, task: Task, sentences: list[Sentence], rng: random.Random
) -> Planted | None:
    """It breaks off after the first sentence, a story after the one that brings the object."""
    kept = sentences[:2] if task.kind == "story" else sentences[:1]
    if task.kind == "question" or len(kept) == len(sentences):
        return None
    return kept, "The reply is too short."


def _repeated(
    world: World, task: Task, sentences: list[Sentence], rng: random.Random
) -> Planted | None:
    index = rng.randrange(len(sentences))
    changed = [*sentences[: index + 1], sentences[index], *sentences[index + 1 :]]
    return changed, "It says the same thing twice."


def _rude(
    world: World, task: Task, sentences: list[Sentence], rng: random.Random
) -> Planted | None:
    index = rng.randrange(len(sentences) + 1)
    rude = Sentence(rng.choice(TEMPLATES["rude"]), {})
    return [*sentences[:index], rude, *sentences[index:]], "The reply is rude."


def _unfinished(
    world: World, task: Task, sentences: list[Sentence], rng: random.Random
) -> Planted | None:
    """It breaks off inside of the last sentence."""
    words = sentences[-1].text.split()
    if len(words) < 3:
        return None
    beginning = " ".join(words[: rng.randrange(2, len(words))]).rstrip(".,")
    return [*sentences[:-1], _raw(beginning)], "It stops in the middle."


def _scrambled(
    world: World, task: Task, sentences: list[Sentence], rng: random.Random
) -> Planted | None:
    index = rng.randrange(len(sentences))
    words = sentences[index].text.rstrip(".").split()
    shuffled = rng.sample(words, len(words))
    if len(words) < 4 or shuffled == words:
        return None
    scrambled = _raw(" ".join(shuffled) + ".")
    changed = [*sentences[:index], scrambled, *sentences[index + 1 :]]
    return changed, "A sentence of it is not good English."


# In the order in which two flaws are planted: what is said before how it is said.
_PLANTERS: dict[str, Planter] = {
    "off_topic": _off_topic,
    "wrong_fact": _wrong_fact,
    "missing_subject": _missing_subject,
    "too_short": _too_short,
    "repeated": _repeated,
    "scrambled": _scrambled,
    "rude": _rude,
    "unfinished": _unfinished,
}
FLAWS = tuple(_PLANTERS)


def draw_flaws(rng: random.Random) -> list[str]:
    """One or two different flaws, by the world's constants."""
    names, weights = list(FLAW_WEIGHTS), list(FLAW_WEIGHTS.values())
    first = rng.choices(names, weights)[0]
    if rng.random() >= TWO_FLAWS_SHARE:
        return [first]
    second = first
    while second == first:
        second = rng.choices(names, weights)[0]
    return sorted([first, second], key=FLAWS.index)


def plant(
    world: World,
    task: Task,
    flaws: Sequence[str],
    rng: random.Random,
    max_words: int = MAX_FLAWED_WORDS,
) -> tuple[str, list[str]] | None:
    """A fresh response with the flaws planted, and a remark on each.

    None if the draw cannot carry them: a note that states no fact has none to get wrong.
    """
    sentences = write_response(world, task, rng)
    remarks: list[str] = []
    for flaw in flaws:
        planted = _PLANTERS[flaw](world, task, sentences, rng)
        if planted is None:
            return None
        sentences, remark = planted
        remarks.append(remark)
    text = join(sentences)
    return (text, remarks) if count_words(text) <= max_words else None
