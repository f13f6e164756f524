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
) -> Tensor:
    """(B, R) fp32 log-probability of each response token, in nats, 0 beyond a response's end.

    Args:
        model: the policy or the reference.
        input_ids: (B, T) left-aligned prompt and response.
        prompt_lengths: (B,) tokens of each prompt.
        response_lengths: (B,) tokens of each response, the end token included.
        temperature: the sampler's.
        never_sampled_ids: the sampler's.
        trunk: the model's ``hidden_states``, compiled.
    """
    tokens = ResponseTokens.locate(prompt_lengths, response_lengths)
    hidden, ids = predicting_states(trunk or model.hidden_states, input_ids, tokens)
    return tokens.to_rows(token_logprobs(model, hidden, ids, temperature, never_sampled_ids))


def response_logprobs_and_entropies(
    model: LanguageModel,
    input_ids: Tensor,
    prompt_lengths: Tensor,
    response_lengths: Tensor,
    temperature: float,
    never_sampled_ids: Sequence[int],
    trunk: Trunk | None = None,
) -> tuple[Tensor, Tensor]:
    """``response_logprobs``, and (B, R) the entropy of what each token was drawn from, in nats.

    The entropy is 0 beyond a response's end, too, and carries no gradient.
    """
    tokens = ResponseTokens.locate(prompt_lengths, response_lengths)
    hidden, ids = predicting_states(trunk or model.hidden_states, input_ids, tokens)
    drawn, entropies = token_logprobs_and_entropies(
        model, hidden, ids, temperature, never_sampled_ids
    )
    return tokens.to_rows(drawn), tokens.to_rows(entropies)


def predicting_states(
    trunk: Trunk, input_ids: Tensor, tokens: ResponseTokens
) -> tuple[Tensor, Tensor]:
    """(N, C) the states that predict the response tokens, and (N,) the tokens."""
    states = trunk(input_ids)  # (B, T, C)
    hidden = states[tokens.rows, tokens.predicting_index]
    return hidden, input_ids[tokens.rows, tokens.predicting_index + 1]


def token_logprobs(
    model: LanguageModel,
    hidden: Tensor,
    ids: Tensor,
    temperature: float = 1.0,
    never_sampled_ids: Sequence[int] = (),
) -> Tensor:
    """Log-probability (N,) of each id after its hidden state, fp32 nats.

    Logits and their softmax are fp32 whatever the forward ran in: bf16 has three digits, and a
    ratio of probabilities is a difference of logits. No more than ``LOGITS_AT_ONCE`` of them exist
    at a time; where there are more, the backward pass computes them anew.

    Args:
        hidden: (N, C) states that predict the ids.
        ids: (N,) tokens.
    """

    def part(hidden: Tensor, ids: Tensor) -> tuple[Tensor]:
        logprobs = all_logprobs(model, hidden, temperature, never_sampled_ids)
        return (logprobs.gather(1, ids[:, None])[:, 0],)

    return in_pieces(part, hidden, ids, model.vocab_size)[0]


def token_logprobs_and_entropies(
    model: LanguageModel,
    hidden: Tensor,
    ids: Tensor,
    temperature: float = 1.0,
    never_sampled_ids: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """``token_logprobs``, and the entropy (N,) of what each id was drawn from, without gradient."""

    def part(hidden: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        logprobs = all_logprobs(model, hidden, temperature, never_sampled_ids)
        with torch.no_grad():  # entr(0) = 0, where p log p would be NaN for excluded ids
            entropies = torch.special.entr(logprobs.exp()).sum(dim=-1)
        return logprobs.gather(1, ids[:, None])[:, 0], entropies

    drawn, entropies = in_pieces(part, hidden, ids, model.vocab_size)
    return drawn, entropies


def all_logprobs(
    model: LanguageModel, hidden: Tensor, temperature: float, never_sampled_ids: Sequence[int]
) -> Tensor:
    """(N, V) fp32 log-probability of every token after each hidden state (N, C), in nats."""
    with torch.autocast(hidden.device.type, enabled=False):
        logits = model.logits(hidden.float())
        return policy_logits(logits, temperature, never_sampled_ids).log_softmax(dim=-1)


def in_pieces(
    function: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
    hidden: Tensor,
    ids: Tensor,
    vocab_size: int,
) -> tuple[Tensor, ...]:
    """What ``function`` gives, (N,) each, of hidden states (N, C) and ids (N,).

    At once, or in pieces of ``LOGITS_AT_ONCE`` logits, which the backward pass computes anew.
    """
    size = max(1, LOGITS_AT_ONCE // vocab_size)
    if len(ids) <= size:
        return function(hidden, ids)
    pieces = [
        checkpoint(function, some, some_ids, use_reentrant=False, preserve_rng_state=False)
        for some, some_ids in zip(hidden.split(size), ids.split(size), strict=True)
    ]
    return tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))


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
