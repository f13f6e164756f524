"""The supervised loop: schedule by hand, steps counted, the optimizers' shares, reproducibility."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from accelerate import Accelerator

from pipeline.errors import UserError
from pipeline.model import GPT, GPTConfig
from pipeline.training import Schedule, fit, make_optimizers


def test_schedule_by_hand():
    cosine = Schedule(steps=12, warmup_steps=2, final_fraction=0.1)
    assert [cosine.factor(step) for step in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert cosine.factor(7) == pytest.approx(0.55)  # halfway: 0.1 + 0.9 · 0.5
    assert cosine.factor(12) == pytest.approx(0.1)
    linear = Schedule(steps=4, shape="linear")
    assert [linear.factor(step) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]


def run_fit(model, loss_at, steps=5, max_grad_norm=1e9, lr=0.1):
    seen = []
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    fit(
        Accelerator(cpu=True),
        model,
        [optimizer],
        loss_at,
        schedule=Schedule(steps, shape="linear"),
        max_grad_norm=max_grad_norm,
        autocast=nullcontext,
        on_step=lambda step, metrics: seen.append((step, metrics)),
    )
    return seen


def test_fit_is_gradient_descent_with_the_scheduled_rate():
    # loss = w²/2, so a step multiplies w by (1 − lr · factor).
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 2.0)
    seen = run_fit(model, lambda step: ((model.weight**2).sum() / 2, {"step_seen": step}), steps=4)
    assert model.weight.item() == pytest.approx(2 * 0.9 * 0.925 * 0.95 * 0.975)
    assert [step for step, _ in seen] == [1, 2, 3, 4]
    assert [metrics["step_seen"] for _, metrics in seen] == [0, 1, 2, 3]
    assert seen[0][1]["loss"] == pytest.approx(2.0)
    assert seen[0][1]["grad_norm"] == pytest.approx(2.0)


def test_gradients_are_clipped_to_the_norm():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 2.0)
    run_fit(model, lambda _: (100 * model.weight.sum(), {}), steps=1, max_grad_norm=0.5)
    assert model.weight.item() == pytest.approx(2.0 - 0.1 * 0.5, abs=1e-5)


def test_a_loss_that_is_not_finite_stops_before_the_step():
    model = torch.nn.Linear(1, 1, bias=False)
    before = model.weight.detach().clone()
    with pytest.raises(UserError, match="step 1"):
        run_fit(model, lambda _: (model.weight.sum() * float("nan"), {}))
    assert torch.equal(model.weight, before)


def test_muon_takes_the_blocks_matrices_and_adamw_the_rest():
    model = GPT(GPTConfig(50, 8, 2, 2, 16))
    muon, adamw = make_optimizers(
        model, learning_rate=1e-3, muon_learning_rate=0.02, weight_decay=0.0
    )
    assert sum(p.numel() for p in muon.param_groups[0]["params"]) == 2 * 12 * 16 * 16
    everything = sum(len(o.param_groups[0]["params"]) for o in (muon, adamw))
    assert everything == len(list(model.parameters()))
    assert muon.param_groups[0]["weight_decay"] == 0.0


def test_the_same_seed_gives_the_same_weights():
    def trained() -> torch.Tensor:
        torch.manual_seed(0)
        model = GPT(GPTConfig(50, 8, 1, 2, 16))
        ids = torch.randint(0, 50, (4, 9))

        def loss_at(step):
            logits = model(ids[:, :-1])
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()), {}

        run_fit(model, loss_at)
        return torch.cat([weight.detach().flatten() for weight in model.parameters()])

    assert torch.equal(trained(), trained())
