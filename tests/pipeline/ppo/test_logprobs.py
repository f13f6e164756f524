"""Log-probabilities and values of the real model: where they are read, and what must not matter."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pipeline.model import GPT, GPTConfig
from pipeline.ppo import losses
from pipeline.ppo.logprobs import (
    response_logprobs,
    response_logprobs_and_entropies,
    response_values,
)
from pipeline.ppo.masks import ResponseTokens, response_mask
from pipeline.ppo.rollout import Rollout
from pipeline.reward import RewardModel

SHAPES = [(3, 5), (1, 1), (7, 2), (2, 8), (4, 4)]


def logprobs_of(
    gpt: GPT, rollout: Rollout, temperature: float = 1.0, never: tuple[int, ...] = ()
) -> tuple[Tensor, Tensor]:
    """With entropies, after it was seen that without them the log-probabilities are the same."""
    lengths = (rollout.prompt_lengths, rollout.response_lengths)
    arguments = (gpt, rollout.input_ids, *lengths, temperature, never)
    logprobs, entropies = response_logprobs_and_entropies(*arguments)
    assert torch.equal(response_logprobs(*arguments), logprobs)
    return logprobs, entropies


# --- masks --------------------------------------------------------------------------------------


def test_response_mask_is_true_at_real_tokens() -> None:
    mask = response_mask(torch.tensor([2, 0, 3]), 3)
    assert mask.tolist() == [[True, True, False], [False] * 3, [True] * 3]


def test_response_tokens_are_predicted_one_index_before_they_stand() -> None:
    tokens = ResponseTokens.locate(torch.tensor([4, 1]), torch.tensor([3, 1]))
    assert tokens.rows.tolist() == [0, 0, 0, 1]
    assert tokens.predicting_index.tolist() == [3, 4, 5, 0]
    rows = tokens.to_rows(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert rows.tolist() == [[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]]


# --- values by hand -----------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.3])
def test_logprobs_equal_one_row_at_a_time_with_all_logits(
    make_policy: Callable[..., GPT], make_rollout: Callable[..., Rollout], temperature: float
) -> None:
    gpt, rollout, never = make_policy(), make_rollout(SHAPES), (1, 2)
    logprobs, entropies = logprobs_of(gpt, rollout, temperature, never)
    for row, (Q, L) in enumerate(SHAPES):
        ids = rollout.input_ids[row, : Q + L]
        logits = gpt(ids[None])[0].detach().double() / temperature
        logits[:, list(never)] = -math.inf
        for t in range(L):
            probabilities = logits[Q + t - 1].softmax(-1)
            expected = float(probabilities[ids[Q + t]].log())
            assert float(logprobs[row, t].detach()) == pytest.approx(expected, abs=1e-5)
            likely = probabilities[probabilities > 0]
            entropy = -float((likely * likely.log()).sum())
            assert float(entropies[row, t]) == pytest.approx(entropy, abs=1e-5)
            assert 0 <= entropy <= math.log(gpt.config.vocab_size)
        assert logprobs[row, L:].abs().sum() == 0
        assert entropies[row, L:].abs().sum() == 0


def test_values_are_read_before_each_token(make_rollout: Callable[..., Rollout]) -> None:
    class IndexCritic(RewardModel):
        """Its value at an index is the index."""

        def token_scores(self, input_ids: Tensor) -> Tensor:
            return torch.arange(input_ids.shape[1]).expand(input_ids.shape).float()

    critic = IndexCritic(GPT(GPTConfig(8, 8, 1, 1, 4)))
    rollout = make_rollout(SHAPES)
    values = response_values(
        critic, rollout.input_ids, rollout.prompt_lengths, rollout.response_lengths
    )
    for row, (Q, L) in enumerate(SHAPES):
        assert values[row, :L].tolist() == [Q + t - 1 for t in range(L)]
        assert values[row, L:].abs().sum() == 0


# --- invariances --------------------------------------------------------------------------------


@pytest.mark.parametrize("pad_id", [None, 0, 50])  # the pad, the end token, an ordinary word
@pytest.mark.parametrize("extra_pads", [0, 1, 7])
def test_padding_changes_neither_logprobs_nor_values(
    make_policy: Callable[..., GPT],
    make_reward_model: Callable[..., RewardModel],
    make_rollout: Callable[..., Rollout],
    extra_pads: int,
    pad_id: int | None,
) -> None:
    gpt, critic = make_policy(), make_reward_model()
    plain, padded = make_rollout(SHAPES), make_rollout(SHAPES, extra_pads, pad_id)
    for expected, result in zip(logprobs_of(gpt, plain), logprobs_of(gpt, padded), strict=True):
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)
    arguments = (plain.prompt_lengths, plain.response_lengths)
    torch.testing.assert_close(
        response_values(critic, padded.input_ids, *arguments),
        response_values(critic, plain.input_ids, *arguments),
        atol=1e-5,
        rtol=0,
    )


def test_batch_mates_change_nothing(
    make_policy: Callable[..., GPT], make_rollout: Callable[..., Rollout]
) -> None:
    gpt, rollout = make_policy(), make_rollout(SHAPES)
    together, _ = logprobs_of(gpt, rollout)
    for row, (_, L) in enumerate(SHAPES):
        alone, _ = logprobs_of(gpt, rollout.select(torch.tensor([row])))
        torch.testing.assert_close(alone[0], together[row, :L], atol=1e-5, rtol=0)


def test_there_are_logits_only_where_a_response_token_is_predicted(
    make_policy: Callable[..., GPT],
    make_rollout: Callable[..., Rollout],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpt, shapes = make_policy(), []
    logits = gpt.logits

    def recording(hidden: Tensor) -> Tensor:
        shapes.append(tuple(hidden.shape))
        return logits(hidden)

    monkeypatch.setattr(gpt, "logits", recording)
    logprobs_of(gpt, make_rollout(SHAPES))
    assert shapes == [(sum(L for _, L in SHAPES), gpt.config.width)] * 2


def test_bf16_stays_close_to_fp32_and_keeps_fp32_results(
    make_policy: Callable[..., GPT], make_rollout: Callable[..., Rollout]
) -> None:
    gpt, rollout = make_policy(), make_rollout(SHAPES)
    exact, _ = logprobs_of(gpt, rollout)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, entropies = logprobs_of(gpt, rollout)
    assert rounded.dtype == entropies.dtype == torch.float32
    assert float((rounded - exact).detach().abs().max()) < 0.1


# --- the gradient through the real model --------------------------------------------------------


def test_the_gradient_through_a_real_gpt_is_that_of_the_expected_reward() -> None:
    """All responses of up to 3 of 5 tokens, weighted by probability; rewards without divergence."""
    torch.manual_seed(3)
    gpt = GPT(GPTConfig(vocab_size=6, context_tokens=8, layers=1, heads=1, width=8))
    with torch.no_grad():
        gpt.wte.weight *= 30
    eos, never, prompt = 0, (5,), [2, 4, 1]
    words = range(1, 5)
    responses = [(*p, eos) for n in range(3) for p in itertools.product(words, repeat=n)]
    responses += list(itertools.product(words, repeat=3))
    scores = torch.randn(len(responses))
    T = len(prompt) + 3
    input_ids = torch.tensor([(prompt + list(r) + [5] * 3)[:T] for r in responses])
    prompt_lengths = torch.full((len(responses),), len(prompt))
    lengths = torch.tensor([len(r) for r in responses])

    # By the definition: the probability of each response from all of its logits.
    logits = gpt(input_ids).double() / 0.7
    logits[..., never] = -math.inf
    everything = logits.log_softmax(-1)
    probabilities = torch.stack(
        [
            torch.stack([everything[i, len(prompt) + t - 1, r[t]] for t in range(len(r))]).sum()
            for i, r in enumerate(responses)
        ]
    ).exp()
    assert float(probabilities.sum().detach()) == pytest.approx(1, abs=1e-6)
    parameters = list(gpt.parameters())
    exact = torch.autograd.grad((probabilities * scores).sum(), parameters)

    mask = response_mask(lengths, 3)
    logprobs = response_logprobs(gpt, input_ids, prompt_lengths, lengths, 0.7, never)
    old, zeros = logprobs.detach(), torch.zeros(len(responses), 3)
    rewards = losses.compute_rewards(old, old, scores, mask, kl_coef=0.1)
    advantages, _ = losses.gae(rewards, zeros, mask, 1.0, 1.0)
    weighted = advantages * probabilities.detach().float()[:, None]
    loss = losses.policy_loss(logprobs, old, weighted, mask, 0.2, 1).loss
    ours = torch.autograd.grad(-loss, parameters)

    difference = sum(float((a - b).square().sum()) for a, b in zip(ours, exact, strict=True))
    total = sum(float(b.square().sum()) for b in exact)
    assert math.sqrt(difference / total) < 1e-5
