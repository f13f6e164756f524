"""A run that stops after any update and is started again ends with the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.checkpoints import Checkpoints
from pipeline.ppo import PPOConfig, PPOTrainer

MakeTrainer = Callable[..., PPOTrainer]
UPDATES = 4


class KilledError(Exception):
    """Where a run is stopped."""


@pytest.fixture
def config(config: PPOConfig) -> PPOConfig:
    changes = {"total_episodes": UPDATES * config.batch_size, "value_warmup_updates": 1}
    changes |= {"kl_target": 1, "kl_horizon": 20}  # the controller moves, too
    return config.model_copy(update=changes)


def weights(trainer: PPOTrainer) -> dict[str, torch.Tensor]:
    models = {"policy": trainer.policy, "critic": trainer.critic}
    return {f"{k}.{n}": w for k, model in models.items() for n, w in model.state_dict().items()}


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("killed_after", range(1, UPDATES))
def test_a_run_goes_on_bit_for_bit(
    make_trainer: MakeTrainer, config: PPOConfig, tmp_path: Path, every: int, killed_after: int
) -> None:
    whole_rows: list[dict[str, float]] = []
    whole = make_trainer(config)
    whole.on_update = lambda update, metrics: whole_rows.append(metrics)
    whole.train()

    args = config.model_copy(update={"checkpoint_every_updates": every})
    kept = Checkpoints(tmp_path / "ppo", "key", log=None)
    first = make_trainer(args, checkpoints=kept)

    def kill(update: int, metrics: dict[str, float]) -> None:
        if update == killed_after + 1:
            raise KilledError

    first.on_update = kill
    with pytest.raises(KilledError):
        first.train()

    rows: dict[int, dict[str, float]] = {}
    again = make_trainer(args, checkpoints=kept)
    again.on_update = lambda update, metrics: rows.update({update: metrics})
    again.train()
    resumed_at = killed_after - killed_after % every
    assert sorted(rows) == list(range(resumed_at + 1, UPDATES + 1))
    for update, metrics in rows.items():
        for name in ("objective/scores", "objective/kl", "objective/kl_coef", "lr", "episode"):
            assert metrics[name] == whole_rows[update - 1][name], name
    expected = weights(whole)
    for name, weight in weights(again).items():
        assert torch.equal(weight, expected[name]), name
    assert again.steps_done == whole.steps_done


def test_a_snapshot_of_another_run_is_not_gone_on_from(
    make_trainer: MakeTrainer, config: PPOConfig, tmp_path: Path
) -> None:
    args = config.model_copy(update={"checkpoint_every_updates": 1})
    make_trainer(args, checkpoints=Checkpoints(tmp_path / "ppo", "key", log=None)).train()
    other = make_trainer(args, checkpoints=Checkpoints(tmp_path / "ppo", "other", log=None))
    assert other.resume() == 0
