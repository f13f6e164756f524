"""PPO-ptx: its gradient is the language model's, added to PPO's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from pipeline.errors import UserError
from pipeline.model import GPT
from pipeline.ppo import PPOConfig, PPOTrainer
from pipeline.ppo import logprobs as logprobs_module
from pipeline.ppo.pretraining import add_pretraining_gradient
from pipeline.ppo.processes import Processes

MakeTrainer = Callable[..., PPOTrainer]


def rows_of_step(step: int, rows: int) -> torch.Tensor:
    return torch.randint(4, 200, (rows, 9), generator=torch.Generator().manual_seed(step))


@pytest.mark.parametrize("tokens", [10_000, 20, 1])
def test_the_gradient_is_added_and_weighed(
    make_policy: Callable[..., GPT], config: PPOConfig, tokens: int
) -> None:
    policy, rows = make_policy(), rows_of_step(0, 5)
    other = torch.randn(
        policy.ln_f.weight.shape, generator=torch.Generator().manual_seed(3)
    )  # what PPO's loss left there
    policy.ln_f.weight.grad = other.clone()
    args = config.model_copy(update={"ptx_coef": 2.5, "max_tokens_per_microbatch": tokens})
    loss = add_pretraining_gradient(policy, rows, args, Processes(), nullcontext)
    plain = make_policy()
    expected = F.cross_entropy(plain(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
    assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
    (2.5 * expected).backward()
    for (name, mine), theirs in zip(policy.named_parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        wanted = theirs.grad + other if name == "ln_f.weight" else theirs.grad
        torch.testing.assert_close(mine.grad, wanted, atol=1e-5, rtol=1e-4)


def test_the_shares_of_processes_add_up(make_policy: Callable[..., GPT], config: PPOConfig) -> None:
    rows, args = rows_of_step(0, 5), config.model_copy(update={"ptx_coef": 1.0})
    whole, parts = make_policy(), make_policy()
    expected = add_pretraining_gradient(whole, rows, args, Processes(), nullcontext)
    shares = [
        add_pretraining_gradient(parts, rows, args, Processes(index, 2), nullcontext)
        for index in range(2)
    ]
    assert float(sum(shares)) == pytest.approx(expected.item(), rel=1e-5)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)


def test_with_a_coefficient_of_zero_nothing_is_read(
    make_trainer: MakeTrainer, config: PPOConfig
) -> None:
    def never(step: int, rows: int) -> torch.Tensor:
        raise AssertionError("was read")

    plain, without = make_trainer(), make_trainer(pretraining_rows=never)
    plain.train()
    without.train()
    for one, other in zip(plain.policy.parameters(), without.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_training_reads_other_rows_each_step_and_reports_their_loss(
    make_trainer: MakeTrainer, config: PPOConfig
) -> None:
    asked: list[tuple[int, int]] = []

    def read(step: int, rows: int) -> torch.Tensor:
        asked.append((step, rows))
        return rows_of_step(step, rows)

    metrics: list[dict[str, float]] = []
    args = config.model_copy(update={"ptx_coef": 1.0, "ptx_ratio": 0.5})
    trainer = make_trainer(
        args, pretraining_rows=read, on_update=lambda update, row: metrics.append(row)
    )
    trainer.train()
    assert asked == [(step, 2) for step in range(12)]  # half of a minibatch of four
    assert all(row["loss/ptx"] > 0 for row in metrics)
    with pytest.raises(UserError, match="ptx_coef"):
        make_trainer(args)


@pytest.mark.parametrize(
    "function",
    [
        logprobs_module.token_logprobs_and_entropies,
        lambda *arguments: (logprobs_module.token_logprobs(*arguments),),
    ],
)
def test_logits_in_pieces_change_neither_values_nor_gradients(
    make_policy: Callable[..., GPT],
    monkeypatch: pytest.MonkeyPatch,
    function: Callable[..., tuple[torch.Tensor, ...]],
) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 200, (11,), generator=generator)
    results: list[tuple[torch.Tensor, ...]] = []
    for at_once in (2**26, 3 * make_policy().vocab_size, 1):
        monkeypatch.setattr(logprobs_module, "LOGITS_AT_ONCE", at_once)
        policy = make_policy()
        hidden = torch.randn(11, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
        drawn, *entropies = function(policy, hidden, ids, 0.7, (1, 2))
        (drawn * torch.arange(11.0)).sum().backward()
        assert hidden.grad is not None
        assert policy.wte.weight.grad is not None
        results.append((drawn.detach(), *entropies, hidden.grad, policy.wte.weight.grad))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            torch.testing.assert_close(two, one, atol=1e-5, rtol=1e-5)
