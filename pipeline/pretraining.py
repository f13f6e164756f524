"""What pretraining sees and measures: rows, held-out loss, whether the model copies names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.data import Rows
from pipeline.errors import UserError
from pipeline.language_model import LanguageModel
from pipeline.records import CopyProbe
from pipeline.sampling import SamplingSettings, generate, response_texts
from pipeline.tokenizer import Tokenizer


def batch_of(
    packed: Sequence[Rows], schedule: tuple[np.ndarray, np.ndarray], step: int, batch_rows: int
) -> Tensor:
    """(B, T + 1) ids: the rows that the mixture's schedule (sources, rows) has for step 0, 1, …"""
    sources, rows = schedule
    batch = range(step * batch_rows, (step + 1) * batch_rows)
    return as_tensor(np.stack([packed[sources[i]][rows[i]] for i in batch]))


def as_tensor(rows: Rows) -> Tensor:
    """The rows as int64, in memory of their own."""
    return torch.from_numpy(rows.astype(np.int64))


def next_token_loss(model: nn.Module, rows: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of rows (B, T + 1): every token but the first is predicted."""
    logits = model(rows[:, :-1])
    return F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


@dataclass(frozen=True)
class HeldoutText:
    """How well a model predicts held-out rows: nats a token, and bits a byte of text.

    Bits per byte do not depend on the tokenizer. They leave out the end tokens, which are no text.
    """

    loss: float
    bits_per_byte: float

    @property
    def perplexity(self) -> float:
        """The exponential of the loss: how many tokens it is as if one had to guess among."""
        return math.exp(self.loss)


@torch.inference_mode()
def measure_heldout(
    model: LanguageModel, rows: Rows, bytes_of_token: Tensor, batch_rows: int = 32
) -> HeldoutText:
    """The model on all held-out rows; ``bytes_of_token`` (V,) as ``token_byte_counts`` gives it."""
    device = model.device
    counts = bytes_of_token.to(device)
    nats = text_nats = text_bytes = 0.0
    for start in range(0, len(rows), batch_rows):
        batch = as_tensor(rows[start : start + batch_rows]).to(device)
        targets = batch[:, 1:].flatten()
        logits = model(batch[:, :-1]).float().flatten(0, 1)
        losses = F.cross_entropy(logits, targets, reduction="none").double()
        nats += float(losses.sum())
        text_nats += float(losses[counts[targets] > 0].sum())
        text_bytes += float(counts[targets].sum())
    predicted = len(rows) * (rows.shape[1] - 1)
    return HeldoutText(nats / predicted, text_nats / math.log(2) / text_bytes)


def token_byte_counts(tokenizer: Tokenizer) -> Tensor:
    """(V,) int64: the bytes of text that each token stands for; 0 for special tokens."""
    return torch.tensor([len(tokenizer.decode_bytes([i])) for i in range(tokenizer.vocab_size)])


@torch.inference_mode()
def copy_accuracy(
    model: LanguageModel, probes: Sequence[CopyProbe], tokenizer: Tokenizer, batch_rows: int = 128
) -> float:
    """The share of probes whose whole target is the likeliest continuation of the prefix.

    A probe's title names something that its text must repeat; a base that cannot do this never
    keeps to the subject of a prompt, however it is fine-tuned.

    Raises:
        UserError: a probe does not fit the model's context.
    """
    device = model.device
    correct = 0
    for start in range(0, len(probes), batch_rows):
        batch = probes[start : start + batch_rows]
        prefixes = tokenizer.encode_many([probe.prefix for probe in batch])
        targets = tokenizer.encode_many([probe.target for probe in batch])
        width = max(len(p) + len(t) for p, t in zip(prefixes, targets, strict=True))
        if width > model.context_tokens:
            raise UserError(
                "pretrain.context_tokens",
                f"{model.context_tokens} is less than a copy probe of {width} tokens.",
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


def evaluate(
    model: LanguageModel,
    tokenizer: Tokenizer,
    heldout: Mapping[str, Rows],
    probes: Sequence[CopyProbe],
    sample_tokens: int,
    seed: int,
) -> dict[str, Any]:
    """Held-out loss, perplexity and bits per byte by source, copy accuracy, and a sample.

    The sample is a document of up to ``sample_tokens`` tokens at temperature 0.8. Leaves the model
    in evaluation mode.
    """
    model.eval()
    counts = token_byte_counts(tokenizer)
    measured = {name: measure_heldout(model, rows, counts) for name, rows in heldout.items()}
    results: dict[str, Any] = {
        "parameters": model.parameter_count(),
        "heldout_loss": {name: one.loss for name, one in measured.items()},
        "heldout_perplexity": {name: one.perplexity for name, one in measured.items()},
        "heldout_bits_per_byte": {name: one.bits_per_byte for name, one in measured.items()},
    }
    if probes:
        results["copy_accuracy"] = copy_accuracy(model, probes, tokenizer)
    settings = SamplingSettings(sample_tokens - 1, temperature=0.8)
    sample = generate(model, [[tokenizer.eos_id]], [seed], settings, tokenizer)
    results["sample"] = response_texts(sample, tokenizer)[0]
    return results


def flat_metrics(results: Mapping[str, Any]) -> dict[str, float | str]:
    """What changes of ``evaluate``'s results, on one level: ``heldout_loss/stories`` and so on."""
    flat: dict[str, float | str] = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}/{source}": number for source, number in value.items()}
        elif name != "parameters":
            flat[name] = value
    return flat
