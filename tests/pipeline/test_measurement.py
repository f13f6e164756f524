"""Log-probabilities of given continuations against a plain full forward pass."""

from __future__ import annotations

import pytest
import torch

from pipeline.measurement import continuation_logprobs
from pipeline.model import GPT
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
