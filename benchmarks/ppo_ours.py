"""This project's PPO trainer at the work of ``benchmarks/ppo.py``, in a process like a stage's.

    python -m benchmarks.ppo_ours FOLDER four_networks
    python -m benchmarks.ppo_ours FOLDER shared_trunk

``FOLDER`` is as ``ppo_work.write_work`` makes it. An update is a turn. With a shared trunk policy
and reward model are adapters on one model, and policy and value head share one forward.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.turns import Turns
from pipeline.environment import keep_freed_memory
from pipeline.flops import synchronize
from pipeline.hugging_face import load_language_model
from pipeline.ppo import PPOConfig, PPOTrainer
from pipeline.ppo.experience import Experience
from pipeline.ppo.roles import Roles
from pipeline.ppo.shared_trunk import MergedEngine, share_trunks
from pipeline.ppo.trainer import StepMetrics
from pipeline.precision import autocast_of
from pipeline.reward_config import LoraSection
from pipeline.reward_files import load_reward_model
from pipeline.tokenizer import Tokenizer


class CountingTrainer(PPOTrainer):
    """Counts the tokens of its training forwards."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.counts = torch.zeros(3, dtype=torch.long)

    def backward(self, part: Experience, token_count: Tensor) -> StepMetrics:
        rows, slots = part.input_ids.shape
        self.counts += torch.tensor([rows, rows * slots, int(part.lengths.sum())])
        return super().backward(part, token_count)

    def take(self) -> dict[str, int]:
        """The counts since the last call."""
        rows, slots, tokens = self.counts.tolist()
        self.counts.zero_()
        return {"rows": rows, "slots": slots, "tokens": tokens}


def trainer_of(folder: Path, shared: bool, turns: Turns) -> CountingTrainer:
    """The trainer on the folder's models and prompts."""
    work = json.loads((folder / "work.json").read_text(encoding="utf-8"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lora = LoraSection() if shared else None
    args = PPOConfig(**work["ppo"] | {"lora": lora, "critic_trunk": "policy" if shared else "own"})
    tokenizer = Tokenizer.load(folder / "policy")
    policy, reward = load_language_model(folder / "policy"), load_reward_model(folder / "reward")
    roles, engine = Roles(policy, None, reward, None), None
    if lora is not None:
        adapter = folder / "reward" / "adapter"
        roles = share_trunks(policy, reward, adapter, lora, 0, device, with_critic=False)
        engine = MergedEngine(roles.policy, tokenizer)

    def on_update(update: int, metrics: dict[str, float]) -> None:
        synchronize(device)
        gpu = device.type == "cuda"
        turns.end(
            **trainer.take(),
            phases={name: metrics[f"time/{name}"] for name in ("rollout", "score", "update")},
            torch=torch.__version__,
            threads=torch.get_num_threads(),
            **({"peak_bytes": torch.cuda.max_memory_allocated()} if gpu else {}),
        )
        turns.begin()

    trainer = CountingTrainer(
        args,
        tokenizer,
        roles.policy,
        roles.reference,
        roles.reward_model,
        work["prompts"],
        roles.critic,
        rollout_engine=engine,
        device=device,
        autocast=autocast_of(device, work["precision"]),
        on_update=on_update,
    )
    return trainer


def main() -> None:
    """Trains until nobody asks any more."""
    turns = Turns()
    keep_freed_memory()
    trainer = trainer_of(Path(sys.argv[1]), sys.argv[2] == "shared_trunk", turns)
    turns.begin()
    trainer.train()


if __name__ == "__main__":
    main()
