"""What pretraining sees and measures: rows, held-out loss, whether the model copies names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.data import Rows
from pipeline.errors import UserError
from pipeline.model import GPT
from pipeline.records import CopyProbe
from pipeline.tokenizer import Tokenizer


def batch_of(
    packed: Sequence[Rows], schedule: tuple[np.ndarray, np.ndarray], step: int, batch_rows: int
) -> Tensor:
    """(B, T + 1) ids: the rows that the mixture's schedule (sources, rows) has for step 0, 1, …"""
    sources, rows = schedule
    batch = range(step * batch_rows, (step + 1) * batch_rows)
    return torch.from_numpy(np.stack([packed[sources[i]][rows[i]] for i in batch]))


def next_token_loss(model: GPT, rows: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of rows (B, T + 1): every token but the first is predicted."""
    logits = model(rows[:, :-1])
    return F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


@torch.inference_mode()
def heldout_loss(model: GPT, rows: Rows, batch_rows: int) -> float:
    """Mean cross-entropy (nats a token) over all held-out rows."""
    device = model.wte.weight.device
    total = 0.0
    for start in range(0, len(rows), batch_rows):
        batch = torch.from_numpy(rows[start : start + batch_rows]).to(device)
        total += float(next_token_loss(model, batch)) * len(batch)
    return total / len(rows)


@torch.inference_mode()
def copy_accuracy(
    model: GPT, probes: Sequence[CopyProbe], tokenizer: Tokenizer, batch_rows: int = 128
) -> float:
    """The share of probes whose whole target is the likeliest continuation of the prefix.

    A probe's title names something that its text must repeat; a base that cannot do this never
    keeps to the subject of a prompt, however it is fine-tuned.

    Raises:
        UserError: a probe does not fit the model's context.
    """
    device = model.wte.weight.device
    correct = 0
    for start in range(0, len(probes), batch_rows):
        batch = probes[start : start + batch_rows]
        prefixes = tokenizer.encode_many([probe.prefix for probe in batch])
        targets = tokenizer.encode_many([probe.target for probe in batch])
        width = max(len(p) + len(t) for p, t in zip(prefixes, targets, strict=True))
        if width > model.config.context_tokens:
            raise UserError(
                "pretrain.context_tokens",
                f"{model.config.context_tokens} is less than a copy probe of {width} tokens.",
                "raise it.",
            )
        ids = np.full((len(batch), width), tokenizer.pad_id, dtype=np.int64)
        for row, (prefix, target) in enumerate(zip(prefixes, targets, strict=True)):
            ids[row, : len(prefix) + len(target)] = prefix + target
        predicted = model(torch.from_numpy(ids).to(device)).argmax(-1).cpu().numpy()
        for row, (prefix, target) in enumerate(zip(prefixes, targets, strict=True)):
            first = len(prefix) - 1  # the logits that predict the target's first token
            correct += predicted[row, first : first + len(target)].tolist() == target
    return correct / len(probes)
