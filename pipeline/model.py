"""A GPT from scratch, readable top to bottom, that saves itself in GPT-2's format.

The architecture is GPT-2's: learned positions, pre-norm blocks, GELU (tanh form), output weights
tied to the embedding. There is no dropout. Sequences are left-aligned: a token's position is its
index and attention is causal, so real tokens never see the padding to their right. Only rows that
are padded on the left need an ``attention_mask``.

Shapes: B sequences, T tokens, C width, H heads, D = C/H, V vocabulary.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.tokenizer import Tokenizer

# GPT-2 stores these weights as (in, out), torch's Linear as (out, in).
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


@dataclass(frozen=True)
class GPTConfig:
    """The size of a GPT. ``context_tokens`` is the longest sequence it has positions for."""

    vocab_size: int
    context_tokens: int
    layers: int
    heads: int
    width: int

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")


class KVCache:
    """Keys and values of the tokens seen so far, so that a new token costs one position's work.

    A prompt of n tokens lies in the first n slots of its row. New tokens share a slot: the first
    ones that of index Q, the longest prompt's length, whatever the rows' own lengths. The slots
    between are masked; a token's position is ``lengths``, not its slot.

    Args:
        lengths: (B,) tokens of each prompt.
        tokens: slots a row: the longest prompt and all tokens to come.
    """

    def __init__(self, config: GPTConfig, lengths: Tensor, tokens: int, like: Tensor) -> None:
        layers, B, H, D = config.layers, len(lengths), config.heads, config.width // config.heads
        # Keys lie transposed: a query's scores read them in the order they have in memory.
        self.keys = like.new_empty(layers, B, H, D, tokens)
        self.values = like.new_empty(layers, B, H, tokens, D)
        self.lengths = lengths  # tokens of each row so far: the position of its next token
        self.filled = 0  # slots in use
        # Added to attention's scores: 0 at slots that are visible, −inf at a prompt's padding.
        self.bias = like.new_zeros(len(lengths), 1, 1, tokens)

    def hide_padding(self, Q: int) -> None:
        """Masks the slots of Q that a row's prompt does not reach."""
        padding = torch.arange(Q, device=self.lengths.device) >= self.lengths[:, None]
        self.bias[:, 0, 0, :Q] = self.bias.new_zeros(()).masked_fill(padding, float("-inf"))

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but those indexed (ascending), which move together in place."""
        count, filled = len(rows), self.filled
        self.keys[:, :count, ..., :filled] = self.keys[:, rows, ..., :filled]
        self.values[:, :count, :, :filled] = self.values[:, rows, :, :filled]
        self.keys, self.values = self.keys[:, :count], self.values[:, :count]
        self.bias, self.lengths = self.bias[rows], self.lengths[rows]


def causal_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
    """(B, H, T, D): each token's average of the values at or before it, weighted by q · k.

    ``visible`` (B, 1, T, T) is True where a query may look at a key, if that is not all before it.
    Vaswani et al. 2017, equation 1. torch's fused kernel does it, except in bf16 on a CPU, where
    its backward pass takes four times as long as these four lines.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=visible is None)
    T, D = q.shape[-2:]
    seen = torch.ones(T, T, dtype=torch.bool).tril() if visible is None else visible
    scores = (q @ k.transpose(-1, -2)) * D**-0.5  # (B, H, T, T)
    return scores.masked_fill(~seen, float("-inf")).softmax(-1).to(v.dtype) @ v


