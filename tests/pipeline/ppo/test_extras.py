"""What may be added to the loop without changing it: evaluation, engines, other critics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from pipeline.language_model import LanguageModel
from pipeline.model import GPT, GPTConfig
from pipeline.ppo import PPOConfig, PPOTrainer
from pipeline.reward import RewardModel
from pipeline.sampling import Generation, SamplingSettings, generate
from pipeline.tokenizer import Tokenizer

MakeTrainer = Callable[..., PPOTrainer]


def train(trainer: PPOTrainer) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    trainer.on_update = lambda update, metrics: rows.append(metrics)
    trainer.train()
    return rows


def weights(trainer: PPOTrainer) -> list[torch.Tensor]:
    return [*trainer.policy.parameters(), *trainer.critic.parameters()]


# --- evaluation -----------------------------------------------------------------------------------


def test_evaluation_does_not_disturb_training(make_trainer: MakeTrainer, config: PPOConfig) -> None:
    args = config.model_copy(update={"eval_every_updates": 1})
    plain, evaluated = make_trainer(args), make_trainer(args, eval_dataset=["a kite", "o", "night"])
    train(plain)
    rows = train(evaluated)
    assert all("eval/scores" in row for row in rows)
    for one, other in zip(weights(plain), weights(evaluated), strict=True):
        assert torch.equal(one, other)


def test_evaluation_measures_the_policy_before_the_update_with_the_same_seeds(
    make_trainer: MakeTrainer, config: PPOConfig
) -> None:
    still = {"learning_rate": 0.0, "eval_every_updates": 2}
    rows = train(
        make_trainer(config.model_copy(update=still), eval_dataset=["a kite", "o", "night"])
    )
    assert ["eval/scores" in row for row in rows] == [True, False, True]
    for name in ("eval/scores", "eval/rlhf_reward", "eval/response_tokens", "eval/eos_rate"):
        assert rows[0][name] == rows[2][name]
    moving = train(
        make_trainer(config.model_copy(update={"eval_every_updates": 1}), eval_dataset=["night"])
    )
    assert moving[0]["eval/kl"] == pytest.approx(0, abs=1e-6)
    assert moving[2]["eval/kl"] != 0


def test_evaluation_by_hand(
    make_trainer: MakeTrainer, config: PPOConfig, tokenizer: Tokenizer
) -> None:
    prompts = ["a kite", "o", "night"]
    trainer = make_trainer(eval_dataset=prompts)
    found = trainer.evaluate()
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    engine = trainer.engine

    class Looking:
        def generate(
            self,
            prompt_ids: Sequence[Sequence[int]],
            seeds: Sequence[int],
            settings: SamplingSettings,
        ) -> Generation:
            drawn = engine.generate(prompt_ids, seeds, settings)
            seen.append((drawn.lengths, drawn.finished))
            return drawn

        def sync_weights(self, policy: LanguageModel) -> None:
            pass

    trainer.engine = Looking()
    assert trainer.evaluate() == found
    ((lengths, finished),) = seen
    assert found["eval/response_tokens"] == pytest.approx(float(lengths.float().mean()))
    assert found["eval/eos_rate"] == pytest.approx(float(finished.float().mean()))
    assert config.missing_eos_penalty == 1.0
    assert found["eval/rlhf_reward"] == pytest.approx(
        found["eval/scores"] - config.kl_coef * found["eval/kl"]
    )


# --- engines --------------------------------------------------------------------------------------


class OtherEngine:
    """Weights of its own, which it must be given before each batch, as a server has them."""

    def __init__(self, policy: GPT, tokenizer: Tokenizer) -> None:
        self.policy, self.tokenizer, self.synced = policy, tokenizer, 0

    def generate(
        self, prompt_ids: Sequence[Sequence[int]], seeds: Sequence[int], settings: SamplingSettings
    ) -> Generation:
        return generate(self.policy, prompt_ids, seeds, settings, self.tokenizer)

    def sync_weights(self, policy: LanguageModel) -> None:
        self.policy.load_state_dict(policy.state_dict())
        self.synced += 1


def test_any_engine_that_has_the_weights_trains_the_same_policy(
    make_trainer: MakeTrainer, make_policy: Callable[..., GPT], tokenizer: Tokenizer
) -> None:
    engine = OtherEngine(make_policy(seed=99), tokenizer)
    own, other = make_trainer(), make_trainer(rollout_engine=engine)
    train(own)
    train(other)
    assert engine.synced == 3
    for one, two in zip(weights(own), weights(other), strict=True):
        assert torch.equal(one, two)


def test_an_engine_with_other_weights_is_refused(
    make_trainer: MakeTrainer, make_policy: Callable[..., GPT], tokenizer: Tokenizer
) -> None:
    from pipeline.errors import UserError

    class Stale(OtherEngine):
        def sync_weights(self, policy: LanguageModel) -> None:
            pass

    trainer = make_trainer(rollout_engine=Stale(make_policy(seed=99), tokenizer))
    with pytest.raises(UserError, match="sampler and trainer differ"):
        trainer.train()


@pytest.mark.parametrize("rounded", [False, True])
def test_an_engine_that_falls_behind_is_noticed(
    make_trainer: MakeTrainer,
    make_policy: Callable[..., GPT],
    config: PPOConfig,
    tokenizer: Tokenizer,
    rounded: bool,
) -> None:
    """At first its weights are the policy's, so that only a later update can show it."""
    from pipeline.errors import UserError

    class Forgetful(OtherEngine):
        def sync_weights(self, policy: LanguageModel) -> None:
            pass

    fast = config.model_copy(update={"learning_rate": 3e-2, "total_episodes": 80})
    rows: list[dict[str, float]] = []
    more: dict[str, Any] = {"on_update": lambda update, metrics: rows.append(metrics)}
    if rounded:  # log-probabilities are computed anew, and the gap is measured
        more["autocast"] = lambda: torch.autocast("cpu", torch.bfloat16)
    trainer = make_trainer(fast, rollout_engine=Forgetful(make_policy(), tokenizer), **more)
    match = "sampler and trainer differ" if rounded else "not drawn from the present policy"
    with pytest.raises(UserError, match=match):
        trainer.train()
    assert len(rows) >= 1


