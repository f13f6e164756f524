"""A policy that TRL's last PPO trainer makes, in an environment with TRL 1.12.

    .venv-trl/bin/python -m benchmarks.ppo_trl_policy FOLDER

``FOLDER`` has ``policy/``, ``reward/`` and ``work.json`` as ``benchmarks/ppo_frontier.py`` makes
them; the trained policy is written to ``FOLDER/trained``.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import (  # pyright: ignore[reportMissingImports]
    PPOConfig,
    PPOTrainer,
)

SAME = (
    "num_mini_batches",
    "num_ppo_epochs",
    "total_episodes",
    "response_length",
    "learning_rate",
    "kl_coef",
    "cliprange",
    "cliprange_value",
    "vf_coef",
    "gamma",
    "lam",
    "missing_eos_penalty",
    "temperature",
)


def main() -> None:
    """Trains in fp32 and saves the policy."""
    folder = Path(sys.argv[1])
    work = json.loads((folder / "work.json").read_text(encoding="utf-8"))
    ppo, policy, reward = work["ppo"], folder / "policy", folder / "reward"
    tokenizer = AutoTokenizer.from_pretrained(policy, padding_side="left")
    prompts = Dataset.from_dict({"input_ids": work["prompt_ids"]})
    with tempfile.TemporaryDirectory() as output:
        args = PPOConfig(
            output_dir=output,
            per_device_train_batch_size=ppo["batch_size"],  # that of an update: TRL divides it
            gradient_accumulation_steps=1,
            **{name: ppo[name] for name in SAME},
            stop_token="eos",
            local_rollout_forward_batch_size=ppo["batch_size"],
            num_sample_generations=0,
            seed=work["seed"],
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = PPOTrainer(
            args,
            tokenizer,
            model=AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32),
            ref_model=AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32),
            reward_model=AutoModelForSequenceClassification.from_pretrained(
                reward, dtype=torch.float32
            ),
            train_dataset=prompts,
            value_model=AutoModelForSequenceClassification.from_pretrained(
                reward, dtype=torch.float32
            ),
            eval_dataset=prompts,  # asked for, and never looked at
        )
        trainer.train()
        trained = trainer.accelerator.unwrap_model(trainer.model).policy
    trained.save_pretrained(folder / "trained")
    tokenizer.save_pretrained(folder / "trained")


if __name__ == "__main__":
    main()
