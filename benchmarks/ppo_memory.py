"""How much memory PPO takes with all four roles as adapters on one model.

    python -m benchmarks.ppo_memory --preset gpt2-xl
    python -m benchmarks.ppo_memory --preset gpt2-xl --critic-trunk policy
    python -m benchmarks.ppo_memory --quick

On a GPU an update is made and its peak is measured. Without one the peak is computed from tensors:
weights, adapters, gradients and the optimizers' memory by their sizes; what a training forward
keeps for its backward by real forwards under autocast to bf16, of few tokens, in proportion; the
sampler's cache by its shape; logits by theirs; and the adapted weights once more, with the policy's
adapters added, while it samples. What is computed leaves out what an allocator
wastes. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch

from pipeline.config import PRESETS
from pipeline.language_model import LanguageModel
from pipeline.model import GPT, GPTConfig
from pipeline.ppo import PPOConfig, PPOTrainer
from pipeline.ppo.roles import Roles
from pipeline.ppo.shared_trunk import Adapters, AdapterView, MergedEngine, with_trunk
from pipeline.reward import RewardModel
from pipeline.reward_config import LoraSection
from pipeline.reward_lora import adapted_layers
from pipeline.tokenizer import Tokenizer, train_tokenizer

EPISODES, PROMPT_TOKENS, RESPONSE_TOKENS = 64, 64, 64
TOKENS_AT_ONCE = 2048  # of a training forward
MEASURED_TOKENS = (64, 256)
VOCAB = 50_260
BYTES = 4  # weights, adapters and optimizers are fp32
ADAM = 2  # moments


def make_roles(sizes: dict[str, int], critic_trunk: str, device: torch.device) -> Roles:
    """Random weights: memory does not depend on them. No critic where it is the policy's."""
    config = GPTConfig(VOCAB, sizes["context_tokens"], sizes["layers"], sizes["heads"],
                       sizes["width"])  # fmt: skip
    with device:
        adapters = Adapters(GPT(config))
        heads = RewardModel(AdapterView(adapters, None))
    scorers = ["reward", "critic"] if critic_trunk == "own" else ["reward"]
    for name in ("policy", *scorers):
        adapters.add(name, LoraSection(), seed=0)
    adapters.inner.to(device)
    scorer, *critic = (
        with_trunk(heads, AdapterView(adapters, name)).to(device) for name in scorers
    )
    policy = AdapterView(adapters, "policy").requires_grad_(True)
    return Roles(policy, AdapterView(adapters, None), scorer, critic[0] if critic else None)


