"""Planted flaws: each makes one thing wrong with a good response."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from pipeline.tinyworld.constants import FLAW_WEIGHTS, TWO_FLAWS_SHARE
from pipeline.tinyworld.grammar import (
    FORMS,
    GENERIC_ANIMAL,
    GENERIC_OBJECT,
    TEMPLATES,
    Sentence,
    Template,
)
from pipeline.tinyworld.responses import count_words, join, write_response
from pipeline.tinyworld.world import FACT_VALUES, FACTS, OBJECTS, Task, World, all_tasks

# With a flaw a response may be a little longer than a good one, and still fits 48 tokens.
MAX_FLAWED_WORDS = 45

Sentences = list[Sentence]
Planter = Callable[[World, Task, Sentences, random.Random], Sentences | None]


def _raw(text: str) -> Sentence:
    """A sentence that the grammar does not know."""
    return Sentence(Template(text, "raw"), {})


def _off_topic(
    world: World, task: Task, sentences: Sentences, rng: random.Random
) -> Sentences | None:
    """A story or a note where another kind was asked for, or something else altogether."""
    tasks = [t for t in all_tasks() if t.kind != task.kind and t not in world.heldout_tasks]
    if rng.random() < 0.5:
        others = [t for t in tasks if t.object and set(task.subjects) <= set(t.subjects)]
    else:
        others = [t for t in tasks if not set(t.subjects) & set(task.subjects)]
    if not others:
        return None
    kind = rng.choice(sorted({t.kind for t in others}))
    return write_response(world, rng.choice([t for t in others if t.kind == kind]), rng)


def _wrong_fact(
    world: World, task: Task, sentences: Sentences, rng: random.Random
) -> Sentences | None:
    places = [(i, f) for i, s in enumerate(sentences) for f in FACTS if f in s.slots]
    if not places:
        return None
    index, fact = rng.choice(places)
    old = sentences[index]
    wrong = rng.choice([word for word in FACT_VALUES[fact] if word != old.slots[fact]])
    changed = list(sentences)
    changed[index] = Sentence(old.template, {**old.slots, fact: wrong})
    return changed


def _missing_subject(
    world: World, task: Task, sentences: Sentences, rng: random.Random
) -> Sentences | None:
    """The object is another one or just "thing"; where there is none, the animal "animal"."""
    if task.object is None:
        slot, name, new = "animal", task.animal, GENERIC_ANIMAL
    else:
        others = [word for word in OBJECTS if word != task.object]
        slot, name, new = "object", task.object, rng.choice([GENERIC_OBJECT, rng.choice(others)])
    if not any(s.slots.get(slot) == name for s in sentences):
        return None
    return [
        Sentence(s.template, {**s.slots, slot: new}) if slot in s.slots else s for s in sentences
    ]


def _too_short(
    world: World, task: Task, sentences: Sentences, rng: random.Random
) -> Sentences | None:
    """It breaks off after the first sentence, a story after the one that brings the object."""
    kept = sentences[:2] if task.kind == "story" else sentences[:1]
    if task.kind == "question" or len(kept) == len(sentences):
        return None
    return kept


def _repeated(
    world: World, task: Task, sentences: Sentences, rng: random.Random
) -> Sentences | None:
    index = rng.randrange(len(sentences))
    return [*sentences[: index + 1], sentences[index], *sentences[index + 1 :]]


def _rude(world: World, task: Task, sentences: Sentences, rng: random.Random) -> Sentences | None:
    index = rng.randrange(len(sentences) + 1)
    rude = Sentence(rng.choice(TEMPLATES["rude"]), {})
    return [*sentences[:index], rude, *sentences[index:]]


def _unfinished(
    world: World, task: Task, sentences: Sentences, rng: random.Random
) -> Sentences | None:
    """It breaks off inside of the last sentence."""
    words = sentences[-1].text.split()
    if len(words) < 3:
        return None
    beginning = " ".join(words[: rng.randrange(2, len(words))]).rstrip(".,")
    return [*sentences[:-1], _raw(beginning)]


def _scrambled(
    world: World, task: Task, sentences: Sentences, rng: random.Random
) -> Sentences | None:
    index = rng.randrange(len(sentences))
    words = sentences[index].text.rstrip(".").split()
    shuffled = rng.sample(words, len(words))
    if len(words) < 4 or shuffled == words:
        return None
    scrambled = _raw(" ".join(shuffled) + ".")
    return [*sentences[:index], scrambled, *sentences[index + 1 :]]


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


def tells_heldout(world: World, sentences: Sentences) -> bool:
    """Whether the sentences tell a story or write a note whose contents are held out."""
    for kind in ("story", "note"):
        roles = {count.role for count in FORMS[kind]}
        slots = [s.slots for s in sentences if s.template.role in roles]
        animals = {s["animal"] for s in slots if "animal" in s}
        objects = {s["object"] for s in slots if "object" in s}
        if any(Task(kind, a, o) in world.heldout_tasks for a in animals for o in objects):
            return True
    return False


def plant(
    world: World,
    task: Task,
    flaws: Sequence[str],
    rng: random.Random,
    max_words: int = MAX_FLAWED_WORDS,
) -> str | None:
    """A fresh response with the flaws planted.

    None if the draw cannot carry them: a note that states no fact has none to get wrong, and
    another animal or object may make a story or note that is only ever held out.
    """
    sentences = write_response(world, task, rng)
    for flaw in flaws:
        planted = _PLANTERS[flaw](world, task, sentences, rng)
        if planted is None or tells_heldout(world, planted):
            return None
        sentences = planted
    text = join(sentences)
    return text if count_words(text) <= max_words else None
