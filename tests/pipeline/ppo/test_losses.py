"""The maths against slow loops, tables made by hand, finite differences and invariances."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.ppo import losses

NAN = float("nan")
LENGTHS = [5, 1, 3, 2]  # ragged; one response is its end token only


@pytest.fixture
def mask() -> Tensor:
    return torch.arange(5) < torch.tensor(LENGTHS)[:, None]


def random_rows(mask: Tensor, seed: int, fill: float = NAN) -> Tensor:
    """(B, R) float64 noise with ``fill`` planted in the padding."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(mask.shape, generator=generator, dtype=torch.float64)
    return noise.masked_fill(~mask, fill)


# --- reductions ---------------------------------------------------------------------------------


def test_masked_mean_and_variance_are_those_of_the_real_values(mask: Tensor) -> None:
    values = random_rows(mask, 0)
    real = values[mask].numpy()
    assert float(losses.masked_mean(values, mask)) == pytest.approx(real.mean(), abs=1e-14)
    assert float(losses.masked_variance(values, mask)) == pytest.approx(real.var(), abs=1e-14)


def test_masked_mean_of_nothing_is_zero() -> None:
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    assert float(losses.masked_mean(torch.full((2, 3), NAN), nothing)) == 0


def test_whitened_values_have_mean_zero_and_biased_variance_one(mask: Tensor) -> None:
    whitened = losses.masked_whiten(3 + 5 * random_rows(mask, 1), mask)
    assert whitened[mask].numpy().mean() == pytest.approx(0, abs=1e-12)
    assert whitened[mask].numpy().var() == pytest.approx(1, abs=1e-8)
    assert whitened[~mask].abs().sum() == 0


def test_whitening_does_not_see_padding_columns_scale_or_shift(mask: Tensor) -> None:
    values = random_rows(mask, 2)
    expected = losses.masked_whiten(values, mask)
    wider = torch.cat([values, torch.full((4, 3), 7.0, dtype=torch.float64)], dim=1)
    wider_mask = torch.cat([mask, torch.zeros(4, 3, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(losses.masked_whiten(wider, wider_mask)[:, :5], expected)
    torch.testing.assert_close(
        losses.masked_whiten(100 * values - 40, mask), expected, atol=1e-7, rtol=0
    )


@pytest.mark.parametrize("lengths", [[1], [3, 2]])
def test_whitening_equal_values_gives_zeros(lengths: list[int]) -> None:
    mask = torch.arange(3) < torch.tensor(lengths)[:, None]
    whitened = losses.masked_whiten(torch.full(mask.shape, 2.5), mask)
    assert whitened.abs().max() == 0


def test_scaling_to_unit_variance_keeps_the_mean(mask: Tensor) -> None:
    values = 3 + 5 * random_rows(mask, 3)
    scaled = losses.masked_scale_to_unit_variance(values, mask)
    assert scaled[mask].numpy().mean() == pytest.approx(values[mask].numpy().mean(), abs=1e-12)
    assert scaled[mask].numpy().var() == pytest.approx(1, abs=1e-8)
    assert scaled[~mask].abs().sum() == 0


# --- rewards ------------------------------------------------------------------------------------


def test_rewards_by_hand() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False], [True, True, True]])
    logprobs = torch.tensor([[-1.0, -2.0, NAN], [-3.0, NAN, NAN], [-1.0, -1.0, -1.0]])
    ref_logprobs = torch.tensor([[-2.0, -1.5, NAN], [-3.0, NAN, NAN], [-1.0, -4.0, -1.0]])
    scores = torch.tensor([10.0, 20.0, 30.0])
    rewards = losses.compute_rewards(logprobs, ref_logprobs, scores, mask, kl_coef=0.5)
    expected = torch.tensor([[-0.5, 10.25, 0.0], [20.0, 0.0, 0.0], [0.0, -1.5, 30.0]])
    torch.testing.assert_close(rewards, expected)


