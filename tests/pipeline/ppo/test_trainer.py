"""Invariances of the whole trainer on a tiny real GPT."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.model import GPT
from pipeline.ppo import PPOConfig, PPOTrainer
from pipeline.ppo.experience import Experience
from pipeline.reward import RewardModel
from pipeline.tokenizer import Tokenizer

MakeTrainer = Callable[..., PPOTrainer]


def digest(model: nn.Module) -> str:
    """A hash of all weights."""
    state = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        state.update(name.encode() + tensor.numpy().tobytes())
    return state.hexdigest()


def train(trainer: PPOTrainer) -> list[dict[str, float]]:
    """The metrics of all updates."""
    rows: list[dict[str, float]] = []
    trainer.on_update = lambda update, metrics: rows.append(metrics)
    trainer.train()
    return rows


def record_minibatches(
    trainer: PPOTrainer, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[int, Experience]]:
    """Filled, while training, with each optimizer step's (update, minibatch)."""
    seen: list[tuple[int, Experience]] = []
    step = trainer.step

    def recording(minibatch: Experience, update: int) -> dict[str, Tensor]:
        seen.append((update, minibatch))
        return step(minibatch, update)

    monkeypatch.setattr(trainer, "step", recording)
    return seen


# --- what stays as it is ------------------------------------------------------------------------


@pytest.mark.parametrize("critic_trunk", ["own", "policy"])
def test_the_first_ratio_is_one_and_the_first_divergence_zero(
    make_trainer: MakeTrainer, config: PPOConfig, critic_trunk: str
) -> None:
    args = config.model_copy(
        update={"total_episodes": 8, "num_ppo_epochs": 1, "num_mini_batches": 1}
        | {"critic_trunk": critic_trunk}
    )
    (metrics,) = train(make_trainer(args))
    assert metrics["val/ratio"] == pytest.approx(1, abs=1e-5)
    assert metrics["policy/approxkl_avg"] == pytest.approx(0, abs=1e-10)
    assert metrics["policy/clipfrac_avg"] == 0
    assert metrics["val/clipfrac_avg"] == 0
    assert metrics["objective/kl"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("critic_trunk", ["own", "policy"])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_without_learning_everything_stays(
    make_trainer: MakeTrainer, config: PPOConfig, temperature: float, critic_trunk: str
) -> None:
    still = {"learning_rate": 0.0, "critic_learning_rate": 0.0, "temperature": temperature}
    still |= {"critic_trunk": critic_trunk}
    trainer = make_trainer(config.model_copy(update=still))
    before = digest(trainer.policy), digest(trainer.critic)
    rows = train(trainer)
    assert (digest(trainer.policy), digest(trainer.critic)) == before
    for metrics in rows:
        assert metrics["val/ratio"] == pytest.approx(1, abs=1e-5)
        assert metrics["policy/approxkl_avg"] == pytest.approx(0, abs=1e-10)
        assert metrics["objective/kl"] == pytest.approx(0, abs=1e-6)
        assert metrics["rollout/logp_gap"] < 1e-5


@pytest.mark.parametrize("critic_trunk", ["own", "policy"])
def test_training_moves_policy_and_critic_and_nothing_else(
    make_trainer: MakeTrainer, config: PPOConfig, critic_trunk: str
) -> None:
    trainer = make_trainer(config.model_copy(update={"critic_trunk": critic_trunk}))
    before = {name: digest(model) for name, model in models_of(trainer).items()}
    rows = train(trainer)
    after = {name: digest(model) for name, model in models_of(trainer).items()}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"policy", "critic"}
    assert rows[-1]["objective/kl"] != 0
    assert rows[0]["policy/approxkl_avg"] > 0  # old log-probs and values stay fixed over the epochs


def test_the_policy_and_critic_of_the_rollout_limit_every_step_of_an_update(
    make_trainer: MakeTrainer, config: PPOConfig
) -> None:
    tight = {"cliprange": 1e-6, "cliprange_value": 1e-6, "num_ppo_epochs": 4}
    metrics = train(make_trainer(config.model_copy(update=tight)))[0]
    assert metrics["policy/clipfrac_avg"] > 0.1
    assert metrics["val/clipfrac_avg"] > 0.1


