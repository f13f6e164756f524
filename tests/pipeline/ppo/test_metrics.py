"""An update's metrics by hand on three small responses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from pipeline.ppo.experience import Experience
from pipeline.ppo.metrics import experience_metrics
from pipeline.ppo.rollout import Rollout


@pytest.fixture
def experience(make_rollout: Callable[..., Rollout]) -> Experience:
    rollout = replace(
        make_rollout([(2, 2), (2, 1), (3, 2)]),
        input_ids=torch.tensor([[4, 5, 8, 0, 1], [4, 6, 0, 1, 1], [4, 5, 6, 8, 0]]),
        finished=torch.tensor([True, True, False]),
        sampler_logprobs=torch.tensor([[-1.0, -2.5], [-3.0, 0.0], [-1.0, -1.0]]),
    )
    logprobs = torch.tensor([[-1.0, -2.0], [-3.0, 0.0], [-1.0, -1.0]])
    return Experience(
        **vars(rollout),
        scores=torch.tensor([1.0, 2.0, 6.0]),
        logprobs=logprobs,
        ref_logprobs=torch.tensor([[-2.0, -2.0], [-1.0, 9.0], [-3.0, -3.0]]),
        values=torch.zeros(3, 2),
        rewards=torch.zeros(3, 2),
        advantages=torch.zeros(3, 2),
        returns=torch.tensor([[1.0, 2.0], [3.0, 9.0], [4.0, 5.0]]),
    )


def test_metrics_by_hand(experience: Experience) -> None:
    metrics = experience_metrics(experience, kl_coef=0.5)
    kl = (1.0 - 2.0 + 4.0) / 3
    assert metrics["objective/kl"] == pytest.approx(kl)
    assert metrics["objective/entropy"] == pytest.approx(8 / 3)
    assert metrics["objective/scores"] == pytest.approx(3)
    assert metrics["objective/non_score_reward"] == pytest.approx(-0.5 * kl)
    assert metrics["objective/rlhf_reward"] == pytest.approx(3 - 0.5 * kl)
    assert metrics["val/explained_var"] == pytest.approx(0)
    assert metrics["val/num_eos_tokens"] == 2
    assert metrics["rollout/eos_rate"] == pytest.approx(2 / 3)
    assert metrics["rollout/response_tokens"] == pytest.approx(5 / 3)
    assert metrics["rollout/logp_gap"] == pytest.approx(0.5 / 5)
    assert metrics["rollout/distinct"] == pytest.approx(2 / 3)  # rows 0 and 2 answer the same


def test_metrics_do_not_see_padding(experience: Experience) -> None:
    expected = experience_metrics(experience, kl_coef=0.5)
    mask = experience.response_mask
    dirty = {
        name: getattr(experience, name).masked_fill(~mask, float("nan"))
        for name in ("sampler_logprobs", "logprobs", "ref_logprobs", "values")
    }
    dirty["returns"] = experience.returns.masked_fill(~mask, float("nan"))
    assert experience_metrics(replace(experience, **dirty), kl_coef=0.5) == expected
