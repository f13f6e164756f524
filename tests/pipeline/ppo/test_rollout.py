"""The trainer's layout of a rollout, and cutting rows out of it."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import fields

import pytest
import torch

from pipeline.model import GPT
from pipeline.ppo.experience import Experience
from pipeline.ppo.rollout import InProcessEngine, Rollout, left_align, part_sizes, respond
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
    rollout = respond(
        InProcessEngine(make_policy(), tokenizer),
        prompts,
        [1, 2],
        SamplingSettings(6),
        tokenizer.pad_id,
    )
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
    engine, settings = InProcessEngine(make_policy(), tokenizer), SamplingSettings(6)
    prompts = [tokenizer.encode_prompt(text) for text in ("a", "the fox", "a")]
    together = respond(engine, prompts, [11, 12, 13], settings, tokenizer.pad_id)
    assert together.input_ids[0].tolist() != together.input_ids[2].tolist()
    for row in range(3):
        alone = respond(engine, [prompts[row]], [11 + row], settings, tokenizer.pad_id)
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


def test_micro_batches_hold_each_row_once_the_longest_first_within_their_limits(
    make_rollout: Callable[..., Rollout],
) -> None:
    rollout = make_rollout([(3, 5), (1, 2), (6, 1), (2, 2), (9, 9)])  # 8, 3, 7, 4, 18 tokens
    lengths = [
        [parts.lengths.tolist() for parts in rollout.micro_batches(rows, tokens)]
        for rows, tokens in ((5, 1000), (2, 1000), (5, 16), (5, 1))
    ]
    assert lengths[0] == [[18, 8, 7, 4, 3]]  # of so few tokens, a second part would cost more
    assert lengths[1] == [[18], [8, 7], [4, 3]]
    assert lengths[2] == [[18], [8, 7], [4, 3]]  # one row may be longer than the limit
    assert lengths[3] == [[18], [8], [7], [4], [3]]
    for part in rollout.micro_batches(5, 16):
        assert part.input_ids.shape[1] == int(part.lengths.max())


def divisions(count: int) -> Iterator[list[int]]:
    """Every way to write ``count`` as a sum of parts, in order."""
    if count == 0:
        yield []
    for first in range(1, count + 1):
        for rest in divisions(count - first):
            yield [first, *rest]


@pytest.mark.parametrize("part_cost", [0.0, 3.0, 50.0, math.inf])
@pytest.mark.parametrize(("rows", "tokens"), [(9, None), (3, None), (9, 40), (4, 25)])
def test_no_division_is_cheaper(part_cost: float, rows: int, tokens: int | None) -> None:
    rng = random.Random(0)
    for _ in range(20):
        lengths = sorted((rng.randint(1, 30) for _ in range(8)), reverse=True)

        def parts_of(sizes: list[int], lengths: list[int] = lengths) -> list[list[int]]:
            ends = list(itertools.accumulate(sizes))
            return [lengths[end - size : end] for size, end in zip(sizes, ends, strict=True)]

        def allowed(part: list[int]) -> bool:
            whole = tokens is None or len(part) * part[0] <= tokens
            return len(part) == 1 or (len(part) <= rows and whole)

        def cost(parts: list[list[int]]) -> float:
            if math.isinf(part_cost):
                return len(parts)
            return sum(len(part) * part[0] + part_cost for part in parts)

        ours = parts_of(part_sizes(lengths, rows, tokens, part_cost))
        assert [one for part in ours for one in part] == lengths
        assert all(allowed(part) for part in ours)
        every = [parts for sizes in divisions(8) if all(map(allowed, parts := parts_of(sizes)))]
        assert cost(ours) == min(map(cost, every))


def test_a_function_of_parts_gives_all_rows_in_order(make_rollout: Callable[..., Rollout]) -> None:
    rollout = make_rollout([(3, 5), (1, 2), (6, 1)])
    seen: list[int] = []

    def look(part: Rollout) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(len(part))
        return part.lengths, part.response_mask.float()

    lengths, mask = rollout.in_parts(look, rows=2)
    assert seen == [2, 1]
    assert lengths.tolist() == [8, 3, 7]
    assert torch.equal(mask.bool(), rollout.response_mask)


def test_the_ids_of_each_response(make_rollout: Callable[..., Rollout]) -> None:
    rollout = make_rollout([(3, 2), (1, 1)])
    assert rollout.response_ids() == [
        rollout.input_ids[0, 3:5].tolist(),
        rollout.input_ids[1, 1:2].tolist(),
    ]
