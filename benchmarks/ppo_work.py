"""The work that ``benchmarks/ppo.py`` compares PPO trainers on, and the least time for it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.decode import read_speed
from pipeline.config_file import load_config
from pipeline.flops import parameter_count, peak_flops
from pipeline.gpt2_format import save_gpt
from pipeline.model import GPT, GPTConfig
from pipeline.ppo import PPOConfig
from pipeline.ppo.shared_trunk import Adapters
from pipeline.reward import RewardModel
from pipeline.reward_config import LoraSection
from pipeline.reward_files import save_reward_model
from pipeline.reward_lora import write_adapter
from pipeline.tinyworld import build_world, make_corpus, make_prompts
from pipeline.tokenizer import Tokenizer, train_tokenizer

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
UPDATES = 1000  # more than are asked for
LEARNING_RATE = 1e-7  # lengths and divergence stay as they are
NEVER = 50.0  # below all others, in nats: exp(-50) is never drawn
HAZARD = 0.04  # of the natural end at each token: 22 of 56 tokens in the mean
SIZES = {
    "tiny": GPTConfig(300, 96, 1, 2, 32),
    "quickstart": GPTConfig(1024, 128, 4, 4, 192),
    "gpt2": GPTConfig(50257, 1024, 12, 12, 768),
}


@dataclass(frozen=True)
class Work:
    """One comparison: a model's size, whether responses end by themselves, and a precision."""

    size: str
    natural: bool
    precision: str  # of training and scoring forwards; sampling and the reward model are fp32

    @property
    def model(self) -> GPTConfig:
        """The size of all four networks."""
        return SIZES[self.size]

    @property
    def ppo(self) -> PPOConfig:
        """The quickstart's section ``ppo`` without evaluations, pretraining text and learning."""
        section = load_config(CONFIG).ppo
        if self.size == "tiny":
            few = {"batch_size": 8, "num_mini_batches": 2, "response_length": 12}
            section = section.model_copy(update=few)
        changes = {
            "total_episodes": UPDATES * section.batch_size,
            "learning_rate": LEARNING_RATE,
            "critic_learning_rate": LEARNING_RATE,
            "eval_prompts": 0,
            "ptx_coef": 0.0,
        }
        if torch.cuda.is_available():  # small parts are for a CPU's caches
            changes |= {"per_device_train_batch_size": None}
            changes |= {"local_rollout_forward_batch_size": section.batch_size}
        return section.model_copy(update=changes)


def write_work(work: Work, folder: Path) -> float:
    """Writes ``policy/``, ``reward/``, ``reward/adapter/`` and ``work.json``: the mean prompt's
    tokens. A batch of the world's prompts comes again in each update."""
    world, ppo = build_world(0), work.ppo
    texts = [row.text for rows in make_corpus(world, 600, 0).values() for row in rows]
    tokenizer = train_tokenizer(texts, min(work.model.vocab_size, 1024))
    prompts = [row.prompt for row in make_prompts(world, 0, ppo.batch_size, 0, 0)]
    ids = [tokenizer.encode_prompt(prompt) for prompt in prompts]
    torch.manual_seed(0)
    policy, scorer = GPT(work.model), RewardModel(GPT(work.model))
    set_end_probability(policy, tokenizer, HAZARD if work.natural else None)
    save_gpt(policy, folder / "policy", tokenizer)
    save_reward_model(scorer, folder / "reward", tokenizer)
    adapters = Adapters(policy)
    adapters.add("reward", LoraSection(), seed=0)
    write_adapter(adapters.values("reward"), LoraSection(), folder / "reward" / "adapter")
    content = {"precision": work.precision, "ppo": ppo.model_dump(mode="json")}
    content |= {"prompts": prompts, "prompt_ids": ids}
    (folder / "work.json").write_text(json.dumps(content), encoding="utf-8")
    return sum(map(len, ids)) / len(ids)


@torch.no_grad()
def set_end_probability(model: GPT, tokenizer: Tokenizer, probability: float | None) -> None:
    """Gives the end token this probability after any text, or None; pad and marks have none.

    The logits of a GPT of random weights are near each other. The final norm's bias points along a
    direction in which all tokens' embeddings have no part but these tokens', which thereby get a
    logit of their own whatever the text is.
    """
    direction = torch.randn(model.width)
    direction /= direction.norm()
    embedding, never = model.wte.weight, list(tokenizer.never_sampled_ids)
    embedding -= torch.outer(embedding @ direction, direction)
    logit = -NEVER
    if probability is not None:
        others = model.vocab_size - len(never) - 1
        logit = math.log(others * probability / (1 - probability))
    embedding[never] -= direction
    embedding[tokenizer.eos_id] = logit / NEVER * direction
    model.ln_f.bias.copy_(NEVER * direction)


def forward_flops(model: GPTConfig, prompt_tokens: float, response_tokens: float) -> float:
    """Floating-point operations of one forward over an episode, the output head left out.

    2 for each weight of the blocks' matrices and token, and 4 · layers · width for each token and
    token before it: half of the pairs.
    """
    tokens = prompt_tokens + response_tokens
    matrices = 12 * model.layers * model.width**2
    return 2 * matrices * tokens + 4 * model.layers * model.width * tokens * (tokens + 1) / 2


def least_seconds(
    work: Work, prompt_tokens: float, response_tokens: float, limits: dict[str, float]
) -> float:
    """The time of an update if nothing were computed twice or for padding, at the device's peak.

    Sampling, whose log-probabilities are the old ones: arithmetic, or reading the weights once a
    step and each episode's keys and values. Then a forward each of reference, reward model and
    critic, and for each epoch a forward and a backward (twice a forward) of policy and critic. Only
    responses meet the output head.
    """
    model, ppo = work.model, work.ppo
    trunk = forward_flops(model, prompt_tokens, response_tokens)
    head = 2 * model.vocab_size * model.width * response_tokens
    own, fp32 = limits[work.precision], limits["fp32"]
    kept = 4 * 2 * model.layers * model.width * (prompt_tokens + response_tokens / 2)  # bytes
    read = response_tokens * (ppo.batch_size * kept + 4 * parameter_count(model))
    sampling = max(ppo.batch_size * (trunk + head) / fp32, read / limits["bytes"])
    scoring = trunk / fp32 + (2 * trunk + head) / own
    updates = ppo.num_ppo_epochs * 3 * (2 * trunk + head) / own
    return sampling + ppo.batch_size * (scoring + updates)


def limits_of(device: torch.device, precisions: list[str]) -> dict[str, float]:
    """FLOP/s by precision, and ``bytes`` per second that are read, measured now."""
    limits = {name: peak_flops(device, name)[0] for name in {*precisions, "fp32"}}
    return limits | {"bytes": read_speed(device)}
