"""Generation with a KV cache. What a row becomes depends on its prompt and its seed alone.

``policy_logits`` is the one function that turns a model's logits into the policy's distribution;
the sampler and PPO's loss both call it, so the policy that is trained is the policy that acted.

Shapes: B prompts, R response tokens, V vocabulary.
"""

from __future__ import annotations

import codecs
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.language_model import LanguageModel
from pipeline.side_by_side import side_by_side
from pipeline.tokenizer import Tokenizer

LOOK_EVERY_STEPS = 4  # asking whether rows have ended costs a synchronization on a GPU
FEWEST_ROWS_A_THREAD = 16  # of fewer, a step costs its overhead and not its rows
SHORT_PROMPT_TOKENS = 64
COMPACT_BELOW = 0.75  # moving rows together costs a copy of the cache: not for a few that ended


@dataclass(frozen=True)
class SamplingSettings:
    """How responses are drawn. ``batch_rows`` bounds memory and changes no result."""

    max_response_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    batch_rows: int = 256


@dataclass(frozen=True)
class Generation:
    """Sampled responses, one row a prompt.

    Attributes:
        ids: (B, R) int64, the end token included, padded on the right.
        lengths: (B,) int64, real tokens of each row.
        finished: (B,) bool, True where the row ended with the end token.
        logprobs: (B, R) fp32, of each sampled token under the policy (before top-p); 0 in padding.
    """

    ids: Tensor
    lengths: Tensor
    finished: Tensor
    logprobs: Tensor


