"""Two optimizer steps against Adam written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pipeline.ppo.optimizer import clip_and_step, make_optimizer


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
