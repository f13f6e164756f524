"""The trainer's layout of a rollout, and cutting rows out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import torch

from pipeline.model import GPT
from pipeline.ppo.experience import Experience
from pipeline.ppo.rollout import Rollout, left_align, respond
from pipeline.sampling import Generation, SamplingSettings
from pipeline.tokenizer import Tokenizer

END, PAD = 0, 1


def test_left_align_by_hand() -> None:
    # A full response with no end, an end token at once, an end in the middle.
    generation = Generation(
        ids=torch.tensor([[7, 8, 9, 7], [END, PAD, PAD, PAD], [8, END, PAD, PAD]]),
        lengths=torch.tensor([4, 1, 2]),
        finished=torch.tensor([False, True, True]),
        logprobs=torch.tensor([[-1.0, -2, -3, -4], [-5, 0, 0, 0], [-6, -7, 0, 0]]),
    )
    rollout = left_align([[4], [4, 5, 6], [5, 6]], generation, PAD)
    assert rollout.input_ids.tolist() == [
        [4, 7, 8, 9, 7],
        [4, 5, 6, END, PAD],
        [5, 6, 8, END, PAD],
    ]
    assert rollout.prompt_lengths.tolist() == [1, 3, 2]
    assert rollout.lengths.tolist() == [5, 4, 4]
    assert rollout.response_mask.tolist() == [
        [True] * 4,
        [True, False, False, False],
        [True, True, False, False],
    ]


def test_the_ids_of_a_rollout_are_those_sampled(
    make_policy: Callable[..., GPT], tokenizer: Tokenizer
) -> None:
    prompts = [tokenizer.encode_prompt(text) for text in ("a", "the fox")]
    rollout = respond(make_policy(), prompts, [1, 2], SamplingSettings(6), tokenizer)
    never = set(tokenizer.never_sampled_ids)
    for row, prompt in enumerate(prompts):
        ids = rollout.input_ids[row].tolist()
        response = ids[len(prompt) : int(rollout.lengths[row])]
        assert ids[: len(prompt)] == prompt
        assert not never & set(response)
        assert tokenizer.eos_id not in response[:-1]
        assert bool(rollout.finished[row]) == (response[-1] == tokenizer.eos_id)
        assert not rollout.input_ids.is_inference()


def test_a_row_depends_on_its_prompt_and_seed_only(
    make_policy: Callable[..., GPT], tokenizer: Tokenizer
) -> None:
    gpt, settings = make_policy(), SamplingSettings(6)
    prompts = [tokenizer.encode_prompt(text) for text in ("a", "the fox", "a")]
    together = respond(gpt, prompts, [11, 12, 13], settings, tokenizer)
    assert together.input_ids[0].tolist() != together.input_ids[2].tolist()
    for row in range(3):
        alone = respond(gpt, [prompts[row]], [11 + row], settings, tokenizer)
        length = int(together.lengths[row])
        assert alone.input_ids[0].tolist() == together.input_ids[row, :length].tolist()


def test_select_takes_rows_of_every_tensor_and_cuts_to_the_longest(
    make_rollout: Callable[..., Rollout],
) -> None:
    rollout = make_rollout([(3, 5), (1, 2), (6, 1)])
    per_token = torch.arange(15.0).view(3, 5)
    names = [field.name for field in fields(Experience)][len(fields(Rollout)) :]
    tensors = {name: per_token + i for i, name in enumerate(names)}
    tensors["scores"] = torch.tensor([10.0, 20.0, 30.0])
    chosen = Experience(**vars(rollout), **tensors).select(torch.tensor([2, 1]))
    assert chosen.input_ids.shape == (2, 7)
    assert chosen.scores.tolist() == [30.0, 20.0]
    assert chosen.response_mask.tolist() == [[True, False], [True, True]]
    for i, name in enumerate(names):
        if name != "scores":
            assert getattr(chosen, name).tolist() == [[10.0 + i, 11.0 + i], [5.0 + i, 6.0 + i]]


def test_batches_hold_all_rows_in_order(make_rollout: Callable[..., Rollout]) -> None:
    rollout = make_rollout([(3, 5), (1, 2), (6, 1)])
    parts = rollout.batches(2)
    assert [len(part) for part in parts] == [2, 1]
    assert [part.input_ids.shape[1] for part in parts] == [8, 7]
    assert torch.cat([part.prompt_lengths for part in parts]).tolist() == [3, 1, 6]