@pytest.mark.parametrize("ids", [20, 310])
def test_a_model_of_another_vocabulary_is_refused(make_trainer: MakeTrainer, ids: int) -> None:
    from pipeline.errors import UserError

    other = RewardModel(GPT(GPTConfig(ids, context_tokens=48, layers=1, heads=2, width=16)))
    with pytest.raises(UserError, match=f"a model has {ids} token ids, the policy 300"):
        make_trainer(reward_model=other)


def test_the_samplers_log_probabilities_are_used_where_they_are_the_trainers(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer()
    rows = train(trainer)
    assert trainer.sampler_is_exact
    assert rows[0]["rollout/logp_gap"] > 0  # computed both ways, to compare
    assert rows[1]["rollout/logp_gap"] == 0
    rounded = make_trainer(autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    rows = train(rounded)
    assert not rounded.sampler_is_exact
    assert all(row["rollout/logp_gap"] > 1e-5 for row in rows)


# --- critics --------------------------------------------------------------------------------------


def test_a_critic_may_start_as_the_policy_and_know_nothing(
    make_trainer: MakeTrainer, config: PPOConfig
) -> None:
    args = config.model_copy(update={"critic_init": "policy"})
    trainer = make_trainer(args)
    assert trainer.critic.score.weight.abs().max().item() == 0
    trunk: Any = trainer.critic.trunk
    for one, other in zip(trunk.parameters(), trainer.policy.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one is not other
    rows = train(trainer)
    assert rows[0]["val/explained_var"] == pytest.approx(0, abs=1e-6)
    assert trainer.critic.score.weight.abs().max().item() > 0


# --- compiled forwards ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("critic_trunk", ["own", "policy"])
def test_compiled_forwards_train_the_same_policy(
    make_trainer: MakeTrainer, config: PPOConfig, critic_trunk: str
) -> None:
    small: dict[str, Any] = {"learning_rate": 1e-4, "critic_learning_rate": 1e-4}
    small |= {"critic_trunk": critic_trunk}
    plain = make_trainer(config.model_copy(update=small))
    compiled = make_trainer(config.model_copy(update=small | {"compile": True}))
    expected, found = train(plain), train(compiled)
    # Policy, reference, and the critic where it has a trunk of its own.
    assert len(compiled.forwards.compiled) == (3 if critic_trunk == "own" else 2)
    for name in ("objective/scores", "objective/kl", "loss/value_avg", "loss/policy_avg"):
        assert found[-1][name] == pytest.approx(expected[-1][name], rel=1e-3, abs=1e-4), name
    for one, other in zip(weights(plain), weights(compiled), strict=True):
        torch.testing.assert_close(one, other, atol=5e-5, rtol=0)
