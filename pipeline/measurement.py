"""One checkpoint's responses, and what judge, reward model, sft and base say of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.comparison import JudgedResponse
from pipeline.errors import UserError
from pipeline.judges import Judge
from pipeline.language_model import LanguageModel
from pipeline.ppo.logprobs import response_logprobs
from pipeline.records import Prompt
from pipeline.reward import RewardModel, score_rows
from pipeline.reward_batches import pad_rows
from pipeline.sampling import SamplingSettings, generate
from pipeline.tokenizer import Tokenizer

Ids = Sequence[int]


@dataclass(frozen=True)
class Instruments:
    """What every checkpoint is measured with. Without a judge, the reward model decides alone."""

    base: LanguageModel
    sft: LanguageModel
    reward_model: RewardModel
    judge: Judge | None


@dataclass(frozen=True)
class Answer:
    """A response as sampled, the end token included, and how far its policy moved to give it.

    ``kl_to_sft``: log pi − log pi_sft, in nats, or a bound on its mean where it has no value.
    """

    ids: list[int]
    finished: bool
    kl_to_sft: float


def sample_answers(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    sampling: SamplingSettings,
    sft: LanguageModel,
) -> list[Answer]:
    """One response of the model to each prompt.

    Raises:
        UserError: a prompt does not fit the context.
    """
    prompt_ids = [tokenizer.encode_prompt(prompt.prompt) for prompt in prompts]
    generation = generate(model, prompt_ids, seeds, sampling, tokenizer)
    lengths: list[int] = generation.lengths.tolist()
    response_ids = [
        row[:length] for row, length in zip(generation.ids.tolist(), lengths, strict=True)
    ]
    own, reference = (
        total_logprobs(policy, prompt_ids, response_ids, sampling, tokenizer)
        for policy in (model, sft)
    )
    finished: list[bool] = generation.finished.tolist()
    return [
        Answer(ids, done, log_pi - log_sft)
        for ids, done, log_pi, log_sft in zip(response_ids, finished, own, reference, strict=True)
    ]


def measure(
    answers: Sequence[Answer],
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    sampling: SamplingSettings,
    instruments: Instruments,
) -> list[JudgedResponse]:
    """The responses to each prompt, with everything that the report needs.

    Raises:
        UserError: the reward model's score is not a number.
    """
    prompt_ids = [tokenizer.encode_prompt(prompt.prompt) for prompt in prompts]
    response_ids = [answer.ids for answer in answers]
    texts = [tokenizer.decode(ids) for ids in response_ids]
    losses = text_losses(instruments.base, texts, tokenizer, sampling.batch_rows)
    rewards = finite_scores(
        instruments.reward_model, prompt_ids, response_ids, tokenizer.pad_id, sampling.batch_rows
    )
    responses: list[JudgedResponse] = []
    for index, prompt in enumerate(prompts):
        finished = answers[index].finished
        judge = instruments.judge
        verdict = judge.judge(prompt, texts[index], finished) if judge else None
        responses.append(
            JudgedResponse(
                prompt_id=prompt.prompt_id,
                prompt=prompt.prompt,
                text=texts[index],
                finished=finished,
                length_tokens=len(response_ids[index]),
                rating=verdict.rating if verdict else None,
                answers=verdict.flags if verdict else {},
                reward=rewards[index],
                kl_to_sft=answers[index].kl_to_sft,
                token_losses=losses[index],
            )
        )
    return responses


def finite_scores(
    model: RewardModel,
    prompt_ids: Sequence[Ids],
    response_ids: Sequence[Ids],
    pad_id: int,
    batch_rows: int = 256,
) -> list[float]:
    """The reward model's score of each response.

    Raises:
        UserError: one is not a finite number, which neither comparison nor choice survives.
    """
    rows = [[*prompt, *response] for prompt, response in zip(prompt_ids, response_ids, strict=True)]
    scores: list[float] = score_rows(model, rows, pad_id, batch_rows).tolist()
    if not all(map(math.isfinite, scores)):
        problem = "its model gives scores that are not numbers."
        raise UserError("reward", problem, "train it again (--from reward).")
    return scores


def total_logprobs(
    policy: LanguageModel,
    prompt_ids: Sequence[Ids],
    response_ids: Sequence[Ids],
    sampling: SamplingSettings,
    tokenizer: Tokenizer,
) -> list[float]:
    """The log-probability (nats) of each whole response at the sampling temperature (no top-p)."""
    rows = continuation_logprobs(
        policy,
        prompt_ids,
        response_ids,
        tokenizer.pad_id,
        temperature=sampling.temperature,
        never_sampled_ids=tokenizer.never_sampled_ids,
        batch_rows=sampling.batch_rows,
    )
    return [math.fsum(row) for row in rows]


def text_losses(
    base: LanguageModel, texts: Sequence[str], tokenizer: Tokenizer, batch_rows: int
) -> list[list[float]]:
    """−log probability under the base of each token of each text alone, as of a new document's.

    The base never saw prompts, so none is shown to it; the end token is not counted. Text whose
    encoding exceeds the context (broken characters take more tokens than were sampled) is cut.
    """
    room = base.context_tokens - 1
    ids = [row[:room] for row in tokenizer.encode_many(texts)]
    starts = [[tokenizer.eos_id]] * len(texts)
    rows = continuation_logprobs(base, starts, ids, tokenizer.pad_id, batch_rows=batch_rows)
    return [[-value for value in row] for row in rows]


@torch.inference_mode()
def continuation_logprobs(
    model: LanguageModel,
    prefixes: Sequence[Ids],
    continuations: Sequence[Ids],
    pad_id: int,
    *,
    temperature: float = 1.0,
    never_sampled_ids: Sequence[int] = (),
    batch_rows: int = 256,
) -> list[list[float]]:
    """The log-probability (nats) of each token of each continuation, given what precedes it.

    Args:
        prefixes: at least one token each.
        continuations: may be empty, and then have no log-probabilities.
        temperature, never_sampled_ids: what makes the model's distribution the policy's; by
            default it is the model's own.
    """
    device = model.device
    results: list[list[float]] = [[] for _ in continuations]
    pairs = list(zip(prefixes, continuations, strict=True))
    rows = [index for index, ids in enumerate(continuations) if ids]
    rows.sort(key=lambda index: len(pairs[index][0]) + len(pairs[index][1]))
    for start in range(0, len(rows), batch_rows):
        batch = rows[start : start + batch_rows]
        input_ids, _ = pad_rows([[*pairs[i][0], *pairs[i][1]] for i in batch], pad_id)
        logprobs = response_logprobs(
            model,
            input_ids.to(device),
            torch.tensor([len(pairs[i][0]) for i in batch], device=device),
            torch.tensor([len(pairs[i][1]) for i in batch], device=device),
            temperature,
            never_sampled_ids,
        )
        for index, values in zip(batch, logprobs.tolist(), strict=True):
            results[index] = values[: len(pairs[index][1])]
    return results


@torch.inference_mode()
def row_losses(model: LanguageModel, rows: Tensor, batch_rows: int = 32) -> list[list[float]]:
    """−log probability (nats) of every token but the first of each row (N, T + 1) of text."""
    losses: list[list[float]] = []
    for start in range(0, len(rows), batch_rows):
        batch = rows[start : start + batch_rows].to(model.device)
        logits = model(batch[:, :-1]).float()
        losses += F.cross_entropy(logits.mT, batch[:, 1:], reduction="none").tolist()
    return losses
