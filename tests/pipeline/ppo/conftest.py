"""A tiny policy, reward model and trainer that PPO's tests share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers

from pipeline.hugging_face import HuggingFaceLM
from pipeline.language_model import LanguageModel
from pipeline.model import GPT, GPTConfig
from pipeline.ppo import PPOConfig, PPOTrainer
from pipeline.ppo.rollout import Rollout
from pipeline.ppo.shared_trunk import share_trunks
from pipeline.reward import RewardModel
from pipeline.reward_config import LoraSection
from pipeline.tokenizer import Tokenizer

PROMPTS = ["a fox", "two red hares", "o", "the river at night"]


@pytest.fixture
def tokenizer(tiny_tokenizer: Tokenizer) -> Tokenizer:
    return tiny_tokenizer


@pytest.fixture
def make_policy(tokenizer: Tokenizer) -> Callable[..., GPT]:
    def make(eos_logit: float = 3.0, seed: int = 0) -> GPT:
        """Random weights with the end token's logit raised, so that lengths are ragged."""
        torch.manual_seed(seed)
        gpt = GPT(GPTConfig(tokenizer.vocab_size, context_tokens=48, layers=2, heads=2, width=16))
        with torch.no_grad():
            gpt.wte.weight *= 10
            direction = gpt.wte.weight[tokenizer.eos_id]
            gpt.ln_f.bias.add_(eos_logit * direction / direction.square().sum())
        return gpt

    return make


@pytest.fixture
def make_reward_model(make_policy: Callable[..., GPT]) -> Callable[..., RewardModel]:
    def make(seed: int = 1) -> RewardModel:
        return RewardModel(make_policy(seed=seed), torch.Generator().manual_seed(seed))

    return make


@pytest.fixture
def config() -> PPOConfig:
    return PPOConfig(
        learning_rate=1e-3,
        critic_learning_rate=2e-3,
        total_episodes=24,
        batch_size=8,
        num_ppo_epochs=2,
        num_mini_batches=2,
        response_length=10,
    )


@pytest.fixture
def make_trainer(
    config: PPOConfig,
    tokenizer: Tokenizer,
    make_policy: Callable[..., GPT],
    make_reward_model: Callable[..., RewardModel],
) -> Callable[..., PPOTrainer]:
    def make(args: PPOConfig = config, **overrides: object) -> PPOTrainer:
        defaults: dict[str, object] = {
            "model": make_policy(),
            "ref_model": make_policy(),
            "reward_model": make_reward_model(),
            "train_dataset": PROMPTS,
        }
        return PPOTrainer(args, tokenizer, **(defaults | overrides))  # pyright: ignore

    return make


@pytest.fixture
def make_rollout(tokenizer: Tokenizer) -> Callable[..., Rollout]:
    def make(
        shapes: list[tuple[int, int]], extra_pads: int = 0, pad_id: int | None = None, seed: int = 0
    ) -> Rollout:
        """Random rows of (prompt length, response length); row i is a function of its shape."""
        rows: list[list[int]] = []
        for Q, L in shapes:
            generator = torch.Generator().manual_seed(seed + 100 * Q + L)
            rows.append(torch.randint(4, 200, (Q + L,), generator=generator).tolist())
        T = max(map(len, rows)) + extra_pads
        R = max(L for _, L in shapes)
        pad = tokenizer.pad_id if pad_id is None else pad_id
        return Rollout(
            input_ids=torch.tensor([row + [pad] * (T - len(row)) for row in rows]),
            prompt_lengths=torch.tensor([Q for Q, _ in shapes]),
            response_lengths=torch.tensor([L for _, L in shapes]),
            finished=torch.zeros(len(rows), dtype=torch.bool),
            sampler_logprobs=torch.zeros(len(rows), R),
        )

    return make


@pytest.fixture
def make_adapted(
    make_policy: Callable[..., GPT], make_reward_model: Callable[..., RewardModel]
) -> Callable[..., LanguageModel]:
    def make() -> LanguageModel:
        """A policy of adapters that have learned something."""
        models, lora = (make_policy(), make_reward_model()), LoraSection(rank=4, alpha=8.0)
        roles = share_trunks(*models, None, lora, 9, torch.device("cpu"), with_critic=False)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for weight in roles.policy.parameters():
                weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
        return roles.policy

    return make


@pytest.fixture
def make_llama(tokenizer: Tokenizer) -> Callable[[], LanguageModel]:
    def make() -> LanguageModel:
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            pad_token_id=tokenizer.pad_id,
            eos_token_id=tokenizer.eos_id,
        )
        return HuggingFaceLM(transformers.AutoModelForCausalLM.from_config(config)).eval()

    return make
