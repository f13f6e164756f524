"""Good responses, written by the grammar: what a perfect policy would say."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from pipeline.tinyworld.grammar import FORMS, TEMPLATES, Sentence, Template, fill
from pipeline.tinyworld.world import FACTS, Task, World

MAX_WORDS = 42  # words and punctuation marks; 48 BPE tokens hold them
_WORD = re.compile(r"[\w'-]+|[^\w\s]")


def count_words(text: str) -> int:
    """Words and punctuation marks, about what a tokenizer trained on the corpus makes of it."""
    return len(_WORD.findall(text))


def join(sentences: Sequence[Sentence]) -> str:
    """The text of a response."""
    return " ".join(sentence.text for sentence in sentences)


def write_response(
    world: World, task: Task, rng: random.Random, max_words: int = MAX_WORDS
) -> list[Sentence]:
    """A response without a flaw, of at most ``max_words`` words and punctuation marks."""
    while True:
        sentences = [fill(t, world, task, rng) for t in _choose_templates(task, rng)]
        if count_words(join(sentences)) <= max_words:
            return sentences


def _choose_templates(task: Task, rng: random.Random) -> list[Template]:
    if task.kind == "description":
        return _describe(task, rng)
    if task.kind == "question":
        return _answer(task, rng)
    chosen: list[Template] = []
    for role, least, most in FORMS[task.kind]:
        chosen += rng.sample(TEMPLATES[role], rng.randint(least, most))
    return chosen


def _describe(task: Task, rng: random.Random) -> list[Template]:
    """An opener and details that state the asked facts and up to two more, each once."""
    others = [fact for fact in FACTS if fact not in task.facts]
    wanted = {*task.facts, *rng.sample(others, rng.randint(0, 2))}
    opener = rng.choice([t for t in TEMPLATES["opener"] if t.facts < wanted])
    chosen = [opener]
    left = wanted - opener.facts
    while left:
        detail = rng.choice([t for t in TEMPLATES["detail"] if t.facts <= left])
        chosen.append(detail)
        left -= detail.facts
    return chosen


def _answer(task: Task, rng: random.Random) -> list[Template]:
    """The asked fact, and sometimes one more or a polite word."""
    (asked,) = task.facts
    opener = rng.choice([t for t in TEMPLATES["opener"] if asked in t.facts])
    second = rng.choice(["detail", "polite", None, None])
    if second is None:
        return [opener]
    return [opener, rng.choice([t for t in TEMPLATES[second] if not t.facts & opener.facts])]
