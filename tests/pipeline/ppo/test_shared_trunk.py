"""Four roles on one model's weights: each is what it would be with weights of its own."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.hugging_face import load_language_model, save_language_model
from pipeline.language_model import LanguageModel
from pipeline.model import GPT
from pipeline.ppo import PPOConfig, PPOTrainer
from pipeline.ppo.roles import Roles
from pipeline.ppo.rollout import left_align
from pipeline.ppo.shared_trunk import (
    Adapters,
    AdapterView,
    MergedEngine,
    merged_critic,
    merged_policy,
    save_adapter,
    share_trunks,
)
from pipeline.reward import RewardModel, normalize
from pipeline.reward_config import LoraSection
from pipeline.reward_files import load_reward_model, save_reward_model
from pipeline.reward_lora import (
    adapted_layers,
    add_reward_adapters,
    merge_reward_adapters,
    read_adapter,
)
from pipeline.sampling import SamplingSettings
from pipeline.tokenizer import Tokenizer

LORA = LoraSection(rank=4, alpha=8.0)
PROMPTS = ["a fox", "two red hares", "o", "the river at night"]
CPU = torch.device("cpu")


@pytest.fixture(params=["gpt", "llama"])
def model(
    request: pytest.FixtureRequest,
    make_policy: Callable[..., GPT],
    make_llama: Callable[[], LanguageModel],
) -> LanguageModel:
    return make_policy() if request.param == "gpt" else make_llama()


def trained_reward_model(model: LanguageModel, folder: Path, tokenizer: Tokenizer) -> None:
    """In ``folder``: a reward model that adapters made of ``model``, normalized by the stage."""
    reward_model = RewardModel(copy.deepcopy(model), torch.Generator().manual_seed(1), ["rude"])
    add_reward_adapters(reward_model, LORA, seed=2)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in reward_model.trunk.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    merge_reward_adapters(reward_model, LORA, folder / "adapter")
    normalize(reward_model, mean=0.7, std=1.8)
    save_reward_model(reward_model, folder, tokenizer)


@pytest.fixture
def ids(tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(4, 200, (3, 9), generator=generator), torch.tensor([9, 4, 7])


def shared(model: LanguageModel, folder: Path, with_adapter: bool = True) -> Roles:
    adapter = folder / "adapter" if with_adapter else None
    return share_trunks(copy.deepcopy(model), load_reward_model(folder), adapter, LORA, 9, CPU)


@torch.no_grad()
@pytest.mark.parametrize("with_adapter", [True, False])
def test_each_role_says_what_it_would_say_with_weights_of_its_own(
    model: LanguageModel,
    tokenizer: Tokenizer,
    tmp_path: Path,
    ids: tuple[Tensor, Tensor],
    with_adapter: bool,
) -> None:
    trained_reward_model(model, tmp_path, tokenizer)
    alone = load_reward_model(tmp_path).eval()
    roles = shared(model, tmp_path, with_adapter)
    assert roles.reference is not None
    assert roles.critic is not None
    expected = alone.scores_and_answers(*ids)
    for _ in range(2):  # in turns: each must switch to its own
        torch.testing.assert_close(roles.policy(ids[0]), model(ids[0]))
        for scorer in (roles.reward_model, roles.critic):
            for found, wanted in zip(scorer.scores_and_answers(*ids), expected, strict=True):
                torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(roles.reference(ids[0]), model(ids[0]))


def digest(model: nn.Module) -> str:
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if "lora_" not in name:
            state.update(name.replace(".base_layer", "").encode() + tensor.numpy().tobytes())
    return state.hexdigest()


@pytest.mark.parametrize("with_adapter", [True, False])
def test_training_moves_the_adapters_of_policy_and_critic_alone(
    model: LanguageModel,
    tokenizer: Tokenizer,
    config: PPOConfig,
    tmp_path: Path,
    ids: tuple[Tensor, Tensor],
    with_adapter: bool,
) -> None:
    trained_reward_model(model, tmp_path, tokenizer)
    roles = shared(model, tmp_path, with_adapter)
    policy, critic = roles.policy, roles.critic
    assert isinstance(policy, AdapterView)
    assert critic is not None
    before = digest(policy.adapters.inner)
    with torch.no_grad():
        scores = roles.reward_model(*ids)
        logits = policy(ids[0])
    trainer = trainer_of(roles, config, tokenizer)
    rows: list[dict[str, float]] = []
    trainer.on_update = lambda update, metrics: rows.append(metrics)
    trainer.train()
    assert digest(policy.adapters.inner) == before
    with torch.no_grad():
        assert roles.reference is not None
        torch.testing.assert_close(roles.reference(ids[0]), logits)
        torch.testing.assert_close(roles.reward_model(*ids), scores)
        assert not torch.allclose(policy(ids[0]), logits, atol=1e-3)
        assert not torch.allclose(critic(*ids), scores, atol=1e-3)
    assert rows[0]["objective/kl"] == pytest.approx(0, abs=1e-6)
    assert rows[0]["val/ratio"] == pytest.approx(1, abs=1e-2)
    trained = {id(w) for group in trainer.policy_optimizer.param_groups for w in group["params"]}
    assert trained == {id(weight) for weight in policy.adapters.weights("policy")}
    if with_adapter:  # one copy of the weights for all four
        assert critic.trunk is not roles.reward_model.trunk
        assert isinstance(critic.trunk, AdapterView)
        assert critic.trunk.adapters is policy.adapters
        groups = trainer.critic_optimizer.param_groups
        learning = {id(weight) for group in groups for weight in group["params"]}
        assert {id(weight) for weight in policy.adapters.weights("critic")} <= learning
        assert not {id(weight) for weight in policy.adapters.weights("reward")} & learning


def trainer_of(roles: Roles, args: PPOConfig, tokenizer: Tokenizer) -> PPOTrainer:
    return PPOTrainer(
        args,
        tokenizer,
        roles.policy,
        roles.reference,
        roles.reward_model,
        PROMPTS,
        roles.critic,
    )


@pytest.mark.parametrize("with_adapter", [True, False])
def test_what_is_published_are_plain_models_with_the_same_outputs(
    model: LanguageModel,
    tokenizer: Tokenizer,
    config: PPOConfig,
    tmp_path: Path,
    ids: tuple[Tensor, Tensor],
    with_adapter: bool,
) -> None:
    trained_reward_model(model, tmp_path, tokenizer)
    roles = shared(model, tmp_path, with_adapter)
    trainer = trainer_of(roles, config, tokenizer)
    trainer.train()
    with torch.no_grad():
        logits, values = trainer.policy(ids[0]), trainer.critic.token_scores(ids[0])
    with merged_policy(trainer.policy) as plain:
        save_language_model(plain, tmp_path / "ppo", tokenizer)
    with merged_critic(trainer.critic) as plain:
        save_reward_model(plain, tmp_path / "critic", tokenizer)
    save_adapter(trainer.policy, LORA, tmp_path / "ppo" / "adapter")
    with torch.no_grad():
        policy = load_language_model(tmp_path / "ppo").eval()
        critic = load_reward_model(tmp_path / "critic").eval()
        torch.testing.assert_close(policy(ids[0]), logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(critic.token_scores(ids[0]), values, atol=1e-4, rtol=1e-4)
        theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ppo").eval()
        torch.testing.assert_close(theirs(ids[0]).logits, logits, atol=1e-4, rtol=1e-4)
        # and afterwards the shared models go on as they were
        torch.testing.assert_close(trainer.policy(ids[0]), logits, atol=1e-4, rtol=1e-4)
    tensors, lora = read_adapter(tmp_path / "ppo" / "adapter")
    assert lora == LORA
    assert any(bool(t.any()) for name, t in tensors.items() if name.endswith("lora_B"))


def test_adapters_of_another_model_are_refused(
    make_policy: Callable[..., GPT],
    make_llama: Callable[[], LanguageModel],
    tokenizer: Tokenizer,
    tmp_path: Path,
) -> None:
    trained_reward_model(make_llama(), tmp_path, tokenizer)
    with pytest.raises(UserError, match="adapters of another model"):
        shared(make_policy(), tmp_path)
    (tmp_path / "adapter" / "adapter.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be read"):
        shared(make_policy(), tmp_path)


@torch.no_grad()
def test_sampling_from_merged_weights_is_sampling_from_the_adapted_policy(
    make_adapted: Callable[..., LanguageModel], tokenizer: Tokenizer
) -> None:
    policy = make_adapted()
    assert isinstance(policy, AdapterView)
    before = digest(policy.adapters.inner)
    prompts = [tokenizer.encode_prompt(text) for text in ("a fox", "two red hares", "o")] * 5
    settings = SamplingSettings(12)
    drawn = MergedEngine(policy, tokenizer).generate(prompts, range(15), settings)
    assert digest(policy.adapters.inner) == before
    rollout = left_align(prompts, drawn, tokenizer.pad_id)
    for row in range(15):
        Q, end = len(prompts[row]), int(rollout.lengths[row])
        ids = rollout.input_ids[row, :end]
        logits = policy(ids[None])[0].double()  # the adapters beside the weights
        logits[:, list(tokenizer.never_sampled_ids)] = -torch.inf
        everything = logits.log_softmax(-1)
        expected = [float(everything[index - 1, ids[index]]) for index in range(Q, end)]
        found = drawn.logprobs[row, : end - Q].tolist()
        assert found == pytest.approx(expected, abs=1e-5)


def test_an_adapted_layer_is_that_of_peft(make_policy: Callable[..., GPT]) -> None:
    adapters = Adapters(make_policy())
    adapters.add("one", LORA, seed=1)
    adapters.add("other", LoraSection(rank=3, alpha=9.0), seed=2)
    generator = torch.Generator().manual_seed(4)
    for _, layer in adapted_layers(adapters.trunk):
        for name in ("one", "other"):
            nn.init.normal_(layer.lora_B[name].weight, std=0.3, generator=generator)
        x = torch.randn(2, 5, layer.in_features, generator=generator, requires_grad=True)
        for name in ("one", None, "other"):
            adapters.use(name)
            weights = adapters.weights(name) if name else []
            for weight in weights:
                weight.requires_grad_(True)
            results = [layer(x), type(layer).forward(layer, x)]
            torch.testing.assert_close(*results)
            own = [x, layer.lora_A[name].weight, layer.lora_B[name].weight] if name else [x]
            gradients = [torch.autograd.grad(y.square().sum(), own) for y in results]
            for ours, theirs in zip(*gradients, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
