"""What is measured on responses, against plain forward passes, ours and Hugging Face's."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel

from pipeline.comparison import JudgedResponse
from pipeline.errors import UserError
from pipeline.gpt2_format import load_gpt
from pipeline.judges import OverlapJudge
from pipeline.measurement import (
    Instruments,
    continuation_logprobs,
    measure,
    row_losses,
    sample_answers,
    text_losses,
)
from pipeline.model import GPT
from pipeline.records import Prompt
from pipeline.reward import RewardModel
from pipeline.sampling import SamplingSettings, generate
from pipeline.tokenizer import Tokenizer

PREFIXES = [[5, 6, 7], [9], [11, 12]]
CONTINUATIONS = [[20, 21], [], [30, 31, 32, 33]]


@pytest.mark.parametrize("batch_rows", [1, 2, 8])
def test_agrees_with_a_forward_pass_token_by_token(tiny_gpt: GPT, batch_rows: int) -> None:
    rows = continuation_logprobs(tiny_gpt, PREFIXES, CONTINUATIONS, 0, batch_rows=batch_rows)
    for prefix, continuation, row in zip(PREFIXES, CONTINUATIONS, rows, strict=True):
        expected = []
        for index, token in enumerate(continuation):
            seen = torch.tensor([[*prefix, *continuation[:index]]])
            with torch.no_grad():
                expected.append(float(tiny_gpt(seen)[0, -1].log_softmax(-1)[token]))
        assert row == pytest.approx(expected, abs=1e-5)


def test_is_the_policy_that_the_sampler_drew_from(tiny_gpt: GPT, tiny_tokenizer: Tokenizer) -> None:
    prompts = [tiny_tokenizer.encode_prompt(words) for words in ("the fox", "an owl, at night")]
    settings = SamplingSettings(12, temperature=0.7)
    generation = generate(tiny_gpt, prompts, [1, 2], settings, tiny_tokenizer)
    lengths = generation.lengths.tolist()
    responses = [row[:n] for row, n in zip(generation.ids.tolist(), lengths, strict=True)]
    rows = continuation_logprobs(
        tiny_gpt,
        prompts,
        responses,
        tiny_tokenizer.pad_id,
        temperature=0.7,
        never_sampled_ids=tiny_tokenizer.never_sampled_ids,
    )
    for row, sampled, length in zip(rows, generation.logprobs.tolist(), lengths, strict=True):
        assert row == pytest.approx(sampled[:length], abs=1e-4)


def test_agrees_with_transformers(tiny_model_folder: Path) -> None:
    theirs = GPT2LMHeadModel.from_pretrained(tiny_model_folder).eval()
    temperature, never = 0.6, (1, 2, 3)
    ours = continuation_logprobs(
        load_gpt(tiny_model_folder),
        PREFIXES,
        CONTINUATIONS,
        pad_id=1,
        temperature=temperature,
        never_sampled_ids=never,
    )
    for prefix, continuation, row in zip(PREFIXES, CONTINUATIONS, ours, strict=True):
        with torch.no_grad():
            logits = theirs(torch.tensor([[*prefix, *continuation]])).logits[0] / temperature
        logits[:, list(never)] = -math.inf
        expected = [
            float(logits[len(prefix) - 1 + index].log_softmax(-1)[token])
            for index, token in enumerate(continuation)
        ]
        assert row == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("batch_rows", [1, 2, 8])
def test_losses_of_rows_are_those_of_transformers(tiny_model_folder: Path, batch_rows: int) -> None:
    theirs = GPT2LMHeadModel.from_pretrained(tiny_model_folder).eval()
    rows = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12], [0, 20, 21, 0]])
    losses = row_losses(load_gpt(tiny_model_folder), rows, batch_rows)
    for row, own in zip(rows, losses, strict=True):
        with torch.no_grad():
            logprobs = theirs(row[None]).logits[0].log_softmax(-1)
        expected = [-float(logprobs[i, row[i + 1]]) for i in range(3)]
        assert own == pytest.approx(expected, abs=1e-5)


PROMPTS = [
    Prompt(prompt_id="p0", prompt="Where?", split="heldout", meta={"reference": "the old mill"}),
    Prompt(prompt_id="p1", prompt="Who eats plums?", split="heldout", meta={"reference": "foxes"}),
    Prompt(prompt_id="p2", prompt="Thank the owl.", split="heldout", meta={"reference": "thanks"}),
]
SETTINGS = SamplingSettings(10)


def instruments(folder: Path, judge: OverlapJudge | None = None) -> Instruments:
    head = torch.Generator().manual_seed(4)
    reward_model = RewardModel(load_gpt(folder), head)
    return Instruments(load_gpt(folder), load_gpt(folder), reward_model, judge)


def sample_and_measure(
    model: GPT, tokenizer: Tokenizer, prompts: list[Prompt], seeds: list[int], tools: Instruments
) -> list[JudgedResponse]:
    answers = sample_answers(model, tokenizer, prompts, seeds, SETTINGS, tools.sft)
    return measure(answers, tokenizer, prompts, SETTINGS, tools)


def test_a_policy_has_no_divergence_from_itself(
    tiny_model_folder: Path, tiny_tokenizer: Tokenizer
) -> None:
    """Exactly 0, not about 0; a moved policy has one, and it is that of its own samples."""
    model, tools = load_gpt(tiny_model_folder), instruments(tiny_model_folder)
    same = sample_and_measure(model, tiny_tokenizer, PROMPTS, [1, 2, 3], tools)
    assert [row.kl_to_sft for row in same] == [0.0, 0.0, 0.0]
    with torch.no_grad():
        model.ln_f.bias.add_(torch.linspace(-0.3, 0.3, 32))
    moved = sample_and_measure(model, tiny_tokenizer, PROMPTS, [1, 2, 3], tools)
    assert all(row.kl_to_sft != 0 for row in moved)


def test_the_divergence_is_that_of_the_tempered_policies(
    tiny_model_folder: Path, tiny_tokenizer: Tokenizer
) -> None:
    """At temperature 0.5, token by token: log-softmax of twice the logits, of both models."""
    model, sft = load_gpt(tiny_model_folder), load_gpt(tiny_model_folder)
    with torch.no_grad():
        model.ln_f.bias.add_(torch.linspace(-0.3, 0.3, 32))
    cool = SamplingSettings(6, temperature=0.5)
    (answer,) = sample_answers(model, tiny_tokenizer, PROMPTS[:1], [3], cool, sft)
    ids, expected = tiny_tokenizer.encode_prompt(PROMPTS[0].prompt), 0.0
    for token in answer.ids:
        for policy, sign in ((model, 1), (sft, -1)):
            with torch.no_grad():
                logits = policy(torch.tensor([ids]))[0, -1].double() / 0.5
            logits[list(tiny_tokenizer.never_sampled_ids)] = -math.inf
            expected += sign * float(logits.log_softmax(-1)[token])
        ids = [*ids, token]
    assert answer.kl_to_sft == pytest.approx(expected, abs=1e-4)


def test_without_a_judge_there_is_no_rating(
    tiny_gpt: GPT, tiny_model_folder: Path, tiny_tokenizer: Tokenizer
) -> None:
    tools = instruments(tiny_model_folder)
    rows = sample_and_measure(tiny_gpt, tiny_tokenizer, PROMPTS[:1], [1], tools)
    assert [(row.rating, row.answers) for row in rows] == [(None, {})]
    assert all(math.isfinite(row.reward) for row in rows)


def test_the_judge_sees_each_response_with_its_own_prompt(
    tiny_gpt: GPT, tiny_model_folder: Path, tiny_tokenizer: Tokenizer
) -> None:
    judge = OverlapJudge()
    tools = instruments(tiny_model_folder, judge)
    rows = sample_and_measure(tiny_gpt, tiny_tokenizer, PROMPTS, [1, 2, 3], tools)
    assert [row.prompt_id for row in rows] == ["p0", "p1", "p2"]
    for row, prompt in zip(rows, PROMPTS, strict=True):
        assert row.rating == judge.judge(prompt, row.text, row.finished).rating


def test_a_broken_reward_model_is_one_line(
    tiny_gpt: GPT, tiny_model_folder: Path, tiny_tokenizer: Tokenizer
) -> None:
    tools = instruments(tiny_model_folder)
    with torch.no_grad():
        tools.reward_model.score.weight.fill_(math.nan)
    with pytest.raises(UserError, match="not numbers"):
        sample_and_measure(tiny_gpt, tiny_tokenizer, PROMPTS, [1, 2, 3], tools)


def test_a_text_is_measured_alone_from_a_documents_beginning(
    tiny_gpt: GPT, tiny_model_folder: Path, tiny_tokenizer: Tokenizer
) -> None:
    theirs = GPT2LMHeadModel.from_pretrained(tiny_model_folder).eval()
    texts = ["the fox eats plums", "", "an owl"]
    for text, losses in zip(texts, text_losses(tiny_gpt, texts, tiny_tokenizer, 2), strict=True):
        ids = [tiny_tokenizer.eos_id, *tiny_tokenizer.encode(text)]
        with torch.no_grad():
            logprobs = theirs(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = [-float(logprobs[i, following]) for i, following in enumerate(ids[1:])]
        assert losses == pytest.approx(expected, abs=1e-5)


def test_broken_characters_may_exceed_the_context(tiny_gpt: GPT, tiny_tokenizer: Tokenizer) -> None:
    [losses] = text_losses(tiny_gpt, ["\ufffd" * 100], tiny_tokenizer, 8)
    assert len(losses) == 63
