"""All four roles on one model's weights: each is a low-rank adapter of its own, or none.

Policy and critic train an adapter each, the reference is the model without any, and a reward model
that was trained by adapters from the same fine-tuned model is a fourth set. So one copy of the
weights is in memory instead of four, and the optimizers remember next to nothing. A reward model
whose weights were trained whole keeps its trunk, which it then shares with the critic. A critic
that is a head on the policy needs no adapter.

Hu et al. 2021 (arXiv:2106.09685) for the adapters; PEFT implements them.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import peft
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.hugging_face import trunk_of
from pipeline.language_model import Decoder, LanguageModel
from pipeline.ppo.roles import Roles
from pipeline.reward import RewardModel
from pipeline.reward_config import LoraSection
from pipeline.reward_lora import (
    adapted_layers,
    lora_config,
    read_adapter,
    replace_module,
    write_adapter,
)
from pipeline.sampling import Generation, SamplingSettings, generate
from pipeline.tokenizer import Tokenizer


class Adapters:
    """A model with sets of adapters, one of which (or none) is active at a time."""

    def __init__(self, inner: LanguageModel) -> None:
        self.inner = inner.requires_grad_(False)
        self.trunk = trunk_of(inner)  # the same modules: adapters are named by their place in it
        self.active: str | None = None

    def add(self, name: str, lora: LoraSection, seed: int) -> None:
        """A set that changes nothing yet."""
        torch.manual_seed(seed)
        with warnings.catch_warnings(action="ignore"):  # several sets are what is meant
            peft.inject_adapter_in_model(lora_config(self.trunk, lora), self.trunk, name)
        for _, layer in adapted_layers(self.trunk):
            layer.forward = partial(adapted, layer)
        self.active = name  # PEFT has switched to it
        self.inner.requires_grad_(False)  # PEFT lets the active set take gradients
        self.use(None)

    def load(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Gives the set the values that ``values`` gave of another of the same shape."""
        with torch.no_grad():
            for key, weight in self._weights(name).items():
                weight.copy_(tensors[key])

    def values(self, name: str) -> dict[str, Tensor]:
        """The set's weights by layer and matrix."""
        return {key: weight.detach().clone() for key, weight in self._weights(name).items()}

    def weights(self, name: str) -> list[nn.Parameter]:
        """What is trained of the set."""
        return list(self._weights(name).values())

    def use(self, name: str | None) -> None:
        """Makes a set the active one; None: the model as it is. Which weights are trained stays."""
        if name == self.active:
            return
        trained = [w.requires_grad for w in self.inner.parameters()]
        for _, layer in adapted_layers(self.trunk):
            if name is not None:
                layer.set_adapter(name)
            layer.enable_adapters(name is not None)
        for weight, takes_gradient in zip(self.inner.parameters(), trained, strict=True):
            weight.requires_grad_(takes_gradient)
        self.active = name

    @contextmanager
    @torch.no_grad()
    def merged(self, name: str) -> Generator[LanguageModel]:
        """The model with the set added to its weights and no trace of adapters, for a while.

        Afterwards the weights are the same to the bit.
        """
        layers = adapted_layers(self.trunk)
        own = [layer.get_base_layer().weight.data for _, layer in layers]
        for (path, layer), weight in zip(layers, own, strict=True):
            # Not added in place: what is added and taken off again leaves its rounding behind.
            layer.get_base_layer().weight.data = weight + layer.get_delta_weight(name)
            replace_module(self.trunk, path, layer.get_base_layer())
        try:
            yield self.inner
        finally:
            for (path, layer), weight in zip(layers, own, strict=True):
                layer.get_base_layer().weight.data = weight
                replace_module(self.trunk, path, layer)

    def _weights(self, name: str) -> dict[str, nn.Parameter]:
        found: dict[str, nn.Parameter] = {}
        for path, layer in adapted_layers(self.trunk):
            found[f"{path}.lora_A"] = layer.lora_A[name].weight
            found[f"{path}.lora_B"] = layer.lora_B[name].weight
        return found


def adapted(layer: Any, x: Tensor) -> Tensor:
    """What a layer of PEFT's gives with its active set, if it has one: (..., out) of (..., in).

    In half the passes over memory of PEFT's own, which adds a scaled product where one operation
    multiplies, scales and adds, and which widens ``x`` for autocast to narrow it again.
    """
    y = layer.base_layer(x)
    if layer.disable_adapters:
        return y
    (name,) = layer.active_adapters
    narrow = F.linear(x, layer.lora_A[name].weight).flatten(0, -2)
    wide = layer.lora_B[name].weight.t()
    return torch.addmm(y.flatten(0, -2), narrow, wide, alpha=layer.scaling[name]).view_as(y)


class AdapterView(LanguageModel):
    """The model as one set of adapters makes it; the set's weights are all that it owns.

    ``shift`` (C,) is added to every hidden state: what a final norm that was trained adds beyond
    the shared one.
    """

    shift: Tensor | None

    def __init__(self, adapters: Adapters, name: str | None, shift: Tensor | None = None) -> None:
        super().__init__()
        inner = adapters.inner
        self.vocab_size, self.context_tokens = inner.vocab_size, inner.context_tokens
        self.width = inner.width
        self.name = name
        self._shared = (adapters,)  # in a tuple: no weight of the model is this module's own
        self.adapter = nn.ParameterList(adapters.weights(name) if name is not None else [])
        self.register_buffer("shift", shift, persistent=False)

    @property
    def adapters(self) -> Adapters:
        """What it is a view of."""
        return self._shared[0]

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.adapters.inner.device

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T, C) of the model with this set of adapters."""
        self.adapters.use(self.name)
        hidden = self.adapters.inner.hidden_states(input_ids, attention_mask)
        return hidden if self.shift is None else hidden + self.shift

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., V) for hidden states (..., C): the output head has no adapters."""
        return self.adapters.inner.logits(hidden)

    def decoder(self, prompt_ids: Sequence[Sequence[int]], new_tokens: int) -> Decoder:
        """A decoder of the model with this set of adapters, which stays active meanwhile."""
        self.adapters.use(self.name)
        return self.adapters.inner.decoder(prompt_ids, new_tokens)


