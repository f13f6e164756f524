"""Facts, splits, prompts, demonstrations and corpus of the embedded world."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from pipeline.errors import UserError
from pipeline.records import Document
from pipeline.tinyworld import (
    MIXTURE,
    Rubric,
    build_world,
    copy_probes,
    make_corpus,
    make_demonstrations,
    make_prompts,
    parse_prompt,
    prompt_text,
    world_constants,
)
from pipeline.tinyworld.constants import FLAW_WEIGHTS
from pipeline.tinyworld.corpus import MAX_DOCUMENT_WORDS, VERDICTS
from pipeline.tinyworld.grammar import FORMS, parse_sentence, split_sentences
from pipeline.tinyworld.prompts import wordings
from pipeline.tinyworld.world import FACT_VALUES, KINDS, Task, all_tasks

WORLD = build_world(0)


@pytest.fixture(scope="module")
def corpus() -> dict[str, list[Document]]:
    return make_corpus(WORLD, 3000, seed=0)


def heldout_pool(kind: str) -> set[str]:
    return {text for task in WORLD.tasks(kind, heldout=True) for text in wordings(task)}


def test_constants_are_complete_and_honest() -> None:
    constants = world_constants()
    assert sum(constants["FLAW_WEIGHTS"].values()) == pytest.approx(1)
    assert constants["FLAWED_DEMONSTRATION_SHARE"] <= 0.9
    assert constants["LABELER_NOISE"] == 0.8
    assert constants["LABELER_RANDOM_SHARE"] == 0.03


def test_every_word_of_a_fact_is_true_of_two_animals_and_seeds_differ() -> None:
    for fact, words in FACT_VALUES.items():
        counts = Counter(facts[fact] for facts in WORLD.facts.values())
        assert counts == dict.fromkeys(words, 2)
    assert build_world(0).facts == WORLD.facts
    assert build_world(1).facts != WORLD.facts
    assert build_world(1).heldout_tasks != WORLD.heldout_tasks


def test_task_counts_by_hand() -> None:
    counts = Counter(task.kind for task in all_tasks())
    assert counts == {"story": 400, "note": 400, "description": 20 * 6, "question": 20 * 4}


def test_a_quarter_of_each_kind_is_held_out() -> None:
    for kind in KINDS:
        heldout, training = (set(WORLD.tasks(kind, heldout=side)) for side in (True, False))
        assert not heldout & training
        assert 3 * len(heldout) == len(training)


def test_every_prompt_parses_back_to_its_task() -> None:
    seen: set[str] = set()
    for task in all_tasks():
        for text in wordings(task):
            assert parse_prompt(text) == task
            assert "{" not in text
            seen.add(text)
    assert len(seen) == 400 * 5 + 400 * 5 + 120 * 6 + 80 * 6  # no two tasks share a wording
    assert prompt_text(all_tasks()[0], random.Random(0)) in wordings(all_tasks()[0])
    assert parse_prompt("Tell me about the moon.") is None
    assert parse_prompt("") is None


def test_prompts_are_distinct_split_by_content_and_stable() -> None:
    prompts = make_prompts(WORLD, 400, 1600, 300, seed=0)
    assert Counter(p.split for p in prompts) == {"label": 400, "ppo": 1600, "heldout": 300}
    assert len({p.prompt for p in prompts}) == len({p.prompt_id for p in prompts}) == 2300
    for prompt in prompts:
        task = parse_prompt(prompt.prompt)
        assert task is not None
        assert (task in WORLD.heldout_tasks) == (prompt.split == "heldout")
        assert prompt.meta is not None
        assert prompt.meta["kind"] == task.kind
    assert prompts == make_prompts(WORLD, 400, 1600, 300, seed=0)


def test_another_seed_draws_fresh_heldout_prompts() -> None:
    first, second = (
        {p.prompt for p in make_prompts(WORLD, 1, 1, 300, seed=seed) if p.split == "heldout"}
        for seed in (0, 1)
    )
    assert sum(len(heldout_pool(kind)) for kind in KINDS) == 1300
    assert len(first & second) < 150


@pytest.mark.parametrize("counts", [(2000, 2000, 10), (10, 10, 1301)])
def test_more_prompts_than_the_world_has_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match="the world has"):
        make_prompts(WORLD, *counts, seed=0)


def test_demonstrations_are_flawed_as_the_constants_say() -> None:
    demonstrations = make_demonstrations(WORLD, 2000, seed=0)
    assert demonstrations == make_demonstrations(WORLD, 2000, seed=0)
    assert len({d.prompt for d in demonstrations}) == 2000
    for demonstration in demonstrations:
        task = parse_prompt(demonstration.prompt)
        assert task is not None
        assert task not in WORLD.heldout_tasks
    # 0.85 flawed; 60 % carry one flaw and 40 % two. A flaw is in p + sum over other first flaws.
    p = FLAW_WEIGHTS["rude"]
    second = sum(w * p / (1 - w) for name, w in FLAW_WEIGHTS.items() if name != "rude")
    expected = 0.85 * (p + 0.4 * second)
    rude = re.compile("fool|Go away|stupid|hate|Shut up|idiot|dumb")
    share = sum(bool(rude.search(d.response)) for d in demonstrations) / 2000
    assert share == pytest.approx(expected, abs=0.045)


def test_too_many_demonstrations_are_refused() -> None:
    with pytest.raises(UserError, match="distinct training prompts"):
        make_demonstrations(WORLD, 4000, seed=0)


def test_corpus_has_its_sources_in_proportion(corpus: dict[str, list[Document]]) -> None:
    assert sum(MIXTURE.values()) == pytest.approx(1)
    assert {source: len(docs) / 3000 for source, docs in corpus.items()} == pytest.approx(MIXTURE)
    ids = [document.document_id for documents in corpus.values() for document in documents]
    assert len(set(ids)) == len(ids)
    assert make_corpus(WORLD, 60, seed=0) == make_corpus(WORLD, 60, seed=0)


def test_corpus_names_no_heldout_content_of_the_same_kind(
    corpus: dict[str, list[Document]],
) -> None:
    titles = {
        "stories": ("story", re.compile(r"The (\w+) and the (\w+)\.\n")),
        "notes": ("note", re.compile(r"A note to the (\w+) for the (\w+)\.\n")),
    }
    for source, (kind, pattern) in titles.items():
        for document in corpus[source]:
            found = pattern.match(document.text)
            assert found is not None
            assert Task(kind, found[1], found[2]) not in WORLD.heldout_tasks
    asked = 0
    for source in ("questions", "chat", "reviews"):
        for document in corpus[source]:
            lines = [line.partition(": ")[2] for line in document.text.split("\n")]
            tasks = [task for line in lines if (task := parse_prompt(line)) is not None]
            assert tasks
            assert not WORLD.heldout_tasks.intersection(tasks)
            asked += len(tasks)
    assert asked >= len(corpus["questions"]) * 2


def told_contents(text: str) -> set[Task]:
    """The stories and notes (kind, animal, object) that a text's whole sentences tell."""
    told: set[Task] = set()
    for kind in ("story", "note"):
        roles = {count.role for count in FORMS[kind]}
        parsed = [parse_sentence(sentence) for sentence in split_sentences(text)]
        slots = [s.slots for s in parsed if s is not None and s.template.role in roles]
        animals = {s["animal"] for s in slots if "animal" in s}
        objects = {s["object"] for s in slots if "object" in s}
        told |= {Task(kind, animal, thing) for animal in animals for thing in objects}
    return told


