"""Details of PPO that a trainer gets wrong without a sign: edge cases, padding, precision, wiring.

The docstrings say what wrong code does. Bugs that others reported are in ``test_known_bugs.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.model import GPT, GPTConfig
from pipeline.ppo import PPOConfig, PPOTrainer
from pipeline.ppo.experience import Experience, ScoredRollout, with_advantages
from pipeline.ppo.logprobs import response_logprobs, response_logprobs_and_entropies
from pipeline.ppo.rollout import InProcessEngine, Rollout, respond
from pipeline.sampling import SamplingSettings, generate
from pipeline.tokenizer import Tokenizer

MakeTrainer = Callable[..., PPOTrainer]
NAN = float("nan")
ONE_UPDATE: dict[str, Any] = {"total_episodes": 8, "num_ppo_epochs": 1, "num_mini_batches": 1}


def train(trainer: PPOTrainer) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    trainer.on_update = lambda update, metrics: rows.append(metrics)
    trainer.train()
    return rows


def experience_of(trainer: PPOTrainer, change_pads: Callable[[Rollout], Rollout]) -> Experience:
    """A batch of episodes as the trainer makes them, its padding changed before anything reads."""
    prompts = trainer.sample_prompts(0)
    ids = [trainer.prompt_ids[i] for i in prompts]
    rollout = change_pads(trainer.respond(ids, trainer.episode_seeds(0)))
    scores, _ = trainer.scorer(rollout, [trainer.prompts[i] for i in prompts])
    scored = ScoredRollout(
        **vars(rollout),
        scores=scores,
        logprobs=trainer.forwards.logprobs_of(trainer.policy, rollout),
        ref_logprobs=trainer.forwards.logprobs_of(trainer.ref_policy, rollout),
        values=trainer.forwards.values_of(trainer.critic, rollout),
    )
    return with_advantages(scored, trainer.args, trainer.kl_coef)


def one_step(trainer: PPOTrainer, batch: Experience) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The gradients by which policy and critic are stepped, and the step's metrics."""
    found: list[Tensor] = []

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        found.extend(w.grad.clone() for w in optimizer.param_groups[0]["params"])

    for optimizer in (trainer.policy_optimizer, trainer.critic_optimizer):
        optimizer.register_step_pre_hook(look)
    return found, trainer.step(batch, 0)


# --- edge cases -----------------------------------------------------------------------------------

# Five responses: their end token alone, ended, cut off, cut off after one token, ended.
LENGTHS = [1, 3, 4, 1, 2]
FINISHED = [True, True, False, False, True]
SCORES = [3.0, 1.0, -2.0, 5.0, 0.0]
DIVERGENCES = [[2.0], [1.0, -1.0, 0.0], [0.0, 0.0, 0.0, 4.0], [0.0], [2.0, 2.0]]
VALUES = [[1.0], [0.0, 1.0, 2.0], [1.0, 1.0, 1.0, 1.0], [5.0], [0.0, -2.0]]
# By hand, for kl_coef 0.5, gamma 1 and lam 0.5.
REWARDS = [[2.0], [-0.5, 0.5, 1.0], [0.0, 0.0, 0.0, -4.0], [5.0], [-1.0, -1.0]]
ADVANTAGES = [[1.0], [1.0, 1.0, -1.0], [-0.625, -1.25, -2.5, -5.0], [0.0], [-2.5, 1.0]]
RETURNS = [[2.0], [1.0, 2.0, 1.0], [0.375, -0.25, -1.5, -4.0], [5.0], [-2.5, -1.0]]


def padded(rows: Sequence[Sequence[float]], fill: float = NAN) -> Tensor:
    """(5, 4) fp32, ``fill`` beyond each response's end."""
    return torch.tensor([[*map(float, row), *[fill] * (4 - len(row))] for row in rows])


