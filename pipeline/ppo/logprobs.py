"""Log-probabilities and values of response tokens, as the trainer computes them.

The same function serves the old, the new and the reference log-probabilities, so that nothing but
the weights can make them differ. Logits exist only where a response token is predicted.

Shapes: B sequences, T tokens, R response tokens, N real response tokens, C width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.language_model import LanguageModel
from pipeline.ppo.masks import ResponseTokens
from pipeline.reward import RewardModel
from pipeline.sampling import policy_logits


def response_logprobs(
    model: LanguageModel,
    input_ids: Tensor,
    prompt_lengths: Tensor,
    response_lengths: Tensor,
    temperature: float,
    never_sampled_ids: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Log-probability of each response token and entropy of what it was drawn from, in nats.

    Args:
        model: the policy or the reference.
        input_ids: (B, T) left-aligned prompt and response.
        prompt_lengths: (B,) tokens of each prompt.
        response_lengths: (B,) tokens of each response, the end token included.
        temperature: the sampler's.
        never_sampled_ids: the sampler's.

    Returns:
        Two fp32 tensors (B, R), 0 beyond a response's end. The entropy carries no gradient.
    """
    tokens = ResponseTokens.locate(prompt_lengths, response_lengths)
    hidden = model.hidden_states(input_ids)  # (B, T, C)
    logits = model.logits(hidden[tokens.rows, tokens.predicting_index])  # (N, V)
    logprobs = policy_logits(logits, temperature, never_sampled_ids).log_softmax(dim=-1)
    drawn_ids = input_ids[tokens.rows, tokens.predicting_index + 1]
    drawn = logprobs.gather(1, drawn_ids[:, None])[:, 0]
    with torch.no_grad():  # entr(0) = 0, where p log p would be NaN for ids that are never sampled
        entropies = torch.special.entr(logprobs.exp()).sum(dim=-1)
    return tokens.to_rows(drawn), tokens.to_rows(entropies)


def response_values(
    critic: RewardModel, input_ids: Tensor, prompt_lengths: Tensor, response_lengths: Tensor
) -> Tensor:
    """(B, R) fp32 values of the states before each response token, 0 beyond a response's end.

    Arguments as ``response_logprobs``. The first value of a row is that of its prompt.
    """
    tokens = ResponseTokens.locate(prompt_lengths, response_lengths)
    values = critic.token_scores(input_ids).float()  # (B, T)
    return tokens.to_rows(values[tokens.rows, tokens.predicting_index])
