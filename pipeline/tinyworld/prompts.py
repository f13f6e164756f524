"""Prompts: their wordings, their inverse, and the draw of the three splits."""

from __future__ import annotations

import hashlib
import random
from functools import lru_cache

from pipeline.errors import UserError
from pipeline.records import Prompt
from pipeline.tinyworld.world import KINDS, Task, World, all_tasks

# Kinds are drawn with these weights for as long as prompts of the kind are left.
KIND_WEIGHTS = {"story": 0.35, "note": 0.25, "description": 0.20, "question": 0.20}

WORDINGS = {
    "story": (
        "Tell me a story about a {animal} and a {object}.",
        "Write a short story about the {animal} and the {object}.",
        "Please tell a tale of a {animal} and a {object}.",
        "Can you tell a story of a {animal} who finds a {object}?",
        "I want to hear a story with a {animal} and a {object}.",
    ),
    "note": (
        "Write a thank-you note to the {animal} for the {object}.",
        "The {animal} gave me a {object}. Write a thank-you note.",
        "Please thank the {animal} for the {object} in a short note.",
        "Can you write a note to thank the {animal} for the {object}?",
        "I want to thank the {animal} for a {object}. Write the note.",
    ),
    "description": (
        "Describe the {animal}. Say {clauses}.",
        "Tell me about the {animal}: {clauses}.",
        "What is the {animal} like? Say {clauses}.",
        "Describe the {animal} with {nouns}.",
        "Please write about the {animal}, {nouns}.",
        "Can you describe the {animal}, {nouns}?",
    ),
    "question": (
        "{question}",
        "Tell me {clause}.",
        "Please tell me {clause}.",
        "Do you know {clause}?",
        "Can you say {clause}?",
        "I want to know {clause}.",
    ),
}
_QUESTIONS = {
    "color": "What color is the {animal}?",
    "home": "Where does the {animal} live?",
    "food": "What does the {animal} eat?",
    "hobby": "What does the {animal} like to do?",
}
_CLAUSES = {
    "color": "what color {subject} is",
    "home": "where {subject} lives",
    "food": "what {subject} eats",
    "hobby": "what {subject} likes to do",
}


def _words_of(task: Task) -> dict[str, str]:
    """What fills a wording's slots."""
    words = {"animal": task.animal, "object": task.object or ""}
    if task.kind == "question":
        (fact,) = task.facts
        words["question"] = _QUESTIONS[fact].format(animal=task.animal)
        words["clause"] = _CLAUSES[fact].format(subject=f"the {task.animal}")
    if task.kind == "description":
        words["clauses"] = " and ".join(_CLAUSES[fact].format(subject="it") for fact in task.facts)
        words["nouns"] = " and ".join(f"its {fact}" for fact in task.facts)
    return words


def wordings(task: Task) -> list[str]:
    """Every prompt that asks for the task."""
    words = _words_of(task)
    return [wording.format(**words) for wording in WORDINGS[task.kind]]


def prompt_text(task: Task, rng: random.Random) -> str:
    """One of the task's prompts."""
    return rng.choice(wordings(task))


@lru_cache(maxsize=1)
def _task_by_prompt() -> dict[str, Task]:
    return {text: task for task in all_tasks() for text in wordings(task)}


def parse_prompt(text: str) -> Task | None:
    """The task that a prompt asks for; None for a prompt that the world does not know."""
    return _task_by_prompt().get(text.strip())


def draw_prompts(
    world: World, count: int, rng: random.Random, *, heldout: bool
) -> list[tuple[str, Task]]:
    """``count`` distinct prompts from one side of the split, kinds mixed, in random order.

    Raises:
        UserError: there are fewer.
    """
    pools = {kind: _shuffled_pool(world, kind, rng, heldout=heldout) for kind in KINDS}
    available = sum(len(pool) for pool in pools.values())
    if count > available:
        side = "held-out" if heldout else "training"
        raise UserError(
            "data.tinyworld",
            f"the world has {available} distinct {side} prompts, got {count} asked for.",
            "ask for fewer prompts or demonstrations.",
        )
    drawn: list[tuple[str, Task]] = []
    while len(drawn) < count:
        kinds = [kind for kind in KINDS if pools[kind]]
        kind = rng.choices(kinds, [KIND_WEIGHTS[kind] for kind in kinds])[0]
        drawn.append(pools[kind].pop())
    rng.shuffle(drawn)
    return drawn


def _shuffled_pool(
    world: World, kind: str, rng: random.Random, *, heldout: bool
) -> list[tuple[str, Task]]:
    tasks = world.tasks(kind, heldout=heldout)
    pool = [(text, task) for task in tasks for text in wordings(task)]
    rng.shuffle(pool)
    return pool


def make_prompts(
    world: World, label_prompts: int, ppo_prompts: int, heldout_prompts: int, seed: int
) -> list[Prompt]:
    """The prompts of the splits label, ppo and heldout; no text occurs twice.

    Label and ppo prompts share the training contents; a held-out prompt's content (its animal and
    object, or animal and facts) occurs with that kind nowhere else.

    Raises:
        UserError: more are asked for than the world has.
    """
    training = draw_prompts(
        world, label_prompts + ppo_prompts, random.Random(f"{seed}/prompts"), heldout=False
    )
    heldout = draw_prompts(world, heldout_prompts, random.Random(f"{seed}/heldout"), heldout=True)
    return [
        *(_prompt("label", *pair) for pair in training[:label_prompts]),
        *(_prompt("ppo", *pair) for pair in training[label_prompts:]),
        *(_prompt("heldout", *pair) for pair in heldout),
    ]


def _prompt(split: str, text: str, task: Task) -> Prompt:
    meta: dict[str, object] = {"kind": task.kind, "animal": task.animal}
    if task.object is not None:
        meta["object"] = task.object
    if task.facts:
        meta["facts"] = list(task.facts)
    prompt_id = "p" + hashlib.sha256(text.encode()).hexdigest()[:12]
    values = {"prompt_id": prompt_id, "prompt": text, "split": split, "meta": meta}
    return Prompt.model_validate(values)
