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
