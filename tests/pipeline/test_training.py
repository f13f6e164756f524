"""The supervised loop: schedule by hand, steps counted, the optimizers' shares, reproducibility."""

from __future__ import annotations

import json
from contextlib import nullcontext, suppress

import pytest
import torch
from accelerate import Accelerator

from pipeline.checkpoints import Checkpoints
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


def run_fit(model, loss_at, steps=5, max_grad_norm=1e9, lr=0.1, **more):
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
        **more,
    )
    return seen


def test_fit_is_gradient_descent_with_the_scheduled_rate():
    # loss = w²/2, so a step multiplies w by (1 − lr · factor).
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 2.0)
    seen = run_fit(model, lambda i, _: ((model.weight**2).sum() / 2, {"step_seen": i}), steps=4)
    assert model.weight.item() == pytest.approx(2 * 0.9 * 0.925 * 0.95 * 0.975)
    assert [step for step, _ in seen] == [1, 2, 3, 4]
    assert [metrics["step_seen"] for _, metrics in seen] == [0, 1, 2, 3]
    assert seen[0][1]["loss"] == pytest.approx(2.0)
    assert seen[0][1]["grad_norm"] == pytest.approx(2.0)


def test_gradients_are_clipped_to_the_norm():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 2.0)
    run_fit(model, lambda *_: (100 * model.weight.sum(), {}), steps=1, max_grad_norm=0.5)
    assert model.weight.item() == pytest.approx(2.0 - 0.1 * 0.5, abs=1e-5)


def test_a_loss_that_is_not_finite_stops_before_the_step():
    model = torch.nn.Linear(1, 1, bias=False)
    before = model.weight.detach().clone()
    with pytest.raises(UserError, match="step 1"):
        run_fit(model, lambda *_: (model.weight.sum() * float("nan"), {}))
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

        def loss_at(step, part):
            logits = model(ids[:, :-1])
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()), {}

        run_fit(model, loss_at)
        return torch.cat([weight.detach().flatten() for weight in model.parameters()])

    assert torch.equal(trained(), trained())


def test_parts_of_a_batch_give_the_gradient_of_the_whole():
    # One step of lr 0.1 · mean of x over the batch, whether taken at once or in four parts.
    batch = torch.tensor([1.0, 2.0, 3.0, 6.0])
    for parts in (1, 2, 4):
        model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(model.weight, 2.0)
        size = len(batch) // parts

        def loss_at(step, part, model=model, size=size):
            share = batch[part * size : (part + 1) * size]
            return (model.weight * share).mean(), {"largest": float(share.max())}

        seen = run_fit(model, loss_at, steps=1, accumulation=parts)
        assert model.weight.item() == pytest.approx(2 - 0.1 * 3)
        assert seen[0][1]["loss"] == pytest.approx(2 * 3)
        largest = {1: 6, 2: (2 + 6) / 2, 4: 3}[parts]  # metrics are means over the parts
        assert seen[0][1]["largest"] == pytest.approx(largest)


STEPS = 6


def train_with_checkpoints(folder, stop_after=None, key="key"):
    """A GPT under Muon and AdamW; raises KeyboardInterrupt when ``stop_after`` steps are done."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(50, 8, 1, 2, 16))
    log = folder / "metrics.jsonl"
    steps_run = []

    def loss_at(step, part):
        ids = torch.randint(0, 50, (4, 9), generator=torch.Generator().manual_seed(step))
        logits = model(ids[:, :-1])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()), {}

    def on_step(step, metrics):
        steps_run.append(step)
        with log.open("a") as file:
            file.write(json.dumps({"step": step, "loss": metrics["loss"]}) + "\n")
        if step == stop_after:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        fit(
            Accelerator(cpu=True),
            model,
            make_optimizers(model, learning_rate=1e-2, muon_learning_rate=0.02, weight_decay=0.1),
            loss_at,
            schedule=Schedule(STEPS, warmup_steps=2),
            max_grad_norm=1.0,
            autocast=nullcontext,
            on_step=on_step,
            checkpoints=Checkpoints(folder / "checkpoints", key, log),
            checkpoint_every_steps=2,
        )
    return model.state_dict(), steps_run, log.read_text()


@pytest.mark.parametrize("stop_after", range(1, STEPS))
def test_a_run_killed_after_any_step_ends_with_the_same_bits_and_the_same_log(tmp_path, stop_after):
    whole, steps_run, log = train_with_checkpoints(make(tmp_path / "whole"))
    assert steps_run == list(range(1, STEPS + 1))
    folder = make(tmp_path / "killed")
    train_with_checkpoints(folder, stop_after)
    (folder / "metrics.jsonl").unlink()  # a stage starts in an empty folder
    resumed, steps_run, resumed_log = train_with_checkpoints(folder)
    # Step n's snapshot is taken after on_step(n): being killed there costs the last two steps.
    first = (stop_after - 1) // 2 * 2 + 1
    assert steps_run == list(range(first, STEPS + 1))
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())
    assert resumed_log == log


def test_a_run_with_another_key_starts_over(tmp_path):
    folder = make(tmp_path / "run")
    train_with_checkpoints(folder, stop_after=5, key="one")
    _, steps_run, _ = train_with_checkpoints(folder, key="other")
    assert steps_run[0] == 1


def make(folder):
    folder.mkdir()
    return folder
