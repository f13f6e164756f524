"""A GPT in the files of GPT-2, as ``transformers`` reads and writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.model import GPT, GPTConfig

if TYPE_CHECKING:
    from pipeline.tokenizer import Tokenizer

# GPT-2 stores these weights as (in, out), torch's Linear as (out, in).
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")

OTHER_HEADS = ("lm_head.weight", "score.weight")

# What GPT-2's configuration can vary and this project's GPT does not: key, the value it has.
FIXED_SETTINGS = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def to_gpt2_weights(gpt: GPT) -> dict[str, Tensor]:
    """The weights under GPT-2's names and in its layout; the tied output matrix is not repeated."""
    return {
        f"transformer.{name}": (weight.t() if name.endswith(TRANSPOSED) else weight)
        .detach()
        .cpu()
        .contiguous()
        for name, weight in gpt.state_dict().items()
    }


def from_gpt2_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict for ``GPT`` from GPT-2's names and layout.

    The ``transformer.`` prefix is optional (OpenAI's files have none). The causal-mask buffers of
    old files, the tied output matrix and a classifier's head are left out.
    """
    state: dict[str, Tensor] = {}
    for full_name, weight in weights.items():
        name = full_name.removeprefix("transformer.")
        if name.endswith((".attn.bias", ".attn.masked_bias")) or name in OTHER_HEADS:
            continue
        state[name] = weight.t() if name.endswith(TRANSPOSED) else weight
    return state


def gpt2_config(config: GPTConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """The contents of ``config.json`` for a GPT-2 of this size."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_positions": config.context_tokens,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_embd": config.width,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.eos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
        "torch_dtype": "float32",
    }


def save_gpt(gpt: GPT, folder: str | Path, tokenizer: Tokenizer) -> None:
    """Writes a Hugging Face model folder: weights, configuration, tokenizer, generation defaults.

    ``generation_config.json`` says what this project's sampler does: stop at the end token, and
    never sample the pad or the prompt and response marks.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = to_gpt2_weights(gpt)
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", gpt2_config(gpt.config, tokenizer))
    _write_json(folder / "generation_config.json", generation_defaults(tokenizer))
    tokenizer.save(folder, gpt.config.context_tokens)


def generation_defaults(tokenizer: Tokenizer) -> dict[str, Any]:
    """The contents of ``generation_config.json``: what this project's sampler does."""
    return {
        "bos_token_id": tokenizer.eos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
        "suppress_tokens": list(tokenizer.never_sampled_ids),
        "do_sample": True,
        "top_k": 0,
        "top_p": 1.0,
        "temperature": 1.0,
    }


def load_gpt(folder: str | Path) -> GPT:
    """The GPT of a GPT-2-shaped Hugging Face folder, in fp32 on the CPU.

    Raises:
        UserError: a file is missing or broken, or the model is not shaped like GPT-2.
    """
    folder = Path(folder)
    gpt = GPT(read_gpt_config(folder))
    state = from_gpt2_weights(load_weights(folder))
    expected = gpt.state_dict()
    wrong = sorted(expected.keys() ^ state.keys()) or [
        name for name in expected if expected[name].shape != state[name].shape
    ]
    if wrong:
        raise UserError(
            folder / "model.safetensors",
            f"does not fit config.json at {wrong[0]} ({len(wrong)} weights in all).",
            "restore the folder: the two files must come from one model.",
        )
    gpt.load_state_dict({name: weight.float() for name, weight in state.items()})
    return gpt


def read_gpt_config(folder: str | Path) -> GPTConfig:
    """The size that a folder's ``config.json`` states.

    Raises:
        UserError: there is no readable ``config.json``, or it describes something else than GPT-2.
    """
    path, values = Path(folder) / "config.json", read_config(folder)
    if not is_gpt2(values):
        raise UserError(
            path,
            f"describes a {values['model_type']!r} model that is not of GPT-2's shape.",
            "use a model of GPT-2's own architecture here.",
        )
    try:
        return gpt_config(values)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(path, f"is not a model configuration ({error!r}).", "restore it.") from None


def read_config(folder: str | Path) -> dict[str, Any]:
    """A folder's ``config.json``, which names at least its ``model_type``.

    Raises:
        UserError: it is missing or broken.
    """
    path = Path(folder) / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values["model_type"], str):
            return values
        problem = "model_type is no name"
    except OSError:
        raise UserError(path, "is missing.", "name a model folder.") from None
    except (ValueError, KeyError, TypeError) as error:
        problem = repr(error)
    raise UserError(path, f"is not a model configuration ({problem}).", "restore it.")


def is_gpt2(config: Mapping[str, Any]) -> bool:
    """True where a configuration is GPT-2's own architecture, not a variant of it."""
    fixed = FIXED_SETTINGS | {"n_inner": 4 * config.get("n_embd", 0)}
    return config["model_type"] == "gpt2" and all(
        config.get(key) in (None, value) for key, value in fixed.items()
    )


def gpt_config(config: Mapping[str, Any]) -> GPTConfig:
    """The size in a configuration of GPT-2's."""
    return GPTConfig(
        vocab_size=config["vocab_size"],
        context_tokens=config["n_positions"],
        layers=config["n_layer"],
        heads=config["n_head"],
        width=config["n_embd"],
    )


def load_weights(folder: str | Path) -> dict[str, Tensor]:
    """The tensors of a folder's ``model.safetensors``, or of the files its index names.

    Raises:
        UserError: a file is missing or cut short.
    """
    path = Path(folder) / "model.safetensors"
    index = path.with_name("model.safetensors.index.json")
    if index.exists() and not path.exists():
        try:
            shards = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise UserError(index, f"cannot be read ({error!r}).", "restore the file.") from None
        parts = [load_tensors(path.with_name(shard)) for shard in shards]
        return {name: weight for part in parts for name, weight in part.items()}
    return load_tensors(path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file, by name.

    Raises:
        UserError: it is missing or cut short.
    """
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise UserError(path, "is missing.", "name a folder with safetensors weights.") from None
    except safetensors.SafetensorError as error:
        raise UserError(path, f"cannot be read ({error}).", "restore the file.") from None


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
