"""Parameters against transformers, FLOPs against torch's own counter, a peak that is a peak."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.config import PRESETS
from pipeline.flops import Speedometer, parameter_count, peak_flops, training_flops_per_token
from pipeline.model import GPT, GPTConfig

# OpenAI's released models, counted on the published checkpoints.
PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_presets_are_gpt2s_sizes(name: str) -> None:
    config = GPTConfig(vocab_size=50257, **PRESETS[name])
    assert parameter_count(config) == PUBLISHED[name]


def test_parameters_are_those_of_transformers() -> None:
    config = GPTConfig(300, 32, 3, 2, 24)
    with torch.device("meta"):
        theirs = GPT2LMHeadModel(
            GPT2Config(vocab_size=300, n_positions=32, n_layer=3, n_head=2, n_embd=24)
        )
    assert parameter_count(config) == theirs.num_parameters()


def test_flops_are_those_that_torch_counts() -> None:
    # Forward and backward of matrix products, which torch counts exactly: biases and norms, which
    # the formula counts as 6 each, are the small difference; attention is not made causal.
    config, rows, tokens = GPTConfig(500, 64, 2, 4, 64), 2, 48
    model = GPT(config)
    with (
        FlopCounterMode(display=False) as counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        model(torch.zeros(rows, tokens, dtype=torch.long)).sum().backward()
    expected = counter.get_total_flops()
    assert training_flops_per_token(config, tokens) * rows * tokens == pytest.approx(
        expected, rel=0.03
    )


def test_the_measured_peak_is_positive_and_says_where_it_is_from() -> None:
    peak, source = peak_flops(torch.device("cpu"), "fp32")
    assert peak > 1e8
    assert "measured" in source


def test_speed_is_tokens_over_time_and_mfu_its_share_of_the_peak(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([0.0, 100.0, 104.0])
    monkeypatch.setattr("pipeline.flops.time.perf_counter", lambda: next(times))
    speed = Speedometer(tokens_per_step=50, flops_per_token=10, peak=1e4)
    assert speed.measure(3) == {}
    # 8 steps of 50 tokens in 4 seconds; 100 tokens/s take 1,000 of 10,000 FLOP/s.
    assert speed.measure(11) == {"tokens_per_second": 100.0, "mfu": 0.1}
