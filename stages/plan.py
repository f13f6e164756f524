"""``align plan``: what pretraining will take, before it starts."""

from __future__ import annotations

import torch

from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.flops import peak_flops
from pipeline.planning import CHINCHILLA_TOKENS, make_plan, part_rows, seconds_per_step
from pipeline.precision import autocast_of, precision_of


def plan(config: RunConfig) -> list[tuple[str, str]]:
    """What to print: a name and a value each.

    Raises:
        UserError: the config does not pretrain.
    """
    section = config.pretrain
    if section is None:
        raise UserError("pretrain", "the config imports its base.", "plan a run that pretrains.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = precision_of(config, device)
    made = make_plan(section, config.processes, precision, fused=device.type == "cuda")
    peak, source = peak_flops(device, precision)
    seconds = seconds_per_step(section, config.processes, device, autocast_of(device, precision))
    total = seconds * section.steps
    used = made.flops / (total * peak * config.processes)
    enough = made.parameters * CHINCHILLA_TOKENS
    return [
        ("parameters", f"{made.parameters:,} (vocabulary {section.vocab_size:,} as configured)"),
        ("training tokens", f"{made.tokens:,}"),
        (
            "tokens per parameter",
            f"{made.tokens_per_parameter:.2g} (Chinchilla: {CHINCHILLA_TOKENS}, or {enough:,} "
            "tokens for this size)",
        ),
        ("arithmetic", f"{made.flops:.3g} FLOP"),
        (
            "memory a device",
            f"{_gigabytes(made.state_bytes)} weights, gradients and optimizers, about "
            f"{_gigabytes(made.activation_bytes)} activations of "
            f"{part_rows(section, config.processes)} rows",
        ),
        ("a step", f"{seconds:.3g} s, measured in {precision} on this {device.type}"),
        ("all steps", f"{_duration(total)} in {config.processes} process(es) like this one"),
        ("of the peak", f"{used:.0%} of {peak / 1e12:.3g} TFLOP/s ({source})"),
    ]


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