def saved_bytes(policy: LanguageModel, tokens: int, device: torch.device) -> int:
    """What a training forward of the trunk keeps for its backward, by real tensors."""
    inner = policy.adapters.inner if isinstance(policy, AdapterView) else policy
    weights = {weight.untyped_storage().data_ptr() for weight in inner.parameters()}
    kept: dict[int, int] = {}
    alive: list[torch.Tensor] = []

    def look(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # so that no later tensor gets its address
        return tensor

    ids = torch.zeros(2, tokens // 2, dtype=torch.long, device=device)
    with (
        torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor),
        torch.autocast(device.type, torch.bfloat16),
    ):
        policy.hidden_states(ids)
    return sum(kept.values())


def activation_bytes(policy: LanguageModel, device: torch.device) -> dict[str, float]:
    """What a training forward of ``TOKENS_AT_ONCE`` tokens keeps: for each token, and anyway.

    Kept anyway are the frozen weights as autocast rounds them, for the gradient of their inputs.
    """
    few, many = (saved_bytes(policy, tokens, device) for tokens in MEASURED_TOKENS)
    a_token = (many - few) / (MEASURED_TOKENS[1] - MEASURED_TOKENS[0])
    rounded = few - a_token * MEASURED_TOKENS[0]
    return {"rounded weights": rounded, "activations": a_token * TOKENS_AT_ONCE}


def computed(
    roles: Roles, sizes: dict[str, int], activations: dict[str, float]
) -> dict[str, float]:
    """Bytes by what they are for."""
    policy = roles.policy
    assert isinstance(policy, AdapterView)
    adapters = policy.adapters
    a_set = sum(weight.numel() for weight in adapters.weights("policy"))
    learning = 1 if roles.critic is None else 2
    trained, kept = learning * a_set, (learning + 1) * a_set
    if roles.critic is None:
        trained += sizes["width"]  # the value head
    layers = adapted_layers(adapters.trunk)
    merged = sum(layer.get_base_layer().weight.numel() for _, layer in layers)
    everything = sum(weight.numel() for weight in adapters.inner.parameters())
    slots = PROMPT_TOKENS + RESPONSE_TOKENS
    cache = EPISODES * slots * sizes["layers"] * 2 * sizes["width"] * BYTES
    responses = TOKENS_AT_ONCE * RESPONSE_TOKENS // slots
    logits = 3 * responses * VOCAB * BYTES  # they, their softmax, its gradient
    static = {
        "weights": (everything - kept) * BYTES,
        "adapters": kept * BYTES,
        "gradients": trained * BYTES,
        "optimizers": trained * ADAM * BYTES,
    }
    rollout = {"sampler's cache": cache, "logits of a step": 3 * EPISODES * VOCAB * BYTES}
    rollout["merged weights"] = merged * BYTES
    training = {**activations, "logits": logits}
    peak = sum(static.values()) + max(sum(rollout.values()), sum(training.values()))
    return {**static, **rollout, **training, "peak": peak}


def measured(roles: Roles, critic_trunk: str, tokenizer: Tokenizer, device: torch.device) -> float:
    """The peak of an update on a GPU, in bytes."""
    args = PPOConfig(
        total_episodes=EPISODES,
        batch_size=EPISODES,
        num_ppo_epochs=1,
        response_length=RESPONSE_TOKENS,
        max_tokens_per_microbatch=TOKENS_AT_ONCE,
        lora=LoraSection(),
        critic_trunk="policy" if critic_trunk == "policy" else "own",
    )
    text = "a fox and an owl walk by the river at night " * PROMPT_TOKENS
    ids = tokenizer.encode(text)[: PROMPT_TOKENS - 4]
    trainer = PPOTrainer(
        args,
        tokenizer,
        roles.policy,
        roles.reference,
        roles.reward_model,
        [tokenizer.decode(ids)],
        roles.critic,
        rollout_engine=MergedEngine(roles.policy, tokenizer),
        device=device,
        autocast=lambda: torch.autocast(device.type, torch.bfloat16),
    )
    torch.cuda.reset_peak_memory_stats()
    trainer.train()
    return float(torch.cuda.max_memory_allocated())


def main() -> None:
    """Measures or computes; the figures are JSON in the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", choices=sorted(PRESETS), default="gpt2-xl")
    parser.add_argument("--critic-trunk", choices=("own", "policy"), default="own")
    parser.add_argument("--quick", action="store_true", help="tiny: does it run?")
    options = parser.parse_args()
    name = "tiny" if options.quick else options.preset
    sizes = PRESETS[name]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    roles = make_roles(sizes, options.critic_trunk, device)
    result: dict[str, Any] = {"preset": name, "episodes": EPISODES, "torch": torch.__version__}
    result |= {"critic_trunk": options.critic_trunk}
    result |= {"tokens": [PROMPT_TOKENS, RESPONSE_TOKENS], "tokens_at_once": TOKENS_AT_ONCE}
    parts = computed(roles, sizes, activation_bytes(roles.policy, device))
    for part, size in parts.items():
        print(f"  {part:<18}{size / 1e9:8.3f} GB")
    result |= {"kind": "computed", "peak_gb": parts["peak"] / 1e9}
    result["parts_gb"] = {part: size / 1e9 for part, size in parts.items()}
    if device.type == "cuda":
        tokenizer = train_tokenizer(["a fox and an owl walk by the river at night"] * 9, 300)
        peak = measured(roles, options.critic_trunk, tokenizer, device)
        print(f"  measured peak     {peak / 1e9:8.3f} GB on {torch.cuda.get_device_name()}")
        result |= {"kind": "measured", "measured_peak_gb": peak / 1e9}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