def test_no_flawed_response_tells_heldout_content(corpus: dict[str, list[Document]]) -> None:
    replies = [d.text.split("\n")[1].removeprefix("Reply: ") for d in corpus["reviews"]]
    texts = [d.response for d in make_demonstrations(WORLD, 2000, seed=0)] + replies
    told = set().union(*(told_contents(text) for text in texts))
    assert len(told) > 300
    assert not told & WORLD.heldout_tasks


def test_narrative_documents_repeat_the_subjects_of_their_title(
    corpus: dict[str, list[Document]],
) -> None:
    for document in corpus["stories"] + corpus["notes"]:
        heading, text = document.text.split("\n")
        animal, thing = re.findall(r"the (\w+)|The (\w+)", heading)
        for name in (*animal, *thing):
            assert name in text


def test_fact_sheets_state_every_fact_truly(corpus: dict[str, list[Document]]) -> None:
    for document in corpus["fact_sheets"]:
        animal = document.text.split("\n")[0].removeprefix("All about the ").removesuffix(".")
        for value in WORLD.facts[animal].values():
            assert re.search(rf"\b{value}\b", document.text)


def test_reviews_are_right(corpus: dict[str, list[Document]]) -> None:
    """Their checks against the reply's own words, their verdicts against the rubric."""
    rubric = Rubric(WORLD)
    words_used: Counter[str] = Counter()
    for document in corpus["reviews"]:
        request, reply, review = document.text.split("\n")
        prompt, reply = request.removeprefix("Request: "), reply.removeprefix("Reply: ")
        verdict, checks = re.fullmatch(r"Verdict: (\w+); (.+)\.", review).groups()  # type: ignore[union-attr]
        words_used[verdict] += 1
        assert (rubric.judge(prompt, reply).rating == 7) == (verdict == "good"), document
        answers = dict(check.split(" ") for check in checks.split(", "))
        assert ("no" in answers.values()) == (verdict != "good")
        for name in parse_prompt(prompt).subjects:  # type: ignore[union-attr]
            if name in answers:
                assert (answers[name] == "yes") == bool(re.search(rf"\b{name}\b", reply))
        if answers.get("whole") == "no":
            assert not reply.endswith(".")
    assert all(words_used[verdict] > 0.15 * words_used.total() for verdict in VERDICTS)


def test_documents_are_short_and_the_vocabulary_is_small(
    corpus: dict[str, list[Document]],
) -> None:
    words: set[str] = set()
    for document in (d for documents in corpus.values() for d in documents):
        tokens = re.findall(r"[\w'-]+|[^\w\s]", document.text)
        assert 18 <= len(tokens) <= MAX_DOCUMENT_WORDS
        words.update(tokens)
    assert len(words) < 500


def test_copy_probes_continue_with_the_titles_object_on_heldout_pairs() -> None:
    probes = copy_probes(WORLD, 200, seed=0)
    assert probes == copy_probes(WORLD, 200, seed=0)
    for prefix, target in probes:
        heading, text = prefix.split("\n")
        assert heading.endswith(f"{target}.")
        assert target.strip() not in text.split()
        kind = "note" if heading.startswith("A note") else "story"
        animal = re.findall(r"[Tt]he (\w+)", heading)[0]
        assert Task(kind, animal, target.strip()) in WORLD.heldout_tasks
