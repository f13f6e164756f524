"""Each mistake that the self-check is there for, planted into a trainer that must then refuse."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import UserError
from pipeline.model import GPT
from pipeline.ppo import PPOConfig, PPOTrainer
from pipeline.reward import RewardModel
from pipeline.sampling import SamplingSettings
from pipeline.tokenizer import Tokenizer

MakeTrainer = Callable[..., PPOTrainer]


@pytest.fixture
def one_update(config: PPOConfig) -> PPOConfig:
    return config.model_copy(update={"total_episodes": config.batch_size})


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("critic_trunk", ["own", "policy"])
def test_a_sound_trainer_passes(
    make_trainer: MakeTrainer, one_update: PPOConfig, autocast: bool, critic_trunk: str
) -> None:
    one_update = one_update.model_copy(update={"critic_trunk": critic_trunk})
    if autocast:
        make_trainer(one_update, autocast=lambda: torch.autocast("cpu", torch.bfloat16)).train()
    else:
        make_trainer(one_update).train()


@pytest.mark.parametrize("autocast", [False, True])
def test_dropout_is_refused(
    make_trainer: MakeTrainer,
    one_update: PPOConfig,
    monkeypatch: pytest.MonkeyPatch,
    autocast: bool,
) -> None:
    trainer = make_trainer(one_update)
    if autocast:
        trainer.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
    original = trainer.policy.logits
    monkeypatch.setattr(trainer.policy, "logits", lambda h: original(F.dropout(h, 0.1)))
    with pytest.raises(UserError, match="two probabilities"):
        trainer.train()


def test_another_reference_is_refused(
    make_trainer: MakeTrainer, make_policy: Callable[..., GPT], one_update: PPOConfig
) -> None:
    trainer = make_trainer(one_update, ref_model=make_policy(seed=5))
    with pytest.raises(UserError, match="policy and reference differ"):
        trainer.train()


def test_a_sampler_at_another_temperature_is_refused(
    make_trainer: MakeTrainer, one_update: PPOConfig
) -> None:
    trainer = make_trainer(one_update)
    trainer.sampling = SamplingSettings(10, temperature=0.6)
    with pytest.raises(UserError, match="sampler and trainer differ"):
        trainer.train()


def test_a_reference_that_would_be_trained_is_refused(
    make_trainer: MakeTrainer, one_update: PPOConfig
) -> None:
    trainer = make_trainer(one_update)
    trainer.ref_policy.requires_grad_(True)
    with pytest.raises(UserError, match="would be trained"):
        trainer.train()


def test_a_score_read_one_token_early_is_refused(
    make_trainer: MakeTrainer, make_policy: Callable[..., GPT], one_update: PPOConfig
) -> None:
    class ReadsEarly(RewardModel):
        def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
            return super().forward(input_ids, lengths - 1)

    trainer = make_trainer(one_update, reward_model=ReadsEarly(make_policy(seed=1)))
    with pytest.raises(UserError, match="last real token"):
        trainer.train()


def test_a_reward_model_blind_to_the_end_token_is_refused(
    make_trainer: MakeTrainer, make_policy: Callable[..., GPT], one_update: PPOConfig
) -> None:
    class Blind(RewardModel):
        def token_scores(self, input_ids: Tensor) -> Tensor:
            return input_ids[:, :1].expand(input_ids.shape).float()

        def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
            return input_ids[:, 0].float()

    trainer = make_trainer(
        one_update,
        reward_model=Blind(make_policy(seed=1)),
        value_model=RewardModel(make_policy(seed=1)),
    )
    with pytest.raises(UserError, match="with and without the end token"):
        trainer.train()


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_refused(
    make_trainer: MakeTrainer, one_update: PPOConfig, score: float
) -> None:
    trainer = make_trainer(one_update)
    with torch.no_grad():
        trainer.reward_model.score.weight.fill_(score)
    with pytest.raises(UserError, match="not a finite number"):
        trainer.train()


def test_values_that_are_no_numbers_are_refused(
    make_trainer: MakeTrainer, one_update: PPOConfig
) -> None:
    trainer = make_trainer(one_update)
    with torch.no_grad():
        trainer.critic.score.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="values of the first responses"):
        trainer.train()


def test_a_gradient_that_is_no_number_stops_training(
    make_trainer: MakeTrainer, one_update: PPOConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(one_update)
    values = trainer.critic.token_scores

    def broken_in_training(input_ids: Tensor) -> Tensor:
        return values(input_ids) * (float("inf") if torch.is_grad_enabled() else 1)

    monkeypatch.setattr(trainer, "check", lambda experience: None)
    monkeypatch.setattr(trainer.critic, "token_scores", broken_in_training)
    with pytest.raises(UserError, match="not finite in update 1"):
        trainer.train()


# --- what is refused before anything runs -------------------------------------------------------


def test_a_pad_that_is_the_end_token_is_refused(
    make_trainer: MakeTrainer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "pad_id", tokenizer.eos_id)
    with pytest.raises(UserError, match="pad and end token are the same"):
        make_trainer()


def test_no_prompts_are_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match="no prompt"):
        make_trainer(train_dataset=[])


def test_a_prompt_without_room_for_a_response_is_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match="context"):
        make_trainer(train_dataset=["fine", "z" * 40])


def test_one_model_in_two_roles_is_refused(
    make_trainer: MakeTrainer,
    make_policy: Callable[..., GPT],
    make_reward_model: Callable[..., RewardModel],
) -> None:
    policy, reward_model = make_policy(), make_reward_model()
    with pytest.raises(UserError, match="two roles"):
        make_trainer(model=policy, ref_model=policy)
    with pytest.raises(UserError, match="two roles"):
        make_trainer(reward_model=reward_model, value_model=reward_model)
