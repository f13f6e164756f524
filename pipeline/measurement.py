"""What models say of given responses: log-probabilities, batch by batch, without gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.model import GPT
from pipeline.ppo.logprobs import response_logprobs
from pipeline.reward import pad_rows

Ids = Sequence[int]


@torch.inference_mode()
def continuation_logprobs(
    model: GPT,
    prefixes: Sequence[Ids],
    continuations: Sequence[Ids],
    pad_id: int,
    *,
    temperature: float = 1.0,
    never_sampled_ids: Sequence[int] = (),
    batch_rows: int = 256,
) -> list[list[float]]:
    """The log-probability (nats) of each token of each continuation, given what precedes it.

    Args:
        prefixes: at least one token each.
        continuations: may be empty, and then have no log-probabilities.
        temperature, never_sampled_ids: what makes the model's distribution the policy's; by
            default it is the model's own.
    """
    device = model.wte.weight.device
    results: list[list[float]] = [[] for _ in continuations]
    pairs = list(zip(prefixes, continuations, strict=True))
    rows = [index for index, ids in enumerate(continuations) if ids]
    rows.sort(key=lambda index: len(pairs[index][0]) + len(pairs[index][1]))
    for start in range(0, len(rows), batch_rows):
        batch = rows[start : start + batch_rows]
        input_ids, _ = pad_rows([[*pairs[i][0], *pairs[i][1]] for i in batch], pad_id)
        logprobs, _ = response_logprobs(
            model,
            input_ids.to(device),
            torch.tensor([len(pairs[i][0]) for i in batch], device=device),
            torch.tensor([len(pairs[i][1]) for i in batch], device=device),
            temperature,
            never_sampled_ids,
        )
        for index, values in zip(batch, logprobs.tolist(), strict=True):
            results[index] = values[: len(pairs[index][1])]
    return results
