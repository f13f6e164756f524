"""A GPT from scratch, readable top to bottom.

The architecture is GPT-2's: learned positions, pre-norm blocks, GELU (tanh form), output weights
tied to the embedding. There is no dropout. Sequences are left-aligned: a token's position is its
index and attention is causal, so real tokens never see the padding to their right. Only rows that
are padded on the left need an ``attention_mask``.

Shapes: B sequences, T tokens, C width, H heads, D = C/H, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.language_model import LanguageModel


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


class KVCache:
    """Keys and values of the tokens seen so far, so that a new token costs one position's work.

    A prompt of n tokens lies in the first n slots of its row. New tokens share a slot: the first
    ones that of index Q, the longest prompt's length, whatever the rows' own lengths. The slots
    between are masked; a token's position is ``lengths``, not its slot.

    Args:
        lengths: (B,) tokens of each prompt.
        prompt_slots: Q, the longest prompt's length.
        new_slots: how many tokens may follow.
        like: a tensor of the dtype and on the device that keys and values shall have.
    """

    def __init__(
        self, config: GPTConfig, lengths: Tensor, prompt_slots: int, new_slots: int, like: Tensor
    ) -> None:
        B, H, D = len(lengths), config.heads, config.width // config.heads
        layers, S = range(config.layers), prompt_slots + new_slots
        # Keys lie transposed: a query's scores read them in the order they have in memory.
        self.keys = [like.new_empty(B, H, D, S) for _ in layers]
        self.values = [like.new_empty(B, H, S, D) for _ in layers]
        self.lengths = lengths  # tokens of each row so far: the position of its next token
        self.filled = prompt_slots  # slots in use
        # Added to attention's scores: 0 at slots that are visible, −inf at a prompt's padding.
        padding = torch.arange(S, device=like.device) >= lengths[:, None]
        padding[:, prompt_slots:] = False
        bias = like.new_zeros(B, S).masked_fill(padding, float("-inf"))
        self.bias = bias[:, None].repeat_interleave(H, dim=0)  # (B·H, 1, S)

    def open_slot(self) -> Tensor:
        """Makes room for a new token a row, and returns their positions (B, 1)."""
        positions = self.lengths[:, None]
        self.lengths = self.lengths + 1
        self.filled += 1
        self.visible = self.bias[..., : self.filled]
        return positions

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of the new tokens, (B, H, 1, D) as q, k and v; k and v are remembered."""
        B, H, _, D = q.shape
        keys, values, filled = self.keys[layer], self.values[layer], self.filled
        keys[..., filled - 1], values[:, :, filled - 1] = k[:, :, 0], v[:, :, 0]
        keys, values = keys.view(B * H, D, -1)[..., :filled], values.view(B * H, -1, D)[:, :filled]
        scores = torch.baddbmm(self.visible, q.reshape(B * H, 1, D), keys, alpha=D**-0.5)
        return torch.bmm(scores.softmax(-1), values).view(B, H, 1, D)

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but those indexed (ascending), which move together in place."""
        count, filled, H = len(rows), self.filled, self.keys[0].shape[1]
        for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            keys[:count, ..., :filled] = keys[rows, ..., :filled]
            values[:count, :, :filled] = values[rows, :, :filled]
            self.keys[layer], self.values[layer] = keys[:count], values[:count]
        self.bias = self.bias.unflatten(0, (-1, H))[rows].flatten(0, 1)
        self.lengths = self.lengths[rows]


@dataclass(frozen=True)
class PromptSlots:
    """The slots of a cache that the prompts of some of its rows go into."""

    cache: KVCache
    rows: slice

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention among the prompts' own tokens, (B, H, T, D); k and v are remembered."""
        T = q.shape[2]
        keys, values = self.cache.keys[layer][self.rows], self.cache.values[layer][self.rows]
        keys[..., :T], values[:, :, :T] = k.transpose(-1, -2), v
        # A masked slot weighs nothing, but nothing times what memory happens to hold may be NaN.
        keys[..., T : self.cache.filled], values[:, :, T : self.cache.filled] = 0, 0
        return causal_attention(q, k, v)


Cache = KVCache | PromptSlots


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.c_attn = nn.Linear(config.width, 3 * config.width)
        self.c_proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, layer: int, cache: Cache | None, mask: Tensor | None) -> Tensor:
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.heads, C // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        y = causal_attention(q, k, v, mask) if cache is None else cache.attend(layer, q, k, v)
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

    def forward(self, x: Tensor, layer: int, cache: Cache | None, mask: Tensor | None) -> Tensor:
        x = x + self.attn(self.ln_1(x), layer, cache, mask)
        return x + self.mlp(self.ln_2(x))


class GPT(LanguageModel):
    """The language model: ids in, logits over the next id out."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = config.vocab_size
        self.context_tokens = config.context_tokens
        self.width = config.width
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
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """(B, T, C) after the final layer norm, for ids (B, T).

        ``attention_mask`` (B, T) is True at real tokens, for rows padded on the left; positions
        count from the first of them. With ``PromptSlots`` the ids are prompts, padded on the
        right; with a ``KVCache`` they are one new token a row (T = 1). Neither takes a mask.
        """
        mask = None
        if isinstance(cache, KVCache):
            position_ids = cache.open_slot()
        elif attention_mask is not None:
            position_ids = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
            mask = visible_keys(attention_mask)
        else:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.wte(input_ids) + self.wpe(position_ids)
        for layer, block in enumerate(self.h):
            x = block(x, layer, cache, mask)
        return self.ln_f(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., V) for hidden states (..., C)."""
        return F.linear(hidden, self.wte.weight)

    @property
    def final_bias(self) -> Tensor:
        """(C,) what the final norm adds to every hidden state."""
        return self.ln_f.bias

    def decoder(self, prompt_ids: Sequence[Sequence[int]], new_tokens: int) -> GPTDecoder:
        """The prompts, read and ready to grow by up to ``new_tokens`` tokens."""
        return GPTDecoder(self, prompt_ids, new_tokens)


class GPTDecoder:
    """A ``Decoder`` of a GPT with a preallocated cache.

    Prompts are read a few at a time: those of similar length (callers sort them) need then little
    padding, which costs as much as real tokens.
    """

    PROMPTS_AT_A_TIME = 8

    def __init__(self, gpt: GPT, prompt_ids: Sequence[Sequence[int]], new_tokens: int) -> None:
        self.gpt = gpt
        lengths = [len(ids) for ids in prompt_ids]
        like = gpt.wte.weight
        self.cache = KVCache(
            gpt.config, torch.tensor(lengths, device=like.device), max(lengths), new_tokens, like
        )
        last: list[Tensor] = []  # the hidden states of the prompts' last tokens
        for start in range(0, len(prompt_ids), self.PROMPTS_AT_A_TIME):
            rows = slice(start, start + self.PROMPTS_AT_A_TIME)
            prompts = nn.utils.rnn.pad_sequence(
                [torch.tensor(ids) for ids in prompt_ids[rows]], batch_first=True
            ).to(like.device)
            hidden = gpt.hidden_states(prompts, cache=PromptSlots(self.cache, rows))
            ends = self.cache.lengths[rows] - 1
            last.append(hidden[torch.arange(len(ends), device=like.device), ends])
        self.logits = gpt.logits(torch.cat(last))

    def append(self, tokens: Tensor) -> None:
        """Adds one token to each row."""
        hidden = self.gpt.hidden_states(tokens[:, None], cache=self.cache)
        self.logits = self.gpt.logits(hidden[:, 0])

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but those indexed."""
        self.cache.keep(rows)