def test_rewards_of_a_row_sum_to_its_score_less_the_price_of_its_divergence(mask: Tensor) -> None:
    logprobs, ref_logprobs = random_rows(mask, 4), random_rows(mask, 5)
    scores = torch.tensor([1.5, -2.0, 0.25, 8.0], dtype=torch.float64)
    rewards = losses.compute_rewards(logprobs, ref_logprobs, scores, mask, kl_coef=0.1)
    for row, length in enumerate(LENGTHS):
        kl = sum(float(logprobs[row, t] - ref_logprobs[row, t]) for t in range(length))
        assert float(rewards[row].sum()) == pytest.approx(float(scores[row]) - 0.1 * kl, abs=1e-12)


def test_the_penalty_falls_on_responses_without_an_end_only() -> None:
    scores = torch.tensor([1.0, 2.0])
    finished = torch.tensor([True, False])
    assert losses.penalize_missing_eos(scores, finished, 0.75).tolist() == [1.0, 1.25]


def test_a_sure_yes_takes_its_penalty_off_the_score_and_a_no_nothing() -> None:
    weights = losses.answer_weights({"rude": 2.0}, ["long", "rude"])
    assert weights.tolist() == [0.0, 2.0]
    # Odds of 3 to 1 are a probability of 3/4; what is said of "long" costs nothing.
    answers = torch.tensor([[9.0, 200.0], [-9.0, -200.0], [9.0, math.log(3)]], dtype=torch.float64)
    scores = torch.ones(3, dtype=torch.float64)
    penalized = losses.penalize_answers(scores, answers, weights)
    assert penalized.tolist() == pytest.approx([-1.0, 1.0, 1 - 2 * 0.75])


def test_without_penalties_scores_are_bit_for_bit_what_they_were() -> None:
    scores = torch.randn(5)
    weights = losses.answer_weights({}, [])
    assert torch.equal(losses.penalize_answers(scores, torch.empty(5, 0), weights), scores)


def test_a_penalty_for_what_was_not_asked_is_refused() -> None:
    with pytest.raises(UserError, match="names 'kind'; the reward model's questions are rude"):
        losses.answer_weights({"kind": 1.0}, ["rude"])
    with pytest.raises(UserError, match=r"trained with reward\.question_weight 0"):
        losses.answer_weights({"kind": 1.0}, [])


def test_the_coefficient_follows_the_divergence_as_in_the_paper() -> None:
    # Half of the horizon's episodes; an error of 10% moves by 5%, larger ones by 10% at most.
    assert losses.adapted_kl_coef(0.2, 6.6, 6.0, 50, 100) == pytest.approx(0.2 * 1.05)
    assert losses.adapted_kl_coef(0.2, 60.0, 6.0, 50, 100) == pytest.approx(0.2 * 1.1)
    assert losses.adapted_kl_coef(0.2, -3.0, 6.0, 50, 100) == pytest.approx(0.2 * 0.9)
    assert losses.adapted_kl_coef(0.2, 6.0, 6.0, 50, 100) == 0.2
    coef = 0.15
    for update in range(20):  # twelve updates far above, eight far below
        coef = losses.adapted_kl_coef(coef, 99.0 if update < 12 else 0.0, 6.0, 64, 10_000)
    assert coef == pytest.approx(0.15 * 1.00128**12 * 0.99872**8, rel=1e-12)


# --- advantages ---------------------------------------------------------------------------------


def advantage_by_definition(
    rewards: list[float], values: list[float], gamma: float, lam: float
) -> list[float]:
    """The O(L^2) sum over k of (gamma lam)^k delta_{t+k} for one response without padding."""
    values_after = [*values[1:], 0.0]
    deltas = [
        reward + gamma * after - value
        for reward, value, after in zip(rewards, values, values_after, strict=True)
    ]
    return [
        sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, len(deltas)))
        for t in range(len(deltas))
    ]


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_gae_equals_the_double_loop_and_nan_in_padding_does_not_leak(
    mask: Tensor, gamma: float, lam: float
) -> None:
    rewards, values = random_rows(mask, 6), random_rows(mask, 7)
    advantages, returns = losses.gae(rewards, values, mask, gamma, lam)
    for row, length in enumerate(LENGTHS):
        row_values = values[row, :length].tolist()
        expected = advantage_by_definition(rewards[row, :length].tolist(), row_values, gamma, lam)
        assert advantages[row, :length].tolist() == pytest.approx(expected, abs=1e-12)
        expected = [a + v for a, v in zip(expected, row_values, strict=True)]
        assert returns[row, :length].tolist() == pytest.approx(expected, abs=1e-12)
    assert advantages[~mask].abs().sum() == 0
    assert returns[~mask].abs().sum() == 0


