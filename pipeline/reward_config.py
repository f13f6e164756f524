"""Section ``reward`` of a config, and what adapters are. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config_types import Fraction, NonNegativeFloat, Positive, PositiveFloat, Section
from pipeline.source_config import PreferenceSource


class LoraSection(Section):
    """Low-rank adapters on all linear layers but the output head (Hu et al. 2021)."""

    rank: Positive = 16
    alpha: PositiveFloat = 32.0


class SurprisalSection(Section):
    """What the reward model's trunk learns before it sees a label: how unlikely each token is.

    sft samples ``responses_per_prompt`` to every prompt that is not held out; the trunk learns to
    predict −log p of each token that it has just read, as sft gave it. No label is used.
    """

    responses_per_prompt: Positive = 8
    learning_rate: PositiveFloat = 1e-3
    batch_rows: Positive = 40
    epochs: Positive = 1


class RewardSection(Section):
    """The K-wise reward model. A batch counts prompts: all pairs of a prompt stay together.

    ``ties``: left out, or as pairs that should score alike. ``margin``: by how much the better of a
    1 and a 7 has to lead, in scores; smaller gaps have their share. ``centering``: the weight of
    squared scores in the loss, ``question_weight`` that of the labelers' yes/no answers. It learns
    from the run's own labels (``own_labels``) and from ``preferences``, a list of sources that
    others collected.

    ``early_stopping``: ends after an epoch that leaves the held-out log-loss higher than the best
    one did, whose weights are kept. ``held_out_labelers`` (pseudonyms) are not learned from; the
    report says how often the model agrees with them, and with the others. ``surprisal``: trained
    on samples of sft before, without labels. ``members``: how many heads share the trunk, each
    learning from its own draw of the prompts; the score is their mean, and how far they disagree
    is reported.
    """

    learning_rate: PositiveFloat = 3e-4
    epochs: Positive = 1
    batch_prompts: Positive = 8
    per_device_batch_prompts: Positive | None = None
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat = 1.0
    validation_fraction: Fraction = 0.1
    ties: Literal["drop", "soft"] = "drop"
    margin: NonNegativeFloat = 0.0
    centering: NonNegativeFloat = 0.0
    question_weight: NonNegativeFloat = 0.0
    own_labels: bool = True
    preferences: list[PreferenceSource] = []
    held_out_labelers: list[str] = []
    early_stopping: bool = False
    surprisal: SurprisalSection | None = None
    members: Positive = 1
    lora: LoraSection | None = None
    checkpoint_every_steps: Positive = 500

    @model_validator(mode="after")
    def _something_to_learn(self) -> RewardSection:
        if not self.own_labels and not self.preferences:
            raise ValueError("own_labels: false leaves nothing to learn from: name preferences")
        return self
