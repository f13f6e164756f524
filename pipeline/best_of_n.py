"""The best of n responses by the reward model: optimization without training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.language_model import LanguageModel
from pipeline.measurement import finite_scores
from pipeline.reward import RewardModel
from pipeline.sampling import SamplingSettings, generate
from pipeline.tokenizer import Tokenizer


@dataclass(frozen=True)
class Candidate:
    """A sampled response: its ids with the end token, if it has one, and its score."""

    ids: list[int]
    finished: bool
    reward: float


def best_of_n(
    model: LanguageModel,
    reward_model: RewardModel,
    prompts: Sequence[str],
    seeds: Sequence[Sequence[int]],
    sampling: SamplingSettings,
    tokenizer: Tokenizer,
    on_batch: Callable[[int], None] | None = None,
) -> list[Candidate]:
    """For each prompt the response with the highest score; of equal ones, the first drawn.

    Args:
        seeds: for each prompt those of its n candidates.
        on_batch: told the number of candidates drawn in each batch when it is done.

    Raises:
        UserError: a prompt and a response do not fit into the context, or the score of a candidate,
            chosen or not, is not a finite number.
    """
    encoded = [tokenizer.encode_prompt(prompt) for prompt in prompts]
    rows = [ids for ids, own in zip(encoded, seeds, strict=True) for _ in own]
    flat = [seed for own in seeds for seed in own]
    drawn = generate(model, rows, flat, sampling, tokenizer, on_batch)
    lengths: list[int] = drawn.lengths.tolist()
    responses = [ids[:length] for ids, length in zip(drawn.ids.tolist(), lengths, strict=True)]
    scores = finite_scores(reward_model, rows, responses, tokenizer.pad_id, sampling.batch_rows)
    finished: list[bool] = drawn.finished.tolist()
    chosen: list[Candidate] = []
    start = 0
    for own in seeds:
        best = max(range(start, start + len(own)), key=lambda row: scores[row])
        chosen.append(Candidate(responses[best], finished[best], scores[best]))
        start += len(own)
    return chosen


def divergence_bound(n: int) -> float:
    """Nats that the best of n responses diverge from the policy they were drawn from, at most.

    log n − (n − 1)/n; exact where no two responses are alike (Beirami et al. 2024, theorem 1).
    """
    return math.log(n) - (n - 1) / n
