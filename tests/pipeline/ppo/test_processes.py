"""Several processes train as one, and none is left waiting."""

from __future__ import annotations

import copy
import multiprocessing
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed as dist

from pipeline.errors import UserError
from pipeline.model import GPT
from pipeline.ppo import PPOConfig, PPOTrainer
from pipeline.ppo.processes import Processes, concatenate
from pipeline.ppo.rollout import Rollout
from pipeline.reward import RewardModel
from pipeline.tokenizer import Tokenizer

PROMPTS = ["a fox", "two red hares", "o", "the river at night", "who sings"]
SECONDS = 120


def rows_of_step(step: int, rows: int) -> torch.Tensor:
    return torch.randint(4, 200, (rows, 9), generator=torch.Generator().manual_seed(step))


def broken(prompts: Sequence[str], **_: object) -> list[float]:
    return [float("nan") if prompt == "o" else 0.0 for prompt in prompts]


def run(
    args: PPOConfig, tokenizer: Tokenizer, policy: GPT, reward_model: RewardModel, **more: Any
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]], str | None]:
    """Weights of policy and critic, the metrics of each update, and why the run ended."""
    rows: list[dict[str, float]] = []
    trainer = PPOTrainer(
        args,
        tokenizer,
        policy,
        None,
        reward_model,
        PROMPTS[:4],
        eval_dataset=PROMPTS[2:],
        pretraining_rows=rows_of_step,
        on_update=lambda update, metrics: rows.append(metrics),
        **more,
    )
    trainer.train()
    models = {"policy": trainer.policy, "critic": trainer.critic}
    weights = {f"{k}.{n}": w.clone() for k, m in models.items() for n, w in m.state_dict().items()}
    return weights, rows, trainer.stopped


def work(rank: int, count: int, folder: Path, arguments: tuple[Any, ...]) -> None:
    """What each of ``count`` processes does."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=count)
    # Copies: torch hands tensors over in memory that all processes share.
    weights, rows, stopped = run(*copy.deepcopy(arguments))
    safetensors.torch.save_file(weights, folder / f"weights-{rank}.safetensors")
    torch.save({"rows": rows, "stopped": stopped}, folder / f"rows-{rank}.pt")
    dist.barrier()
    os._exit(0)  # without taking connections down, which the other may still be doing


def start(count: int, folder: Path, arguments: tuple[Any, ...]) -> list[Any]:
    """Runs ``work`` in real processes; their exit codes."""
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=work, args=(rank, count, folder, arguments)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


@pytest.fixture
def args(config: PPOConfig) -> PPOConfig:
    changes: dict[str, Any] = {"learning_rate": 1e-4, "critic_learning_rate": 1e-4}
    changes |= {"ptx_coef": 0.5, "ptx_ratio": 0.75, "kl_target": 1.0, "kl_horizon": 20}
    changes |= {"eval_every_updates": 2, "max_tokens_per_microbatch": 40}
    return config.model_copy(update=changes)


@pytest.mark.slow
@pytest.mark.parametrize("critic_trunk", ["own", "policy"])
def test_two_processes_train_as_one(
    critic_trunk: str,
    args: PPOConfig,
    tokenizer: Tokenizer,
    make_policy: Callable[..., GPT],
    make_reward_model: Callable[..., RewardModel],
    tmp_path: Path,
) -> None:
    args = args.model_copy(update={"critic_trunk": critic_trunk})
    codes = start(2, tmp_path, (args, tokenizer, make_policy(), make_reward_model()))
    assert codes == [0, 0]
    expected, one, _ = run(args, tokenizer, make_policy(), make_reward_model())
    weights = [safetensors.torch.load_file(tmp_path / f"weights-{n}.safetensors") for n in (0, 1)]
    for name, weight in expected.items():
        assert torch.equal(weights[0][name], weights[1][name]), name
        torch.testing.assert_close(weights[0][name], weight, atol=2e-5, rtol=0)
    rows = [torch.load(tmp_path / f"rows-{n}.pt")["rows"] for n in (0, 1)]
    assert len(one) == len(rows[0]) == 3
    assert "eval/scores" in one[0]
    for update, metrics in enumerate(one):
        for name, value in metrics.items():
            if name.startswith(("objective", "loss", "policy", "val", "eval", "rewards")):
                assert rows[0][update][name] == rows[1][update][name], name
                assert rows[0][update][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


@pytest.mark.slow
def test_all_processes_stop_together(
    args: PPOConfig,
    tokenizer: Tokenizer,
    make_policy: Callable[..., GPT],
    make_reward_model: Callable[..., RewardModel],
    tmp_path: Path,
) -> None:
    changes = {"learning_rate": 1e-2, "stop_kl": 1e-9, "kl_target": None, "total_episodes": 64}
    stopping = args.model_copy(update=changes)
    assert start(2, tmp_path, (stopping, tokenizer, make_policy(), make_reward_model())) == [0, 0]
    ends = [torch.load(tmp_path / f"rows-{n}.pt") for n in (0, 1)]
    assert ends[0]["stopped"] == ends[1]["stopped"] is not None
    assert len(ends[0]["rows"]) == len(ends[1]["rows"]) < 8


@pytest.mark.slow
def test_all_processes_end_an_update_after_the_same_step(
    args: PPOConfig,
    tokenizer: Tokenizer,
    make_policy: Callable[..., GPT],
    make_reward_model: Callable[..., RewardModel],
    tmp_path: Path,
) -> None:
    changes = {"learning_rate": 1e-2, "max_approx_kl": 1e-9, "num_ppo_epochs": 3}
    short = args.model_copy(update=changes)
    assert start(2, tmp_path, (short, tokenizer, make_policy(), make_reward_model())) == [0, 0]
    rows = [torch.load(tmp_path / f"rows-{n}.pt")["rows"] for n in (0, 1)]
    steps = [[row["policy/steps"] for row in own] for own in rows]
    assert steps[0] == steps[1] == [2.0] * 3  # the first step begins at the policy that acted


def test_a_minibatch_smaller_than_the_processes_is_refused(args: PPOConfig) -> None:
    from pipeline.ppo.check import check_shares

    check_shares(args, 4, 0, has_pretraining_rows=True)  # 8 episodes in 2 minibatches
    with pytest.raises(UserError, match="num_mini_batches"):
        check_shares(args, 5, 0, has_pretraining_rows=True)
    with pytest.raises(UserError, match="eval_prompts"):
        check_shares(args, 4, 3, has_pretraining_rows=True)
    with pytest.raises(UserError, match="ptx_coef"):
        check_shares(args, 4, 0, has_pretraining_rows=False)


def test_shares_cover_all_rows_once() -> None:
    for size, count in ((8, 3), (4, 4), (5, 1)):
        shares = [Processes(index, count).share(size) for index in range(count)]
        assert sorted(place for share in shares for place in share) == list(range(size))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_rows_of_several_parts_are_padded_to_the_longest(
    make_rollout: Callable[..., Rollout],
) -> None:
    one, other = make_rollout([(3, 5)]), make_rollout([(1, 2), (6, 1)])
    whole = make_rollout([(3, 5), (1, 2), (6, 1)])
    together = concatenate([one, other], int(whole.input_ids[1, -1]))
    for name, tensor in vars(whole).items():
        assert torch.equal(getattr(together, name), tensor), name
