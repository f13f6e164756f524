"""Log-probabilities and values of response tokens, as the trainer computes them.

The same function serves the old, the new and the reference log-probabilities, so that nothing but
the weights can make them differ. Logits exist only where a response token is predicted.

Shapes: B sequences, T tokens, R response tokens, N real response tokens, C width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pipeline.language_model import LanguageModel
from pipeline.ppo.masks import ResponseTokens
from pipeline.reward import RewardModel, apply_head
from pipeline.sampling import policy_logits

Trunk = Callable[[Tensor], Tensor]
LOGITS_AT_ONCE = 2**26  # 256 MiB of fp32


def response_logprobs(
    model: LanguageModel,
    input_ids: Tensor,
    prompt_lengths: Tensor,
    response_lengths: Tensor,
    temperature: float,
    never_sampled_ids: Sequence[int],
    trunk: Trunk | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each response token and entropy of what it was drawn from, in nats.

    Args:
        model: the policy or the reference.
        input_ids: (B, T) left-aligned prompt and response.
        prompt_lengths: (B,) tokens of each prompt.
        response_lengths: (B,) tokens of each response, the end token included.
        temperature: the sampler's.
        never_sampled_ids: the sampler's.
        trunk: the model's ``hidden_states``, compiled.

    Returns:
        Two fp32 tensors (B, R), 0 beyond a response's end. The entropy carries no gradient.
    """
    tokens = ResponseTokens.locate(prompt_lengths, response_lengths)
    states = (trunk or model.hidden_states)(input_ids)  # (B, T, C)
    hidden = states[tokens.rows, tokens.predicting_index]  # (N, C)
    drawn_ids = input_ids[tokens.rows, tokens.predicting_index + 1]
    drawn, entropies = token_logprobs(model, hidden, drawn_ids, temperature, never_sampled_ids)
    return tokens.to_rows(drawn), tokens.to_rows(entropies)


def token_logprobs(
    model: LanguageModel,
    hidden: Tensor,
    ids: Tensor,
    temperature: float = 1.0,
    never_sampled_ids: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Log-probability (N,) of each id after its hidden state, and entropy (N,), both fp32 nats.

    Logits and their softmax are fp32 whatever the forward ran in: bf16 has three digits, and a
    ratio of probabilities is a difference of logits. No more than ``LOGITS_AT_ONCE`` of them exist
    at a time; where there are more, the backward pass computes them anew.

    Args:
        hidden: (N, C) states that predict the ids.
        ids: (N,) tokens. The entropy carries no gradient.
    """

    def part(hidden: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(hidden.device.type, enabled=False):
            logits = model.logits(hidden.float())
            logprobs = policy_logits(logits, temperature, never_sampled_ids).log_softmax(dim=-1)
        with torch.no_grad():  # entr(0) = 0, where p log p would be NaN for excluded ids
            entropies = torch.special.entr(logprobs.exp()).sum(dim=-1)
        return logprobs.gather(1, ids[:, None])[:, 0], entropies

    size = max(1, LOGITS_AT_ONCE // model.vocab_size)
    if len(ids) <= size:
        return part(hidden, ids)
    pieces = [
        checkpoint(part, some, some_ids, use_reentrant=False, preserve_rng_state=False)
        for some, some_ids in zip(hidden.split(size), ids.split(size), strict=True)
    ]
    drawn, entropies = zip(*pieces, strict=True)
    return torch.cat(drawn), torch.cat(entropies)


def response_values(
    critic: RewardModel,
    input_ids: Tensor,
    prompt_lengths: Tensor,
    response_lengths: Tensor,
    trunk: Trunk | None = None,
) -> Tensor:
    """(B, R) fp32 values of the states before each response token, 0 beyond a response's end.

    Arguments as ``response_logprobs``. The first value of a row is that of its prompt.
    """
    tokens = ResponseTokens.locate(prompt_lengths, response_lengths)
    if trunk is None:
        values = critic.token_scores(input_ids).float()  # (B, T)
    else:
        values = apply_head(critic.score, trunk(input_ids)).squeeze(-1).float()
    return tokens.to_rows(values[tokens.rows, tokens.predicting_index])