def models_of(trainer: PPOTrainer) -> dict[str, nn.Module]:
    return {
        "policy": trainer.policy,
        "critic": trainer.critic,
        "reference": trainer.ref_policy,
        "reward model": trainer.reward_model,
    }


def test_no_model_is_in_training_mode(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    train(trainer)
    assert not any(model.training for model in models_of(trainer).values())


def test_the_critic_starts_as_a_copy_of_the_reward_model(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    assert trainer.critic is not trainer.reward_model
    assert digest(trainer.critic) == digest(trainer.reward_model)
    assert all(parameter.requires_grad for parameter in trainer.critic.parameters())


# --- reproducibility ----------------------------------------------------------------------------


@pytest.mark.parametrize("critic_trunk", ["own", "policy"])
def test_a_seed_gives_the_same_weights_bit_for_bit_and_another_seed_others(
    make_trainer: MakeTrainer, config: PPOConfig, critic_trunk: str
) -> None:
    args = config.model_copy(update={"critic_trunk": critic_trunk})
    digests: list[str] = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(digests))  # the global generator must play no part
        trainer = make_trainer(args, seed=seed)
        torch.manual_seed(len(digests))
        train(trainer)
        digests.append(digest(trainer.policy) + digest(trainer.critic))
    assert digests[0] == digests[1] != digests[2]


def test_updates_go_on_through_the_prompts(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(train_dataset=[f"fox {i}" for i in range(24)])
    sampled = [place for update in range(3) for place in trainer.sample_prompts(update)]
    assert sorted(sampled) == list(range(24))


def test_every_update_draws_anew(
    make_trainer: MakeTrainer, config: PPOConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    still = {"learning_rate": 0.0, "num_ppo_epochs": 1, "num_mini_batches": 1}
    trainer = make_trainer(config.model_copy(update=still), train_dataset=["fox"])
    seen = record_minibatches(trainer, monkeypatch)
    train(trainer)
    drawn = [sorted(minibatch.input_ids.tolist()) for _, minibatch in seen]
    assert len(drawn) == 3
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]


@pytest.mark.parametrize("critic_trunk", ["own", "policy"])
def test_the_size_of_scoring_batches_changes_nothing(
    make_trainer: MakeTrainer, config: PPOConfig, critic_trunk: str
) -> None:
    results: list[dict[str, float]] = []
    for size in (8, 3):
        changes = {"local_rollout_forward_batch_size": size, "critic_trunk": critic_trunk}
        results.append(train(make_trainer(config.model_copy(update=changes)))[0])
    for name in ("objective/scores", "objective/entropy", "loss/value_avg"):
        assert results[0][name] == pytest.approx(results[1][name], rel=1e-5), name


def test_answers_to_questions_are_part_of_the_score(
    make_trainer: MakeTrainer, make_policy: Callable[..., GPT], config: PPOConfig
) -> None:
    """Heads without weights: everybody is rude for sure, and long with even odds."""

    def asked() -> RewardModel:
        model = RewardModel(make_policy(), torch.Generator().manual_seed(1), ["rude", "long"])
        assert model.questions is not None
        with torch.no_grad():
            model.questions.weight.zero_()
            model.questions.bias.copy_(torch.tensor([50.0, 0.0]))
        return model

    still = {"learning_rate": 0.0, "missing_eos_penalty": None}
    plain = train(make_trainer(config.model_copy(update=still), reward_model=asked()))
    penalties = {"question_penalties": {"rude": 1.5, "long": 3.0}}
    args = config.model_copy(update=still | penalties)
    penalized = train(make_trainer(args, reward_model=asked()))
    for before, after in zip(plain, penalized, strict=True):
        expected = before["objective/scores"] - 1.5 - 3.0 / 2
        assert after["objective/scores"] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(UserError, match="question_penalties"):
        make_trainer(config.model_copy(update={"question_penalties": {"kind": 1.0}}))


# --- optimization -------------------------------------------------------------------------------


@pytest.mark.parametrize("critic_trunk", ["own", "policy"])
@pytest.mark.parametrize("part_size", [1, 2, 4])
def test_splitting_a_minibatch_changes_neither_losses_nor_gradients(
    make_trainer: MakeTrainer, config: PPOConfig, part_size: int, critic_trunk: str
) -> None:
    one_step: dict[str, Any] = {"total_episodes": 8, "num_ppo_epochs": 1, "num_mini_batches": 1}
    one_step |= {"critic_trunk": critic_trunk}
    whole = make_trainer(config.model_copy(update=one_step))
    parts = make_trainer(
        config.model_copy(update={**one_step, "per_device_train_batch_size": part_size})
    )
    (expected,), (result,) = train(whole), train(parts)
    assert expected["rollout/response_tokens"] not in (1, 10)  # ragged, or this proves nothing
    for name in expected:
        if name.startswith(("loss", "policy", "val")):
            assert result[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name
    for name in ("policy", "critic"):
        for a, b in zip(
            models_of(whole)[name].parameters(), models_of(parts)[name].parameters(), strict=True
        ):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=0)


@pytest.mark.parametrize("prompts", [3, 8, 13])
def test_optimizer_steps_are_counted_exactly(
    make_trainer: MakeTrainer,
    config: PPOConfig,
    monkeypatch: pytest.MonkeyPatch,
    prompts: int,
) -> None:
    args = config.model_copy(update={"per_device_train_batch_size": 2})
    trainer = make_trainer(args, train_dataset=[f"fox {i}" for i in range(prompts)])
    counts: Counter[str] = Counter()
    for name in ("policy_optimizer", "critic_optimizer"):
        count_steps(getattr(trainer, name), name, counts, monkeypatch)
    train(trainer)
    assert counts == {"policy_optimizer": 12, "critic_optimizer": 12}  # 3 updates x 2 x 2
    assert trainer.steps_done == trainer.optimizer_steps == 12


def count_steps(
    optimizer: torch.optim.Optimizer,
    name: str,
    counts: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = optimizer.step

    def counting(*arguments: Any) -> Any:
        counts[name] += 1
        return step(*arguments)

    monkeypatch.setattr(optimizer, "step", counting)


def test_each_epoch_takes_each_episode_once(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer()
    seen = record_minibatches(trainer, monkeypatch)
    train(trainer)
    assert len(seen) == 12
    for first in range(0, 12, 2):  # two minibatches are one epoch
        (update, one), (_, other) = seen[first : first + 2]
        rows = Counter(rows_of(one) + rows_of(other))
        all_of_update = [mb for u, mb in seen if u == update]
        assert sum(rows.values()) == 8
        assert rows == Counter(rows_of(all_of_update[0]) + rows_of(all_of_update[1]))


def rows_of(minibatch: Experience) -> list[tuple[float, ...]]:
    """What identifies each episode: the ids of its row, and its advantages."""
    return [
        (*ids[:length], *advantages[:tokens])
        for ids, length, advantages, tokens in zip(
            minibatch.input_ids.tolist(),
            minibatch.lengths.tolist(),
            minibatch.advantages.tolist(),
            minibatch.response_lengths.tolist(),
            strict=True,
        )
    ]


def test_advantages_are_whitened_over_the_whole_batch(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer()
    seen = record_minibatches(trainer, monkeypatch)
    train(trainer)
    (_, one), (_, other) = seen[:2]
    advantages = torch.cat([part.advantages[part.response_mask] for part in (one, other)])
    assert float(advantages.mean()) == pytest.approx(0, abs=1e-5)
    assert float(advantages.var(correction=0)) == pytest.approx(1, abs=1e-4)
    surprises = torch.cat(
        [(part.returns - part.values)[part.response_mask] for part in (one, other)]
    )
    by_hand = (surprises - surprises.mean()) / surprises.std(correction=0)
    torch.testing.assert_close(advantages, by_hand, atol=1e-4, rtol=0)


def test_rewards_of_an_episode_sum_to_its_score_less_its_divergence(
    make_trainer: MakeTrainer, config: PPOConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(config)
    seen = record_minibatches(trainer, monkeypatch)
    train(trainer)
    update, minibatch = seen[-1]
    assert update == 2
    kl = (minibatch.logprobs - minibatch.ref_logprobs).sum(1)
    assert float(kl.abs().max()) > 1e-3
    torch.testing.assert_close(minibatch.rewards.sum(1), minibatch.scores - config.kl_coef * kl)
    penalty = config.missing_eos_penalty
    assert penalty is not None
    by_hand = trainer.reward_model(minibatch.input_ids, minibatch.lengths)
    by_hand = by_hand - penalty * (~minibatch.finished).float()
    torch.testing.assert_close(minibatch.scores, by_hand, atol=1e-4, rtol=1e-4)


def test_returns_discount_by_gamma_and_bootstrap_by_lam(
    make_trainer: MakeTrainer, config: PPOConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(config.model_copy(update={"gamma": 0.9, "lam": 0.0}))
    seen = record_minibatches(trainer, monkeypatch)
    train(trainer)
    for _, part in seen:
        for row, length in enumerate(part.response_lengths.tolist()):
            values = [*part.values[row, 1:length].tolist(), 0.0]
            rewards = part.rewards[row, :length].tolist()
            expected = [r + 0.9 * v for r, v in zip(rewards, values, strict=True)]
            assert part.returns[row, :length].tolist() == pytest.approx(expected, abs=1e-4)


def test_autocast_touches_neither_sampling_nor_the_reward_model(
    make_trainer: MakeTrainer, config: PPOConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_update = config.model_copy(update={"total_episodes": 8})
    plain = make_trainer(one_update)
    rounded = make_trainer(one_update, autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    seen = [record_minibatches(trainer, monkeypatch) for trainer in (plain, rounded)]
    for trainer in (plain, rounded):
        train(trainer)
    expected, result = seen[0][0][1], seen[1][0][1]
    assert torch.equal(result.input_ids, expected.input_ids)
    assert torch.equal(result.scores, expected.scores)
    assert not torch.equal(result.logprobs, expected.logprobs)
    assert result.logprobs.dtype == result.values.dtype == torch.float32


@pytest.mark.parametrize("kind", ["linear", "constant"])
def test_the_learning_rate_decays_over_optimizer_steps(
    make_trainer: MakeTrainer, config: PPOConfig, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    trainer = make_trainer(config.model_copy(update={"lr_scheduler_type": kind}))
    rates: list[tuple[float, float]] = []
    step = trainer.critic_optimizer.step

    def recording(*arguments: Any) -> Any:
        optimizers = (trainer.policy_optimizer, trainer.critic_optimizer)
        rates.append(tuple(optimizer.param_groups[0]["lr"] for optimizer in optimizers))
        return step(*arguments)

    monkeypatch.setattr(trainer.critic_optimizer, "step", recording)
    rows = train(trainer)
    factors = [1 - i / 12 if kind == "linear" else 1.0 for i in range(12)]
    assert [a for a, _ in rates] == pytest.approx([1e-3 * factor for factor in factors])
    assert [b for _, b in rates] == pytest.approx([2e-3 * factor for factor in factors])
    assert [row["lr"] for row in rows] == pytest.approx([1e-3 * factors[i] for i in (0, 4, 8)])


def test_vf_coef_scales_the_critics_gradient(make_trainer: MakeTrainer, config: PPOConfig) -> None:
    one_step = {"total_episodes": 8, "num_ppo_epochs": 1, "num_mini_batches": 1}
    norms = [
        train(make_trainer(config.model_copy(update={**one_step, "vf_coef": vf_coef})))[0]
        for vf_coef in (0.1, 1.0)
    ]
    assert norms[1]["val/grad_norm"] == pytest.approx(10 * norms[0]["val/grad_norm"], rel=1e-4)


def test_the_critics_gradient_does_not_touch_the_policys_step(
    make_trainer: MakeTrainer, config: PPOConfig
) -> None:
    digests: list[str] = []
    for vf_coef in (0.1, 100.0):
        args = config.model_copy(update={"total_episodes": 8, "vf_coef": vf_coef})
        trainer = make_trainer(args)
        train(trainer)
        digests.append(digest(trainer.policy))
    assert digests[0] == digests[1]


def test_during_value_warmup_only_the_critic_learns(
    make_trainer: MakeTrainer, config: PPOConfig
) -> None:
    trainer = make_trainer(config.model_copy(update={"value_warmup_updates": 2}))
    start = digest(trainer.policy), digest(trainer.critic)
    policies: list[str] = []
    critics: list[str] = []

    def on_update(update: int, metrics: dict[str, float]) -> None:
        policies.append(digest(trainer.policy))
        critics.append(digest(trainer.critic))

    trainer.on_update = on_update
    trainer.train()
    assert policies[0] == policies[1] == start[0] != policies[2]
    assert len({start[1], *critics}) == 4


# --- learning -----------------------------------------------------------------------------------


class MinusLength(RewardModel):
    """The score of a response is minus the length of its row."""

    def token_scores(self, input_ids: Tensor) -> Tensor:
        return -torch.arange(1, input_ids.shape[1] + 1).expand(input_ids.shape).float()

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        return -lengths.float()


@pytest.mark.parametrize("critic_trunk", ["own", "policy"])
def test_a_price_on_length_teaches_the_policy_to_stop(
    critic_trunk: str,
    make_trainer: MakeTrainer,
    make_policy: Callable[..., GPT],
    config: PPOConfig,
    tokenizer: Tokenizer,
) -> None:
    args = config.model_copy(
        update={
            "learning_rate": 1e-2,
            "kl_coef": 0.0,
            "missing_eos_penalty": None,
            "num_ppo_epochs": 4,
            "num_mini_batches": 1,
            "batch_size": 64,
            "total_episodes": 64 * 10,
            "critic_trunk": critic_trunk,
        }
    )
    trainer = make_trainer(
        args,
        reward_model=MinusLength(make_policy()),
        value_model=RewardModel(make_policy()) if critic_trunk == "own" else None,
        train_dataset=["fox"],
    )
    ids = torch.tensor([tokenizer.encode_prompt("fox")])

    @torch.no_grad()
    def eos_probability() -> float:
        return float(trainer.policy(ids)[0, -1].softmax(-1)[tokenizer.eos_id])

    before = eos_probability()
    rows = train(trainer)
    assert eos_probability() > 4 * before
    assert rows[-1]["rollout/response_tokens"] < 0.5 * rows[0]["rollout/response_tokens"]
    assert rows[-1]["objective/scores"] > rows[0]["objective/scores"]


def test_the_entropy_is_that_of_the_policys_distribution_per_token(
    make_trainer: MakeTrainer, config: PPOConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_step = {"total_episodes": 8, "num_ppo_epochs": 1, "num_mini_batches": 1}
    trainer = make_trainer(config.model_copy(update={**one_step, "learning_rate": 0.0}))
    seen = record_minibatches(trainer, monkeypatch)
    (metrics,) = train(trainer)
    entropies: list[float] = []
    minibatch = seen[0][1]
    for row in range(8):
        logits = trainer.policy(minibatch.input_ids[row : row + 1])[0].detach()
        logits[:, list(trainer.tokenizer.never_sampled_ids)] = -math.inf
        for index in range(int(minibatch.prompt_lengths[row]), int(minibatch.lengths[row])):
            probabilities = [p for p in logits[index - 1].softmax(-1).tolist() if p > 0]
            entropies.append(-sum(p * math.log(p) for p in probabilities))
    mean = sum(entropies) / len(entropies)
    assert metrics["policy/entropy_avg"] == pytest.approx(mean, rel=1e-4)


def test_every_metric_is_a_finite_number_under_its_documented_name(
    make_trainer: MakeTrainer,
) -> None:
    rows = train(make_trainer())
    expected = {
        *("objective/kl", "objective/entropy", "objective/non_score_reward"),
        *("objective/rlhf_reward", "objective/scores", "policy/approxkl_avg"),
        *("policy/clipfrac_avg", "policy/entropy_avg", "loss/policy_avg", "loss/value_avg"),
        *("val/clipfrac_avg", "val/ratio", "val/ratio_var", "val/num_eos_tokens"),
        *("val/explained_var", "lr", "episode", "eps", "rollout/logp_gap"),
        *("time/rollout", "time/score", "time/update", "rollout/eos_rate", "rollout/distinct"),
    }
    for metrics in rows:
        assert expected <= metrics.keys()
        assert all(math.isfinite(value) for value in metrics.values())
    assert [metrics["episode"] for metrics in rows] == [8, 16, 24]
