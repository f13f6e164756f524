"""The reward model against a double loop, TRL's loss, Hugging Face's class and invariances."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from pipeline.errors import UserError
from pipeline.model import GPT, GPTConfig
from pipeline.preferences import Pair, PromptComparisons, pairs_from_ranks
from pipeline.records import RankedResponse
from pipeline.reward import RewardModel, score_rows
from pipeline.reward_batches import (
    EncodedComparisons,
    RewardBatch,
    batch_schedule,
    collate,
    encode_comparisons,
    pad_rows,
)
from pipeline.reward_files import save_reward_model
from pipeline.reward_loss import kwise_loss_sum
from pipeline.tokenizer import Tokenizer

PAD = 31
CONFIG = GPTConfig(vocab_size=32, context_tokens=24, layers=2, heads=2, width=16)


@pytest.fixture
def model() -> RewardModel:
    torch.manual_seed(0)
    model = RewardModel(GPT(CONFIG))
    with torch.no_grad():  # away from the initialization, where biases and norms hide mistakes
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def random_elements(seed: int, ranks: list[list[int]]) -> list[EncodedComparisons]:
    """One prompt for each list of ranks, with random rows of 1 to 12 tokens and no pad in them."""
    generator = torch.Generator().manual_seed(seed)

    def row() -> tuple[int, ...]:
        length = int(torch.randint(1, 13, (), generator=generator))
        return tuple(torch.randint(0, PAD, (length,), generator=generator).tolist())

    return [
        EncodedComparisons(tuple(row() for _ in one), tuple(pairs_from_ranks(one))) for one in ranks
    ]


RAGGED = [[1, 2], [3, 1, 2], [1, 2, 2, 4], [1, 1, 1], [9, 8, 7, 6, 5, 4, 3, 2, 1], [2, 2]]
PROMPTS_WITH_PAIRS = 4


def mean_loss(scores: Tensor, batch: RewardBatch) -> Tensor:
    total = kwise_loss_sum(scores, batch.pair_indices, batch.pair_weights)
    return total / batch.prompt_count


def double_loop(scores: Tensor, ranks: list[list[int]]) -> Tensor:
    """Equation 1, written as it reads: over prompts, over pairs of responses."""
    prompt_losses: list[Tensor] = []
    start = 0
    for one in ranks:
        losses: list[Tensor] = []
        for a, b in combinations(range(len(one)), 2):
            if one[a] != one[b]:
                winner, loser = (a, b) if one[a] < one[b] else (b, a)
                gap = scores[start + winner] - scores[start + loser]
                losses.append(-torch.log(1 / (1 + torch.exp(-gap))))
        if losses:
            prompt_losses.append(torch.stack(losses).mean())
        start += len(one)
    return torch.stack(prompt_losses).mean()


# --- loss -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_loss_and_gradient_equal_a_double_loop(dtype: torch.dtype, tolerance: float) -> None:
    batch = collate(random_elements(0, RAGGED), PAD)
    weights = torch.cat(
        [torch.full((len(p),), 1 / len(p), dtype=dtype) for p in map(pairs_from_ranks, RAGGED) if p]
    )
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(23, dtype=dtype, generator=generator).mul(3).requires_grad_()
    assert batch.prompt_count == PROMPTS_WITH_PAIRS
    assert batch.pair_weights == pytest.approx(weights)
    ours = kwise_loss_sum(scores, batch.pair_indices, weights) / batch.prompt_count
    theirs = double_loop(scores, RAGGED)
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)
    (gradient,) = torch.autograd.grad(ours, scores)
    (expected,) = torch.autograd.grad(theirs, scores)
    torch.testing.assert_close(gradient, expected, atol=tolerance, rtol=0)


def test_loss_by_hand() -> None:
    # Prompt 1 orders its rows 0 above 1; prompt 2 its rows 3 above 2 and, equally, 4 above 2.
    elements = [
        EncodedComparisons(((1,), (2,)), ((0, 1),)),
        EncodedComparisons(((1,), (2,), (3,)), ((1, 0), (2, 0))),
    ]
    batch = collate(elements, PAD)
    scores = torch.tensor([math.log(3), 0.0, 0.0, math.log(9), 0.0], dtype=torch.float64)
    # Chances of the labels: 3/4; 9/10 and 1/2.
    expected = (-math.log(3 / 4) + (-math.log(9 / 10) - math.log(1 / 2)) / 2) / 2
    assert mean_loss(scores, batch).item() == pytest.approx(expected, abs=1e-7)


def test_extreme_scores_stay_finite() -> None:
    scores = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = kwise_loss_sum(scores, torch.tensor([[0, 1]]), torch.ones(1))
    assert loss.item() == pytest.approx(2e4)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient.tolist() == [-1.0, 1.0]


def test_gradient_is_the_average_of_the_gradients_of_the_pairs(model: RewardModel) -> None:
    (element,) = random_elements(2, [[2, 1, 3, 3]])
    model.double()

    def gradient(pairs: tuple[Pair, ...]) -> Tensor:
        batch = collate([EncodedComparisons(element.rows, pairs)], PAD)
        loss = mean_loss(model(batch.input_ids, batch.lengths), batch)
        grads = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
        return torch.cat([grad.flatten() for grad in grads])

    each = torch.stack([gradient((pair,)) for pair in element.pairs])
    assert len(each) == 5
    torch.testing.assert_close(gradient(element.pairs), each.mean(0), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_order_of_prompts_and_responses_does_not_matter(model: RewardModel, seed: int) -> None:
    elements = random_elements(3, RAGGED)
    generator = torch.Generator().manual_seed(seed)

    def shuffled(element: EncodedComparisons) -> EncodedComparisons:
        order = torch.randperm(len(element.rows), generator=generator).tolist()
        rows = tuple(element.rows[i] for i in order)
        pairs = tuple((order.index(better), order.index(worse)) for better, worse in element.pairs)
        return EncodedComparisons(rows, pairs)

    prompts = torch.randperm(len(elements), generator=generator).tolist()
    losses = []
    for chosen in (elements, [shuffled(elements[i]) for i in prompts]):
        batch = collate(chosen, PAD)
        losses.append(mean_loss(model(batch.input_ids, batch.lengths), batch))
    torch.testing.assert_close(losses[0], losses[1], atol=1e-6, rtol=0)


def test_parts_of_a_batch_add_up_to_the_whole(model: RewardModel) -> None:
    model.double()
    elements = random_elements(4, RAGGED)

    def gradient(parts: list[list[EncodedComparisons]]) -> Tensor:
        batches = [collate(part, PAD) for part in parts]
        count = sum(batch.prompt_count for batch in batches)
        model.zero_grad()
        for batch in batches:
            scores = model(batch.input_ids, batch.lengths)
            loss = kwise_loss_sum(scores, batch.pair_indices, batch.pair_weights) / count
            loss.backward()
        return torch.cat(
            [cast(Tensor, p.grad).flatten() for p in cast(GPT, model.trunk).h.parameters()]
        )

    whole = gradient([elements])
    assert whole.abs().max() > 1e-4
    for parts in ([elements[:2], elements[2:]], [[element] for element in elements]):
        torch.testing.assert_close(gradient(parts), whole, atol=1e-10, rtol=1e-7)


def test_a_constant_on_all_scores_changes_nothing() -> None:
    batch = collate(random_elements(5, RAGGED), PAD)
    scores = torch.randn(23, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        mean_loss(scores, batch), mean_loss(scores + 7, batch), atol=1e-10, rtol=0
    )


def test_tied_prompts_have_no_loss_and_no_gradient(model: RewardModel) -> None:
    batch = collate(random_elements(6, [[1, 1, 1], [4, 4]]), PAD)
    assert (batch.prompt_count, batch.pair_indices.shape) == (0, (0, 2))
    loss = kwise_loss_sum(
        model(batch.input_ids, batch.lengths), batch.pair_indices, batch.pair_weights
    )
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_each_response_is_run_once(model: RewardModel) -> None:
    rows_seen: list[int] = []
    cast(GPT, model.trunk).wte.register_forward_hook(
        lambda module, inputs, output: rows_seen.append(len(inputs[0]))
    )
    batch = collate(random_elements(7, [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 4]]), PAD)
    assert len(batch.pair_indices) == 36 + 6
    model(batch.input_ids, batch.lengths)
    assert rows_seen == [13]


def test_two_responses_give_the_loss_of_trl(
    model: RewardModel, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    from trl.trainer.reward_trainer import RewardTrainer

    elements = random_elements(8, [[1, 2], [2, 1], [1, 2]])
    batch = collate(elements, PAD)
    save_reward_model(model, tmp_path, tiny_tokenizer)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    theirs.config.pad_token_id = PAD
    chosen, rejected = batch.pair_indices.T
    order = torch.cat([chosen, rejected])
    # compute_loss needs no more of a trainer than these; building one would need a data set.
    trainer = cast(Any, RewardTrainer.__new__(RewardTrainer))
    trainer.model = theirs
    trainer.args = type("Args", (), {"center_rewards_coefficient": None})
    gather = staticmethod(lambda tensor: tensor)
    trainer.accelerator = type("One", (), {"gather": gather, "gather_for_metrics": gather})
    trainer._metrics = {mode: MetricLists() for mode in ("train", "eval")}
    trainer._total_train_tokens = trainer._tp_size = 1
    input_ids = batch.input_ids[order]
    mask = torch.arange(input_ids.shape[1]) < batch.lengths[order, None]
    inputs = {"input_ids": input_ids, "attention_mask": mask.long()}
    expected = trainer.compute_loss(theirs, inputs)
    ours = mean_loss(model(batch.input_ids, batch.lengths), batch)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


class MetricLists(dict[str, list[float]]):
    def __missing__(self, key: str) -> list[float]:
        return self.setdefault(key, [])


# --- model ----------------------------------------------------------------------------------------


def test_head_starts_with_the_published_variance() -> None:
    width = 4095  # the head alone is wide: std 1/64
    trunk = GPT(GPTConfig(vocab_size=4, context_tokens=1, layers=0, heads=1, width=width))
    head = RewardModel(trunk, torch.Generator().manual_seed(0)).score
    # The standard deviation of the estimate is std / sqrt(2 · 4095), 1.1%: four of them.
    assert head.weight.std().item() == pytest.approx(1 / 64, rel=0.045)
    assert head.weight.mean().item() == pytest.approx(0, abs=4 / 64 / 64)
    assert head.bias is None


def test_scores_at_the_start_have_a_variance_near_one() -> None:
    torch.manual_seed(3)
    config = GPTConfig(vocab_size=500, context_tokens=8, layers=1, heads=1, width=256)
    input_ids = torch.arange(480).view(60, 8)
    with torch.no_grad():
        squares = [RewardModel(GPT(config)).token_scores(input_ids).square().mean() for _ in "1234"]
    assert torch.stack(squares).mean().item() == pytest.approx(1, abs=0.2)


def test_the_same_generator_draws_the_same_head() -> None:
    trunk = GPT(CONFIG)
    heads = [RewardModel(trunk, torch.Generator().manual_seed(s)).score.weight for s in (5, 5, 6)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_score_is_read_at_the_last_real_token_whatever_its_id(model: RewardModel) -> None:
    input_ids = torch.tensor([[1, 2, 3, PAD, PAD], [PAD, 4, PAD, 5, PAD]])
    everywhere = model.token_scores(input_ids)
    assert everywhere.shape == (2, 5)
    for lengths in ([3, 5], [1, 3], [4, 4]):  # real tokens may carry the pad's id: lengths decide
        scores = model(input_ids, torch.tensor(lengths))
        expected = torch.stack([everywhere[0, lengths[0] - 1], everywhere[1, lengths[1] - 1]])
        torch.testing.assert_close(scores, expected, atol=1e-6, rtol=0)


def test_padding_and_neighbors_do_not_change_a_score(model: RewardModel) -> None:
    rows = [row for element in random_elements(9, RAGGED) for row in element.rows]
    alone = [model(torch.tensor([row]), torch.tensor([len(row)])).item() for row in rows]
    input_ids, lengths = pad_rows(rows, PAD)
    wider = torch.cat([input_ids, torch.full((len(rows), 5), 7)], dim=1)
    assert model(input_ids, lengths).tolist() == pytest.approx(alone, abs=1e-6)
    assert model(wider, lengths).tolist() == pytest.approx(alone, abs=1e-6)
    for batch_rows in (1, 4, 100):
        assert score_rows(model, rows, PAD, batch_rows).tolist() == pytest.approx(alone, abs=1e-6)


def test_head_stays_in_fp32_under_autocast(model: RewardModel) -> None:
    seen: list[torch.dtype] = []
    model.score.register_forward_hook(lambda module, inputs, out: seen.append(out.dtype))
    input_ids = torch.tensor([[1, 2, 3]])
    with torch.autocast("cpu", torch.bfloat16):
        assert (
            torch.nn.functional.linear(torch.ones(1, 2), torch.ones(1, 2)).dtype == torch.bfloat16
        )
        model(input_ids, torch.tensor([3]))
        model.token_scores(input_ids)
    assert seen == [torch.float32, torch.float32]


# --- encoding -------------------------------------------------------------------------------------


def comparisons(*responses: tuple[str, bool], prompt: str = "the dog") -> PromptComparisons:
    ranked = tuple(
        RankedResponse(response_id=f"r{i}", text=text, policy="sft", finished=finished)
        for i, (text, finished) in enumerate(responses)
    )
    return PromptComparisons(prompt, ranked, ((0, 1),), (1,))


def test_rows_are_prompt_and_response_with_the_end_token_only_if_finished(
    tiny_tokenizer: Tokenizer,
) -> None:
    encoded = encode_comparisons(
        comparisons(("a cat", True), ("a cat", False), ("", True)), tiny_tokenizer, 99
    )
    prompt = [
        tiny_tokenizer.prompt_mark_id,
        *tiny_tokenizer.encode("the dog"),
        tiny_tokenizer.response_mark_id,
    ]
    response = tiny_tokenizer.encode("a cat")
    end = tiny_tokenizer.eos_id
    assert [list(row) for row in encoded.rows] == [
        [*prompt, *response, end],
        [*prompt, *response],
        [*prompt, end],
    ]
    assert encoded.pairs == ((0, 1),)


def test_too_long_for_the_context_is_an_error_that_names_the_response(
    tiny_tokenizer: Tokenizer,
) -> None:
    both = comparisons(("a", True), ("a cat sat on a mat", True))
    size = max(len(row) for row in encode_comparisons(both, tiny_tokenizer, 99).rows)
    assert encode_comparisons(both, tiny_tokenizer, size)
    with pytest.raises(UserError, match=f"response r1: has {size} tokens .* at most {size - 1}"):
        encode_comparisons(both, tiny_tokenizer, size - 1)


# --- learning -------------------------------------------------------------------------------------


def test_every_epoch_has_each_prompt_once_in_an_order_of_its_own() -> None:
    batches = batch_schedule(count=10, batch_prompts=4, epochs=2, seed=5)
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    first, second = ([i for batch in epoch for i in batch] for epoch in (batches[:3], batches[3:]))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert batch_schedule(10, 4, 1, seed=5) == batches[:3]
    assert batch_schedule(10, 4, 2, seed=6) != batches


def test_a_planted_rule_is_learned_in_seconds() -> None:
    """More of token 7 is better: right on almost all pairs of prompts that were not trained on."""
    generator = torch.Generator().manual_seed(0)

    def element() -> EncodedComparisons:
        prompt = torch.randint(0, 31, (3,), generator=generator).tolist()
        rows: list[tuple[int, ...]] = []
        for _ in range(5):
            length = int(torch.randint(4, 10, (), generator=generator))
            sevens = torch.rand(length, generator=generator) < 0.4
            body = torch.randint(8, 31, (length,), generator=generator).masked_fill(sevens, 7)
            rows.append((*prompt, 0, *body.tolist(), 1))
        ranks = [-row[4:].count(7) for row in rows]
        return EncodedComparisons(tuple(rows), tuple(pairs_from_ranks(ranks)))

    training, held_out = ([element() for _ in range(n)] for n in (320, 60))
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=32, context_tokens=24, layers=2, heads=2, width=32)
    model = RewardModel(GPT(config))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for _epoch in range(3):
        for start in range(0, len(training), 16):
            batch = collate(training[start : start + 16], PAD)
            optimizer.zero_grad()
            mean_loss(model(batch.input_ids, batch.lengths), batch).backward()
            optimizer.step()
    batch = collate(held_out, PAD)
    scores = score_rows(model, [row for one in held_out for row in one.rows], PAD)
    better, worse = scores[batch.pair_indices].T
    assert (better > worse).float().mean().item() > 0.95
