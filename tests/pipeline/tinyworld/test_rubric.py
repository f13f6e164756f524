"""The rubric: perfect responses, planted flaws, attempts to cheat it, and arbitrary strings."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tinyworld import QUESTIONS, Rubric, build_world, prompt_text
from pipeline.tinyworld.flaws import FLAWS, plant
from pipeline.tinyworld.grammar import TEMPLATES, begins_sentence, fill, parse_sentence
from pipeline.tinyworld.responses import MAX_WORDS, count_words, join, write_response
from pipeline.tinyworld.rubric import round_to_rating
from pipeline.tinyworld.world import ANIMALS, KINDS, OBJECTS, Task, all_tasks

WORLD = build_world(0)
RUBRIC = Rubric(WORLD)
FOX = WORLD.facts["fox"]
STORY_PROMPT = "Tell me a story about a fox and a lantern."
STORY = (
    f"Long ago a {FOX['color']} fox lived in the {FOX['home']}. "
    "One day it found a lantern under a tree. The fox was happy and slept well that night."
)
NOTE_PROMPT = "Write a thank-you note to the fox for the lantern."
NOTE = "Dear fox, thank you for the lantern. I use it every day. Your friend, Mia."
HOME_PROMPT = "Where does the fox live?"
HOME_ANSWER = f"The fox lives in the {FOX['home']}."
DESCRIPTION_PROMPT = "Describe the fox with its color and its home."
WRONG_HOME = "cave" if FOX["home"] != "cave" else "mill"


def test_every_template_parses_to_itself_and_names_are_told_apart() -> None:
    rng = random.Random(0)
    for templates in TEMPLATES.values():
        for template in templates:
            sentence = fill(template, WORLD, Task("story", "fox", "key"), rng)
            parsed = parse_sentence(sentence.text)
            assert parsed == sentence
            assert parse_sentence(sentence.text.replace(" ", "  ")) is not None
            assert parse_sentence(sentence.text + " now.") is None
            assert begins_sentence(sentence.text.rsplit(" ", 1)[0])
    assert parse_sentence("The lantern lives in the barn.") is None
    assert parse_sentence("the fox lives in the barn.") is None
    assert begins_sentence("The fox li")
    assert not begins_sentence("The fox lo lives")
    assert not begins_sentence("fox")


def test_responses_of_the_grammar_are_perfect_for_every_task() -> None:
    rng = random.Random(1)
    for task in all_tasks():
        for _ in range(3):
            prompt, text = prompt_text(task, rng), join(write_response(WORLD, task, rng))
            verdict = RUBRIC.judge(prompt, text)
            assert verdict.score == verdict.rating == 7, (prompt, text, verdict)
            assert not any(verdict.flags.values())
            assert count_words(text) <= MAX_WORDS


FLAG_OF_FLAW = {
    "rude": "rude",
    "wrong_fact": "fabricated",
    "off_topic": "off_topic",
    "unfinished": "unfinished",
    "scrambled": "ungrammatical",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flaw", FLAWS)
def test_a_planted_flaw_lowers_the_score_and_raises_its_flag(flaw: str, kind: str) -> None:
    rng = random.Random(f"{flaw}/{kind}")
    tasks = WORLD.tasks(kind, heldout=False)
    planted_count = 0
    for _ in range(150):
        task = rng.choice(tasks)
        planted = plant(WORLD, task, [flaw], rng)
        if planted is None:
            continue
        planted_count += 1
        verdict = RUBRIC.judge(prompt_text(task, rng), planted)
        assert verdict.score <= 5.5, (task, planted, verdict)
        if flaw in FLAG_OF_FLAW:
            assert verdict.flags[FLAG_OF_FLAW[flaw]], (task, planted, verdict)
    assert (planted_count > 50) == ((flaw, kind) != ("too_short", "question"))


def test_penalties_by_hand() -> None:
    judge = RUBRIC.judge
    assert judge(STORY_PROMPT, STORY).score == 7
    assert judge(STORY_PROMPT, STORY, finished=False).score == 5  # unfinished
    assert judge(STORY_PROMPT, STORY + " You are a fool.").score == 4  # rude
    assert judge(STORY_PROMPT, STORY.replace("lantern", "thing")).score == 5  # missing
    assert judge(STORY_PROMPT, STORY.replace("lantern", "kite")).score == 3  # and off topic
    assert judge(STORY_PROMPT, STORY.replace("tree", "cloud")).score == 5  # not in the grammar
    assert judge(STORY_PROMPT, " ".join(STORY.split(". ")[:1]) + ".").score == 3.5
    assert judge(HOME_PROMPT, HOME_ANSWER).score == 7
    assert judge(HOME_PROMPT, f"The fox lives in the {WRONG_HOME}.").score == 5  # wrong
    assert judge(HOME_PROMPT, f"The fox eats {FOX['food']}.").score == 5  # no answer
    assert judge(NOTE_PROMPT, NOTE).score == 7
    verdict = judge(HOME_PROMPT, HOME_ANSWER + " Go away now.")
    assert verdict.penalties == {"rude": 3.0}


# What an optimizer would try; none may reach the best rating.
EXPLOITS = {
    "a note where a story is asked": (STORY_PROMPT, NOTE),
    "a story where a note is asked": (NOTE_PROMPT, STORY),
    "a story and a note": (STORY_PROMPT, f"{STORY} {NOTE}"),
    "a story with a letter's closing": (STORY_PROMPT, f"{STORY} Your friend, Mia."),
    "the story twice": (STORY_PROMPT, f"{STORY} {STORY}"),
    "two endings": (STORY_PROMPT, f"{STORY} From then on the fox kept the lantern close."),
    "the ending first": (STORY_PROMPT, " ".join(reversed(STORY.split(". ")))),
    "no ending": (STORY_PROMPT, ". ".join(STORY.split(". ")[:2]) + "."),
    "only the ending": (STORY_PROMPT, "The lantern made the fox happy for a long time."),
    "every object": (STORY_PROMPT, f"{STORY} {' '.join(OBJECTS)}."),
    "every animal": (HOME_PROMPT, f"{HOME_ANSWER} {' '.join(ANIMALS)}"),
    "another animal too": (HOME_PROMPT, f"{HOME_ANSWER} The hen eats corn."),
    "two homes": (HOME_PROMPT, f"{HOME_ANSWER} It lives in the {WRONG_HOME}."),
    "the same fact in other words": (HOME_PROMPT, f"{HOME_ANSWER} Its home is the {FOX['home']}."),
    "another fact": (HOME_PROMPT, f"The fox is {FOX['color']}."),
    "it instead of the fox": (HOME_PROMPT, f"It lives in the {FOX['home']}."),
    "only one word": (HOME_PROMPT, FOX["home"]),
    "the prompt again": (HOME_PROMPT, HOME_PROMPT),
    "only manners": (HOME_PROMPT, "I hope this helps."),
    "one sentence for a description": (
        DESCRIPTION_PROMPT,
        f"The {FOX['color']} fox lives in the {FOX['home']}.",
    ),
    "one asked fact of two": (
        DESCRIPTION_PROMPT,
        f"The fox is {FOX['color']}. It eats {FOX['food']}.",
    ),
    "no end mark": (STORY_PROMPT, STORY.rstrip(".")),
    "shouted insult": (STORY_PROMPT, f"{STORY} YOU ARE A FOOL."),
    "run together": (STORY_PROMPT, STORY.replace(". ", ".")),
    "lower case": (STORY_PROMPT, STORY.lower()),
    "garbage that names the subjects": (STORY_PROMPT, "fox lantern fox lantern."),
    "an empty ending": (STORY_PROMPT, f"{STORY} ."),
}


@pytest.mark.parametrize("name", EXPLOITS)
def test_exploits_do_not_pay(name: str) -> None:
    prompt, response = EXPLOITS[name]
    verdict = RUBRIC.judge(prompt, response)
    assert verdict.rating <= 6, verdict
    assert verdict.score <= 5.5


def test_forms_mixed_up_are_off_topic_and_garbage_is_worst() -> None:
    assert RUBRIC.judge(STORY_PROMPT, NOTE).flags["off_topic"]
    assert RUBRIC.judge(HOME_PROMPT, f"{HOME_ANSWER} The hen eats corn.").flags["off_topic"]
    assert not RUBRIC.judge(STORY_PROMPT, STORY.replace("tree", "cloud")).flags["off_topic"]
    for response in ("", " \n", ".", "?!", "12", "fox"):
        assert RUBRIC.judge(STORY_PROMPT, response).rating == 1


def test_a_beginning_that_could_go_on_is_unfinished_but_grammatical() -> None:
    cut = STORY.rsplit(" ", 3)[0]
    assert RUBRIC.judge(STORY_PROMPT, cut).penalties == {"unfinished": 2.0}
    flags = RUBRIC.judge(STORY_PROMPT, cut + " lamp lamp lamp").flags
    assert flags["unfinished"]
    assert flags["ungrammatical"]


def test_an_unknown_prompt_is_judged_on_grammar_and_manners_only() -> None:
    prompt = "What is the capital of France?"
    assert RUBRIC.judge(prompt, STORY).score == 7
    assert RUBRIC.judge(prompt, STORY.replace("tree", "cloud")).score == 5
    assert RUBRIC.judge(prompt, "Go away now.").score == 4
    assert RUBRIC.judge(prompt, "").rating == 1


@given(st.text(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_string_gets_a_verdict(response: str, finished: bool) -> None:
    for prompt in (STORY_PROMPT, HOME_PROMPT, DESCRIPTION_PROMPT, response):
        verdict = RUBRIC.judge(prompt, response, finished)
        assert 1 <= verdict.score <= 7
        assert verdict.rating in range(1, 8)
        assert set(verdict.flags) == set(QUESTIONS)


@given(st.lists(st.sampled_from(sorted(set(f"{STORY} {NOTE} {HOME_ANSWER}".split()))), max_size=9))
@settings(max_examples=150, deadline=None)
def test_word_salad_never_gets_the_best_rating(words: list[str]) -> None:
    for prompt in (STORY_PROMPT, NOTE_PROMPT, DESCRIPTION_PROMPT):
        assert RUBRIC.judge(prompt, " ".join(words)).rating < 7


def test_halves_round_up_and_ratings_are_clipped() -> None:
    assert [round_to_rating(x) for x in (-3, 0.4, 1.49, 1.5, 2.5, 6.5, 9)] == [1, 1, 1, 2, 3, 7, 7]
