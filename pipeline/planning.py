"""What pretraining will take, before it starts: parameters, arithmetic, memory, time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from pipeline.config import PretrainSection
from pipeline.flops import parameter_count, synchronize, training_flops_per_token
from pipeline.model import GPT, GPTConfig
from pipeline.pretraining import next_token_loss
from pipeline.training import is_embedding, make_optimizers

CHINCHILLA_TOKENS = 20  # per parameter: where a compute budget is best spent (Hoffmann et al. 2022)
MEASURED_SECONDS = 5.0


@dataclass(frozen=True)
class Plan:
    """Pretraining in numbers; memory in bytes on one device, arithmetic in FLOP.

    ``state_bytes`` is exact: fp32 weights, their gradients and what the optimizers remember.
    ``activation_bytes`` is an estimate of what the backward pass needs of one part of a batch.
    """

    parameters: int
    tokens: int
    flops: int
    state_bytes: int
    activation_bytes: int

    @property
    def tokens_per_parameter(self) -> float:
        """Chinchilla's measure: about 20 is compute-optimal, more makes a better small model."""
        return self.tokens / self.parameters


def size_of(section: PretrainSection, vocab_size: int) -> GPTConfig:
    """The configured size with so many embeddings: a tokenizer may not fill its vocabulary."""
    return GPTConfig(
        vocab_size, section.context_tokens, section.layers, section.heads, section.width
    )


def part_rows(section: PretrainSection, processes: int) -> int:
    """How many rows a device takes at a time."""
    return section.per_device_batch_rows or section.batch_rows // processes


def make_plan(section: PretrainSection, processes: int, precision: str, fused: bool) -> Plan:
    """The plan of a section; ``fused`` where attention's weights are never stored (a GPU)."""
    config = size_of(section, section.vocab_size)
    tokens = section.steps * section.batch_rows * section.row_tokens
    return Plan(
        parameters=parameter_count(config),
        tokens=tokens,
        flops=tokens * training_flops_per_token(config, section.row_tokens),
        state_bytes=state_bytes(config),
        activation_bytes=activation_bytes(
            config, part_rows(section, processes), section.row_tokens, precision, fused
        ),
    )


def state_bytes(config: GPTConfig) -> int:
    """Weights and gradients, one momentum for Muon's matrices, two for AdamW's weights."""
    with torch.device("meta"):
        model = GPT(config)
    total = 0
    for name, weight in model.named_parameters():
        muon = weight.ndim == 2 and not is_embedding(name)
        total += weight.numel() * 4 * (2 + (1 if muon else 2))
    return total


def activation_bytes(
    config: GPTConfig, rows: int, row_tokens: int, precision: str, fused: bool
) -> int:
    """What a forward pass keeps, counted module by module.

    Of a block for each token: the residual stream twice (fp32), both norms' outputs, q, k, v,
    attention's result, the MLP's hidden layer before and after GELU: 13 widths in the run's
    precision; attention's weights unless it is fused. Then the logits, their fp32 copy and its
    gradient.
    """
    size = 2 if precision == "bf16" else 4
    attention = 0 if fused else config.heads * row_tokens * (size + 4)
    block = config.width * (2 * 4 + 13 * size) + attention
    logits = config.vocab_size * (size + 4 + 4)
    return rows * row_tokens * (config.layers * block + logits)


def seconds_per_step(
    section: PretrainSection,
    processes: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[None]],
    seconds: float = MEASURED_SECONDS,
) -> float:
    """The time of one optimizer step, measured here for about ``seconds`` on random tokens.

    Parts of the batch and the optimizers are timed apart (the fastest of each), so that a step
    that takes minutes need not be waited for.
    """
    model = GPT(size_of(section, section.vocab_size)).to(device)
    optimizers = make_optimizers(
        model,
        learning_rate=section.learning_rate,
        muon_learning_rate=section.muon_learning_rate,
        weight_decay=section.weight_decay,
    )
    rows = part_rows(section, processes)
    ids = torch.randint(0, section.vocab_size, (rows, section.row_tokens + 1), device=device)
    parts: list[float] = []
    updates: list[float] = []
    end = time.perf_counter() + seconds
    while len(parts) < 2 or time.perf_counter() < end:
        started = time.perf_counter()
        with autocast():
            loss = next_token_loss(model, ids)
        loss.backward()
        synchronize(device)
        parts.append(time.perf_counter() - started)
        started = time.perf_counter()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        synchronize(device)
        updates.append(time.perf_counter() - started)
    accumulation = section.batch_rows // (rows * processes)
    return accumulation * min(parts[1:]) + min(updates[1:])
