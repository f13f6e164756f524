"""In which precision a device computes. Torch is imported only when a device is at hand."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from pipeline.config import RunConfig

if TYPE_CHECKING:
    import torch


def precision_of(config: RunConfig, device: torch.device) -> str:
    """``bf16`` or ``fp32``: the configured one; for ``auto``, bf16 where it is native."""
    if config.precision != "auto":
        return config.precision
    return "bf16" if has_native_bf16(device) else "fp32"


def autocast_of(device: torch.device, precision: str) -> Callable[[], AbstractContextManager[Any]]:
    """Makes context managers for forward passes in a precision."""
    import torch

    if precision == "fp32":
        return nullcontext
    return functools.partial(torch.autocast, device.type, dtype=torch.bfloat16)


def has_native_bf16(device: torch.device) -> bool:
    """Whether matrix products in bf16 run in hardware on this device."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def forget_accelerate() -> None:
    """Lets the next Accelerator choose its precision although an earlier stage's had another.

    Accelerate keeps the first one's settings for the whole process. One of several processes runs
    a single stage and keeps its process group.
    """
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=int(os.environ.get("WORLD_SIZE", "1")) == 1)
