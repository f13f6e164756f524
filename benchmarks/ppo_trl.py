"""TRL's last PPO trainer at the work of ``benchmarks/ppo.py``, in an environment with TRL 1.12.

    .venv-trl/bin/python -m benchmarks.ppo_trl FOLDER

``FOLDER`` is as ``ppo_work.write_work`` makes it. An update is a turn. The first turns try how many
rows TRL should score at once; the fastest is kept.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
import transformers
import trl
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import (  # pyright: ignore[reportMissingImports]
    PPOConfig,
    PPOTrainer,
    ppo_trainer,
)

from benchmarks.turns import Turns

TRIES = 2  # of each number of rows, after a first update that does not count


class Padding:
    """Counts the tokens of the training forwards, which the module's function ``forward`` makes."""

    def __init__(self) -> None:
        self.counts = torch.zeros(3, dtype=torch.long)
        self._forward = ppo_trainer.forward

    def forward(self, model: Any, ids: torch.Tensor, pad_token_id: int) -> Any:
        if torch.is_grad_enabled():
            rows, slots = ids.shape
            self.counts += torch.tensor([rows, rows * slots, int((ids != pad_token_id).sum())])
        return self._forward(model, ids, pad_token_id)

    def take(self) -> dict[str, int]:
        """The counts since the last call."""
        rows, slots, tokens = self.counts.tolist()
        self.counts.zero_()
        return {"rows": rows, "slots": slots, "tokens": tokens}


class UpdatesAsTurns(TrainerCallback):
    """Ends a turn with each update, and begins the next."""

    def __init__(self, turns: Turns, padding: Padding, batch_size: int) -> None:
        self.turns, self.padding = turns, padding
        self.choices = [batch_size, max(1, batch_size // 4)]
        self.tried: list[tuple[float, int]] = []
        self.done = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.turns.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        gpu = torch.cuda.is_available()
        if gpu:
            torch.cuda.synchronize()
        rows = args.local_rollout_forward_batch_size
        seconds = self.turns.end(
            **self.padding.take(),
            rows_at_once=rows,
            torch=torch.__version__,
            transformers=transformers.__version__,
            trl=trl.__version__,
            threads=torch.get_num_threads(),
            **({"peak_bytes": torch.cuda.max_memory_allocated()} if gpu else {}),
        )
        if self.done:
            self.tried.append((seconds, rows))
        self.done += 1
        if self.done <= TRIES * len(self.choices):
            args.local_rollout_forward_batch_size = self.choices[(self.done - 1) % 2]
        elif self.done == TRIES * len(self.choices) + 1:
            args.local_rollout_forward_batch_size = min(self.tried)[1]
        self.turns.begin()


def trainer_of(folder: Path, output: str, turns: Turns) -> PPOTrainer:
    """The trainer on the folder's models and prompts; four networks."""
    work = json.loads((folder / "work.json").read_text(encoding="utf-8"))
    ppo = work["ppo"]
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")
    prompts = Dataset.from_dict({"input_ids": work["prompt_ids"]})
    padding = Padding()
    ppo_trainer.forward = padding.forward
    args = PPOConfig(
        output_dir=output,
        per_device_train_batch_size=ppo["batch_size"],  # that of an update: TRL divides it
        gradient_accumulation_steps=1,
        **{name: ppo[name] for name in ("num_mini_batches", "num_ppo_epochs", "total_episodes",
           "response_length", "learning_rate", "kl_coef", "missing_eos_penalty", "temperature")},
        stop_token="eos",
        local_rollout_forward_batch_size=ppo["batch_size"],
        num_sample_generations=0,
        bf16=work["precision"] == "bf16",
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip

    if work["precision"] == "bf16":  # with this transformers, bf16=True alone changes nothing
        os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"

    def policy() -> Any:
        return AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32)

    def scorer() -> Any:
        name = folder / "reward"
        return AutoModelForSequenceClassification.from_pretrained(name, dtype=torch.float32)

    trainer = PPOTrainer(
        args,
        tokenizer,
        model=policy(),
        ref_model=policy(),
        reward_model=scorer(),
        train_dataset=prompts,
        value_model=scorer(),
        eval_dataset=prompts,  # asked for, and never looked at
        callbacks=[UpdatesAsTurns(turns, padding, ppo["batch_size"])],
    )
    assert (trainer.accelerator.mixed_precision == "bf16") == (work["precision"] == "bf16")
    return trainer


def main() -> None:
    """Trains until nobody asks any more."""
    turns = Turns()
    with tempfile.TemporaryDirectory() as output:
        trainer_of(Path(sys.argv[1]), output, turns).train()


if __name__ == "__main__":
    main()