def test_with_lam_1_the_return_is_the_reward_to_go_whatever_the_values(mask: Tensor) -> None:
    rewards = random_rows(mask, 8)
    _, returns = losses.gae(rewards, random_rows(mask, 9), mask, 1.0, 1.0)
    for row, length in enumerate(LENGTHS):
        expected = [float(rewards[row, t:length].sum()) for t in range(length)]
        assert returns[row, :length].tolist() == pytest.approx(expected, abs=1e-12)


# --- policy loss --------------------------------------------------------------------------------

# ratio, advantage -> loss, and the loss's derivative by log pi, for cliprange 0.2
TRUTH_TABLE = [
    (1.0, 1.0, -1.0, -1.0),
    (1.0, -1.0, 1.0, 1.0),
    (1.0, 0.0, 0.0, 0.0),
    (1.1, 2.0, -2.2, -2.2),
    (1.1, -2.0, 2.2, 2.2),
    (0.9, 2.0, -1.8, -1.8),
    (0.9, -2.0, 1.8, 1.8),
    (1.5, 1.0, -1.2, 0.0),
    (1.5, -1.0, 1.5, 1.5),
    (0.5, 1.0, -0.5, -0.5),
    (0.5, -1.0, 0.8, 0.0),
    (3.0, -0.5, 1.5, 1.5),
]


@pytest.mark.parametrize(("ratio", "advantage", "loss", "gradient"), TRUTH_TABLE)
def test_policy_loss_truth_table(
    ratio: float, advantage: float, loss: float, gradient: float
) -> None:
    old = torch.tensor([[-2.0, NAN]], dtype=torch.float64)
    new = (old + math.log(ratio)).requires_grad_()
    advantages = torch.tensor([[advantage, NAN]], dtype=torch.float64)
    mask = torch.tensor([[True, False]])
    result = losses.policy_loss(new, old, advantages, mask, 0.2, 1)
    result.loss.backward()
    assert float(result.loss.detach()) == pytest.approx(loss, abs=1e-12)
    assert new.grad is not None
    assert new.grad[0].tolist() == pytest.approx([gradient, 0.0], abs=1e-12)
    assert float(result.ratio.detach()) == pytest.approx(ratio)
    assert float(result.approx_kl) == pytest.approx(0.5 * math.log(ratio) ** 2)
    assert float(result.clip_fraction) == (gradient == 0.0 and advantage != 0.0)


@pytest.mark.parametrize("log_ratio", [500.0, -500.0])
def test_policy_loss_stays_finite_for_any_log_ratio(log_ratio: float) -> None:
    new = torch.tensor([[log_ratio]], requires_grad=True)
    mask = torch.ones(1, 1, dtype=torch.bool)
    result = losses.policy_loss(new, torch.zeros(1, 1), -torch.ones(1, 1), mask, 0.2, 1)
    result.loss.backward()
    assert result.loss.isfinite()
    assert new.grad is not None
    assert new.grad.isfinite().all()


def test_parts_of_a_minibatch_add_up_to_the_whole(mask: Tensor) -> None:
    new, old = random_rows(mask, 10) / 5, random_rows(mask, 11) / 5
    advantages = random_rows(mask, 12)
    count = sum(LENGTHS)
    whole = losses.policy_loss(new, old, advantages, mask, 0.2, count)
    parts = [
        losses.policy_loss(new[i], old[i], advantages[i], mask[i], 0.2, count)
        for i in torch.arange(4).split(1)
    ]
    for name in losses.PolicyLoss._fields:
        total = sum(float(getattr(part, name)) for part in parts)
        assert total == pytest.approx(float(getattr(whole, name)), abs=1e-12), name
    ratios = (new - old)[mask].exp()
    terms = torch.minimum(ratios * advantages[mask], ratios.clamp(0.8, 1.2) * advantages[mask])
    assert float(whole.loss) == pytest.approx(-float(terms.mean()), abs=1e-12)


