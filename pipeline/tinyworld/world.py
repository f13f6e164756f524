"""The invented world: its words, its facts, and which contents are held out."""

from __future__ import annotations

import hashlib
import itertools
import random
from dataclasses import dataclass
from functools import cached_property, lru_cache

from pipeline.tinyworld.constants import HELDOUT_SHARE

ANIMALS = (
    *("bear", "cat", "cow", "crow", "deer", "dog", "duck", "fox", "frog", "goat"),
    *("hen", "horse", "mole", "mouse", "pig", "rabbit", "sheep", "swan", "turtle", "wolf"),
)
OBJECTS = (
    *("ball", "basket", "bell", "blanket", "boat", "book", "box", "chair", "clock", "coin"),
    *("cup", "drum", "hat", "key", "kite", "ladder", "lantern", "mirror", "rope", "wagon"),
)
FACT_VALUES = {
    "color": ("black", "blue", "brown", "gold", "gray", "green", "pink", "red", "white", "yellow"),
    "home": (
        *("barn", "cabin", "castle", "cave", "forest"),
        *("garden", "meadow", "mill", "tower", "valley"),
    ),
    "food": (
        *("apples", "berries", "bread", "cake", "carrots"),
        *("cheese", "corn", "honey", "nuts", "soup"),
    ),
    "hobby": ("climb", "cook", "dance", "dig", "jump", "paint", "read", "run", "sing", "swim"),
}
FACTS = tuple(FACT_VALUES)
KINDS = ("story", "note", "description", "question")


@dataclass(frozen=True)
class Task:
    """What a prompt asks for.

    ``object`` is set for stories and notes. ``facts`` holds the one fact of a question or the two
    of a description, in the order of ``FACTS``.
    """

    kind: str
    animal: str
    object: str | None = None
    facts: tuple[str, ...] = ()

    @property
    def subjects(self) -> tuple[str, ...]:
        """The animal and, where there is one, the object: what a response must mention."""
        return (self.animal,) if self.object is None else (self.animal, self.object)


@lru_cache(maxsize=1)
def all_tasks() -> tuple[Task, ...]:
    """Every content of every kind, in a fixed order."""
    pairs = list(itertools.product(ANIMALS, OBJECTS))
    tasks = [Task("story", animal, thing) for animal, thing in pairs]
    tasks += [Task("note", animal, thing) for animal, thing in pairs]
    for kind, size in (("description", 2), ("question", 1)):
        for animal in ANIMALS:
            tasks += [Task(kind, animal, None, c) for c in itertools.combinations(FACTS, size)]
    return tuple(tasks)


@dataclass(frozen=True)
class World:
    """The facts of one world. ``facts[animal][fact]`` is a word of ``FACT_VALUES[fact]``."""

    seed: int
    facts: dict[str, dict[str, str]]

    @cached_property
    def heldout_tasks(self) -> frozenset[Task]:
        """The contents that only held-out prompts name: of each kind the lowest hashes."""
        heldout: set[Task] = set()
        for kind in KINDS:
            tasks = sorted((t for t in all_tasks() if t.kind == kind), key=self._hash)
            heldout.update(tasks[: round(len(tasks) * HELDOUT_SHARE)])
        return frozenset(heldout)

    def _hash(self, task: Task) -> str:
        content = "/".join((str(self.seed), task.kind, *task.subjects, *task.facts))
        return hashlib.sha256(content.encode()).hexdigest()

    def tasks(self, kind: str, *, heldout: bool) -> list[Task]:
        """The contents of a kind on one side of the split, in a fixed order."""
        return [t for t in all_tasks() if t.kind == kind and (t in self.heldout_tasks) == heldout]


def build_world(seed: int) -> World:
    """The world of a seed: every word of a fact is true of two animals."""
    rng = random.Random(f"{seed}/world")
    facts: dict[str, dict[str, str]] = {animal: {} for animal in ANIMALS}
    for fact, words in FACT_VALUES.items():
        values = list(words) * (len(ANIMALS) // len(words))
        rng.shuffle(values)
        for animal, value in zip(ANIMALS, values, strict=True):
            facts[animal][fact] = value
    return World(seed, facts)
