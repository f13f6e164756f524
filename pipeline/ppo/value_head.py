"""A critic that is a head on the policy's own hidden states: what one forward says of both.

Shapes: B sequences, T tokens, R response tokens, N real response tokens, C width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pipeline.hugging_face import trunk_of
from pipeline.language_model import LanguageModel
from pipeline.ppo.logprobs import (
    Trunk,
    predicting_states,
    token_logprobs,
    token_logprobs_and_entropies,
)
from pipeline.ppo.masks import ResponseTokens
from pipeline.reward import RewardModel, apply_head


def critic_on(policy: LanguageModel) -> RewardModel:
    """A critic whose trunk is the policy's, not a copy, under a head of zeros.

    The reward model's head was trained on other hidden states than these, so that what it says of
    them means nothing; a head of zeros says nothing.
    """
    critic = RewardModel(trunk_of(policy))
    nn.init.zeros_(critic.score.weight)
    return critic


def response_logprobs_and_values(
    model: LanguageModel,
    value_head: nn.Linear,
    input_ids: Tensor,
    prompt_lengths: Tensor,
    response_lengths: Tensor,
    temperature: float,
    never_sampled_ids: Sequence[int],
    trunk: Trunk | None = None,
) -> tuple[Tensor, Tensor]:
    """(B, R) fp32 log-probability of each response token, and (B, R) the value of the state before
    it; both 0 beyond a response's end. Other arguments as ``logprobs.response_logprobs``.
    """
    tokens = ResponseTokens.locate(prompt_lengths, response_lengths)
    hidden, ids = predicting_states(trunk or model.hidden_states, input_ids, tokens)
    drawn = token_logprobs(model, hidden, ids, temperature, never_sampled_ids)
    return tokens.to_rows(drawn), tokens.to_rows(values_of(value_head, hidden))


def response_logprobs_entropies_and_values(
    model: LanguageModel,
    value_head: nn.Linear,
    input_ids: Tensor,
    prompt_lengths: Tensor,
    response_lengths: Tensor,
    temperature: float,
    never_sampled_ids: Sequence[int],
    trunk: Trunk | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``response_logprobs_and_values`` with (B, R), second, the entropy of what each token was
    drawn from, in nats, which carries no gradient.
    """
    tokens = ResponseTokens.locate(prompt_lengths, response_lengths)
    hidden, ids = predicting_states(trunk or model.hidden_states, input_ids, tokens)
    drawn, entropies = token_logprobs_and_entropies(
        model, hidden, ids, temperature, never_sampled_ids
    )
    values = values_of(value_head, hidden)
    return tokens.to_rows(drawn), tokens.to_rows(entropies), tokens.to_rows(values)


def values_of(value_head: nn.Linear, hidden: Tensor) -> Tensor:
    """(N,) values of states (N, C), in the head's own precision: fp32."""
    return apply_head(value_head, hidden).squeeze(-1)
