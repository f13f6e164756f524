"""Sections ``dpo``, ``rloo`` and ``best_of_n`` of a config: other ways than PPO. No torch here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from pipeline.config_types import NonNegativeFloat, Positive, PositiveFloat, Section


class DpoSection(Section):
    """Direct preference optimization (Rafailov et al. 2023) on the pairs of the rankings.

    ``batch_pairs`` counts the pairs of a step. ``beta`` is the price of moving away from sft:
    smaller moves farther. Which prompts are held out is decided as for the reward model.
    """

    learning_rate: PositiveFloat = 1e-4
    beta: PositiveFloat = 0.1
    epochs: Positive = 1
    batch_pairs: Positive = 64
    per_device_batch_pairs: Positive | None = None
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    weight_decay: NonNegativeFloat = 0.0
    checkpoint_every_steps: Positive = 500


class RlooSection(Section):
    """REINFORCE leave-one-out (Ahmadian et al. 2024): PPO's reward without a critic.

    Names are those of TRL's RLOOConfig where it has one, else those of section ``ppo``. An update
    samples ``batch_size`` responses, ``num_generations`` to a prompt, each judged against the
    others, and makes ``num_iterations`` passes over them in ``num_mini_batches`` optimizer steps.
    ``beta`` is the weight of the divergence from sft within the reward.
    """

    learning_rate: PositiveFloat = 1e-4
    beta: NonNegativeFloat = 0.1
    total_episodes: Positive = 3840
    batch_size: Positive = 64
    num_generations: Annotated[int, Field(ge=2)] = 4
    num_iterations: Positive = 2
    num_mini_batches: Positive = 4
    epsilon: PositiveFloat = 0.2
    response_length: Positive = 48
    temperature: PositiveFloat = 1.0
    missing_eos_penalty: NonNegativeFloat = 1.0
    normalize_advantages: bool = False
    max_grad_norm: PositiveFloat = 1.0
    checkpoint_every_updates: Positive = 10

    @model_validator(mode="after")
    def _divisible(self) -> RlooSection:
        for total, part in (
            ("total_episodes", "batch_size"),
            ("batch_size", "num_generations"),
            ("batch_size", "num_mini_batches"),
        ):
            if getattr(self, total) % getattr(self, part):
                raise ValueError(
                    f"{total} {getattr(self, total)} is not divisible by "
                    f"{part} {getattr(self, part)}"
                )
        return self


class BestOfNSection(Section):
    """The best of ``n`` responses of sft to each held-out prompt, by the reward model's score.

    Nothing is trained: it is what a trained policy has to beat, at n times the cost of an answer.
    They are drawn as section ``compare`` draws those that it compares.
    """

    n: Annotated[int, Field(ge=2)] = 16
    batch_rows: Positive = 256
