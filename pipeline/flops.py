"""How much arithmetic training takes, and how much the machine can do: for plans and for MFU."""

from __future__ import annotations

import time

import torch

from pipeline.model import GPT, GPTConfig

# Dense bf16 with fp32 accumulation, in FLOP/s, from the makers' data sheets; the first name that
# occurs in the device's name counts.
PEAK_BF16 = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "A100": 312e12,
    "A10G": 70e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
PROBE_WIDTH = {"cpu": 1024, "cuda": 8192}
PROBE_SECONDS = 0.3


def parameter_count(config: GPTConfig) -> int:
    """All weights of a GPT of this size, the tied embedding once; nothing is allocated."""
    with torch.device("meta"):
        return GPT(config).parameter_count()


def training_flops_per_token(config: GPTConfig, row_tokens: int) -> int:
    """Floating-point operations to train on one token of a row.

    6 for each weight that multiplies it, the output head included and the position table not, and
    12 · layers · width · row_tokens for attention's scores and averages (Chowdhery et al. 2022,
    appendix B: forward 1, backward 2; the causal half is not discounted).
    """
    multiplying = parameter_count(config) - config.context_tokens * config.width
    return 6 * multiplying + 12 * config.layers * config.width * row_tokens


def peak_flops(device: torch.device, precision: str) -> tuple[float, str]:
    """FLOP/s that the device can do at best, and where the figure is from.

    The data sheet's for a known GPU in bf16; else the fastest of a few large matrix products here.
    """
    if device.type == "cuda" and precision == "bf16":
        name = torch.cuda.get_device_name(device)
        for part, peak in PEAK_BF16.items():
            if part in name:
                return peak, f"{name}, data sheet"
    width = PROBE_WIDTH[device.type]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.randn(width, width, device=device).to(dtype)
    best = 0.0
    end = time.perf_counter() + PROBE_SECONDS
    while time.perf_counter() < end:
        started = time.perf_counter()
        torch.mm(a, a)
        synchronize(device)
        best = max(best, 2 * width**3 / (time.perf_counter() - started))
    return best, f"{precision} matrix products of width {width} on this {device.type}, measured"


class Speedometer:
    """Tokens per second and MFU (Chowdhery et al. 2022) between two calls of ``measure``."""

    def __init__(self, tokens_per_step: int, flops_per_token: int, peak: float) -> None:
        self.tokens_per_step = tokens_per_step
        self._flops_per_token = flops_per_token
        self._peak = peak  # FLOP/s of all devices
        self._step: int | None = None
        self._time = time.perf_counter()

    def measure(self, step: int) -> dict[str, float]:
        """Both figures at ``step``; none at the first call, whose steps include warming up."""
        before, self._step = self._step, step
        began, self._time = self._time, time.perf_counter()
        if before is None:
            return {}
        speed = (step - before) * self.tokens_per_step / (self._time - began)
        return {"tokens_per_second": speed, "mfu": speed * self._flops_per_token / self._peak}


def synchronize(device: torch.device) -> None:
    """Waits until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
