"""Section ``ppo`` of a config. No torch here."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import Field, model_validator

from pipeline.config_types import NonNegativeFloat, Positive, PositiveFloat, Section
from pipeline.reward_config import LoraSection

_TRL_NAMES_NOT_HONORED = {
    "bf16": "set precision at the top level",
    "fp16": "set precision at the top level",
    "gradient_accumulation_steps": "it follows from per_device_train_batch_size",
    "num_train_epochs": "set total_episodes",
    "output_dir": "the output folder is ppo/ of the run",
    "reward_model_path": "the reward model is reward/ of the run",
    "seed": "set seed at the top level",
    "sft_model_path": "policy and reference start from sft/ of the run",
    "stop_token": "a response ends at the end token",
    "stop_token_id": "a response ends at the end token",
}


class AlarmLimits(Section):
    """Section ``ppo.alarms``: beyond what a run warns, or ends because the policy has collapsed.

    An alarm is raised when a limit has been passed in ``patience`` updates in a row. Shares and
    ``length_factor`` are relative to the first update, when the policy was the fine-tuned model.
    Those of ``kl`` (nats per response) and of the critic only warn; the critic's counts after
    ``critic_updates`` updates.
    """

    patience: Positive = 3
    distinct_share: NonNegativeFloat = 0.5
    repetition: NonNegativeFloat = 0.5
    entropy_share: NonNegativeFloat = 0.05
    eos_rate_share: NonNegativeFloat = 0.5
    length_factor: Annotated[float, Field(gt=1)] = 4.0
    kl: PositiveFloat = 100.0
    explained_variance: float = 0.0
    critic_updates: Annotated[int, Field(ge=0)] = 20


class RewardFunctionSource(Section):
    """An entry of ``ppo.reward_funcs``: a Python function that scores texts, from a file of one's
    own below ``data_root``, and its weight. It is called as TRL calls its ``reward_funcs``."""

    file: str
    function: str
    weight: float = 1.0


class PPOConfig(Section):
    """Section ``ppo``; argument names are those of TRL 1.12's PPOConfig where it has one.

    ``batch`` sizes count episodes (one prompt with one response). One update samples
    ``batch_size`` episodes, then makes ``num_ppo_epochs`` passes over them in
    ``num_mini_batches`` optimizer steps each. At most ``per_device_train_batch_size`` episodes
    (default: a whole minibatch) with ``max_tokens_per_microbatch`` tokens, padding included, go
    through a training forward at once, and ``local_rollout_forward_batch_size`` through a scoring
    forward; none of them changes a result.

    ``compile`` compiles the training and scoring forwards, which pays on a GPU.

    ``kl_target``: in nats per response; ``kl_coef`` is then only where the coefficient begins, and
    it follows the divergence at a pace of ``kl_horizon`` episodes (smaller is faster).

    ``reward_weight`` is that of the reward model's score, ``reward_clip`` what it is cut to on both
    sides before it is weighted, and ``reward_funcs`` are Python functions whose scores are added.
    ``question_penalties``: for yes/no questions that the reward model has a head for, what a sure
    yes takes off a response's score.

    ``critic_trunk``: the critic has a trunk of its own, or is a head on the policy's: one forward
    and one backward for both, and one gradient norm; ``vf_coef`` then weighs the two losses,
    ``critic_learning_rate`` is the head's, and in ``value_warmup_updates`` only the head learns.

    ``critic_init``: a critic with a trunk of its own starts as the reward model (the default), or
    as the policy with a head of zeros, as a head on the policy does.

    ``lora``: policy and critic are adapters instead of whole models (one adapter where the critic
    is a head on the policy). The reference then needs no weights of its own, nor do reward model
    and critic if the reward model was trained by adapters.

    ``stop_kl`` ends the run once the policy is that many nats per response away from the reference;
    ``max_approx_kl`` (nats per token) ends an update's steps once one has moved the policy that far
    from the one that acted. ``alarms`` says when a run warns, or is ended as collapsed.

    ``eval_prompts`` prompts are kept from training and answered every ``eval_every_updates``
    updates, with the same seeds each time. A collapsed run goes back to the weights that did best
    at those updates, by these prompts or, without any, by the batches since the time before.

    ``ptx_coef`` is the weight of the pretraining loss (PPO-ptx; 0 is none) and ``ptx_ratio`` how
    many rows of pretraining text an optimizer step reads for each of its episodes.
    """

    learning_rate: PositiveFloat = 1e-5
    critic_learning_rate: PositiveFloat = 1e-5
    total_episodes: Positive = 3840
    batch_size: Positive = 64
    num_ppo_epochs: Positive = 4
    num_mini_batches: Positive = 1
    per_device_train_batch_size: Positive | None = None
    max_tokens_per_microbatch: Positive = 16_384
    local_rollout_forward_batch_size: Positive = 64
    response_length: Positive = 48
    temperature: PositiveFloat = 1.0
    compile: bool = False
    kl_coef: NonNegativeFloat = 0.05
    kl_estimator: Literal["k1"] = "k1"
    kl_target: PositiveFloat | None = None
    kl_horizon: Positive = 10_000
    cliprange: PositiveFloat = 0.2
    cliprange_value: PositiveFloat = 0.2
    vf_coef: NonNegativeFloat = 0.1
    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    lam: Annotated[float, Field(ge=0, le=1)] = 0.95
    whiten_rewards: bool = False
    missing_eos_penalty: NonNegativeFloat | None = 1.0
    reward_weight: NonNegativeFloat = 1.0
    reward_clip: PositiveFloat | None = None
    reward_funcs: list[RewardFunctionSource] = []
    question_penalties: dict[str, PositiveFloat] = {}
    max_grad_norm: PositiveFloat = 1.0
    adam_epsilon: PositiveFloat = 1e-5
    lr_scheduler_type: Literal["linear", "constant"] = "linear"
    lora: LoraSection | None = None
    critic_trunk: Literal["own", "policy"] = "own"
    critic_init: Literal["reward", "policy"] | None = None
    value_warmup_updates: Annotated[int, Field(ge=0)] = 0
    stop_kl: PositiveFloat | None = None
    max_approx_kl: PositiveFloat | None = None
    alarms: AlarmLimits = AlarmLimits()
    eval_prompts: Annotated[int, Field(ge=0)] = 0
    eval_every_updates: Positive = 10
    ptx_coef: NonNegativeFloat = 0.0
    ptx_ratio: PositiveFloat = 1.0
    checkpoint_every_updates: Positive = 10

    @model_validator(mode="before")
    @classmethod
    def _refuse_with_a_hint(cls, values: Any) -> Any:
        names = cast(dict[str, Any], values) if isinstance(values, dict) else {}
        for name in names:
            if name in _TRL_NAMES_NOT_HONORED:
                raise ValueError(f"{name} is not honored here: {_TRL_NAMES_NOT_HONORED[name]}")
        if names.get("kl_estimator", "k1") != "k1":
            raise ValueError(
                f"kl_estimator {names['kl_estimator']!r} has almost no gradient near the "
                "reference when it stands in the reward; only k1 is right there"
            )
        return cast(Any, values)

    @model_validator(mode="after")
    def _has_an_effect(self) -> PPOConfig:
        if self.kl_target is not None and not self.kl_coef:
            raise ValueError("kl_target moves kl_coef by factors, and it is 0: give it a start")
        if self.kl_target is not None and self.kl_horizon < self.batch_size:
            raise ValueError(
                f"kl_horizon {self.kl_horizon} is below batch_size {self.batch_size}: the "
                "coefficient would overshoot, and may change its sign"
            )
        self._check_critic()
        if self.value_warmup_updates >= self.total_episodes / self.batch_size:
            raise ValueError(
                f"value_warmup_updates {self.value_warmup_updates} leaves the policy none of the "
                f"{self.total_episodes // self.batch_size} updates"
            )
        return self

    def _check_critic(self) -> None:
        if self.critic_trunk == "policy":
            if self.critic_init == "reward":
                raise ValueError(
                    "a head on the policy (critic_trunk) starts at zeros: leave critic_init"
                )
            if not self.vf_coef:
                raise ValueError(
                    "vf_coef 0 leaves a head on the policy (critic_trunk) without a gradient"
                )
        elif self.lora is not None and self.critic_init == "policy":
            raise ValueError("with lora the critic starts as the reward model: leave critic_init")

    @model_validator(mode="after")
    def _divisible(self) -> PPOConfig:
        if self.batch_size % self.num_mini_batches:
            raise ValueError(
                f"batch_size {self.batch_size} is not divisible by "
                f"num_mini_batches {self.num_mini_batches}"
            )
        if self.total_episodes % self.batch_size:
            raise ValueError(
                f"total_episodes {self.total_episodes} is not divisible by "
                f"batch_size {self.batch_size}"
            )
        return self
