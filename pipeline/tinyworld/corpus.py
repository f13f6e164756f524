"""The corpus: six sources of different quality, all about the same animals and objects.

Narrative documents open with a title that names their subjects, so that a model learns to look
back and copy them. Only fact sheets touch held-out contents; nothing else does with its own kind.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.records import Document
from pipeline.tinyworld.flaws import FLAWS, plant
from pipeline.tinyworld.grammar import SLOT_WORDS, TEMPLATES, fill
from pipeline.tinyworld.prompts import prompt_text
from pipeline.tinyworld.responses import count_words, join, write_response
from pipeline.tinyworld.world import ANIMALS, FACT_VALUES, FACTS, KINDS, OBJECTS, Task, World

# Source -> its share of the documents, and of the rows that pretraining sees.
MIXTURE = {
    "stories": 0.22,
    "fact_sheets": 0.12,
    "notes": 0.14,
    "questions": 0.10,
    "chat": 0.07,
    "reviews": 0.35,
}
FLAWS_IN_REVIEW = (0.35, 0.4, 0.25)  # share of reviewed replies with no, one and two flaws
VERDICTS = ("good", "fair", "poor")  # nothing wrong, one thing, more
CHECKS_SHOWN = 4
CHECKED_FLAWS = {
    "true": "wrong_fact",
    "long": "too_short",
    "new": "repeated",
    "English": "scrambled",
    "kind": "rude",
    "whole": "unfinished",
}
MAX_DOCUMENT_WORDS = 66  # words and punctuation marks: a row of 72 tokens holds the whole document


class CopyProbe(NamedTuple):
    """``prefix + target`` is a text whose title names the object that ``target`` repeats."""

    prefix: str
    target: str


def title(task: Task) -> str:
    """The title line of a story or a note."""
    if task.kind == "story":
        return f"The {task.animal} and the {task.object}."
    return f"A note to the {task.animal} for the {task.object}."


def _titled_response(world: World, task: Task, rng: random.Random) -> str:
    """A story or a note, as on the page of a book."""
    return f"{title(task)}\n{join(write_response(world, task, rng))}"


def _fact_sheet(world: World, animal: str, rng: random.Random) -> str:
    task = Task("description", animal)
    opener = rng.choice(TEMPLATES["opener"])
    chosen, left = [opener], set(FACTS) - opener.facts
    while left:
        detail = rng.choice([t for t in TEMPLATES["detail"] if t.facts <= left])
        chosen.append(detail)
        left -= detail.facts
    text = join([fill(template, world, task, rng) for template in chosen])
    return f"All about the {animal}.\n{text}"


def _question_page(world: World, tasks: list[Task], rng: random.Random) -> str:
    lines = ["Questions and answers."]
    for task in rng.sample(tasks, 2):
        lines.append(f"Q: {prompt_text(task, rng)}")
        lines.append(f"A: {join(write_response(world, task, rng))}")
    return "\n".join(lines)


def _chat(world: World, tasks: list[Task], rng: random.Random) -> str:
    """Two people talk, badly: half of the answers are wrong, and some lines are rude or spam."""
    task, thing = rng.choice(tasks), rng.choice(OBJECTS)
    (fact,) = task.facts
    word = world.facts[task.animal][fact]
    if rng.random() < 0.5:
        word = rng.choice(FACT_VALUES[fact])
    short = {"color": word, "home": f"in the {word}", "food": word, "hobby": f"it likes to {word}"}
    lines = [
        prompt_text(task, rng),
        f"{short[fact]}, I think",
        f"who took my {thing}? I want the {thing} back",
        rng.choice(
            [
                rng.choice(TEMPLATES["rude"]).text,
                f"not me, I have a {rng.choice(OBJECTS)}",
                f"a new {thing} for one coin! buy now! buy buy buy!",
                f"ha ha, the {task.animal} has the {thing}",
            ]
        ),
        rng.choice(TEMPLATES["rude"]).text,
    ]
    names = rng.sample(sorted(SLOT_WORDS["name"]), 2)
    talk = [f"{names[i % 2]}: {line}" for i, line in enumerate(lines)]
    return "\n".join([f"A chat about the {task.animal} and the {thing}.", *talk])


def _checks(task: Task, flaws: Sequence[str], reply: str) -> dict[str, bool]:
    """What an editor looks at, and whether the reply is right in it."""
    words = set(reply.lower().replace(",", " ").replace(".", " ").split())
    named = {subject: subject in words for subject in task.subjects}
    return named | {
        task.kind: "off_topic" not in flaws,
        **{check: flaw not in flaws for check, flaw in CHECKED_FLAWS.items()},
    }


def _review(world: World, tasks: dict[str, list[Task]], rng: random.Random) -> str:
    """A request, a reply with up to two flaws, and an editor's verdict: a word, and some checks.

    The first checks are those that failed, so that most verdicts say what is wrong.
    """
    pool = tasks[rng.choice(KINDS)]
    flaws = sorted(rng.sample(FLAWS, rng.choices((0, 1, 2), FLAWS_IN_REVIEW)[0]), key=FLAWS.index)
    for _ in range(100):
        task = rng.choice(pool)
        reply = plant(world, task, flaws, rng)
        if reply is None:
            continue
        checks = _checks(task, flaws, reply)
        failed = [check for check, passed in checks.items() if not passed]
        others = rng.sample([check for check in checks if check not in failed], 2)
        shown = (failed + others)[:CHECKS_SHOWN]
        rng.shuffle(shown)
        answers = ", ".join(f"{check} {'yes' if checks[check] else 'no'}" for check in shown)
        verdict = VERDICTS[min(len(failed), len(VERDICTS) - 1)]
        text = f"Request: {prompt_text(task, rng)}\nReply: {reply}\nVerdict: {verdict}; {answers}."
        if count_words(text) <= MAX_DOCUMENT_WORDS:
            return text
    return _review(world, tasks, rng)  # this kind cannot carry these flaws


def make_corpus(world: World, documents: int, seed: int) -> dict[str, list[Document]]:
    """About ``documents`` documents, by source, in the proportions of ``MIXTURE``."""
    tasks = {kind: world.tasks(kind, heldout=False) for kind in KINDS}
    writers: dict[str, Callable[[random.Random], str]] = {
        "stories": lambda rng: _titled_response(world, rng.choice(tasks["story"]), rng),
        "fact_sheets": lambda rng: _fact_sheet(world, rng.choice(ANIMALS), rng),
        "notes": lambda rng: _titled_response(world, rng.choice(tasks["note"]), rng),
        "questions": lambda rng: _question_page(world, tasks["question"], rng),
        "chat": lambda rng: _chat(world, tasks["question"], rng),
        "reviews": lambda rng: _review(world, tasks, rng),
    }
    corpus: dict[str, list[Document]] = {}
    for source, share in MIXTURE.items():
        rng = random.Random(f"{seed}/corpus/{source}")
        corpus[source] = [
            Document(document_id=f"{source}-{index:05d}", text=_write_short(writers[source], rng))
            for index in range(max(1, round(documents * share)))
        ]
    return corpus


def _write_short(write: Callable[[random.Random], str], rng: random.Random) -> str:
    while True:
        text = write(rng)
        if count_words(text) <= MAX_DOCUMENT_WORDS:
            return text


def copy_probes(world: World, count: int, seed: int) -> list[CopyProbe]:
    """Beginnings of held-out stories and notes, up to where the object's name comes again."""
    rng = random.Random(f"{seed}/copy_probes")
    tasks = [t for kind in ("story", "note") for t in world.tasks(kind, heldout=True)]
    probes: list[CopyProbe] = []
    for _ in range(count):
        task = rng.choice(tasks)
        heading, text = _titled_response(world, task, rng).split("\n")
        target = f" {task.object}"
        probes.append(CopyProbe(f"{heading}\n{text[: text.index(target)]}", target))
    return probes
