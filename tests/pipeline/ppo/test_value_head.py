"""A critic that is a head on the policy: what one forward says of both, and teaches both."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from pipeline.checkpoints import Checkpoints
from pipeline.errors import UserError
from pipeline.hugging_face import HuggingFaceLM, save_language_model
from pipeline.language_model import LanguageModel
from pipeline.model import GPT
from pipeline.ppo import PPOConfig, PPOTrainer
from pipeline.ppo.experience import Experience
from pipeline.ppo.forwards import Forwards
from pipeline.ppo.gradients import add_gradients_together
from pipeline.ppo.rollout import Rollout
from pipeline.ppo.shared_trunk import (
    AdapterView,
    MergedEngine,
    merged_critic,
    merged_policy,
    share_trunks,
)
from pipeline.ppo.value_head import critic_on, response_logprobs_and_values
from pipeline.reward import RewardModel
from pipeline.reward_config import LoraSection
from pipeline.reward_files import save_reward_model
from pipeline.tokenizer import Tokenizer

MakeTrainer = Callable[..., PPOTrainer]
SHAPES = [(3, 5), (1, 1), (7, 2), (2, 8), (4, 4)]
LORA = LoraSection(rank=4, alpha=8.0)
CPU = torch.device("cpu")


@pytest.fixture
def config(config: PPOConfig) -> PPOConfig:
    return config.model_copy(update={"critic_trunk": "policy"})


def train(trainer: PPOTrainer) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    trainer.on_update = lambda update, metrics: rows.append(metrics)
    trainer.train()
    return rows


def digest(model: nn.Module) -> str:
    """Of all weights but the adapters inside of a model that several sets share."""
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if "lora_" not in name:
            state.update(name.encode() + tensor.numpy().tobytes())
    return state.hexdigest()


def scatter(head: nn.Linear, seed: int = 6) -> None:
    """Gives a head of zeros something to say."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.copy_(0.3 * torch.randn(head.weight.shape, generator=generator))


@pytest.fixture(params=["gpt", "adapters", "llama"])
def policy(request: pytest.FixtureRequest) -> LanguageModel:
    makers = {"gpt": "make_policy", "adapters": "make_adapted", "llama": "make_llama"}
    return request.getfixturevalue(makers[request.param])().requires_grad_(True)


# --- the gradient ---------------------------------------------------------------------------------


def experience_of(rollout: Rollout, logprobs: Tensor) -> Experience:
    """What an update needs, at random; where a response is over stands what would be seen."""
    generator = torch.Generator().manual_seed(8)
    mask = rollout.response_mask

    def noise(scale: float) -> Tensor:
        drawn = scale * torch.randn(mask.shape, generator=generator, dtype=torch.float64)
        return drawn.where(mask, 1e3)

    return Experience(
        **vars(rollout),
        scores=torch.zeros(len(rollout)),
        logprobs=logprobs + noise(0.2),
        ref_logprobs=noise(1.0),
        values=noise(0.5),
        rewards=noise(1.0),
        advantages=noise(1.0),
        returns=noise(1.0),
    )


def brute_force_loss(
    policy: LanguageModel,
    critic: RewardModel,
    part: Experience,
    tokenizer: Tokenizer,
    args: PPOConfig,
) -> tuple[Tensor, int]:
    """The objective, token by token: a row's logits from one forward, its values from another.

    Also how many of its terms are clipped ones.
    """
    total, count, clippings = torch.zeros((), dtype=torch.float64), part.response_lengths.sum(), 0
    for row in range(len(part)):
        Q, L = int(part.prompt_lengths[row]), int(part.response_lengths[row])
        ids = part.input_ids[row : row + 1, : Q + L]
        logits, values = policy(ids)[0] / args.temperature, critic.token_scores(ids)[0]
        allowed = [i for i in range(logits.shape[1]) if i not in tokenizer.never_sampled_ids]
        for t in range(L):
            drawn = allowed.index(int(ids[0, Q + t]))
            logprob = logits[Q + t - 1, allowed].log_softmax(0)[drawn]
            ratio, advantage = (logprob - part.logprobs[row, t]).exp(), part.advantages[row, t]
            clipped = ratio.clamp(1 - args.cliprange, 1 + args.cliprange)
            total = total - torch.minimum(ratio * advantage, clipped * advantage) / count
            value, old, target = values[Q + t - 1], part.values[row, t], part.returns[row, t]
            near = old + (value - old).clamp(-args.cliprange_value, args.cliprange_value)
            error = torch.maximum((value - target) ** 2, (near - target) ** 2)
            total = total + args.vf_coef * 0.5 * error / count
            clippings += bool(clipped != ratio) + bool(near != value)
    return total, clippings


