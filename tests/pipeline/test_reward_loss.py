"""Past equation 1: ties, margins, centering and questions, against loops written as they read."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from pipeline.preferences import PromptComparisons
from pipeline.records import RankedResponse
from pipeline.reward_batches import EncodedComparisons, collate, encode_comparisons
from pipeline.reward_loss import centering_sum, kwise_loss_sum, question_loss_sum
from pipeline.tokenizer import Tokenizer

RANKS = [[1, 2], [3, 1, 2], [1, 2, 2, 4], [9, 8, 7, 6, 5, 4, 3, 2, 1], [2, 2, 1]]
RATINGS = [[7, 1], [2, 6, 5], [6, 4, 4, 1], [1, 2, 2, 3, 4, 5, 6, 6, 7], [3, 3, 5]]
QUESTIONS = ("rude", "unfinished")


def comparisons(
    number: int, ranks: list[int], ratings: list[int], answers: list[dict[str, float]]
) -> PromptComparisons:
    size = range(len(ranks))
    pairs = tuple((a, b) for a in size for b in size if ranks[a] < ranks[b])
    return PromptComparisons(
        prompt=f"the dog {number}",
        responses=tuple(
            RankedResponse(response_id=f"r{number}.{i}", text="a cat", policy="sft") for i in size
        ),
        pairs=pairs,
        rating_gaps=tuple(ratings[a] - ratings[b] for a, b in pairs),
        labelers=("ann",) * len(pairs),
        ties=tuple((a, b) for a, b in combinations(size, 2) if ranks[a] == ranks[b]),
        answers=tuple(answers),
        group=f"the dog {number}",
    )


@pytest.fixture
def answers() -> list[list[dict[str, float]]]:
    """One or two labelers answered, or nobody."""
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randint(0, 4, (50, 2), generator=generator).tolist()
    rows = [
        {name: value / 2 for name, value in zip(QUESTIONS, row, strict=True) if value < 3}
        for row in drawn
    ]
    sizes = [len(ranks) for ranks in RANKS]
    return [[rows.pop() for _ in range(size)] for size in sizes]


@pytest.fixture
def elements(
    tiny_tokenizer: Tokenizer, answers: list[list[dict[str, float]]]
) -> list[EncodedComparisons]:
    return [
        encode_comparisons(
            comparisons(i, ranks, ratings, given), tiny_tokenizer, 99,
            questions=QUESTIONS, with_ties=True, margin=1.5,
        )
        for i, (ranks, ratings, given) in enumerate(zip(RANKS, RATINGS, answers, strict=True))
    ]  # fmt: skip


def scores_of(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, dtype=torch.float64, generator=generator).mul(2).requires_grad_()


def log_sigmoid(value: Tensor) -> Tensor:
    return -torch.log(1 + torch.exp(-value))


def test_ties_and_margins_equal_a_double_loop(elements: list[EncodedComparisons]) -> None:
    batch = collate(elements, pad_id=1)
    scores = scores_of(len(batch.lengths))
    ours = kwise_loss_sum(
        scores, batch.pair_indices, batch.pair_weights.double(), batch.pair_targets,
        batch.pair_margins.double(),
    )  # fmt: skip
    expected, start = torch.zeros((), dtype=torch.float64), 0
    for ranks, ratings in zip(RANKS, RATINGS, strict=True):
        losses: list[Tensor] = []
        for a, b in combinations(range(len(ranks)), 2):
            lead = scores[start + a] - scores[start + b]
            if ranks[a] == ranks[b]:
                losses.append(-0.5 * log_sigmoid(lead) - 0.5 * log_sigmoid(-lead))
            elif ranks[a] < ranks[b]:
                losses.append(-log_sigmoid(lead - 1.5 * (ratings[a] - ratings[b]) / 6))
            else:
                losses.append(-log_sigmoid(-lead - 1.5 * (ratings[b] - ratings[a]) / 6))
        expected = expected + torch.stack(losses).mean()
        start += len(ranks)
    # Weights and margins of a batch are fp32.
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    (gradient,) = torch.autograd.grad(ours, scores)
    (theirs,) = torch.autograd.grad(expected, scores)
    torch.testing.assert_close(gradient, theirs, atol=1e-6, rtol=0)


def test_a_tie_pulls_scores_together_and_costs_log_two_there() -> None:
    pair, weight, tie = torch.tensor([[0, 1]]), torch.ones(1), torch.tensor([0.5])
    equal = torch.zeros(2)
    assert kwise_loss_sum(equal, pair, weight, tie).item() == pytest.approx(math.log(2))
    apart = torch.tensor([1.0, -1.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(kwise_loss_sum(apart, pair, weight, tie), apart)
    assert gradient[0] > 0 > gradient[1]
    assert gradient[0].item() == pytest.approx(1 / (1 + math.exp(-2)) - 0.5)


def test_without_ties_a_prompt_has_the_decided_pairs_alone(tiny_tokenizer: Tokenizer) -> None:
    one = comparisons(0, [1, 2, 2], [6, 4, 4], [{}, {}, {}])
    dropped = encode_comparisons(one, tiny_tokenizer, 99)
    assert dropped.pairs == ((0, 1), (0, 2))
    assert dropped.targets == (1.0, 1.0)
    soft = encode_comparisons(one, tiny_tokenizer, 99, with_ties=True)
    assert soft.pairs == ((0, 1), (0, 2), (1, 2))
    assert soft.targets == (1.0, 1.0, 0.5)


def test_a_confirmed_contradiction_has_no_margin(tiny_tokenizer: Tokenizer) -> None:
    one = comparisons(0, [1, 2], [3, 6], [{}, {}])
    assert one.rating_gaps == (-3,)
    assert encode_comparisons(one, tiny_tokenizer, 99, margin=2.0).margins == (0.0,)


def test_centering_is_the_mean_square_of_each_prompts_scores(
    elements: list[EncodedComparisons],
) -> None:
    batch = collate(elements, pad_id=1)
    scores = scores_of(len(batch.lengths))
    parts = torch.split(scores, [len(ranks) for ranks in RANKS])
    expected = torch.stack([part.square().mean() for part in parts]).sum()
    ours = centering_sum(scores, batch.row_weights.double())
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)


def test_question_loss_equals_a_loop_over_what_was_answered(
    elements: list[EncodedComparisons], answers: list[list[dict[str, float]]]
) -> None:
    batch = collate(elements, pad_id=1)
    logits = scores_of(2 * len(batch.lengths)).detach().view(-1, 2).requires_grad_()
    expected, row = torch.zeros((), dtype=torch.float64), 0
    for prompt in answers:
        for given in prompt:
            losses = [
                -given[name] * log_sigmoid(logits[row, column])
                - (1 - given[name]) * log_sigmoid(-logits[row, column])
                for column, name in enumerate(QUESTIONS)
                if name in given
            ]
            if losses:
                expected = expected + torch.stack(losses).mean() / len(prompt)
            row += 1
    ours = question_loss_sum(logits, batch.answers, batch.row_weights.double())
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)
    (gradient,) = torch.autograd.grad(ours, logits)
    assert gradient.isfinite().all()
    assert (gradient[batch.answers.isnan()] == 0).all()


def test_a_prompt_without_pairs_has_no_part_in_anything() -> None:
    batch = collate([EncodedComparisons(((1,), (2,)), ())], pad_id=0)
    assert batch.row_weights.tolist() == [0, 0]
    assert batch.answers.shape == (2, 0)