class MergedEngine:
    """A ``RolloutEngine`` that decodes with the policy's adapters added to the weights.

    A token then costs what it costs without adapters. Log-probabilities are the trainer's but for
    rounding. A second copy of the adapted weights is in memory meanwhile.
    """

    def __init__(self, policy: LanguageModel, tokenizer: Tokenizer) -> None:
        self.policy = policy
        self.tokenizer = tokenizer

    def generate(
        self,
        prompt_ids: Sequence[Sequence[int]],
        seeds: Sequence[int],
        settings: SamplingSettings,
    ) -> Generation:
        """One response to each prompt; row i depends on prompt i and ``seeds[i]`` only."""
        with merged_policy(self.policy) as plain:
            return generate(plain, prompt_ids, seeds, settings, self.tokenizer)

    def sync_weights(self, policy: LanguageModel) -> None:
        """The policy is the one that was given."""
        self.policy = policy


def share_trunks(
    model: LanguageModel,
    reward_model: RewardModel,
    reward_adapter: Path | None,
    lora: LoraSection,
    seed: int,
    device: torch.device,
    *,
    with_critic: bool = True,
) -> Roles:
    """Policy and reference on ``model``; reward model and critic there, too, if they can be.

    Args:
        model: the fine-tuned model; it is used, not copied.
        reward_model: its trunk is dropped where ``reward_adapter`` has what makes it from
            ``model``.
        reward_adapter: the folder in which the reward model's adapters were kept, if they were.
        with_critic: whether there shall be a critic with an adapter of its own.

    Raises:
        UserError: the adapters are not of such a model.
    """
    policy = Adapters(model.to(device))
    policy.add("policy", lora, seed)
    scorer, critic = reward_model, None
    if reward_adapter is not None:
        scorer = reward_role(policy, "reward", reward_model, reward_adapter, seed)
        if with_critic:
            critic = reward_role(policy, "critic", reward_model, reward_adapter, seed)
    elif with_critic:
        shared = Adapters(reward_model.trunk.to(device))
        shared.add("critic", lora, seed + 1)
        scorer = with_trunk(reward_model, AdapterView(shared, None))
        critic = with_trunk(reward_model, AdapterView(shared, "critic"))
    return Roles(AdapterView(policy, "policy"), AdapterView(policy, None), scorer, critic)


def reward_role(
    adapters: Adapters, name: str, reward_model: RewardModel, folder: Path, seed: int
) -> RewardModel:
    """The reward model as a set of adapters, those in ``folder``, on the shared weights."""
    tensors, trained = read_adapter(folder)
    adapters.add(name, trained, seed)
    load_checked(adapters, name, tensors, folder)
    theirs, ours = reward_model.trunk.final_bias, adapters.inner.final_bias
    shift = None
    if theirs is not None and ours is not None:
        shift = theirs.detach().to(ours.device) - ours.detach()
    return with_trunk(reward_model, AdapterView(adapters, name, shift))


def load_checked(adapters: Adapters, name: str, tensors: dict[str, Tensor], folder: Path) -> None:
    """Loads a set, or raises UserError where it is one of another model."""
    shapes = {key: value.shape for key, value in adapters.values(name).items()}
    if shapes != {key: value.shape for key, value in tensors.items()}:
        raise UserError(
            folder,
            "holds adapters of another model.",
            "train the reward model from this run's sft model.",
        )
    adapters.load(name, tensors)


def with_trunk(model: RewardModel, trunk: LanguageModel) -> RewardModel:
    """A reward model with the same heads on another trunk; its heads are copies."""
    made = RewardModel(trunk, questions=model.question_names)
    made.score.load_state_dict(model.score.state_dict())
    if made.questions is not None and model.questions is not None:
        made.questions.load_state_dict(model.questions.state_dict())
    return made


def save_adapter(policy: LanguageModel, lora: LoraSection, folder: Path) -> None:
    """Writes the policy's adapters as ``reward_lora.read_adapter`` reads them."""
    assert isinstance(policy, AdapterView)
    assert policy.name is not None
    write_adapter(policy.adapters.values(policy.name), lora, folder)


@contextmanager
def merged_policy(policy: LanguageModel) -> Generator[LanguageModel]:
    """The policy as a model of plain weights, for a while: to be saved."""
    assert isinstance(policy, AdapterView)
    assert policy.name is not None
    with policy.adapters.merged(policy.name) as plain:
        yield plain


@contextmanager
def merged_critic(critic: RewardModel) -> Generator[RewardModel]:
    """The critic as a reward model of plain weights, for a while: to be saved."""
    view = critic.trunk
    assert isinstance(view, AdapterView)
    assert view.name is not None
    with view.adapters.merged(view.name) as inner, torch.no_grad():
        bias, shift = inner.final_bias, view.shift
        if bias is not None and shift is not None:
            bias.add_(shift)
        yield with_trunk(critic, trunk_of(inner))
        if bias is not None and shift is not None:
            bias.sub_(shift)