# --- value loss ---------------------------------------------------------------------------------


def test_value_loss_by_hand() -> None:
    # v, old v, return: inside the clip; clipped and worse; clipped but the plain error is greater
    values = torch.tensor([[1.1, 2.0, -1.0, NAN]])
    old_values = torch.tensor([[1.0, 1.0, 1.0, NAN]])
    returns = torch.tensor([[3.0, 2.0, 3.0, NAN]])
    mask = torch.tensor([[True, True, True, False]])
    result = losses.value_loss(values, old_values, returns, mask, 0.2, 3)
    assert float(result.loss) == pytest.approx(0.5 * (1.9**2 + 0.8**2 + 4.0**2) / 3)
    assert float(result.clip_fraction) == pytest.approx(1 / 3)


def test_value_loss_gradient_by_finite_differences(mask: Tensor) -> None:
    values = random_rows(mask, 13)
    old_values, returns = values + 0.4 * random_rows(mask, 14), random_rows(mask, 15)
    variable = values.clone().requires_grad_()
    losses.value_loss(variable, old_values, returns, mask, 0.2, 11).loss.backward()
    assert variable.grad is not None
    for row, column in mask.nonzero().tolist():
        step = torch.zeros_like(values)
        step[row, column] = 1e-6
        above = losses.value_loss(values + step, old_values, returns, mask, 0.2, 11).loss
        below = losses.value_loss(values - step, old_values, returns, mask, 0.2, 11).loss
        slope = float(above - below) / 2e-6
        assert float(variable.grad[row, column]) == pytest.approx(slope, abs=1e-8)
    assert variable.grad[~mask].abs().sum() == 0


def test_before_the_first_step_both_branches_of_the_value_loss_agree(mask: Tensor) -> None:
    values, returns = random_rows(mask, 16), random_rows(mask, 17)
    result = losses.value_loss(values, values, returns, mask, 0.2, 11)
    assert float(result.clip_fraction) == 0
    expected = 0.5 * float((values - returns)[mask].square().mean())
    assert float(result.loss) == pytest.approx(expected, abs=1e-12)


# --- for the log --------------------------------------------------------------------------------


def test_k1_and_k3_both_estimate_the_divergence() -> None:
    policy = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    reference = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    mask = torch.tensor([[True, False]]).expand(3, 2)  # one sequence per possible token
    logprobs = torch.stack([policy.log(), torch.full((3,), NAN)], dim=1)
    ref_logprobs = torch.stack([reference.log(), torch.full((3,), NAN)], dim=1)
    divergence = 0.5 * math.log(2.5) + 0.3 * math.log(1.5) - 0.2 * math.log(3)
    for estimator in (losses.kl_k1, losses.kl_k3):
        estimates = estimator(logprobs, ref_logprobs, mask)
        assert float((policy * estimates).sum()) == pytest.approx(divergence, abs=1e-12)
    assert bool((losses.kl_k3(logprobs, ref_logprobs, mask) >= 0).all())


def test_kl_is_summed_over_a_response(mask: Tensor) -> None:
    ones = torch.ones(mask.shape).masked_fill(~mask, NAN)
    assert losses.kl_k1(3 * ones, ones, mask).tolist() == [2.0 * length for length in LENGTHS]


def test_explained_variance(mask: Tensor) -> None:
    returns = random_rows(mask, 18)
    assert float(losses.explained_variance(returns + 3, returns, mask)) == pytest.approx(1)
    nothing = torch.zeros_like(returns)
    assert float(losses.explained_variance(nothing, returns, mask)) == pytest.approx(0)
    constant = torch.ones_like(returns)
    assert float(losses.explained_variance(returns, constant, mask)) == 0
