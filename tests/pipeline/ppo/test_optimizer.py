"""Two optimizer steps against Adam written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pipeline.ppo.optimizer import clip_and_step, clip_together_and_step, make_optimizer


def test_two_steps_equal_adam_by_hand_without_weight_decay() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 2.0)
    optimizer = make_optimizer(model, learning_rate=0.1, epsilon=0.5)
    weight, first, second = 2.0, 0.0, 0.0
    for step, (gradient, decay) in enumerate([(3.0, 1.0), (-0.25, 0.5)], start=1):
        (model.weight.sum() * gradient).backward()
        (norm,) = clip_and_step([optimizer], max_grad_norm=1.0, decays=[decay])
        assert float(norm) == pytest.approx(abs(gradient))
        clipped = math.copysign(min(abs(gradient), 1.0), gradient)
        first, second = 0.9 * first + 0.1 * clipped, 0.999 * second + 0.001 * clipped**2
        mean, spread = first / (1 - 0.9**step), math.sqrt(second / (1 - 0.999**step))
        weight -= 0.1 * decay * mean / (spread + 0.5)
        assert model.weight.item() == pytest.approx(weight, rel=1e-5)


def test_a_decay_of_zero_moves_nothing_and_still_clears_the_gradients() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    optimizer = make_optimizer(model, learning_rate=0.1, epsilon=1e-5)
    model(torch.ones(2)).sum().backward()
    clip_and_step([optimizer], max_grad_norm=1.0, decays=[0.0])
    assert torch.equal(model.weight, before)
    assert model.weight.grad is None
    assert not optimizer.state


@pytest.mark.parametrize(
    ("decays", "factor"), [([1.0, 0.5], 1 / 13), ([0.0, 0.5], 1 / 12), ([1.0, 0.0], 1 / 5)]
)
def test_together_all_gradients_that_move_something_are_scaled_by_one_factor(
    decays: list[float], factor: float
) -> None:
    """Gradients of norm 5 and 12: together 13. With AdamW's first step the scale is seen in the
    moments, which are what is remembered of the scaled gradients."""
    models = [nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False)]
    gradients = [torch.tensor([[3.0, -4.0]]), torch.tensor([[12.0]])]
    before = [model.weight.detach().clone() for model in models]
    optimizers = [make_optimizer(model, 0.1, epsilon=0.5) for model in models]
    for model, gradient in zip(models, gradients, strict=True):
        (model.weight * gradient).sum().backward()
    norms = clip_together_and_step(optimizers, max_grad_norm=1.0, decays=decays)
    assert [float(norm) for norm in norms] == pytest.approx([5, 12])
    for index, (model, decay) in enumerate(zip(models, decays, strict=True)):
        moved = before[index] - model.weight.detach()
        scaled = gradients[index] * factor
        expected = 0.1 * decay * scaled / (scaled.abs() + 0.5)  # Adam's first step by hand
        torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-6)
        assert model.weight.grad is None


def test_together_a_short_gradient_is_left_as_it_is() -> None:
    model, other = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    optimizers = [make_optimizer(one, 0.1, epsilon=0.5) for one in (model, other)]
    before = model.weight.item()
    (model.weight.sum() * 0.25 + other.weight.sum() * 0.5).backward()
    clip_together_and_step(optimizers, max_grad_norm=1.0, decays=[1.0, 1.0])
    assert before - model.weight.item() == pytest.approx(0.1 * 0.25 / 0.75, rel=1e-4)