@pytest.fixture
def five(make_rollout: Callable[..., Rollout]) -> ScoredRollout:
    rollout = make_rollout([(Q, L) for Q, L in zip([3, 1, 2, 2, 5], LENGTHS, strict=True)])
    return ScoredRollout(
        **vars(replace(rollout, finished=torch.tensor(FINISHED))),
        scores=torch.tensor(SCORES),
        logprobs=padded([[-3.0] * length for length in LENGTHS]),
        ref_logprobs=-3.0 - padded(DIVERGENCES),
        values=padded(VALUES),
    )


def test_five_responses_by_hand(config: PPOConfig, five: ScoredRollout) -> None:
    """Wrong code indexes a response of one token at -1, or counts padding in the whitening."""
    args = config.model_copy(update={"gamma": 1.0, "lam": 0.5})
    found = with_advantages(five, args, kl_coef=0.5)
    torch.testing.assert_close(found.rewards, padded(REWARDS, 0.0))
    torch.testing.assert_close(found.returns, padded(RETURNS, 0.0))
    flat = np.array([a for row in ADVANTAGES for a in row])
    expected = (padded(ADVANTAGES) - flat.mean()) / flat.std()
    torch.testing.assert_close(found.advantages, expected.nan_to_num(0.0))


def test_whitened_rewards_keep_their_mean_and_reach_the_returns(
    config: PPOConfig, five: ScoredRollout
) -> None:
    """Wrong code takes the mean off as well, or whitens after the advantages are made."""
    changes = {"whiten_rewards": True, "gamma": 1.0, "lam": 1.0}
    found = with_advantages(five, config.model_copy(update=changes), kl_coef=0.5)
    flat = np.array([r for row in REWARDS for r in row])
    rows = [[(r - flat.mean()) / flat.std() + flat.mean() for r in row] for row in REWARDS]
    torch.testing.assert_close(found.rewards, padded(rows, 0.0))
    to_go = [[sum(row[t:]) for t in range(len(row))] for row in rows]
    torch.testing.assert_close(found.returns, padded(to_go, 0.0))


@pytest.mark.parametrize("eos_logit", [60.0, -60.0])
def test_responses_that_end_at_once_and_that_never_end_can_be_trained_on(
    make_trainer: MakeTrainer, make_policy: Callable[..., GPT], config: PPOConfig, eos_logit: float
) -> None:
    """Wrong code drops the end token, so that nothing is left, or looks for one that is not."""
    models = {"model": make_policy(eos_logit), "ref_model": make_policy(eos_logit)}
    rows = train(make_trainer(config, **models))
    ends = eos_logit > 0
    assert config.missing_eos_penalty == 1.0
    for metrics in rows:
        assert metrics["rollout/response_tokens"] == (1 if ends else config.response_length)
        assert metrics["rollout/eos_rate"] == ends
        assert metrics["rewards/missing_eos_penalty"] == (0 if ends else -1)
        assert all(math.isfinite(value) for value in metrics.values())
    assert rows[0]["val/grad_norm"] > 0


def test_a_prompt_and_a_response_may_fill_the_context_to_the_last_token(
    make_trainer: MakeTrainer, make_policy: Callable[..., GPT], config: PPOConfig
) -> None:
    """Wrong code is off by one: it refuses what fits, or reads a position that is not there."""
    prompt = "z" * 36  # with its two marks 38 of 48
    models = {"model": make_policy(-60.0), "ref_model": make_policy(-60.0)}
    trainer = make_trainer(config, train_dataset=[prompt], **models)
    assert len(trainer.prompt_ids[0]) + config.response_length == trainer.policy.context_tokens
    (metrics, *_) = train(trainer)
    assert metrics["rollout/response_tokens"] == config.response_length
    with pytest.raises(UserError, match="context of 48"):
        make_trainer(config, train_dataset=[prompt + "z"])


# --- padding and batch mates ----------------------------------------------------------------------


