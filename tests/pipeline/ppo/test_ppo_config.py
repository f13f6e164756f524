"""What section ``ppo`` refuses beyond single values."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.ppo import PPOConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kl_estimator": "k3"}, "only k1 is right there"),
        ({"gradient_accumulation_steps": 4}, "per_device_train_batch_size"),
        ({"output_dir": "out"}, "not honored here"),
        ({"batch_size": 64, "num_mini_batches": 3}, "num_mini_batches 3"),
        ({"total_episodes": 100, "batch_size": 64}, "total_episodes 100"),
    ],
)
def test_refuses_with_a_hint(values: dict[str, Any], message: str) -> None:
    base = {"batch_size": 8, "total_episodes": 8}
    with pytest.raises(ValidationError, match=message):
        PPOConfig.model_validate(base | values)


def test_parts_default_to_a_whole_minibatch() -> None:
    assert PPOConfig(batch_size=64, num_mini_batches=4).per_device_train_batch_size is None


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"kl_target": 1.0, "kl_coef": 0.0}, "kl_target moves kl_coef by factors"),
        ({"kl_target": 1.0, "kl_horizon": 63}, "kl_horizon 63 is below batch_size 64"),
        ({"lora": {}, "critic_init": "policy"}, "leave critic_init"),
        ({"critic_trunk": "policy", "critic_init": "reward"}, "starts at zeros"),
        ({"critic_trunk": "policy", "vf_coef": 0.0}, "without a gradient"),
        ({"value_warmup_updates": 60}, "leaves the policy none of the 60 updates"),
    ],
)
def test_settings_without_their_effect_are_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        PPOConfig.model_validate({"total_episodes": 3840, "batch_size": 64} | values)
    PPOConfig.model_validate({"kl_target": 1.0, "kl_horizon": 64, "value_warmup_updates": 59})


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_a_head_on_the_policy_goes_with_weights_and_with_adapters(lora: Any) -> None:
    for init in ({}, {"critic_init": "policy"}):
        section = PPOConfig.model_validate({"critic_trunk": "policy", "lora": lora} | init)
        again = PPOConfig.model_validate(section.model_dump())  # as config.json keeps it
        assert again == section
