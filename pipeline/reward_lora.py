"""Low-rank adapters (Hu et al. 2021) in a reward model's trunk; its heads are trained whole."""

from __future__ import annotations

from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from pipeline.reward import RewardModel
from pipeline.reward_config import LoraSection


def add_reward_adapters(model: RewardModel, lora: LoraSection, seed: int) -> None:
    """Puts adapters on all linear layers of the trunk, in place; nothing else there is trained."""
    torch.manual_seed(seed)
    linear = [name for name, module in model.trunk.named_modules() if is_linear(module)]
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]
        target_modules=linear,
        fan_in_fan_out=any(type(m).__name__ == "Conv1D" for m in model.trunk.modules()),
    )
    peft.inject_adapter_in_model(config, model.trunk)


def merge_reward_adapters(model: RewardModel) -> None:
    """Adds the adapters to the weights they stand beside, and takes them away."""
    for name, module in list(model.trunk.named_modules()):
        if isinstance(module, LoraLayer):
            adapter: Any = module
            adapter.merge()
            parent, _, last = name.rpartition(".")
            setattr(model.trunk.get_submodule(parent), last, adapter.get_base_layer())
    model.requires_grad_(True)


def is_linear(module: nn.Module) -> bool:
    """True for torch's linear layers and for GPT-2's of transformers."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
