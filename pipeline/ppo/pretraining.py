"""PPO-ptx: the gradient of the pretraining loss beside PPO's (Ouyang et al. 2022, section 3.5).

A policy that is optimized for a reward forgets what the reward never asks for. Text of the kind it
was pretrained on, mixed into the updates, keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from pipeline.language_model import LanguageModel
from pipeline.ppo.logprobs import token_logprobs
from pipeline.ppo.processes import Processes
from pipeline.ppo_config import PPOConfig

# Rows (n, T + 1) of ids for an optimizer step, from its number and n; a pure function.
RowsOfStep = Callable[[int, int], Tensor]


def add_pretraining_gradient(
    policy: LanguageModel,
    rows: Tensor,
    args: PPOConfig,
    processes: Processes,
    autocast: Callable[[], AbstractContextManager[object]],
) -> Tensor:
    """This process' share of the rows' loss, in nats a token; its gradient, ``ptx_coef`` times, is
    added to the policy's.

    The loss is the mean over all predicted tokens of all rows, whatever the episodes' tokens count.

    Args:
        rows: (n, T + 1) ids, of which all but the first are predicted.
    """
    predicted = rows[:, 1:].numel()
    own = rows[processes.share(len(rows))]
    at_once = max(1, args.max_tokens_per_microbatch // own.shape[1])
    total = torch.zeros((), device=rows.device)
    for part in own.split(at_once):
        with autocast():
            hidden = policy.hidden_states(part[:, :-1]).flatten(0, 1)
            logprobs = token_logprobs(policy, hidden, part[:, 1:].flatten())
        loss = -logprobs.sum() / predicted
        (args.ptx_coef * loss).backward()
        total += loss.detach()
    return total
