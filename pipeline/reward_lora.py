"""Low-rank adapters (Hu et al. 2021) in a reward model's trunk; its heads are trained whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import safetensors.torch
import torch
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.language_model import LanguageModel
from pipeline.reward import RewardModel
from pipeline.reward_config import LoraSection

ADAPTER_FILE = "adapter.safetensors"
NAME = "default"


def add_reward_adapters(model: RewardModel, lora: LoraSection, seed: int) -> None:
    """Puts adapters on all linear layers of the trunk, in place; nothing else there is trained."""
    torch.manual_seed(seed)
    peft.inject_adapter_in_model(lora_config(model.trunk, lora), model.trunk, adapter_name=NAME)


def lora_config(trunk: LanguageModel, lora: LoraSection) -> peft.LoraConfig:
    """Adapters on all linear layers of a trunk, those that have some already included."""
    linear = {
        name.removesuffix(".base_layer")
        for name, module in trunk.named_modules()
        if is_linear(module) and ".lora_" not in name
    }
    return peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]
        target_modules=sorted(linear),
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in trunk.modules()),
    )


def merge_reward_adapters(model: RewardModel, lora: LoraSection, folder: Path | None) -> None:
    """Adds the adapters to the weights they stand beside, and takes them away.

    They are kept in ``folder``, for who wants them on a trunk that others share.
    """
    layers = adapted_layers(model.trunk)
    if folder is not None:
        tensors: dict[str, Tensor] = {}
        for path, layer in layers:
            tensors[f"{path}.lora_A"] = layer.lora_A[NAME].weight
            tensors[f"{path}.lora_B"] = layer.lora_B[NAME].weight
        write_adapter(tensors, lora, folder)
    for path, layer in layers:
        layer.merge()
        replace_module(model.trunk, path, layer.get_base_layer())
    model.requires_grad_(True)


def adapted_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """The layers that have adapters, by their path; PEFT's own class."""
    return [(name, m) for name, m in model.named_modules() if isinstance(m, LoraLayer)]


def replace_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Puts ``module`` where the path leads."""
    parent, _, last = path.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def write_adapter(tensors: dict[str, Tensor], lora: LoraSection, folder: Path) -> None:
    """Writes a set of adapters: ``LAYER.lora_A`` (rank, in) and ``LAYER.lora_B`` (out, rank)."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"lora": lora.model_dump_json()}
    safetensors.torch.save_file(plain, folder / ADAPTER_FILE, metadata=metadata)


def read_adapter(folder: Path) -> tuple[dict[str, Tensor], LoraSection]:
    """A set of adapters as ``write_adapter`` wrote it.

    Raises:
        UserError: the file is missing or broken.
    """
    path = folder / ADAPTER_FILE
    try:
        with safe_open(path, framework="pt") as file:
            lora = LoraSection.model_validate_json(file.metadata()["lora"])
            return {key: file.get_tensor(key) for key in file.keys()}, lora  # noqa: SIM118
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(path, f"cannot be read ({error}).", "restore the file.") from None


def is_linear(module: nn.Module) -> bool:
    """True for torch's linear layers and for GPT-2's of transformers."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