def policy_logits(logits: Tensor, temperature: float, never_sampled_ids: Sequence[int]) -> Tensor:
    """fp32 logits of the policy: tempered, and −inf for what a response may never contain."""
    scaled = logits.float() / temperature
    never = torch.tensor(list(never_sampled_ids), dtype=torch.long, device=logits.device)
    return scaled.index_fill(-1, never, float("-inf"))


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """(B, V) with all but the smallest set of likeliest tokens that holds ``top_p`` set to zero.

    Not renormalized. Holtzman et al. 2020, equation 2.
    """
    if top_p >= 1.0:
        return probabilities
    ordered, order = probabilities.sort(dim=-1, descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p
    return probabilities.masked_fill(outside.gather(-1, order.argsort(-1)), 0.0)


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """(B,) ids by inversion: the first whose cumulative probability exceeds its row's uniform.

    ``probabilities`` (B, V) need not sum to 1; ``uniforms`` (B,) lie in [0, 1).
    """
    cumulative = probabilities.double().cumsum(-1)
    targets = uniforms.double()[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True).squeeze(-1)


def row_uniforms(seeds: Sequence[int], steps: int) -> Tensor:
    """(B, steps) float64 uniforms on the CPU: row i is a function of ``seeds[i]`` alone."""
    generator = torch.Generator()
    rows = [
        torch.rand(steps, dtype=torch.float64, generator=generator.manual_seed(seed))
        for seed in seeds
    ]
    return torch.stack(rows)


def generate(
    model: LanguageModel,
    prompt_ids: Sequence[Sequence[int]],
    seeds: Sequence[int],
    settings: SamplingSettings,
    tokenizer: Tokenizer,
    on_batch: Callable[[int], None] | None = None,
) -> Generation:
    """One sampled response per prompt; row i is a function of ``prompt_ids[i]`` and ``seeds[i]``.

    ``on_batch`` is told the number of rows in each batch when it is done.

    Raises:
        UserError: a prompt and ``max_response_tokens`` do not fit into the model's context.
    """
    check_context(model, prompt_ids, settings.max_response_tokens)
    B, R = len(prompt_ids), settings.max_response_tokens
    device = model.device
    drawn = Generation(
        ids=torch.full((B, R), tokenizer.pad_id, dtype=torch.long, device=device),
        lengths=torch.zeros(B, dtype=torch.long, device=device),
        finished=torch.zeros(B, dtype=torch.bool, device=device),
        logprobs=torch.zeros(B, R, device=device),
    )

    @torch.inference_mode()
    @torch.autocast(device.type, enabled=False)
    def fill(rows: list[int], stop: threading.Event) -> int:
        index = torch.tensor(rows, device=device)
        uniforms = row_uniforms([seeds[row] for row in rows], R).to(device)
        for step, active, running, tokens, chosen in _decode(
            model, [prompt_ids[row] for row in rows], uniforms, settings, tokenizer
        ):
            if stop.is_set():
                break
            target = index[active]
            drawn.ids[target, step] = tokens.where(running, tokenizer.pad_id)
            drawn.logprobs[target, step] = chosen.where(running, 0.0)
            drawn.lengths[target] += running
            drawn.finished[target] |= running & (tokens == tokenizer.eos_id)
        return len(rows)

    threads = torch.get_num_threads() if device.type == "cpu" else 1
    batches = batches_of([len(ids) for ids in prompt_ids], settings.batch_rows, threads)
    at_once = min(threads, len(batches), settings.batch_rows // FEWEST_ROWS_A_THREAD)
    for rows in side_by_side(fill, batches, at_once):
        if on_batch is not None:
            on_batch(rows)
    return drawn


def batches_of(lengths: Sequence[int], batch_rows: int, threads: int) -> list[list[int]]:
    """The rows of each batch; results do not depend on it.

    At most ``batch_rows`` rows are decoded at once by all threads. Those are of similar prompt
    length, for little padding, and each thread gets its share of short and of long ones.

    Args:
        lengths: of the prompts, in tokens.
    """
    together: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        rows = together[-1] if together else []
        # Twice as long is too long to be padded to, where a prompt is not short anyway.
        fits = rows and lengths[row] <= max(2 * lengths[rows[0]], SHORT_PROMPT_TOKENS)
        if fits and len(rows) < batch_rows:
            rows.append(row)
        else:
            together.append([row])
    batches: list[list[int]] = []
    for rows in together:
        shares = max(1, min(threads, len(rows) // FEWEST_ROWS_A_THREAD))
        batches += [rows[i::shares] for i in range(shares)]
    return batches


def _decode(
    model: LanguageModel,
    prompt_ids: Sequence[Sequence[int]],
    uniforms: Tensor,
    settings: SamplingSettings,
    tokenizer: Tokenizer,
) -> Iterator[tuple[int, Tensor, Tensor, Tensor, Tensor]]:
    """Yields step by step, until all rows have ended: step, the rows that are still decoded, which
    of them still run, and for each of them a token and its log-prob, void where it has ended.
    """
    R = settings.max_response_tokens
    decoder = model.decoder(prompt_ids, R)
    active = torch.arange(len(prompt_ids), device=uniforms.device)
    running = torch.ones_like(active, dtype=torch.bool)
    for step in range(R):
        logits = policy_logits(decoder.logits, settings.temperature, tokenizer.never_sampled_ids)
        logprobs = logits.log_softmax(-1)  # (B, V)
        tokens = draw(nucleus(logprobs.exp(), settings.top_p), uniforms[active, step])
        chosen = logprobs.gather(-1, tokens[:, None]).squeeze(-1)
        yield step, active, running, tokens, chosen
        running = running & (tokens != tokenizer.eos_id)
        if step % LOOK_EVERY_STEPS == LOOK_EVERY_STEPS - 1:
            left = int(running.sum())
            if left == 0:
                return
            if left <= COMPACT_BELOW * len(running):
                kept = running.nonzero().squeeze(-1)
                decoder.keep(kept)
                active, tokens, running = active[kept], tokens[kept], running[kept]
        if step + 1 < R:
            decoder.append(tokens)


def check_context(
    model: LanguageModel, prompt_ids: Sequence[Sequence[int]], response_tokens: int
) -> None:
    """Raises UserError unless every prompt leaves room for a whole response."""
    longest = max(map(len, prompt_ids), default=0)
    if longest + response_tokens > model.context_tokens:
        raise UserError(
            "prompt",
            f"of {longest} tokens and a response of up to {response_tokens} exceed the model's "
            f"context of {model.context_tokens}.",
            "shorten the prompt or lower the response length.",
        )


def response_texts(generation: Generation, tokenizer: Tokenizer) -> list[str]:
    """The text of each row, special tokens left out."""
    return [
        tokenizer.decode(row[:length])
        for row, length in zip(generation.ids.tolist(), generation.lengths.tolist(), strict=True)
    ]


@torch.inference_mode()
def stream(
    model: LanguageModel,
    prompt_ids: Sequence[int],
    seed: int,
    settings: SamplingSettings,
    tokenizer: Tokenizer,
) -> Iterator[str]:
    """The response of one prompt in pieces of text, as they are sampled.

    A piece is held back while it ends in the middle of a character.
    """
    check_context(model, [prompt_ids], settings.max_response_tokens)
    uniforms = row_uniforms([seed], settings.max_response_tokens).to(model.device)
    utf8 = codecs.getincrementaldecoder("utf-8")("replace")
    for _, _, running, tokens, _ in _decode(model, [prompt_ids], uniforms, settings, tokenizer):
        piece = utf8.decode(tokenizer.decode_bytes(tokens[running].tolist()))
        if piece:
            yield piece
    rest = utf8.decode(b"", final=True)
    if rest:
        yield rest
