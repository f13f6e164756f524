"""The sampler: its distribution, its log-probabilities, and what a row depends on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM

from pipeline.errors import UserError
from pipeline.gpt2_format import save_gpt
from pipeline.model import GPT, GPTConfig
from pipeline.sampling import (
    SamplingSettings,
    batches_of,
    draw,
    generate,
    nucleus,
    policy_logits,
    response_texts,
    row_uniforms,
    stream,
)
from pipeline.side_by_side import side_by_side
from pipeline.tokenizer import train_tokenizer

TOKENIZER = train_tokenizer(["the fox and the owl walk home by the river"] * 3, 280)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(TOKENIZER.vocab_size, 48, 2, 2, 16))
    for parameter in gpt.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    with torch.no_grad():
        gpt.wte.weight[TOKENIZER.eos_id] += 0.5  # rows end at different lengths
    return gpt


PROMPTS = [TOKENIZER.encode_prompt(text) for text in ("the fox", "a", "the owl and the river")] * 7
SEEDS = list(range(21))


def test_logprobs_are_those_of_a_plain_forward_pass(model):
    settings = SamplingSettings(16, temperature=0.7)
    generation = generate(model, PROMPTS, SEEDS, settings, TOKENIZER)
    assert generation.finished.any()
    assert not generation.finished.all()
    for row, prompt in enumerate(PROMPTS):
        length = int(generation.lengths[row])
        response = generation.ids[row, :length]
        with torch.no_grad():
            logits = model(torch.cat([torch.tensor(prompt), response])[None])[0].float() / 0.7
        logits[:, list(TOKENIZER.never_sampled_ids)] = -torch.inf
        expected = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(-1, response[:, None])
        torch.testing.assert_close(
            generation.logprobs[row, :length], expected[:, 0], atol=1e-5, rtol=1e-5
        )
        assert (generation.ids[row, length:] == TOKENIZER.pad_id).all()
        assert generation.finished[row] == (response[-1] == TOKENIZER.eos_id)
        assert (response[:-1] != TOKENIZER.eos_id).all()
        assert length == 16 or generation.finished[row]


def test_a_row_depends_on_its_prompt_and_seed_alone(model):
    settings = SamplingSettings(16)
    together = generate(model, PROMPTS, SEEDS, settings, TOKENIZER)
    for batch_rows in (1, 4):
        few = generate(
            model, PROMPTS, SEEDS, SamplingSettings(16, batch_rows=batch_rows), TOKENIZER
        )
        assert torch.equal(few.ids, together.ids)
    backwards = generate(model, PROMPTS[::-1], SEEDS[::-1], settings, TOKENIZER)
    assert torch.equal(backwards.ids.flip(0), together.ids)
    same_prompt = generate(model, [PROMPTS[0]] * 2, [1, 2], settings, TOKENIZER)
    assert not torch.equal(same_prompt.ids[0], same_prompt.ids[1])


@pytest.mark.parametrize(
    ("draws", "temperature"),
    [
        (20_000, 1.3),
        *(pytest.param(200_000, t, marks=pytest.mark.slow) for t in (0.5, 1.0, 2.0)),
    ],
)
def test_first_tokens_follow_the_softmax(model, draws, temperature):
    prompt = PROMPTS[0]
    settings = SamplingSettings(1, temperature, batch_rows=draws)
    generation = generate(model, [prompt] * draws, range(draws), settings, TOKENIZER)
    with torch.no_grad():
        logits = model(torch.tensor([prompt]))[0, -1].double() / temperature
    logits[list(TOKENIZER.never_sampled_ids)] = -torch.inf
    expected = logits.softmax(-1) * draws
    counts = torch.bincount(generation.ids[:, 0], minlength=len(expected)).double()
    rare = (expected > 0) & (expected < 5)
    common = expected >= 5
    observed = [*counts[common].tolist(), counts[rare].sum().item()]
    wanted = [*expected[common].tolist(), expected[rare].sum().item()]
    possible = [index for index, value in enumerate(wanted) if value > 0]
    test = stats.chisquare([observed[i] for i in possible], [wanted[i] for i in possible])
    assert test.pvalue > 1e-4
    assert counts[list(TOKENIZER.never_sampled_ids)].sum() == 0


def test_near_temperature_zero_it_is_the_greedy_search_of_transformers(model, tmp_path):
    save_gpt(model, tmp_path, TOKENIZER)
    theirs: Any = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    width = max(map(len, PROMPTS))
    ids = torch.tensor([[TOKENIZER.pad_id] * (width - len(p)) + list(p) for p in PROMPTS])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in PROMPTS])
    expected = theirs.generate(
        ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=16,
        pad_token_id=TOKENIZER.pad_id,
        eos_token_id=TOKENIZER.eos_id,
        suppress_tokens=list(TOKENIZER.never_sampled_ids),
    )[:, width:]
    ours = generate(model, PROMPTS, SEEDS, SamplingSettings(16, temperature=1e-5), TOKENIZER)
    assert torch.equal(ours.ids[:, : expected.shape[1]], expected)
    assert len({tuple(row) for row in expected.tolist()}) > 1


def test_draw_inverts_the_distribution_by_hand():
    probabilities = torch.tensor([[0.5, 0.0, 0.3, 0.2]]).repeat(6, 1)
    uniforms = torch.tensor([0.0, 0.49, 0.5, 0.79, 0.81, 0.999999])
    assert draw(probabilities, uniforms).tolist() == [0, 0, 2, 2, 3, 3]


def test_nucleus_by_hand():
    probabilities = torch.tensor([[0.1, 0.5, 0.15, 0.25]])
    kept = nucleus(probabilities, 0.7)
    torch.testing.assert_close(kept, torch.tensor([[0.0, 0.5, 0.0, 0.25]]))
    assert torch.equal(nucleus(probabilities, 1.0), probabilities)
    assert (nucleus(probabilities, 0.01) > 0).sum() == 1


def test_policy_logits_are_fp32_tempered_and_masked():
    logits = torch.tensor([2.0, 4.0, 6.0], dtype=torch.bfloat16)
    result = policy_logits(logits, 2.0, [1])
    assert result.dtype == torch.float32
    assert result.tolist() == [1.0, float("-inf"), 3.0]


def test_uniforms_belong_to_the_seed():
    assert torch.equal(row_uniforms([3, 4], 5)[1], row_uniforms([4], 5)[0])
    assert torch.equal(row_uniforms([4], 9)[0, :5], row_uniforms([4], 5)[0])


def test_stream_spells_the_generated_text(model):
    settings = SamplingSettings(16)
    whole = response_texts(generate(model, PROMPTS[:8], SEEDS[:8], settings, TOKENIZER), TOKENIZER)
    for prompt, seed, text in zip(PROMPTS, SEEDS, whole, strict=False):
        pieces = "".join(stream(model, prompt, seed, settings, TOKENIZER))
        assert pieces == text


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_threads_that_share_the_rows_change_nothing(model):
    prompts, seeds = PROMPTS * 4, list(range(84))
    told: list[int] = []
    shared = generate(model, prompts, seeds, SamplingSettings(16), TOKENIZER, told.append)
    assert told == [42, 42]
    assert torch.get_num_threads() == 2
    alone = generate(model, prompts, seeds, SamplingSettings(16, batch_rows=10), TOKENIZER)
    assert torch.equal(shared.ids, alone.ids)
    assert torch.equal(shared.finished, alone.finished)
    torch.testing.assert_close(shared.logprobs, alone.logprobs, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("two_threads")
def test_an_error_in_one_thread_is_raised_and_the_threads_come_back():
    def work(part: int, stop: threading.Event) -> int:
        assert torch.get_num_threads() == 1
        if part == 3:
            raise ValueError("part 3")
        return part

    done: list[int] = []
    with pytest.raises(ValueError, match="part 3"):
        done.extend(side_by_side(work, range(5), 2))
    assert torch.get_num_threads() == 2
    assert list(side_by_side(lambda part, stop: part * 2, range(5), 2)) == [0, 2, 4, 6, 8]


@pytest.mark.usefixtures("two_threads")
def test_parts_that_have_begun_are_told_to_stop_when_nobody_wants_their_results():
    def work(part: int, stop: threading.Event) -> bool:
        return part == 0 or stop.wait(timeout=30)

    results = side_by_side(work, range(2), 2)
    assert next(results) is True
    began = time.monotonic()
    results.close()  # as an interruption does
    assert time.monotonic() - began < 20


def test_batches_hold_every_row_once_and_prompts_of_like_length():
    lengths = [3, 500, 60, 70, 64, 5, 900, 480, 130, 4] + [40] * 70
    batches = batches_of(lengths, batch_rows=64, threads=2)
    assert sorted(row for rows in batches for row in rows) == list(range(80))
    assert max(len(rows) for rows in batches) <= 32
    for rows in batches:
        sizes = [lengths[row] for row in rows]
        assert max(sizes) <= 64 or max(sizes) <= 2 * min(sizes)
    assert batches_of([5] * 20, 64, threads=2) == [list(range(20))]  # too few to share


def test_too_long_is_one_line(model):
    with pytest.raises(UserError, match="context of 48"):
        generate(model, PROMPTS, SEEDS, SamplingSettings(45), TOKENIZER)
