"""One YAML is one run: a typed section per stage, in the order of the chain.

The section of a stage is part of its key, so a changed value reruns that stage and what follows.
Units are in the names; batch sizes count what the name says. No torch here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values are not coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


# --- data ---------------------------------------------------------------------------------------


class TinyWorldSection(Section):
    """Sizes of the embedded world; its flaws, noise and rubric are fixed in the world itself."""

    documents: Positive = 6000
    demonstrations: Positive = 400
    label_prompts: Positive = 400
    ppo_prompts: Positive = 800
    heldout_prompts: Positive = 300


class CorpusSource(Section):
    """One source of the pretraining mixture.

    ``path`` is a JSON-lines or text file below ``data_root``; ``proportion`` its share of the rows
    that training sees. All proportions of a mixture sum to 1.
    """

    name: str
    path: str
    proportion: Annotated[float, Field(gt=0, le=1)]
    text_column: str = "text"
    id_column: str | None = "id"


class InstructionSource(Section):
    """Prompts with reference responses: a file below ``data_root``, or a dataset's hub name.

    The values of ``prompt_columns`` that are not empty are joined by a newline. Rows longer than
    the limits in characters are left out, and counted in the summary. The others are divided
    by a hash of the prompt, so that equal prompts share a split: ``demonstrations`` (a share of
    the prompts) go to fine-tuning, the rest to the splits label, ppo and heldout.
    """

    path: str | None = None
    dataset: str | None = None
    dataset_split: str = "train"
    prompt_columns: list[str]
    response_column: str
    demonstrations: Fraction = 0.5
    label: Fraction = 0.2
    ppo: Fraction = 0.2
    max_prompt_characters: Positive | None = None
    max_response_characters: Positive | None = None

    @model_validator(mode="after")
    def _one_place(self) -> InstructionSource:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("name either path (a file) or dataset (a hub name)")
        if self.demonstrations + self.label + self.ppo >= 1:
            raise ValueError("demonstrations + label + ppo must leave a share for heldout")
        if not self.prompt_columns:
            raise ValueError("prompt_columns must name at least one column")
        return self


class DataSection(Section):
    """Where text comes from: the embedded world, or a corpus and instructions of one's own."""

    tinyworld: TinyWorldSection | None = None
    corpus: list[CorpusSource] = []
    instructions: InstructionSource | None = None
    heldout_document_fraction: Fraction = 0.05

    @model_validator(mode="after")
    def _one_world(self) -> DataSection:
        if (self.tinyworld is None) == (self.instructions is None):
            raise ValueError("give either tinyworld, or instructions (and corpus to pretrain on)")
        if self.tinyworld is not None and self.corpus:
            raise ValueError("tinyworld writes its own corpus: remove corpus")
        total = sum(source.proportion for source in self.corpus)
        if self.corpus and abs(total - 1) > 1e-6:
            raise ValueError(f"the proportions of corpus sum to {total:g}, not to 1")
        names = [source.name for source in self.corpus]
        if len(set(names)) != len(names):
            raise ValueError("two sources of corpus share a name")
        return self


# --- base ---------------------------------------------------------------------------------------


class PretrainSection(Section):
    """The base trained from scratch: tokenizer, model size, optimisation."""

    vocab_size: Annotated[int, Field(ge=260)] = 1024  # 256 bytes and 4 special tokens
    layers: Positive = 4
    heads: Positive = 4
    width: Positive = 192
    context_tokens: Positive = 128
    row_tokens: Positive = 64
    batch_rows: Positive = 16
    steps: Positive = 400
    muon_learning_rate: PositiveFloat = 0.02
    learning_rate: PositiveFloat = 3e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    final_learning_rate_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat = 1.0
    log_every_steps: Positive = 10
    copy_probe_minimum: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _shapes(self) -> PretrainSection:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        if self.row_tokens > self.context_tokens:
            raise ValueError(
                f"row_tokens {self.row_tokens} exceeds context_tokens {self.context_tokens}"
            )
        return self


class ImportBaseSection(Section):
    """A base that exists: a GPT-2-shaped model by hub id, or a folder below ``data_root``."""

    hub_id: str | None = None
    path: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> ImportBaseSection:
        if (self.hub_id is None) == (self.path is None):
            raise ValueError("name either hub_id or path")
        return self


# --- supervised fine-tuning, sampling, labels ---------------------------------------------------


class SftSection(Section):
    """Fine-tuning on demonstrations; the loss is on the response and its end token only."""

    learning_rate: PositiveFloat = 6e-4
    epochs: Positive = 4
    batch_rows: Positive = 16
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    weight_decay: NonNegativeFloat = 0.0
    validation_fraction: Fraction = 0.05


class SampleSection(Section):
    """How responses are drawn for labeling."""

    responses_per_prompt: Annotated[int, Field(ge=2, le=9)] = 5
    max_response_tokens: Positive = 48
    temperature: PositiveFloat = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    batch_rows: Positive = 256