@pytest.mark.parametrize("pad_id", ["end", 50])
def test_the_pads_id_changes_nothing_that_is_learned(
    make_trainer: MakeTrainer, tokenizer: Tokenizer, pad_id: Any
) -> None:
    """Wrong code masks by ids != pad: responses lose their end, or a word of theirs."""
    other = tokenizer.eos_id if pad_id == "end" else pad_id

    def repad(rollout: Rollout) -> Rollout:
        T = rollout.input_ids.shape[1]
        is_pad = torch.arange(T) >= rollout.lengths[:, None]
        assert bool(is_pad.any())
        return replace(rollout, input_ids=rollout.input_ids.masked_fill(is_pad, other))

    plain, changed = make_trainer(), make_trainer()
    expected, found = experience_of(plain, lambda rollout: rollout), experience_of(changed, repad)
    assert tokenizer.eos_id in {i for ids in expected.response_ids() for i in ids}
    for name in ("logprobs", "ref_logprobs", "values", "scores", "rewards", "advantages"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), atol=1e-4, rtol=1e-4
        )
    pairs = zip(one_step(plain, expected)[0], one_step(changed, found)[0], strict=True)
    for one, other_one in pairs:
        torch.testing.assert_close(other_one, one, atol=1e-4, rtol=1e-3)


def test_what_padding_holds_reaches_neither_gradients_nor_metrics(
    make_trainer: MakeTrainer,
) -> None:
    """Wrong code multiplies by a mask: NaN times 0 is NaN."""
    plain, dirty = make_trainer(), make_trainer()
    batch = experience_of(plain, lambda rollout: rollout)
    names = ("logprobs", "values", "advantages", "returns", "rewards", "ref_logprobs")
    fill = {name: getattr(batch, name).masked_fill(~batch.response_mask, NAN) for name in names}
    expected, metrics = one_step(plain, batch)
    found, dirty_metrics = one_step(dirty, replace(batch, **fill))
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)
    assert dirty_metrics == metrics


def test_an_episode_does_not_depend_on_its_batch_mates(make_trainer: MakeTrainer) -> None:
    """Wrong code lets neighbors in by their padding, or mixes rows up on the way."""
    trainer = make_trainer()
    batch = experience_of(trainer, lambda rollout: rollout)
    prompts, seeds = trainer.sample_prompts(0), trainer.episode_seeds(0)
    for row, length in enumerate(batch.response_lengths.tolist()):
        one = trainer.respond([trainer.prompt_ids[prompts[row]]], [seeds[row]])
        assert one.response_ids() == [batch.response_ids()[row]]
        scores, _ = trainer.scorer(one, [trainer.prompts[prompts[row]]])
        assert float(scores) == pytest.approx(float(batch.scores[row]), abs=1e-4)
        logprobs = trainer.forwards.logprobs_of(trainer.policy, one)[0]
        values = trainer.forwards.values_of(trainer.critic, one)[0]
        torch.testing.assert_close(logprobs, batch.logprobs[row, :length], atol=1e-4, rtol=0)
        torch.testing.assert_close(values, batch.values[row, :length], atol=1e-4, rtol=1e-4)


# --- the loss and its metrics ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits",
    [{"per_device_train_batch_size": n} for n in (1, 2, 4)] + [{"max_tokens_per_microbatch": 30}],
)
def test_accumulating_parts_gives_the_gradient_of_the_whole(
    make_trainer: MakeTrainer, config: PPOConfig, limits: dict[str, int]
) -> None:
    """Wrong code takes a mean of means, so that tokens of short responses weigh more."""
    trainers = [
        make_trainer(config.model_copy(update={"max_grad_norm": 1e9, **update}))
        for update in ({}, limits)
    ]
    batch = experience_of(trainers[0], lambda rollout: rollout)
    assert int(batch.response_lengths.max()) > 3 * int(batch.response_lengths.min())
    whole, parts = (one_step(trainer, batch)[0] for trainer in trainers)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-4)


