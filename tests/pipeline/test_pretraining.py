"""What pretraining sees and measures, against loops over single tokens."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.language_model import LanguageModel
from pipeline.model import GPT
from pipeline.pretraining import (
    batch_of,
    copy_accuracy,
    evaluate,
    flat_metrics,
    measure_heldout,
    next_token_loss,
    token_byte_counts,
)
from pipeline.records import CopyProbe
from pipeline.tokenizer import Tokenizer


class Predicts(LanguageModel):
    """At each position the likeliest next id is what ``guess`` says."""

    def __init__(self, tokenizer: Tokenizer, guess: dict[int, int] | None = None) -> None:
        super().__init__()
        self.vocab_size, self.context_tokens, self.width = tokenizer.vocab_size, 64, 1
        self.weight = nn.Parameter(torch.zeros(1))
        self.guess = guess or {}

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits = torch.zeros(*input_ids.shape, self.vocab_size)
        for current, following in self.guess.items():
            logits[..., following] += (input_ids == current) * 9.0
        return logits


def test_batches_follow_the_schedule() -> None:
    packed = [np.arange(12).reshape(4, 3), (100 + np.arange(6)).reshape(2, 3).astype(np.uint16)]
    schedule = np.array([0, 1, 0, 1]), np.array([2, 0, 0, 1])
    first, second = (batch_of(packed, schedule, step, 2) for step in range(2))
    assert first.tolist() == [[6, 7, 8], [100, 101, 102]]
    assert second.tolist() == [[0, 1, 2], [103, 104, 105]]


def test_a_uniform_guess_costs_the_log_of_the_vocabulary(tiny_tokenizer: Tokenizer) -> None:
    model = Predicts(tiny_tokenizer)
    rows = torch.randint(0, tiny_tokenizer.vocab_size, (3, 9))
    expected = math.log(tiny_tokenizer.vocab_size)
    assert float(next_token_loss(model, rows)) == pytest.approx(expected, rel=1e-6)  # pyright: ignore


@pytest.mark.parametrize("batch_rows", [1, 2, 5, 50])
def test_heldout_text_is_measured_over_all_tokens(
    tiny_gpt: GPT, tiny_tokenizer: Tokenizer, batch_rows: int
) -> None:
    rows = np.random.default_rng(0).integers(0, 250, (5, 7)).astype(np.uint16)
    assert (rows < 4).any(), "the rows hold special tokens"
    nats = text_nats = 0.0
    text_bytes = count = 0
    for row in rows.tolist():
        for index in range(1, len(row)):
            with torch.no_grad():
                logprobs = tiny_gpt(torch.tensor([row[:index]]))[0, -1].log_softmax(-1)
            nats -= float(logprobs[row[index]])
            count += 1
            size = bytes_by_decoding(tiny_tokenizer, row[index])
            text_bytes += size
            text_nats -= float(logprobs[row[index]]) if size else 0.0
    assert count == 30
    counts = token_byte_counts(tiny_tokenizer)
    found = measure_heldout(tiny_gpt, rows, counts, batch_rows)
    assert found.loss == pytest.approx(nats / count, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(nats / count), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(text_nats / math.log(2) / text_bytes, rel=1e-5)


def bytes_by_decoding(tokenizer: Tokenizer, index: int) -> int:
    """Bytes of one token, by the byte alphabet of GPT-2 (Radford et al. 2019) written out."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte) for byte in printable} | {chr(256 + n) for n in range(len(others))}
    token = tokenizer.backend.id_to_token(index)
    assert token is not None
    return 0 if token.startswith("<|") else sum(character in alphabet for character in token)


def test_a_uniform_guess_costs_log_v_bits_for_each_token_of_text(
    tiny_tokenizer: Tokenizer,
) -> None:
    text = "a kite and a mill é"
    ids = tiny_tokenizer.encode(text)
    row = np.array([[tiny_tokenizer.eos_id, *ids, tiny_tokenizer.eos_id]])
    model = Predicts(tiny_tokenizer)
    found = measure_heldout(model, row, token_byte_counts(tiny_tokenizer))  # pyright: ignore
    bits = len(ids) * math.log2(tiny_tokenizer.vocab_size)
    assert found.bits_per_byte == pytest.approx(bits / len(text.encode()), rel=1e-6)


def test_evaluation_names_every_source_and_is_logged_flat(
    tiny_gpt: GPT, tiny_tokenizer: Tokenizer
) -> None:
    rows = np.random.default_rng(0).integers(4, 250, (2, 7))
    tiny_gpt.train()
    results = evaluate(tiny_gpt, tiny_tokenizer, {"one": rows, "two": rows}, [], 9, seed=1)
    assert not tiny_gpt.training
    assert results["heldout_loss"]["one"] == results["heldout_loss"]["two"] > 0
    again = evaluate(tiny_gpt, tiny_tokenizer, {"one": rows, "two": rows}, [], 9, seed=1)
    assert again == results
    flat = flat_metrics(results)
    assert flat["heldout_bits_per_byte/two"] == results["heldout_bits_per_byte"]["two"]
    assert flat["sample"] == results["sample"]
    assert "parameters" not in flat


def chain(tokenizer: Tokenizer, text: str) -> dict[int, int]:
    ids = tokenizer.encode(text)
    assert len(set(ids)) == len(ids), "the chain needs different tokens"
    return dict(itertools.pairwise(ids))


def test_copy_accuracy_wants_the_whole_target(tiny_tokenizer: Tokenizer) -> None:
    model = Predicts(tiny_tokenizer, chain(tiny_tokenizer, "abcdefg"))
    right = CopyProbe(prefix="xab", target="cde")
    last_wrong = CopyProbe(prefix="ab", target="cdf")
    first_wrong = CopyProbe(prefix="xyzab", target="dc")
    for probes, expected in (
        ([right], 1.0),
        ([last_wrong], 0.0),
        ([first_wrong], 0.0),
        ([right, last_wrong, first_wrong, right], 0.5),
    ):
        for batch_rows in (1, 3, 128):
            found = copy_accuracy(model, probes, tiny_tokenizer, batch_rows)  # pyright: ignore
            assert found == expected


def test_copy_accuracy_is_greedy_decoding_of_the_real_model(
    tiny_gpt: GPT, tiny_tokenizer: Tokenizer
) -> None:
    """Half of the probes have as target what the model itself goes on with, token by token."""
    probes: list[CopyProbe] = []
    for prefix in ("the fox", "an old mill by", "a kite", "plums and"):
        ids = tiny_tokenizer.encode(prefix)
        for _ in range(2):
            with torch.no_grad():
                ids.append(int(tiny_gpt(torch.tensor([ids]))[0, -1].argmax()))
        target = tiny_tokenizer.decode(ids[-2:])
        whole = tiny_tokenizer.encode(prefix) + tiny_tokenizer.encode(target)
        if whole == ids:  # decoding and encoding again gives the same tokens
            probes.append(CopyProbe(prefix=prefix, target=target))
    assert probes
    wrong = [CopyProbe(prefix=probe.prefix, target="qqq") for probe in probes]
    assert copy_accuracy(tiny_gpt, probes, tiny_tokenizer) == 1.0
    assert copy_accuracy(tiny_gpt, [*probes, *wrong], tiny_tokenizer, 3) == 0.5


def test_a_probe_longer_than_the_context_is_one_line(
    tiny_gpt: GPT, tiny_tokenizer: Tokenizer
) -> None:
    probe = CopyProbe(prefix="q" * 80, target="q")
    with pytest.raises(UserError, match="less than a copy probe"):
        copy_accuracy(tiny_gpt, [probe], tiny_tokenizer)
