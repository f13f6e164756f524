"""From judged responses to ``report.json``: pure bookkeeping, no model and no torch here.

Every checkpoint has answered the same prompts in the same order. A checkpoint further along the
chain is ``a`` in a pair, so that a win rate above one half says that the later stage is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from pipeline.evaluation import (
    Vector,
    distinct_share,
    mean_interval,
    outcomes,
    paired_difference,
    perplexity,
    ranking,
    share,
    win_rate,
)
from pipeline.length_control import length_controlled_win_rate

RATINGS = range(1, 8)
DRAWN = "drawn at random"  # why a prompt is among the examples


@dataclass(frozen=True)
class JudgedResponse:
    """One response of a checkpoint to one held-out prompt, and all that was measured on it.

    Attributes:
        finished: True where the checkpoint emitted its end token.
        length_tokens: tokens of the response, the end token included.
        rating: the judge's, 1 to 7; None where the judge is the reward model.
        answers: the judge's answers to the yes/no questions; True means the flaw is there.
        reward: the reward model's score.
        kl_to_sft: sum over the response's tokens of log pi − log pi_sft, in nats.
        token_losses: −log probability under the base of each token of the text.
    """

    prompt_id: str
    prompt: str
    text: str
    finished: bool
    length_tokens: int
    rating: float | None
    answers: Mapping[str, bool | None]
    reward: float
    kl_to_sft: float
    token_losses: Sequence[float]


@dataclass(frozen=True)
class CheckpointResult:
    """A checkpoint's responses; ``path`` is its folder, relative to the run folder.

    ``pretraining_losses``: −log probability of each token of held-out pretraining text, by row;
    empty where there is no such text, or no model.
    """

    name: str
    path: str
    responses: Sequence[JudgedResponse]
    pretraining_losses: Sequence[Sequence[float]] = ()

    @property
    def scores(self) -> Vector:
        """(N,) what decides who wins a prompt: the ratings, or rewards where there are none."""
        ratings = [response.rating for response in self.responses]
        if any(rating is None for rating in ratings):
            return np.array([response.reward for response in self.responses])
        return np.array(ratings, dtype=np.float64)

    @property
    def lengths(self) -> Vector:
        """(N,) response lengths in tokens."""
        return np.array([response.length_tokens for response in self.responses], dtype=np.float64)


def build_report(
    results: Sequence[CheckpointResult],
    *,
    judge: str,
    seed: int,
    bootstrap_samples: int,
    examples: int,
    settings: Mapping[str, Any],
    training: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of ``report.json``.

    Args:
        results: the checkpoints in the order of the chain.
        judge: the name of who rated.
        seed: of the bootstrap and of the draw of examples.
        examples: how many prompts to show.
        settings: printed as they are.
        training: how PPO went, as ``ppo/training.json`` says it.

    Raises:
        ValueError: the prompts of two checkpoints differ, or only some responses are rated.
    """
    prompts = [[response.prompt_id for response in result.responses] for result in results]
    if any(ids != prompts[0] for ids in prompts):
        raise ValueError("checkpoints answered different prompts")
    if len({response.rating is None for result in results for response in result.responses}) > 1:
        raise ValueError("some responses are rated and some are not")
    pairs = [(later, earlier) for earlier, later in combinations(results, 2)]
    pair_outcomes = {(a.name, b.name): outcomes(a.scores, b.scores) for a, b in pairs}
    names = [result.name for result in results]
    ranked = ranking(names, pair_outcomes, bootstrap_samples, seed)
    return {
        "judge": judge,
        "checkpoints": {result.name: _checkpoint(result) for result in results},
        "pairs": [_pair(a, b, judge) for a, b in pairs],
        "ranking": ranked,
        "examples": _examples(results, [row["name"] for row in ranked], examples, seed),
        "settings": dict(settings),
        "ppo": training and {key: training[key] for key in ("updates", "stopped", "alarms")},
    }


def _checkpoint(result: CheckpointResult) -> dict[str, Any]:
    responses = result.responses
    ratings = [response.rating for response in responses if response.rating is not None]
    texts = [response.text for response in responses]
    return {
        "path": result.path,
        "rating": mean_interval(ratings) if ratings else None,
        "rating_counts": _rating_counts(ratings) if ratings else None,
        "reward": mean_interval([response.reward for response in responses]),
        "kl_to_sft": mean_interval([response.kl_to_sft for response in responses]),
        "length_tokens": mean_interval(result.lengths),
        "perplexity": perplexity([response.token_losses for response in responses]),
        "pretraining_perplexity": (
            perplexity(result.pretraining_losses) if result.pretraining_losses else None
        ),
        "answers": {question: share(_answers(result, question)) for question in _questions(result)},
        "distinct_answers": distinct_share(texts),
        "empty": share([not text.strip() for text in texts]),
    }


def _rating_counts(ratings: Sequence[float]) -> dict[str, int]:
    """How many ratings round (half up) to 1, 2, … 7."""
    rounded = [math.floor(rating + 0.5) for rating in ratings]
    return {str(rating): rounded.count(rating) for rating in RATINGS}


def _questions(result: CheckpointResult) -> list[str]:
    return list(dict.fromkeys(key for response in result.responses for key in response.answers))


def _answers(result: CheckpointResult, question: str) -> list[bool | None]:
    return [response.answers.get(question) for response in result.responses]


def _pair(a: CheckpointResult, b: CheckpointResult, judge: str) -> dict[str, Any]:
    controlled = length_controlled_win_rate(outcomes(a.scores, b.scores), a.lengths - b.lengths)
    return {
        "a": a.name,
        "b": b.name,
        "judge": judge,
        **win_rate(a.scores, b.scores),
        "length_controlled_win_rate": controlled["mean"],
        "length_controlled_ci95": controlled["ci95"],
        "score_difference": mean_interval(a.scores - b.scores),
        "answer_differences": {
            question: paired_difference(_answers(a, question), _answers(b, question))
            for question in _questions(a)
        },
    }


def _examples(
    results: Sequence[CheckpointResult], ranked: Sequence[str], count: int, seed: int
) -> list[dict[str, Any]]:
    """Two thirds drawn at random; the rest are where the first of the ranking did worst.

    Worst means against the second of the ranking: who must choose should see the losses, too.
    """
    total = len(results[0].responses)
    count = min(count, total)
    worst: list[int] = []
    if len(results) > 1:
        scores = {result.name: result.scores for result in results}
        margins = scores[ranked[0]] - scores[ranked[1]]
        losses = [int(i) for i in np.argsort(margins, kind="stable") if margins[i] < 0]
        worst = losses[: count // 3]
    others = [i for i in range(total) if i not in set(worst)]
    rng = np.random.default_rng(seed)
    drawn = sorted(rng.choice(others, size=count - len(worst), replace=False).tolist())
    reason = f"largest loss of {ranked[0]} against {ranked[1]}" if worst else ""
    return [_example(results, i, DRAWN) for i in drawn] + [
        _example(results, i, reason) for i in worst
    ]


def _example(results: Sequence[CheckpointResult], index: int, chosen: str) -> dict[str, Any]:
    first = results[0].responses[index]
    return {
        "prompt_id": first.prompt_id,
        "prompt": first.prompt,
        "chosen": chosen,
        "responses": {
            result.name: {
                "text": result.responses[index].text,
                "finished": result.responses[index].finished,
                "length_tokens": result.responses[index].length_tokens,
                "rating": result.responses[index].rating,
                "reward": result.responses[index].reward,
                "answers": dict(result.responses[index].answers),
            }
            for result in results
        },
    }
