"""PPO on a language small enough to enumerate, where optimum and gradient are known exactly.

Four tokens (0 ends a response), at most four of them: 121 responses, those that were cut off among
them. Policy and critic are tables over the 40 states, so nothing is approximate.

The optimum of E[r] - beta KL(pi || ref) is pi*(y) ~ ref(y) exp(r(y) / beta), and its value is
beta log sum_y ref(y) exp(r(y) / beta).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from pipeline.ppo import losses

TOKENS, MAX_LENGTH, BETA = 4, 4, 0.25
NAN = float("nan")


@dataclass(frozen=True)
class Language:
    """All N responses: ids and states (N, R), mask (N, R), a reward each, a reference policy."""

    ids: Tensor
    states: Tensor
    mask: Tensor
    prefixes: list[tuple[int, ...]]
    scores: Tensor
    ref_logits: Tensor  # (S, V)

    def logprobs(self, logits: Tensor) -> Tensor:
        """(N, R) with NaN in the padding."""
        return logits.log_softmax(-1)[self.states, self.ids].masked_fill(~self.mask, NAN)

    def sequence_logprobs(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(-1)[self.states, self.ids].masked_fill(~self.mask, 0).sum(1)

    def objective(self, logits: Tensor) -> Tensor:
        """E[r] - beta KL, by enumeration."""
        logprobs = self.sequence_logprobs(logits)
        kl = logprobs - self.sequence_logprobs(self.ref_logits)
        return (logprobs.exp() * (self.scores - BETA * kl)).sum()

    def values(self, logits: Tensor) -> Tensor:
        """(S,) exact values of the states, by recursion over what can follow."""
        logprobs, ref = logits.log_softmax(-1), self.ref_logits.log_softmax(-1)
        rows = {
            tuple(row[:length]): float(score)
            for row, length, score in zip(
                self.ids.tolist(), self.mask.sum(1).tolist(), self.scores, strict=True
            )
        }
        index = {prefix: state for state, prefix in enumerate(self.prefixes)}

        def value(prefix: tuple[int, ...]) -> float:
            state, total = index[prefix], 0.0
            for token in range(TOKENS):
                after = (*prefix, token)
                what_follows = rows[after] if after in rows else value(after)
                price = BETA * float(logprobs[state, token] - ref[state, token])
                total += float(logprobs[state, token].exp()) * (what_follows - price)
            return total

        return torch.tensor([value(prefix) for prefix in self.prefixes], dtype=torch.float64)


def make_language() -> Language:
    words = range(1, TOKENS)
    prefixes = [p for n in range(MAX_LENGTH) for p in itertools.product(words, repeat=n)]
    responses = [(*prefix, 0) for prefix in prefixes]
    responses += list(itertools.product(words, repeat=MAX_LENGTH))
    index = {prefix: state for state, prefix in enumerate(prefixes)}
    padding = [0] * MAX_LENGTH
    lengths = torch.tensor([len(response) for response in responses])
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(len(responses), generator=generator, dtype=torch.float64)
    logits = torch.randn(len(prefixes), TOKENS, generator=generator, dtype=torch.float64)
    return Language(
        ids=torch.tensor([(list(r) + padding)[:MAX_LENGTH] for r in responses]),
        states=torch.tensor(
            [([index[r[:t]] for t in range(len(r))] + padding)[:MAX_LENGTH] for r in responses]
        ),
        mask=torch.arange(MAX_LENGTH) < lengths[:, None],
        prefixes=prefixes,
        scores=0.5 * noise,
        ref_logits=logits,
    )


@pytest.fixture(scope="module")
def language() -> Language:
    return make_language()


def test_the_language_has_121_responses_of_total_probability_one(language: Language) -> None:
    assert len(language.ids) == 121
    assert len(language.prefixes) == 40
    assert float(language.sequence_logprobs(language.ref_logits).exp().sum()) == pytest.approx(1)


# --- the gradient -------------------------------------------------------------------------------


def ppo_gradient(language: Language, logits: Tensor, values: Tensor, lam: float) -> Tensor:
    """The ascent direction of our losses over all responses, each weighted by its probability."""
    logits = logits.clone().requires_grad_()
    logprobs = language.logprobs(logits)
    old_logprobs = logprobs.detach()
    rewards = losses.compute_rewards(
        old_logprobs,
        language.logprobs(language.ref_logits),
        language.scores,
        language.mask,
        BETA,
    )
    state_values = values[language.states].masked_fill(~language.mask, NAN)
    advantages, _ = losses.gae(rewards, state_values, language.mask, 1.0, lam)
    # The loss is linear in the advantages, so a response's weight may be put there.
    weights = language.sequence_logprobs(logits.detach()).exp()
    loss = losses.policy_loss(
        logprobs, old_logprobs, advantages * weights[:, None], language.mask, 0.2, 1
    ).loss
    return -torch.autograd.grad(loss, logits)[0]


def relative_error(language: Language, logits: Tensor, gradient: Tensor) -> float:
    variable = logits.clone().requires_grad_()
    exact = torch.autograd.grad(language.objective(variable), variable)[0]
    return float((gradient - exact).norm() / exact.norm())


def another_policy(language: Language) -> Tensor:
    generator = torch.Generator().manual_seed(8)
    noise = torch.randn(language.ref_logits.shape, generator=generator, dtype=torch.float64)
    return language.ref_logits + noise


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_the_gradient_is_exact_when_the_values_are(language: Language, lam: float) -> None:
    logits = another_policy(language)
    gradient = ppo_gradient(language, logits, language.values(logits), lam)
    assert relative_error(language, logits, gradient) < 1e-10


def test_with_lam_1_the_gradient_is_exact_whatever_the_values(language: Language) -> None:
    logits = another_policy(language)
    values = torch.randn(40, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    gradient = ppo_gradient(language, logits, values, lam=1.0)
    assert relative_error(language, logits, gradient) < 1e-10


# --- the outcome --------------------------------------------------------------------------------


def train(language: Language, updates: int, episodes: int) -> Tensor:
    """The policy's logits after PPO on sampled responses, with a critic learned along."""
    generator = torch.Generator().manual_seed(0)
    logits = language.ref_logits.clone().requires_grad_()
    values = torch.zeros(40, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits, values], lr=0.08)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: (1 - update / updates) ** 2)
    for _ in range(updates):
        with torch.no_grad():
            probabilities = language.sequence_logprobs(logits).exp()
            rows = probabilities.multinomial(episodes, replacement=True, generator=generator)
            mask, states = language.mask[rows], language.states[rows]
            old_logprobs = language.logprobs(logits)[rows]
            ref_logprobs = language.logprobs(language.ref_logits)[rows]
            old_values = values[states].masked_fill(~mask, NAN)
            rewards = losses.compute_rewards(
                old_logprobs, ref_logprobs, language.scores[rows], mask, BETA
            )
            advantages, returns = losses.gae(rewards, old_values, mask, 1.0, 0.95)
            advantages = losses.masked_whiten(advantages, mask)
        for _ in range(2):
            count = mask.sum()
            policy = losses.policy_loss(
                language.logprobs(logits)[rows], old_logprobs, advantages, mask, 0.2, count
            )
            value = losses.value_loss(values[states], old_values, returns, mask, 0.2, count)
            optimizer.zero_grad()
            (policy.loss + value.loss).backward()
            optimizer.step()
        decay.step()
    return logits.detach()


def test_ppo_reaches_the_known_optimum(language: Language) -> None:
    ref_logprobs = language.sequence_logprobs(language.ref_logits)
    tilted = ref_logprobs + language.scores / BETA
    optimum = tilted.softmax(0)
    best = float(BETA * tilted.logsumexp(0))

    def total_variation(logits: Tensor) -> float:
        return float((language.sequence_logprobs(logits).exp() - optimum).abs().sum() / 2)

    assert total_variation(language.ref_logits) > 0.4  # far from it at first
    logits = train(language, updates=400, episodes=512)
    assert total_variation(logits) < 0.003
    assert best - float(language.objective(logits)) < 2e-4
