"""The benchmark end to end on a tiny model, against sizes counted by hand."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

QuickRun = Callable[[str], list[str]]


@pytest.mark.slow
def test_the_parts_are_those_of_the_tensors(quick_run: QuickRun) -> None:
    figures = json.loads(quick_run("ppo_memory")[-1])
    parts = figures["parts_gb"]
    layers, width, context, vocab, rank = 4, 192, 128, 50_260, 16
    block = 12 * width * width + 13 * width  # four matrices and their biases, two norms
    weights = (vocab + context) * width + layers * block + 2 * width
    assert parts["weights"] == pytest.approx(4 * weights / 1e9)
    # A pair of matrices beside each linear layer: width to 3, 1 and 4 times it, and 4 times to 1.
    one_set = layers * rank * width * ((1 + 3) + (1 + 1) + (1 + 4) + (4 + 1))
    assert parts["adapters"] == pytest.approx(3 * 4 * one_set / 1e9)
    assert parts["gradients"] == pytest.approx(2 * 4 * one_set / 1e9)
    assert parts["optimizers"] == pytest.approx(2 * 2 * 4 * one_set / 1e9)
    assert parts["sampler's cache"] == pytest.approx(64 * 128 * layers * 2 * width * 4 / 1e9)
    # A block keeps at least its two norms' inputs in fp32, and q, k, v, the MLP's inside in bf16.
    least = layers * width * (2 * 4 + (3 + 4) * 2) * figures["tokens_at_once"]
    assert least / 1e9 < parts["activations"] < 10 * least / 1e9
    # The four matrices of each block, once more while it samples.
    assert parts["merged weights"] == pytest.approx(4 * layers * 12 * width**2 / 1e9)
    static = sum(parts[name] for name in ("weights", "adapters", "gradients", "optimizers"))
    # The matrices of all linear layers, in bf16.
    assert parts["rounded weights"] == pytest.approx(2 * layers * 12 * width**2 / 1e9, rel=0.1)
    training = sum(parts[name] for name in ("rounded weights", "activations", "logits"))
    assert figures["peak_gb"] == pytest.approx(static + training)


def test_a_head_on_the_policy_saves_a_set_of_adapters() -> None:
    module = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "ppo_memory.py"))
    layers, width, rank = 2, 24, 16
    sizes = {"context_tokens": 128, "layers": layers, "heads": 2, "width": width}
    parts: dict[str, dict[str, float]] = {}
    for trunk in ("own", "policy"):
        roles = module["make_roles"](sizes, trunk, torch.device("cpu"))
        parts[trunk] = module["computed"](roles, sizes, {})
    one_set = layers * rank * width * ((1 + 3) + (1 + 1) + (1 + 4) + (4 + 1))
    assert parts["own"]["adapters"] - parts["policy"]["adapters"] == 4 * one_set
    assert parts["policy"]["gradients"] == 4 * (one_set + width)
    assert parts["policy"]["optimizers"] == 2 * 4 * (one_set + width)
    assert parts["own"]["weights"] == parts["policy"]["weights"]
