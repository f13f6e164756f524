"""Judges and scripted labelers: what they return and how often they are right."""

from __future__ import annotations

import itertools
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.judges import (
    Judge,
    OverlapJudge,
    RubricJudge,
    ScriptedLabeler,
    make_labelers,
    ranks_with_ties,
)
from pipeline.records import Prompt, contradiction
from pipeline.tinyworld import QUESTIONS, Rubric, Verdict, build_world, make_demonstrations
from pipeline.tinyworld.rubric import round_to_rating


def prompt_with(reference: str | None) -> Prompt:
    meta = None if reference is None else {"reference": reference}
    return Prompt(prompt_id="p1", prompt="Say it.", split="heldout", meta=meta)


class FixedJudge:
    """The score stands in the response; every response is rude."""

    @property
    def questions(self) -> dict[str, str]:
        return {"rude": "Is it rude?"}

    def judge(self, prompt: Prompt, response: str, finished: bool) -> Verdict:
        score = float(response)
        return Verdict(score, round_to_rating(score), {"rude": True}, {})


def test_rubric_judge_is_the_rubric() -> None:
    world = build_world(3)
    demonstration = make_demonstrations(world, 1, seed=0)[0]
    prompt = Prompt(prompt_id="p", prompt=demonstration.prompt, split="label")
    judge: Judge = RubricJudge(world)
    verdict = judge.judge(prompt, demonstration.response, True)
    assert verdict == Rubric(world).judge(demonstration.prompt, demonstration.response)
    assert judge.questions == QUESTIONS


@pytest.mark.parametrize(
    ("response", "overlap"),
    [
        ("the cat sat on the mat", 1.0),
        ("", 0.0),
        ("zebra", 0.0),
        ("the mat", 2 * 1.0 * (2 / 6) / (1.0 + 2 / 6)),  # precision 2/2, recall 2/6
        ("the cat is on a mat", 4 / 6),  # the, cat, on, mat of 6 each
    ],
)
def test_overlap_judge_maps_rouge_l_to_ratings(response: str, overlap: float) -> None:
    verdict = OverlapJudge().judge(prompt_with("the cat sat on the mat"), response, True)
    assert verdict.score == pytest.approx(1 + 6 * overlap)
    assert verdict.rating == int(1 + 6 * overlap + 0.5)
    assert verdict.flags == {}


def test_overlap_judge_needs_a_reference() -> None:
    with pytest.raises(UserError, match="p1"):
        OverlapJudge().judge(prompt_with(None), "x", True)


def test_labeler_noise_severity_and_peeve_show_in_the_ratings() -> None:
    # Scores far from the clipping bounds: the mean rating of 4.0 is 4.0, its variance that of the
    # noise plus the rounding's 1/12.
    responses = [("4.0", True)] * 4000
    plain = ScriptedLabeler("a", FixedJudge(), seed=0, random_share=0.0)
    ratings = plain.label(prompt_with(None), responses).ratings
    assert statistics.mean(ratings) == pytest.approx(4.0, abs=0.06)
    assert statistics.pvariance(ratings) == pytest.approx(0.8**2 + 1 / 12, rel=0.08)
    severe = ScriptedLabeler("a", FixedJudge(), 0, severity=0.5, pet_peeve="rude", random_share=0)
    assert statistics.mean(severe.label(prompt_with(None), responses).ratings) == pytest.approx(
        3.0, abs=0.06
    )


def test_random_ratings_are_uniform_and_answers_flip() -> None:
    labeler = ScriptedLabeler("a", FixedJudge(), seed=0, random_share=1.0)
    judgement = labeler.label(prompt_with(None), [("4.0", True)] * 7000)
    for rating in range(1, 8):
        assert judgement.ratings.count(rating) == pytest.approx(1000, abs=120)
    assert judgement.answers["rude"].count(False) / 7000 == pytest.approx(0.03, abs=0.01)


def test_labels_are_a_function_of_seed_name_prompt_and_responses() -> None:
    responses = [("2.0", True), ("4.5", True), ("4.6", False), ("6.0", True)] * 3
    first = ScriptedLabeler("a", FixedJudge(), seed=0)
    assert first.label(prompt_with(None), responses) == first.label(prompt_with(None), responses)
    others = [ScriptedLabeler("b", FixedJudge(), seed=0), ScriptedLabeler("a", FixedJudge(), 1)]
    for other in others:
        assert other.label(prompt_with(None), responses) != first.label(
            prompt_with(None), responses
        )


def test_ranks_by_hand() -> None:
    # 5.4 and 5.2 tie (within 0.25), 5.0 is 0.4 below the best of that tie, 4.45 rounds to 4.
    assert ranks_with_ties([5.2, 5.0, 5.4, 4.45], [5, 5, 5, 4]) == [1, 3, 1, 4]
    # 4.55 and 4.45 are close, but their ratings differ: no tie.
    assert ranks_with_ties([4.45, 4.55], [4, 5]) == [2, 1]
    # Beyond the scale's end equal ratings still have an order.
    assert ranks_with_ties([7.1, 8.0, 0.2], [7, 7, 1]) == [2, 1, 3]


@given(st.lists(st.floats(-2, 10), min_size=2, max_size=9))
def test_ranks_never_contradict_ratings(latents: list[float]) -> None:
    ratings = [round_to_rating(latent) for latent in latents]
    ranks = ranks_with_ties(latents, ratings)
    assert contradiction(ratings, ranks) is None
    for a, b in itertools.permutations(range(len(latents)), 2):
        assert ranks[a] >= 1
        if ranks[a] == ranks[b]:
            assert ratings[a] == ratings[b]
            assert abs(latents[a] - latents[b]) < 0.25
        assert (latents[a] <= latents[b]) or ranks[a] <= ranks[b]
    assert all(rank == 1 + sum(other < rank for other in ranks) for rank in ranks)


def test_scripted_labelers_are_mostly_right_on_true_pairs() -> None:
    world = build_world(0)
    judge = RubricJudge(world)
    demonstrations = make_demonstrations(world, 1500, seed=0)
    rng = random.Random(0)
    right = wrong = 0
    for labeler in make_labelers(3, judge, seed=0):
        for number in range(200):
            demonstration = rng.choice(demonstrations)
            prompt = Prompt(prompt_id=str(number), prompt=demonstration.prompt, split="label")
            same = [d.response for d in demonstrations if d.prompt == demonstration.prompt]
            texts = [(d.response, True) for d in rng.sample(demonstrations, 3)]
            texts += [(same[0], True), (same[0].rsplit(" ", 2)[0], False)]
            judgement = labeler.label(prompt, texts)
            scores = [judge.judge(prompt, text, finished).score for text, finished in texts]
            for a, b in itertools.permutations(range(len(texts)), 2):
                if scores[a] > scores[b]:
                    right += judgement.ranks[a] < judgement.ranks[b]
                    wrong += judgement.ranks[a] > judgement.ranks[b]
    assert 0.90 < right / (right + wrong) < 0.97


def test_labelers_differ_within_the_limits() -> None:
    labelers = make_labelers(5, RubricJudge(build_world(0)), seed=0)
    assert len({labeler.name for labeler in labelers}) == 5
    assert len({labeler.severity for labeler in labelers}) == 5
    assert all(abs(labeler.severity) <= 0.5 for labeler in labelers)
    assert all(labeler.pet_peeve in QUESTIONS for labeler in labelers)
    assert all(x.pet_peeve is None for x in make_labelers(2, OverlapJudge(), seed=0))
