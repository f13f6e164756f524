"""One script for two PPO trainers: a user of TRL's changes the import and few lines more.

    python examples/ppo_from_trl.py --policy sft --reward reward --prompts prompts.jsonl
    python examples/ppo_from_trl.py --policy sft --reward reward --prompts prompts.jsonl --trl

The folders are those of a run, such as `runs/NAME/sft` and `runs/NAME/reward`; a line of the
prompts is {"prompt": "..."}. `--trl` needs the last TRL with PPO: `make .venv-trl/installed`.
"""

import argparse
import json
import tempfile
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--policy", required=True, help="folder of the fine-tuned model")
parser.add_argument("--reward", required=True, help="folder of the reward model")
parser.add_argument("--prompts", required=True, type=Path)
parser.add_argument("--updates", type=int, default=3)
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--response-length", type=int, default=48)
parser.add_argument("--trl", action="store_true")
options = parser.parse_args()
lines = options.prompts.read_text(encoding="utf-8").splitlines()
prompts = [json.loads(line)["prompt"] for line in lines]
SAME = {
    "total_episodes": options.updates * options.batch_size,
    "num_ppo_epochs": 2,
    "num_mini_batches": 4,
    "response_length": options.response_length,
    "learning_rate": 1e-5,
    "kl_coef": 0.05,
    "missing_eos_penalty": 1.0,
}


def with_ours() -> None:
    from pipeline.hugging_face import load_language_model
    from pipeline.ppo import PPOConfig, PPOTrainer
    from pipeline.reward_files import load_reward_model
    from pipeline.tokenizer import Tokenizer

    args = PPOConfig(**SAME, batch_size=options.batch_size)
    tokenizer = Tokenizer.load(options.policy)
    policy, reward = load_language_model(options.policy), load_reward_model(options.reward)
    # The reference is a copy of the policy, the critic one of the reward model.
    trainer = PPOTrainer(
        args, tokenizer, policy, None, reward, prompts, on_update=lambda _, metrics: print(metrics)
    )
    trainer.train()


def with_trl() -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(options.policy, padding_side="left")
    texts = [f"<|prompt|>{prompt}<|response|>" for prompt in prompts]
    rows = Dataset.from_dict({"input_ids": tokenizer(texts)["input_ids"]})
    with tempfile.TemporaryDirectory() as folder:
        args = PPOConfig(
            folder, **SAME, per_device_train_batch_size=options.batch_size, stop_token="eos",
            gradient_accumulation_steps=1, num_sample_generations=0, report_to="none", bf16=False,
        )  # fmt: skip
        policy, reference = (AutoModelForCausalLM.from_pretrained(options.policy) for _ in range(2))
        reward, critic = (
            AutoModelForSequenceClassification.from_pretrained(options.reward) for _ in range(2)
        )
        trainer = PPOTrainer(
            args, tokenizer, policy, reference, reward, rows, critic, eval_dataset=rows
        )
        trainer.train()


with_trl() if options.trl else with_ours()
