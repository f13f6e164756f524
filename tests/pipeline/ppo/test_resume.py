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


@pytest.mark.parametrize("critic_trunk", ["own", "policy"])
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("killed_after", range(1, UPDATES))
def test_a_run_goes_on_bit_for_bit(
    make_trainer: MakeTrainer,
    config: PPOConfig,
    tmp_path: Path,
    every: int,
    killed_after: int,
    critic_trunk: str,
) -> None:
    config = config.model_copy(update={"critic_trunk": critic_trunk})
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


def test_a_run_that_goes_on_remembers_how_it_began(
    make_trainer: MakeTrainer, config: PPOConfig, tmp_path: Path
) -> None:
    """Limits are relative to the first update: not to the first after a kill."""
    args = config.model_copy(update={"checkpoint_every_updates": 1})
    kept = Checkpoints(tmp_path / "ppo", "key", log=None)
    rows: list[dict[str, float]] = []
    first = make_trainer(args, checkpoints=kept)
    first.on_update = lambda update, metrics: rows.append(metrics)
    first.train()
    again = make_trainer(args, checkpoints=kept)
    assert again.resume() == UPDATES - 1
    assert again.monitor.first == rows[0]
    assert again.monitor.first != rows[1]


@pytest.mark.parametrize("with_prompts", [True, False])
def test_the_best_weights_are_judged_where_they_are_evaluated(
    make_trainer: MakeTrainer, config: PPOConfig, tmp_path: Path, with_prompts: bool
) -> None:
    """By the fixed prompts, every second update; without them by the batch, at the first price."""
    args = config.model_copy(update={"eval_every_updates": 2, "kl_coef": 0.5})
    keeper = make_trainer(args, checkpoints=Checkpoints(tmp_path / "ppo", "key", log=None)).keeper
    head = next(keeper.models[1].parameters())
    # Reached with prompts: 1, 5, 3, 2; by the batches: 4, 0, 2.5, 3.
    for update, (fixed, score, kl) in enumerate([(1, 5, 2), (9, 9, 0), (3, 4, 3), (2, 3, 0)]):
        with torch.no_grad():
            head.fill_(float(update))
        metrics = {"objective/scores": float(score), "objective/kl": float(kl)}
        metrics["objective/rlhf_reward"] = score - 9.0 * kl  # at the price it has by then
        if with_prompts:
            metrics["eval/rlhf_reward"] = float(fixed)
        keeper.keep_best(update, metrics, args)
    assert keeper.restore_best() == (2 if with_prompts else 0)
    assert float(head.detach().flatten()[0]) == (2.0 if with_prompts else 0.0)


def test_evaluations_have_the_price_that_the_run_began_with(
    make_trainer: MakeTrainer, config: PPOConfig
) -> None:
    trainer = make_trainer(config.model_copy(update={"kl_coef": 0.5}), eval_dataset=["o", "a fox"])
    with torch.no_grad():
        bias = trainer.policy.get_parameter("ln_f.bias")
        bias.add_(torch.linspace(-0.5, 0.5, len(bias)))  # some divergence
    trainer.kl_coef = 9.0
    found = trainer.evaluate()
    assert abs(found["eval/kl"]) > 1e-4
    expected = found["eval/scores"] - 0.5 * found["eval/kl"]
    assert found["eval/rlhf_reward"] == pytest.approx(expected, abs=1e-5)