def visible_keys(attention_mask: Tensor) -> Tensor:
    """(B, 1, T, T) bool: the real tokens at or before each token, and the token itself.

    A padding token sees itself, so that its row of weights is no division by zero.
    """
    T = attention_mask.shape[1]
    causal = torch.ones(T, T, dtype=torch.bool, device=attention_mask.device).tril()
    itself = torch.eye(T, dtype=torch.bool, device=attention_mask.device)
    return (causal & attention_mask.bool()[:, None, None, :]) | itself


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.c_attn = nn.Linear(config.width, 3 * config.width)
        self.c_proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, layer: int, cache: KVCache | None, mask: Tensor | None) -> Tensor:
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.heads, C // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        if cache is None:
            y = causal_attention(q, k, v, mask)
        elif mask is None:  # the prompt: causal among its own tokens, remembered for later
            cache.keys[layer, ..., :T], cache.values[layer, :, :, :T] = k.transpose(-1, -2), v
            y = causal_attention(q, k, v)
        else:  # one new token a row, in the last slot
            last = cache.filled - 1
            cache.keys[layer, ..., last], cache.values[layer, :, :, last] = k[:, :, 0], v[:, :, 0]
            scores = (q @ cache.keys[layer, ..., : cache.filled]) * k.shape[-1] ** -0.5 + mask
            y = scores.softmax(-1) @ cache.values[layer, :, :, : cache.filled]
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """The position-wise feed-forward half of a block."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.width, 4 * config.width)
        self.c_proj = nn.Linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    """Communication (attention), then computation (MLP), each on a normalized residual stream."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.width)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, layer: int, cache: KVCache | None, mask: Tensor | None) -> Tensor:
        x = x + self.attn(self.ln_1(x), layer, cache, mask)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """The language model: ids in, logits over the next id out."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.width)
        self.wpe = nn.Embedding(config.context_tokens, config.width)
        self.h = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.width)
        self.apply(self._initialize)

    def _initialize(self, module: nn.Module) -> None:
        """GPT-2's initialization; what writes to the residual stream starts smaller by depth."""
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, Attention | MLP):
            std = 0.02 / math.sqrt(2 * self.config.layers)
            nn.init.normal_(module.c_proj.weight, std=std)

    def hidden_states(
        self,
        input_ids: Tensor,
        cache: KVCache | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """(B, T, C) after the final layer norm, for ids (B, T).

        With an empty cache the ids are its prompts, padded on the right. With a filled one they
        are one new token a row (T = 1), at the position the row has reached.
        ``attention_mask`` (B, T) is True at real tokens, for rows padded on the left; positions
        count from the first of them. It does not go with a cache.
        """
        T = input_ids.shape[1]
        if attention_mask is not None:
            assert cache is None, "a cache holds left-aligned rows"
            position_ids = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
            mask = visible_keys(attention_mask)
        elif cache is None or cache.filled == 0:
            position_ids = torch.arange(T, device=input_ids.device)
            mask = None
            if cache is not None:
                cache.hide_padding(T)
                cache.filled = T
        else:
            position_ids = cache.lengths[:, None]
            cache.filled += 1
            cache.lengths = cache.lengths + 1
            mask = cache.bias[..., : cache.filled]
        x = self.wte(input_ids) + self.wpe(position_ids)
        for layer, block in enumerate(self.h):
            x = block(x, layer, cache, mask)
        return self.ln_f(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., V) for hidden states (..., C)."""
        return F.linear(hidden, self.wte.weight)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits (B, T, V): at index t, over the token at t + 1."""
        return self.logits(self.hidden_states(input_ids, attention_mask=attention_mask))

    def parameter_count(self) -> int:
        """All parameters, the tied embedding once."""
        return sum(parameter.numel() for parameter in self.parameters())


# --- to and from GPT-2's format -------------------------------------------------------------------


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
    old files, the tied output matrix and the heads of other models are left out.
    """
    state: dict[str, Tensor] = {}
    for full_name, weight in weights.items():
        name = full_name.removeprefix("transformer.")
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        if name.startswith(("wte.", "wpe.", "h.", "ln_f.")):
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
    generation = {
        "bos_token_id": tokenizer.eos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
        "suppress_tokens": list(tokenizer.never_sampled_ids),
        "do_sample": True,
        "top_k": 0,
        "top_p": 1.0,
        "temperature": 1.0,
    }
    _write_json(folder / "generation_config.json", generation)
    tokenizer.save(folder, gpt.config.context_tokens)


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
    path = Path(folder) / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["model_type"] != "gpt2" or values.get("activation_function") != "gelu_new":
            raise UserError(
                path,
                f"describes a {values['model_type']!r} model with activation "
                f"{values.get('activation_function')!r}, which is not GPT-2's shape.",
                "use a GPT-2-shaped model (model_type gpt2, activation gelu_new).",
            )
        return GPTConfig(
            vocab_size=values["vocab_size"],
            context_tokens=values["n_positions"],
            layers=values["n_layer"],
            heads=values["n_head"],
            width=values["n_embd"],
        )
    except OSError:
        raise UserError(path, "is missing.", "name a model folder.") from None
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise UserError(path, f"is not a model configuration ({error!r}).", "restore it.") from None


def load_weights(folder: str | Path) -> dict[str, Tensor]:
    """The tensors of a folder's ``model.safetensors``, by name.

    Raises:
        UserError: the file is missing or cut short.
    """
    path = Path(folder) / "model.safetensors"
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise UserError(path, "is missing.", "name a folder with safetensors weights.") from None
    except safetensors.SafetensorError as error:
        raise UserError(path, f"cannot be read ({error}).", "restore the file.") from None


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