def test_metrics_of_a_step_are_those_of_a_loop_over_real_tokens(
    make_trainer: MakeTrainer, make_policy: Callable[..., GPT], config: PPOConfig
) -> None:
    """Wrong code means over pads, where the ratio is 1 and nothing is clipped."""
    policy = make_policy()
    trainer = make_trainer(config, model=policy)
    batch = experience_of(trainer, lambda rollout: rollout)
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():  # the policy has moved since
        policy.ln_f.weight.add_(0.4 * torch.randn(16, generator=noise))
    never = list(trainer.tokenizer.never_sampled_ids)
    ratios: list[float] = []
    clipped = entropy = 0.0
    for row, (Q, L) in enumerate(
        zip(batch.prompt_lengths.tolist(), batch.response_lengths.tolist(), strict=True)
    ):
        ids = batch.input_ids[row, : Q + L]
        logits = trainer.policy(ids[None])[0].detach().double()
        logits[:, never] = -math.inf
        for t in range(L):
            probabilities = logits[Q + t - 1].softmax(-1)
            ratio = float(probabilities[ids[Q + t]]) / math.exp(float(batch.logprobs[row, t]))
            advantage = float(batch.advantages[row, t])
            ratios.append(ratio)
            clipped += (ratio > 1.2 and advantage > 0) or (ratio < 0.8 and advantage < 0)
            entropy -= sum(p * math.log(p) for p in probabilities.tolist() if p > 0)
    count = len(ratios)
    found = trainer.step(batch, 0)
    assert float(found["val/ratio"]) == pytest.approx(sum(ratios) / count, rel=1e-4)
    assert float(found["policy/clipfrac_avg"]) == pytest.approx(clipped / count)
    half_square = sum(math.log(r) ** 2 for r in ratios) / count / 2
    assert float(found["policy/approxkl_avg"]) == pytest.approx(half_square, rel=1e-3)
    assert float(found["policy/entropy_avg"]) == pytest.approx(entropy / count, rel=1e-4)
    assert clipped > 3
    assert half_square > 1e-3


def test_the_entropy_lies_between_that_of_certainty_and_that_of_even_odds(
    make_policy: Callable[..., GPT], make_rollout: Callable[..., Rollout], tokenizer: Tokenizer
) -> None:
    """Wrong code gives NaN where a token is excluded, or a negative entropy by a sentinel."""
    never = tokenizer.never_sampled_ids
    rollout = make_rollout([(3, 5), (1, 1)])
    for factor, expected in ((0.0, math.log(tokenizer.vocab_size - len(never))), (1e4, 0.0)):
        policy = make_policy(eos_logit=0.0)
        with torch.no_grad():
            policy.ln_f.weight.mul_(factor)
            policy.ln_f.bias.mul_(factor)
        arguments = (rollout.input_ids, rollout.prompt_lengths, rollout.response_lengths)
        _, entropies = response_logprobs_and_entropies(policy, *arguments, 1.0, never)
        real = entropies[rollout.response_mask]
        assert bool((real >= 0).all())
        assert real.tolist() == pytest.approx([expected] * 6, abs=1e-4)


def test_the_coefficient_of_the_divergence_is_adapted_after_every_update(
    make_trainer: MakeTrainer, config: PPOConfig
) -> None:
    """Wrong code adapts it before it is used, in the wrong direction, or by a token's."""
    changes = {"kl_target": 0.01, "kl_horizon": 40, "learning_rate": 1e-2}
    rows = train(make_trainer(config.model_copy(update=changes)))
    expected = config.kl_coef
    for metrics in rows:
        assert metrics["objective/kl_coef"] == pytest.approx(expected)
        price = -expected * metrics["objective/kl"]
        assert metrics["objective/non_score_reward"] == pytest.approx(price, rel=1e-5, abs=1e-9)
        error = max(-0.2, min(0.2, metrics["objective/kl"] / 0.01 - 1))
        expected *= 1 + error * 8 / 40
    assert rows[-1]["objective/kl_coef"] != config.kl_coef