class LabelSection(Section):
    """Who labels. ``questions`` are the yes/no questions shown under each response."""

    source: Literal["scripted", "browser", "file"] = "scripted"
    labelers: Positive = 3
    judge: Literal["tinyworld", "overlap"] = "tinyworld"
    questions: dict[str, str] = {}
    file: str | None = None
    database: str | None = None
    instructions: str = (
        "Judge how helpful each answer is to the person who wrote the prompt. Rate every answer "
        "on its own first, then check the ranking that follows from your ratings."
    )

    @model_validator(mode="after")
    def _file_named(self) -> LabelSection:
        if (self.source == "file") != (self.file is not None):
            raise ValueError("file is needed with source: file, and only there")
        return self


# --- reward model, PPO, comparison --------------------------------------------------------------


class RewardSection(Section):
    """The K-wise reward model. A batch counts prompts: all pairs of a prompt stay together."""

    learning_rate: PositiveFloat = 3e-4
    epochs: Positive = 1
    batch_prompts: Positive = 8
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat = 1.0
    validation_fraction: Fraction = 0.1


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


class PPOConfig(Section):
    """Section ``ppo``; argument names are those of TRL 1.12's PPOConfig where it has one.

    ``batch`` sizes count episodes (one prompt with one response). One update samples
    ``batch_size`` episodes, then makes ``num_ppo_epochs`` passes over them in
    ``num_mini_batches`` optimizer steps each. ``per_device_train_batch_size`` episodes go through
    a training forward at once (default: a whole minibatch) and ``local_rollout_forward_batch_size``
    through a scoring forward; neither changes a result.
    """

    learning_rate: PositiveFloat = 1e-5
    critic_learning_rate: PositiveFloat = 1e-5
    total_episodes: Positive = 3840
    batch_size: Positive = 64
    num_ppo_epochs: Positive = 4
    num_mini_batches: Positive = 1
    per_device_train_batch_size: Positive | None = None
    local_rollout_forward_batch_size: Positive = 64
    response_length: Positive = 48
    temperature: PositiveFloat = 1.0
    kl_coef: NonNegativeFloat = 0.05
    kl_estimator: Literal["k1"] = "k1"
    cliprange: PositiveFloat = 0.2
    cliprange_value: PositiveFloat = 0.2
    vf_coef: NonNegativeFloat = 0.1
    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    lam: Annotated[float, Field(ge=0, le=1)] = 0.95
    whiten_rewards: bool = False
    missing_eos_penalty: NonNegativeFloat | None = 1.0
    max_grad_norm: PositiveFloat = 1.0
    adam_epsilon: PositiveFloat = 1e-5
    lr_scheduler_type: Literal["linear", "constant"] = "linear"
    value_warmup_updates: Annotated[int, Field(ge=0)] = 0

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
    def _divisible(self) -> PPOConfig:
        if self.batch_size % self.num_mini_batches:
            raise ValueError(
                f"batch_size {self.batch_size} is not divisible by "
                f"num_mini_batches {self.num_mini_batches}"
            )
        minibatch_size = self.batch_size // self.num_mini_batches
        if minibatch_size % (self.per_device_train_batch_size or minibatch_size):
            raise ValueError(
                f"a minibatch of {minibatch_size} episodes is not divisible by "
                f"per_device_train_batch_size {self.per_device_train_batch_size}"
            )
        if self.total_episodes % self.batch_size:
            raise ValueError(
                f"total_episodes {self.total_episodes} is not divisible by "
                f"batch_size {self.batch_size}"
            )
        return self


class CompareSection(Section):
    """How checkpoints are compared on the held-out prompts."""

    judge: Literal["tinyworld", "overlap", "reward"] = "tinyworld"
    max_prompts: Positive = 300
    max_response_tokens: Positive = 48
    temperature: PositiveFloat = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    batch_rows: Positive = 256
    bootstrap_samples: Positive = 2000
    examples: Positive = 12


class RunConfig(Section):
    """A whole run. ``data_root`` is where relative paths of sources and files start."""

    name: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data_root: str = "."
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    processes: Positive = 1
    data: DataSection
    pretrain: PretrainSection | None = None
    import_base: ImportBaseSection | None = None
    sft: SftSection = SftSection()
    sample: SampleSection = SampleSection()
    label: LabelSection = LabelSection()
    reward: RewardSection = RewardSection()
    ppo: PPOConfig = PPOConfig()
    compare: CompareSection = CompareSection()

    @model_validator(mode="after")
    def _one_base(self) -> RunConfig:
        if (self.pretrain is None) == (self.import_base is None):
            raise ValueError("give either pretrain or import_base: one of them makes the base")
        if self.pretrain is not None and self.data.tinyworld is None and not self.data.corpus:
            raise ValueError("pretrain needs data.corpus to train on")
        return self

    @model_validator(mode="after")
    def _responses_fit(self) -> RunConfig:
        lengths = {
            "sample.max_response_tokens": self.sample.max_response_tokens,
            "ppo.response_length": self.ppo.response_length,
            "compare.max_response_tokens": self.compare.max_response_tokens,
        }
        for key, tokens in lengths.items():
            # A prompt has its two marks and a token at least.
            if self.pretrain is not None and tokens + 3 > self.pretrain.context_tokens:
                raise ValueError(
                    f"{key} {tokens} leaves no room for a prompt in "
                    f"pretrain.context_tokens {self.pretrain.context_tokens}"
                )
        return self
