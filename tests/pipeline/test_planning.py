"""Plans against transformers' optimizers, against torch's own account of what is kept, by hand."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from pipeline.config import PretrainSection
from pipeline.model import GPT, GPTConfig
from pipeline.planning import activation_bytes, make_plan, seconds_per_step, state_bytes
from pipeline.pretraining import next_token_loss
from pipeline.training import make_optimizers

CONFIG = GPTConfig(500, 64, 3, 4, 64)


def test_a_plan_by_hand() -> None:
    section = PretrainSection(
        vocab_size=300, layers=1, heads=1, width=10, context_tokens=20, row_tokens=20,
        batch_rows=8, steps=50,
    )  # fmt: skip
    plan = make_plan(section, processes=2, precision="fp32", fused=True)
    # Embeddings 300·10 + 20·10; a block 12·10² + 13·10; the last norm 2·10.
    assert plan.parameters == 3000 + 200 + 1200 + 130 + 20
    assert plan.tokens == 50 * 8 * 20
    assert plan.tokens_per_parameter == pytest.approx(8000 / 4550)
    assert plan.flops == plan.tokens * (6 * (4550 - 200) + 12 * 10 * 20)


def test_the_state_is_what_training_holds() -> None:
    model = GPT(CONFIG)
    optimizers = make_optimizers(
        model, learning_rate=1e-3, muon_learning_rate=1e-2, weight_decay=0.0
    )
    next_token_loss(model, torch.zeros(2, 9, dtype=torch.long)).backward()
    for optimizer in optimizers:
        optimizer.step()
    held = [*model.parameters(), *(p.grad for p in model.parameters() if p.grad is not None)]
    for optimizer in optimizers:
        memories = optimizer.state_dict()["state"].values()
        held += [value for memory in memories for value in memory.values() if value.numel() > 1]
    assert state_bytes(CONFIG) == sum(tensor.numel() * 4 for tensor in held)


def test_activations_are_about_what_the_backward_pass_keeps() -> None:
    model, kept = GPT(CONFIG), {}

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    rows, tokens = 8, 64
    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        loss = next_token_loss(model, torch.zeros(rows, tokens + 1, dtype=torch.long))
    assert loss.requires_grad
    measured = sum(size for pointer, size in kept.items() if pointer not in weights)
    estimate = activation_bytes(CONFIG, rows, tokens, "fp32", fused=True)
    assert 0.7 < estimate / measured < 1.5


def test_a_step_takes_time_and_parts_take_theirs() -> None:
    section = PretrainSection(layers=1, width=16, heads=1, row_tokens=8, batch_rows=64)
    parts = section.model_copy(update={"per_device_batch_rows": 1})
    whole, divided = (
        min(
            seconds_per_step(one, 1, torch.device("cpu"), nullcontext, seconds=0.1)
            for _ in range(3)  # a busy machine may stall one measurement
        )
        for one in (section, parts)
    )
    assert 0 < whole < divided  # 64 parts of a row cost more than one part of 64 rows
