"""Low-rank adapters (Hu et al. 2021) by PEFT, for a base that must learn our marks as well.

Adapters leave embeddings alone, but an imported base has never seen the prompt and response marks:
the special tokens' embeddings are trained as they are, and no other row of the table moves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from pipeline.reward_config import LoraSection
from pipeline.tokenizer import SPECIAL_TOKENS, Tokenizer

EMBEDDING = "embedding.safetensors"


def add_adapters(model: Any, tokenizer: Tokenizer, lora: LoraSection, seed: int) -> peft.PeftModel:
    """The Hugging Face ``model`` with adapters on all its linear layers but the output head."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]
        target_modules="all-linear",
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in model.modules()),
        task_type="CAUSAL_LM",
    )
    adapted: Any = peft.get_peft_model(model, config)
    for table in token_tables(adapted):
        special = torch.zeros(len(table), 1)
        special[[tokenizer.backend.token_to_id(token) for token in SPECIAL_TOKENS]] = 1.0
        table.requires_grad_(True)
        table.register_hook(lambda gradient, rows=special: gradient * rows.to(gradient.device))
    return adapted


def save_embedding(model: peft.PeftModel, folder: Path) -> None:
    """Adds to a checkpoint what PEFT leaves out of it."""
    tables = {f"table_{i}": table.detach().cpu() for i, table in enumerate(token_tables(model))}
    safetensors.torch.save_file(
        {name: table.contiguous() for name, table in tables.items()}, folder / EMBEDDING
    )


def load_embedding(model: peft.PeftModel, folder: Path) -> None:
    """Puts a checkpoint's embedding back."""
    saved = safetensors.torch.load_file(folder / EMBEDDING)
    with torch.no_grad():
        for i, table in enumerate(token_tables(model)):
            table.copy_(saved[f"table_{i}"])


def token_tables(model: peft.PeftModel) -> list[Tensor]:
    """The (V, C) table of token embeddings below the adapters, and the output's if not tied."""
    base: Any = model.get_base_model()
    embedding, output = base.get_input_embeddings().weight, base.get_output_embeddings().weight
    return [embedding] if output is embedding else [embedding, output]


def adapter_optimizer(model: peft.PeftModel, *, learning_rate: float, weight_decay: float) -> AdamW:
    """AdamW over what is trained; token tables do not decay, since most of them must not move."""
    tables = token_tables(model)
    chosen = {id(table) for table in tables}
    adapters = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    return AdamW(
        [
            {"params": adapters, "weight_decay": weight_decay},
            {"params": tables, "weight_decay": 0.0},
        ],
        lr=learning_rate,
    )


def merge_adapters(model: peft.PeftModel, folder: Path | None) -> nn.Module:
    """The model with its adapters merged into its weights.

    The adapters, with the embeddings, are kept in ``folder``; it names its base by the way from
    there, as folders of one run lie.
    """
    if folder is not None:
        configs: list[Any] = list(model.peft_config.values())
        for config in configs:
            config.base_model_name_or_path = "../../base"
            if isinstance(config.target_modules, set):  # whose order differs between processes
                config.target_modules = sorted(config.target_modules)
        model.save_pretrained(str(folder), save_embedding_layers=True)
        (folder / "README.md").unlink(missing_ok=True)  # a card with nothing filled in
    merged: Any = model
    return merged.merge_and_unload()