def test_both_gradients_are_those_of_two_separate_forwards(
    policy: LanguageModel,
    tokenizer: Tokenizer,
    config: PPOConfig,
    make_rollout: Callable[..., Rollout],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    to_fp32 = Tensor.float  # what is in fp32 whatever else is rounded stays in fp64 here
    monkeypatch.setattr(Tensor, "float", lambda t: t if t.dtype == torch.float64 else to_fp32(t))
    (policy.adapters.inner if isinstance(policy, AdapterView) else policy).double()
    critic = critic_on(policy)
    critic.score.double()
    scatter(critic.score)
    args = config.model_copy(update={"vf_coef": 0.7, "temperature": 0.8})
    forwards = Forwards(args, tokenizer, nullcontext)
    rollout = make_rollout(SHAPES, extra_pads=2)
    part = experience_of(rollout, forwards.logprobs(policy, rollout).detach())
    learning = [*policy.parameters(), critic.score.weight]
    loss, clippings = brute_force_loss(policy, critic, part, tokenizer, args)
    assert 4 < clippings < 36  # of 40 terms: both branches count
    expected = torch.autograd.grad(loss, learning)

    count = part.response_lengths.sum()
    found = add_gradients_together(policy, critic.score, part, count, args, forwards)
    reached = found["loss/policy_avg"] + args.vf_coef * found["loss/value_avg"]
    assert float(reached) == pytest.approx(float(loss.detach()), rel=1e-7)
    # Llama's norms are in fp32 whatever its weights are.
    limit = 1e-6 if isinstance(policy, HuggingFaceLM) else 1e-10
    for weight, gradient in zip(learning, expected, strict=True):
        assert weight.grad is not None
        assert float(gradient.norm()) > 0
        assert float((weight.grad - gradient).norm()) <= limit * float(gradient.norm())


def test_a_step_runs_the_trunk_once_for_each_part(
    make_trainer: MakeTrainer, config: PPOConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = config.model_copy(update={"per_device_train_batch_size": 2, "total_episodes": 8})
    trainer = make_trainer(args)
    learning: list[bool] = []
    run = trainer.policy.hidden_states

    def counting(ids: Tensor, *more: Any, **named: Any) -> Tensor:
        if not named:  # the sampler has a cache
            learning.append(torch.is_grad_enabled())
        return run(ids, *more, **named)

    monkeypatch.setattr(trainer.policy, "hidden_states", counting)
    monkeypatch.setattr(trainer, "check", lambda experience: None)
    trainer.train()
    # Two epochs of two minibatches of two parts; before them one forward of the batch's parts.
    assert sum(learning) == 8
    assert 1 <= learning.count(False) <= 3


# --- what it says ---------------------------------------------------------------------------------


@torch.no_grad()
def test_a_value_is_the_head_of_what_transformers_computes_at_that_place(
    policy: LanguageModel,
    tokenizer: Tokenizer,
    config: PPOConfig,
    make_rollout: Callable[..., Rollout],
    tmp_path: Path,
) -> None:
    critic = critic_on(policy)
    scatter(critic.score)
    rollout = make_rollout(SHAPES, extra_pads=3)
    forwards = Forwards(config, tokenizer, nullcontext)
    logprobs, values = forwards.logprobs_and_values_of(policy, critic.score, rollout)
    plain = merged_policy(policy) if isinstance(policy, AdapterView) else nullcontext(policy)
    with plain as model:
        save_language_model(model, tmp_path, tokenizer)
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    for row, (Q, L) in enumerate(SHAPES):
        output = theirs(rollout.input_ids[row : row + 1, : Q + L], output_hidden_states=True)
        hidden, logits = output.hidden_states[-1][0], output.logits[0]
        logits[:, list(tokenizer.never_sampled_ids)] = -torch.inf
        for t in range(L):
            expected = float(hidden[Q + t - 1] @ critic.score.weight[0])
            assert float(values[row, t]) == pytest.approx(expected, abs=1e-4)
            drawn = int(rollout.input_ids[row, Q + t])
            expected = float(logits[Q + t - 1].log_softmax(0)[drawn])
            assert float(logprobs[row, t]) == pytest.approx(expected, abs=1e-4)
        assert not values[row, L:].any()
    alone = critic.token_scores(rollout.input_ids)  # as where the sampler's log-probs are used
    assert float(alone[2, 6]) == pytest.approx(float(values[2, 0]), abs=1e-5)


@torch.no_grad()
def test_neither_padding_nor_neighbors_change_what_it_says(
    policy: LanguageModel, make_rollout: Callable[..., Rollout]
) -> None:
    critic = critic_on(policy)
    scatter(critic.score)

    def ask(rollout: Rollout) -> tuple[Tensor, Tensor]:
        lengths = (rollout.prompt_lengths, rollout.response_lengths)
        arguments = (critic.score, rollout.input_ids, *lengths, 1.0, ())
        return response_logprobs_and_values(policy, *arguments)

    together = ask(make_rollout(SHAPES))
    padded = ask(make_rollout(SHAPES, extra_pads=9, pad_id=77))
    for row, (Q, L) in enumerate(SHAPES):
        alone = ask(make_rollout([(Q, L)]))
        for one, other, more in zip(alone, together, padded, strict=True):
            torch.testing.assert_close(other[row, :L], one[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(more[row, :L], one[0], atol=1e-5, rtol=1e-5)


def test_it_is_no_copy_and_starts_with_nothing_to_say(
    make_trainer: MakeTrainer, config: PPOConfig
) -> None:
    trainer = make_trainer()
    assert trainer.critic.trunk is trainer.policy
    assert not trainer.critic.score.weight.any()
    groups = (trainer.policy_optimizer.param_groups, trainer.critic_optimizer.param_groups)
    policy, head = ([id(w) for group in own for w in group["params"]] for own in groups)
    assert policy == [id(weight) for weight in trainer.policy.parameters()]
    assert head == [id(trainer.critic.score.weight)]
    first, *_, last = train(trainer)
    assert first["val/explained_var"] == pytest.approx(0, abs=1e-6)
    assert trainer.critic.score.weight.abs().max().item() > 0
    assert last["val/grad_norm"] > 0


# --- training -------------------------------------------------------------------------------------


def test_during_value_warmup_only_the_head_learns(
    make_trainer: MakeTrainer, config: PPOConfig
) -> None:
    trainer = make_trainer(config.model_copy(update={"value_warmup_updates": 2}))
    policies, heads = [digest(trainer.policy)], [digest(trainer.critic.score)]

    def on_update(update: int, metrics: dict[str, float]) -> None:
        policies.append(digest(trainer.policy))
        heads.append(digest(trainer.critic.score))

    trainer.on_update = on_update
    trainer.train()
    assert policies[0] == policies[1] == policies[2] != policies[3]
    assert len(set(heads)) == 4


def test_the_head_has_a_learning_rate_of_its_own(
    make_trainer: MakeTrainer, config: PPOConfig
) -> None:
    for still, name in (("learning_rate", "policy"), ("critic_learning_rate", "head")):
        trainer = make_trainer(config.model_copy(update={still: 0.0}))
        models = {"policy": trainer.policy, "head": trainer.critic.score}
        before = {key: digest(model) for key, model in models.items()}
        train(trainer)
        assert {key for key in models if digest(models[key]) == before[key]} == {name}


def test_the_value_loss_teaches_the_policy_by_its_weight(
    make_trainer: MakeTrainer, config: PPOConfig
) -> None:
    """The second step's: in the first the head is zeros and passes nothing on."""
    digests: set[str] = set()
    for vf_coef in (0.1, 100.0):
        args = {"total_episodes": 8, "num_ppo_epochs": 1, "vf_coef": vf_coef}
        trainer = make_trainer(config.model_copy(update=args))
        train(trainer)
        digests.add(digest(trainer.policy))
    assert len(digests) == 2


@pytest.mark.parametrize("critic_trunk", ["own", "policy"])
def test_one_norm_is_clipped_where_one_loss_is_descended(
    make_trainer: MakeTrainer, config: PPOConfig, critic_trunk: str
) -> None:
    """Adam's first moments after a step are a tenth of the clipped gradients."""
    changes = {"total_episodes": 8, "num_ppo_epochs": 1, "num_mini_batches": 1}
    changes |= {"max_grad_norm": 1e-3, "vf_coef": 1.0, "critic_trunk": critic_trunk}
    trainer = make_trainer(config.model_copy(update=changes))
    train(trainer)
    policy, head = (
        10 * math.sqrt(sum(float(m["exp_avg"].square().sum()) for m in own.state.values()))
        for own in trainer.optimizers
    )
    assert min(policy, head) > 1e-5
    if critic_trunk == "policy":
        assert math.hypot(policy, head) == pytest.approx(1e-3, rel=1e-3)
    else:
        assert (policy, head) == pytest.approx((1e-3, 1e-3), rel=1e-3)


def test_a_collapsed_run_goes_back_to_the_best_head_and_policy(
    make_trainer: MakeTrainer, config: PPOConfig, tmp_path: Path
) -> None:
    alarms = config.alarms.model_copy(update={"patience": 1, "length_factor": 1.0001})
    changes = {"alarms": alarms, "learning_rate": 1e-2, "eval_every_updates": 1}
    kept = Checkpoints(tmp_path / "ppo", "key", log=None)
    trainer = make_trainer(config.model_copy(update=changes), checkpoints=kept)
    states = {0: (digest(trainer.policy), digest(trainer.critic.score))}

    def on_update(update: int, metrics: dict[str, float]) -> None:
        states[update] = (digest(trainer.policy), digest(trainer.critic.score))

    trainer.on_update = on_update
    trainer.train()
    assert trainer.stopped is not None
    assert "collapsed at update 2" in trainer.stopped
    back = trainer.updates_done
    assert back < 2
    assert (digest(trainer.policy), digest(trainer.critic.score)) == states[back]


def test_a_critic_beside_it_is_refused(
    make_trainer: MakeTrainer, make_reward_model: Callable[..., RewardModel]
) -> None:
    with pytest.raises(UserError, match="leave value_model out"):
        make_trainer(value_model=make_reward_model())


# --- adapters -------------------------------------------------------------------------------------


def test_one_adapter_is_trained_and_published_as_two_models(
    make_policy: Callable[..., GPT],
    make_reward_model: Callable[..., RewardModel],
    config: PPOConfig,
    tokenizer: Tokenizer,
    tmp_path: Path,
) -> None:
    scorer = make_reward_model()
    roles = share_trunks(make_policy(), scorer, None, LORA, 9, CPU, with_critic=False)
    policy = roles.policy
    assert isinstance(policy, AdapterView)
    assert roles.reward_model is scorer
    assert roles.critic is None
    before = digest(policy.adapters.inner), digest(scorer)
    trainer = PPOTrainer(
        config,
        tokenizer,
        policy,
        roles.reference,
        roles.reward_model,
        ["a fox", "two red hares", "o", "the river at night"],
        rollout_engine=MergedEngine(policy, tokenizer),
    )
    rows = train(trainer)
    assert (digest(policy.adapters.inner), digest(scorer)) == before
    assert rows[0]["objective/kl"] == pytest.approx(0, abs=1e-6)
    assert rows[0]["val/ratio"] == pytest.approx(1, abs=1e-2)
    assert rows[-1]["objective/kl"] != 0
    ids = torch.randint(4, 200, (3, 9), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        logits, values = trainer.policy(ids), trainer.critic.token_scores(ids)
        assert not torch.allclose(logits, make_policy()(ids), atol=1e-3)
    with merged_policy(trainer.policy) as plain:
        save_language_model(plain, tmp_path / "ppo", tokenizer)
    with merged_critic(trainer.critic) as plain:
        save_reward_model(plain, tmp_path / "critic", tokenizer)
    assert digest(policy.adapters.inner) == before[0]
    with torch.no_grad():
        theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ppo").eval()
        torch.testing.assert_close(theirs(ids).logits, logits, atol=1e-4, rtol=1e-4)
        auto = transformers.AutoModelForSequenceClassification
        critic: Any = auto.from_pretrained(tmp_path / "critic").eval()
        torch.testing.assert_close(critic(ids).logits[:, 0], values[:, -1], atol=1e-4, rtol=1e-4)
