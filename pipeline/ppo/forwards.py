"""Forward passes of policy, reference and critic over rollouts, in the run's precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pipeline.language_model import LanguageModel
from pipeline.ppo.logprobs import (
    Trunk,
    response_logprobs,
    response_logprobs_and_entropies,
    response_values,
)
from pipeline.ppo.rollout import Rollout
from pipeline.ppo.value_head import (
    response_logprobs_and_values,
    response_logprobs_entropies_and_values,
)
from pipeline.ppo_config import PPOConfig
from pipeline.reward import RewardModel
from pipeline.tokenizer import Tokenizer


@dataclass(frozen=True)
class Forwards:
    """The one way in which the old, the new and the reference log-probabilities are computed."""

    args: PPOConfig
    tokenizer: Tokenizer
    autocast: Callable[[], AbstractContextManager[object]]
    compiled: dict[LanguageModel, Trunk] = field(default_factory=dict[LanguageModel, Trunk])

    def logprobs(self, model: LanguageModel, rollout: Rollout) -> Tensor:
        """(B, R) log-probabilities of the responses."""
        with self.autocast():
            return response_logprobs(*self._asked(model, rollout))

    def logprobs_and_entropies(
        self, model: LanguageModel, rollout: Rollout
    ) -> tuple[Tensor, Tensor]:
        """``logprobs``, and (B, R) the entropies of what the tokens were drawn from."""
        with self.autocast():
            return response_logprobs_and_entropies(*self._asked(model, rollout))

    def values(self, critic: RewardModel, rollout: Rollout) -> Tensor:
        """(B, R) the critic's values of the states before each response token."""
        with self.autocast():
            return response_values(
                critic,
                rollout.input_ids,
                rollout.prompt_lengths,
                rollout.response_lengths,
                self._trunk(critic.trunk),
            )

    def logprobs_entropies_and_values(
        self, policy: LanguageModel, value_head: nn.Linear, rollout: Rollout
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``logprobs_and_entropies``, and (B, R) what a head says of the policy's own states."""
        asked = self._asked(policy, rollout)
        with self.autocast():
            return response_logprobs_entropies_and_values(policy, value_head, *asked[1:])

    @torch.no_grad()
    def logprobs_of(self, model: LanguageModel, rollout: Rollout) -> Tensor:
        """``logprobs`` without gradients, of as many rows as there are, a few at a time."""
        rows = self.args.local_rollout_forward_batch_size
        return rollout.in_parts(lambda part: (self.logprobs(model, part),), rows)[0]

    @torch.no_grad()
    def values_of(self, critic: RewardModel, rollout: Rollout) -> Tensor:
        """``values`` without gradients, of as many rows as there are, a few at a time."""
        rows = self.args.local_rollout_forward_batch_size
        return rollout.in_parts(lambda part: (self.values(critic, part),), rows)[0]

    @torch.no_grad()
    def logprobs_and_values_of(
        self, policy: LanguageModel, value_head: nn.Linear, rollout: Rollout
    ) -> tuple[Tensor, Tensor]:
        """``logprobs_of``, and (B, R) what a head says of the same states, by one forward."""

        def both(part: Rollout) -> tuple[Tensor, ...]:
            asked = self._asked(policy, part)
            with self.autocast():
                return response_logprobs_and_values(policy, value_head, *asked[1:])

        rows = self.args.local_rollout_forward_batch_size
        logprobs, values = rollout.in_parts(both, rows)
        return logprobs, values

    def in_low_precision(self, device: torch.device) -> bool:
        """Whether they run in fewer digits than the sampler."""
        with self.autocast():
            return torch.is_autocast_enabled(device.type)

    def _asked(
        self, model: LanguageModel, rollout: Rollout
    ) -> tuple[LanguageModel, Tensor, Tensor, Tensor, float, Sequence[int], Trunk | None]:
        """What is asked for log-probabilities, in the order of ``response_logprobs``."""
        return (
            model,
            rollout.input_ids,
            rollout.prompt_lengths,
            rollout.response_lengths,
            self.args.temperature,
            self.tokenizer.never_sampled_ids,
            self._trunk(model),
        )

    def _trunk(self, model: LanguageModel) -> Trunk | None:
        if not self.args.compile:
            return None
        if model not in self.compiled:
            self.compiled[model] = torch.compile(model.hidden_states, dynamic=True)
        return self.compiled[model]
