"""Alarms by hand, and what a collapse does to a run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.checkpoints import Checkpoints
from pipeline.ppo import PPOConfig, PPOTrainer
from pipeline.ppo.metrics import repeated_share
from pipeline.ppo.monitor import Monitor
from pipeline.ppo_config import AlarmLimits

MakeTrainer = Callable[..., PPOTrainer]
HEALTHY = {
    "rollout/distinct": 0.9,
    "rollout/repetition": 0.02,
    "policy/entropy_avg": 2.0,
    "rollout/eos_rate": 0.95,
    "rollout/response_tokens": 20.0,
    "objective/kl": 3.0,
    "val/explained_var": 0.4,
}
SICK = {
    "distinct": {"rollout/distinct": 0.4},
    "repetition": {"rollout/repetition": 0.6},
    "entropy": {"policy/entropy_avg": 0.05},
    "eos_rate": {"rollout/eos_rate": 0.4},
    "length": {"rollout/response_tokens": 81.0},
    "kl": {"objective/kl": 101.0},
    "critic": {"val/explained_var": -0.1},
}


@pytest.mark.parametrize("name", SICK)
def test_an_alarm_is_raised_once_when_it_has_stood_long_enough(name: str) -> None:
    monitor = Monitor(AlarmLimits(patience=3, critic_updates=1), 64)
    updates = [HEALTHY, *[HEALTHY | SICK[name]] * 5]
    raised = [monitor.watch(i + 1, metrics) for i, metrics in enumerate(updates)]
    assert [[alarm.name for alarm in alarms] for alarms in raised] == [[], [], [], [name], [], []]
    (alarm,) = monitor.raised
    assert alarm.update == 4
    assert alarm.message
    assert alarm.advice
    assert alarm.is_collapse == (name not in ("kl", "critic"))


@pytest.mark.parametrize("name", SICK)
def test_a_limit_that_is_kept_now_and_then_raises_nothing(name: str) -> None:
    monitor = Monitor(AlarmLimits(patience=2, critic_updates=1), 64)
    for update in range(1, 12):
        assert not monitor.watch(update, HEALTHY | (SICK[name] if update % 2 == 0 else {}))


def test_limits_are_relative_to_the_first_update() -> None:
    """A policy that was like this before PPO has not collapsed by it."""
    values = {k: v for name in ("entropy", "eos_rate", "length") for k, v in SICK[name].items()}
    monitor = Monitor(AlarmLimits(patience=1), 64)
    for update in range(1, 5):
        assert not monitor.watch(update, HEALTHY | values | {"rollout/distinct": 0.3})


def test_short_responses_are_a_collapse_too() -> None:
    monitor = Monitor(AlarmLimits(patience=1), 64)
    monitor.watch(1, HEALTHY)
    assert [a.name for a in monitor.watch(2, HEALTHY | {"rollout/response_tokens": 4.9})] == [
        "length"
    ]


@pytest.mark.parametrize("rate", [0.01, 0.03, 0.1, 0.3, 0.9])
@pytest.mark.parametrize("episodes", [16, 64])
def test_a_policy_that_stays_as_it_is_raises_nothing(rate: float, episodes: int) -> None:
    """Sixty batches of one policy, whose responses end by themselves at this rate."""
    rng = np.random.default_rng([round(100 * rate), episodes])
    ended = 0
    for _ in range(200):
        monitor = Monitor(AlarmLimits(), episodes)
        for update in range(1, 61):
            seen = {"rollout/eos_rate": rng.binomial(episodes, rate) / episodes}
            seen["rollout/distinct"] = rng.binomial(episodes, rate) / episodes
            ended += any(a.is_collapse for a in monitor.watch(update, HEALTHY | seen))
    assert ended <= 1


def test_what_is_sick_is_not_kept() -> None:
    monitor = Monitor(AlarmLimits(patience=3), 64)
    known = ("rollout/distinct", "rollout/eos_rate", "rollout/repetition")  # before the steps
    healthy = {name: HEALTHY[name] for name in known}
    assert not monitor.is_sick(healthy)  # nothing to compare with yet
    monitor.watch(1, HEALTHY)
    assert not monitor.is_sick(healthy)
    assert monitor.is_sick(healthy | {"rollout/eos_rate": 0.1})
    monitor.watch(2, HEALTHY | SICK["entropy"])
    assert monitor.is_sick(healthy)  # it was so one update ago
    monitor.watch(3, HEALTHY | SICK["kl"])
    assert not monitor.is_sick(healthy)  # that only warns


def test_the_critic_is_given_time() -> None:
    monitor = Monitor(AlarmLimits(patience=1, critic_updates=20), 64)
    for update in range(1, 21):
        assert not monitor.watch(update, HEALTHY | SICK["critic"])
    assert [alarm.name for alarm in monitor.watch(21, HEALTHY | SICK["critic"])] == ["critic"]


def test_a_monitor_goes_on_as_it_was() -> None:
    whole = Monitor(AlarmLimits(patience=3), 64)
    first = Monitor(AlarmLimits(patience=3), 64)
    updates = [HEALTHY, *[HEALTHY | SICK["entropy"]] * 4]
    expected = [whole.watch(i + 1, metrics) for i, metrics in enumerate(updates)]
    found = [first.watch(i + 1, metrics) for i, metrics in enumerate(updates[:3])]
    again = Monitor(AlarmLimits(patience=3), 64)
    again.restore(first.state())
    found += [again.watch(i + 1, metrics) for i, metrics in enumerate(updates[3:], start=3)]
    assert found == expected
    assert again.raised == whole.raised


def test_repeated_runs_by_hand() -> None:
    # Runs of three: (1 2 3) (2 3 1) (3 1 2) (1 2 3): one of four stood before. Two are too short.
    assert repeated_share([[1, 2, 3, 1, 2, 3], [1, 2], []]) == pytest.approx(1 / 4)
    assert repeated_share([[5] * 12]) == pytest.approx(9 / 10)
    assert repeated_share([[1, 2, 3], [1, 2, 3]]) == 0  # of its own response only
    assert repeated_share([[1]]) == 0


# --- a real collapse ------------------------------------------------------------------------------


def test_a_collapse_ends_the_run_and_the_best_weights_come_back(
    make_trainer: MakeTrainer, config: PPOConfig, tmp_path: Path
) -> None:
    """A reward for the end token alone: all responses become empty, and alike."""

    def ends_at_once(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [-float(len(ids)) for ids in completion_ids]

    from pipeline.ppo.scoring import RewardFunction

    changes: dict[str, Any] = {"total_episodes": 8 * 40, "learning_rate": 2e-2, "kl_coef": 0.0}
    changes |= {"reward_weight": 0.0, "eval_every_updates": 1, "num_mini_batches": 1}
    changes |= {"alarms": AlarmLimits(patience=2, distinct_share=0.7, length_factor=1.5)}
    rows: list[dict[str, float]] = []
    digests: list[str] = []
    trainer = make_trainer(
        config.model_copy(update=changes),
        reward_funcs=[RewardFunction("short", ends_at_once)],
        checkpoints=Checkpoints(tmp_path / "ppo", "key", log=None),
        on_update=lambda update, metrics: rows.append(metrics),
    )
    keep_best = trainer.keeper.keep_best

    def recording(update: int, metrics: dict[str, float], args: PPOConfig) -> None:
        digests.append(digest(trainer))
        keep_best(update, metrics, args)

    trainer.keeper.keep_best = recording  # type: ignore[method-assign]
    trainer.train()
    assert trainer.stopped is not None
    assert "collapsed" in trainer.stopped
    assert len(rows) < 40
    # What is beyond a limit, or stood there an update before, is no weight to go back to.
    first, sick = rows[0], [False]
    for metrics in rows[1:]:
        length = metrics["rollout/response_tokens"] / first["rollout/response_tokens"]
        fallen = first["rollout/distinct"] - metrics["rollout/distinct"]
        alike = metrics["rollout/distinct"] < 0.7 * first["rollout/distinct"] and fallen > 0.75
        sick.append(not 1 / 1.5 <= length <= 1.5 or alike)
    healthy = [not (now or before) for now, before in zip(sick, [False, *sick], strict=False)]
    reached = [metrics["objective/scores"] for metrics in rows]  # at no price of divergence
    best = max(value for value, well in zip(reached, healthy, strict=True) if well)
    assert digest(trainer) == digests[reached.index(best)]
    assert best < max(reached)  # the collapsed ones score higher


def digest(trainer: PPOTrainer) -> str:
    state = hashlib.sha256()
    for model in (trainer.policy, trainer.critic):
        for tensor in model.state_dict().values():
            state.update(tensor.numpy().tobytes())
    return state.hexdigest()


def test_a_run_ends_beyond_stop_kl(make_trainer: MakeTrainer, config: PPOConfig) -> None:
    rows: list[dict[str, float]] = []
    args = config.model_copy(update={"stop_kl": 1e-6, "learning_rate": 1e-2})
    trainer = make_trainer(args, on_update=lambda update, metrics: rows.append(metrics))
    trainer.train()
    assert [metrics["objective/kl"] > 1e-6 for metrics in rows] == [False, True]
    assert trainer.stopped is not None
    assert "stop_kl" in trainer.stopped


def test_an_update_ends_where_a_step_moved_the_policy_too_far(
    make_trainer: MakeTrainer, config: PPOConfig
) -> None:
    rows: list[dict[str, float]] = []
    args = config.model_copy(update={"max_approx_kl": 1e-9, "learning_rate": 1e-2})
    trainer = make_trainer(args, on_update=lambda update, metrics: rows.append(metrics))
    trainer.train()
    assert [metrics["policy/steps"] for metrics in rows] == [2, 2, 2]  # the first is not yet moved
    assert trainer.steps_done == 12  # places in the schedule