# --- the sampler and precision --------------------------------------------------------------------


def test_the_sampler_is_a_loop_over_whole_forwards_that_stops_at_the_first_end(
    make_policy: Callable[..., GPT], tokenizer: Tokenizer
) -> None:
    """Wrong code goes on after the end, cuts it off, or reads the cache at another position."""
    policy, R = make_policy(), 12
    prompts = [tokenizer.encode_prompt(text) for text in ("a", "the fox", "o")] * 4
    engine = InProcessEngine(policy, tokenizer)
    rollout = respond(engine, prompts, range(12), SamplingSettings(R, 0.8), tokenizer.pad_id)
    for row, prompt in enumerate(prompts):
        draws = torch.rand(R, dtype=torch.float64, generator=torch.Generator().manual_seed(row))
        ids = list(prompt)
        while len(ids) < len(prompt) + R and (ids == prompt or ids[-1] != tokenizer.eos_id):
            logits = policy(torch.tensor([ids]))[0, -1].detach().double() / 0.8
            logits[list(tokenizer.never_sampled_ids)] = -math.inf
            cumulative = logits.softmax(-1).cumsum(0)
            ids.append(int((cumulative <= draws[len(ids) - len(prompt)]).sum()))
        assert rollout.response_ids()[row] == ids[len(prompt) :]
    assert len(set(rollout.response_lengths.tolist())) > 3


def test_logits_of_tokens_that_are_never_sampled_have_no_effect(
    make_policy: Callable[..., GPT],
    make_rollout: Callable[..., Rollout],
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wrong code leaves a pad's probability in the softmax of the loss and takes it from the
    sampler's, or lets it be sampled."""
    never, rollout = tokenizer.never_sampled_ids, make_rollout([(3, 5), (2, 2)])
    arguments = (rollout.input_ids, rollout.prompt_lengths, rollout.response_lengths, 1.0, never)
    prompts = [tokenizer.encode_prompt("fox")] * 8
    found: list[tuple[Tensor, ...]] = []
    for raised in (0.0, 40.0):
        policy = make_policy()
        logits = policy.logits
        bump = torch.zeros(tokenizer.vocab_size).index_fill(0, torch.tensor(never), raised)
        monkeypatch.setattr(policy, "logits", lambda h, logits=logits, bump=bump: logits(h) + bump)
        drawn = generate(policy, prompts, range(8), SamplingSettings(6), tokenizer)
        ours = response_logprobs_and_entropies(policy, *arguments)
        found.append((drawn.ids, drawn.logprobs, *ours))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_in_bf16_probabilities_sum_to_one_and_the_ratio_is_not_biased() -> None:
    """Wrong code rounds logits or their softmax: sums are off, and every ratio with them."""
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(vocab_size=400, context_tokens=64, layers=2, heads=2, width=32))
    with torch.no_grad():
        gpt.wte.weight *= 5
    V, prompt = 400, [3, 9, 27]
    every_token = torch.tensor([[*prompt, token] for token in range(V)])
    arguments = (every_token, torch.full((V,), 3), torch.ones(V, dtype=torch.long), 1.0, ())
    with torch.no_grad():
        exact = response_logprobs(gpt, *arguments)[:, 0].double()
        with torch.autocast("cpu", torch.bfloat16):
            rounded = response_logprobs(gpt, *arguments)[:, 0].double()
    assert float(rounded.exp().sum()) == pytest.approx(1, abs=1e-5)
    # Expected over tokens that the policy draws.
    assert 1e-5 < float((exact.exp() * (rounded - exact).abs()).sum()) < 1e-3
    assert abs(float((exact.exp() * (rounded - exact)).sum())) < 1e-5
