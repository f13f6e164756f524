"""One YAML is one run: a typed section per stage, in the order of the chain.

The section of a stage is part of its key, so a changed value reruns that stage and what follows.
Units are in the names; batch sizes count what the name says. No torch here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import Field, model_validator

from pipeline.alternatives_config import BestOfNSection, DpoSection, RlooSection
from pipeline.config_types import Fraction, NonNegativeFloat, Positive, PositiveFloat, Section
from pipeline.label_config import LabelSection
from pipeline.ppo_config import PPOConfig
from pipeline.reward_config import LoraSection, RewardSection
from pipeline.source_config import LabeledSource, TextSource

# --- data ---------------------------------------------------------------------------------------


class TinyWorldSection(Section):
    """Sizes of the embedded world; its flaws, noise and rubric are fixed in the world itself."""

    documents: Positive = 6000
    demonstrations: Positive = 400
    label_prompts: Positive = 400
    ppo_prompts: Positive = 800
    heldout_prompts: Positive = 300


class CorpusSource(TextSource):
    """One source of the pretraining mixture: JSON lines, parquet, plain text or a dataset.

    ``proportion`` is its share of the rows that training sees; all proportions of a mixture sum
    to 1. Rows that share a value of ``id_column`` are one document, which is held out or not as
    a whole; the default column ``id`` may be absent, and a document then is its text. Only the
    first ``max_documents`` rows with text are read.
    """

    name: str
    proportion: Annotated[float, Field(gt=0, le=1)]
    text_column: str = "text"
    id_column: str | None = "id"
    max_documents: Positive | None = None


class InstructionSource(TextSource):
    """Prompts with reference responses: a file below ``data_root``, or a dataset.

    The values of ``prompt_columns`` that are not empty are joined by a newline. Rows longer than
    the limits in characters are left out, and counted in the summary. The others are divided
    by a hash of the prompt, so that equal prompts share a split: ``demonstrations`` (a share of
    the prompts) go to fine-tuning, the rest to the splits label, ppo and heldout. Labelers get
    prompts of a higher ``priority_column``, a whole number, before others.
    """

    prompt_columns: list[str]
    response_column: str
    priority_column: str | None = None
    demonstrations: Fraction = 0.5
    label: Fraction = 0.2
    ppo: Fraction = 0.2
    max_prompt_characters: Positive | None = None
    max_response_characters: Positive | None = None

    @model_validator(mode="after")
    def _shares_and_columns(self) -> InstructionSource:
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


# Sizes by name: layers, heads, width, context. GPT-2's are Radford et al. 2019, table 2.
PRESETS: dict[str, dict[str, int]] = {
    name: dict(zip(("layers", "heads", "width", "context_tokens"), sizes, strict=True))
    for name, sizes in {
        "tiny": (4, 4, 192, 128),
        "small": (6, 6, 384, 256),
        "gpt2": (12, 12, 768, 1024),
        "gpt2-medium": (24, 16, 1024, 1024),
        "gpt2-large": (36, 20, 1280, 1024),
        "gpt2-xl": (48, 25, 1600, 1024),
    }.items()
}


class PretrainSection(Section):
    """The base trained from scratch: tokenizer, model size, optimization.

    ``preset`` names layers, heads, width and context at once; a size given beside it wins. A step
    trains on ``batch_rows`` rows; a device takes ``per_device_batch_rows`` of them at a time (all
    of its share where none is given).
    """

    vocab_size: Annotated[int, Field(ge=260)] = 1024  # 256 bytes and 4 special tokens
    preset: Literal["tiny", "small", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"] | None = None
    layers: Positive = 4
    heads: Positive = 4
    width: Positive = 192
    context_tokens: Positive = 128
    row_tokens: Positive = 64
    batch_rows: Positive = 16
    per_device_batch_rows: Positive | None = None
    steps: Positive = 400
    muon_learning_rate: PositiveFloat = 0.02
    learning_rate: PositiveFloat = 3e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    final_learning_rate_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat = 1.0
    compile: bool = False
    log_every_steps: Positive = 10
    evaluate_every_steps: Positive | None = None
    checkpoint_every_steps: Positive = 500
    copy_probe_minimum: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        preset = cast(dict[str, Any], values).get("preset") if isinstance(values, dict) else None
        sizes = PRESETS.get(preset, {}) if isinstance(preset, str) else {}
        return sizes | cast(dict[str, Any], values) if sizes else cast(Any, values)

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
    """A base that exists: a causal model by hub id, or its folder below ``data_root``."""

    hub_id: str | None = None
    path: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> ImportBaseSection:
        if (self.hub_id is None) == (self.path is None):
            raise ValueError("name either hub_id or path")
        return self


# --- supervised fine-tuning, sampling, labels ---------------------------------------------------


class SftSection(Section):
    """Fine-tuning on demonstrations; the loss is on the response and its end token only.

    All weights are trained, or adapters where ``lora`` is given. ``batch_rows`` counts the
    demonstrations of a step; several processes fill an epoch's last batch up with its first ones.
    Demonstrations that do not fit into the context are an error, unless
    they are at most ``max_left_out_fraction`` of all: then they are named and left out.
    """

    learning_rate: PositiveFloat = 6e-4
    epochs: Positive = 4
    batch_rows: Positive = 16
    per_device_batch_rows: Positive | None = None
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    weight_decay: NonNegativeFloat = 0.0
    validation_fraction: Fraction = 0.05
    max_left_out_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    lora: LoraSection | None = None
    checkpoint_every_steps: Positive = 500


class ClassifySection(Section):
    """A classifier of texts: one of the labels in ``source`` for any text.

    It starts from the base, or from the fine-tuned model. ``batch_rows`` counts the texts of a
    step. Texts that do not fit into the context are an error, unless they are at most
    ``max_left_out_fraction`` of all.
    """

    source: LabeledSource
    start: Literal["base", "sft"] = "base"
    learning_rate: PositiveFloat = 3e-4
    epochs: Positive = 4
    batch_rows: Positive = 16
    per_device_batch_rows: Positive | None = None
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    weight_decay: NonNegativeFloat = 0.01
    max_grad_norm: PositiveFloat = 1.0
    validation_fraction: Fraction = 0.2
    max_left_out_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    checkpoint_every_steps: Positive = 500


class PolicySource(Section):
    """Another policy for labeling: a model folder below ``data_root``, and its name in the labels.

    Such as ``{name: ppo-1, path: runs/round-1/ppo, responses_per_prompt: 2}``.
    """

    name: str
    path: str
    responses_per_prompt: Annotated[int, Field(ge=1, le=9)]


class SampleSection(Section):
    """How responses are drawn for labeling: from ``sft``, and from ``policies`` if there are any.

    Each response keeps its policy's name; labelers do not see it.
    """

    responses_per_prompt: Annotated[int, Field(ge=0, le=9)] = 5
    policies: list[PolicySource] = []
    max_response_tokens: Positive = 48
    temperature: PositiveFloat = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    batch_rows: Positive = 256

    @model_validator(mode="after")
    def _two_to_nine_in_all(self) -> SampleSection:
        counts = [self.responses_per_prompt, *(one.responses_per_prompt for one in self.policies)]
        if not 2 <= sum(counts) <= 9:
            raise ValueError(f"a prompt gets {sum(counts)} responses: labelers compare 2 to 9")
        names = ["sft", *(policy.name for policy in self.policies)]
        if len(set(names)) != len(names):
            raise ValueError("two policies share a name (sft is this run's own)")
        return self


# --- reward model, PPO, comparison --------------------------------------------------------------


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
    """A whole run. ``data_root`` is where relative paths of sources and files start.

    ``tracker`` is told every metric beside ``metrics.jsonl``; its package is installed by oneself.
    """

    name: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data_root: str = "."
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    processes: Positive = 1
    tracker: Literal["tensorboard", "trackio", "wandb"] | None = None
    data: DataSection
    pretrain: PretrainSection | None = None
    import_base: ImportBaseSection | None = None
    classify: ClassifySection | None = None
    sft: SftSection = SftSection()
    sample: SampleSection = SampleSection()
    label: LabelSection = LabelSection()
    reward: RewardSection = RewardSection()
    dpo: DpoSection | None = None
    rloo: RlooSection | None = None
    best_of_n: BestOfNSection | None = None
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
    def _pairs_divide(self) -> RunConfig:
        pairs = (self.dpo and self.dpo.batch_pairs) or 0
        device = (self.dpo and self.dpo.per_device_batch_pairs) or 1
        if pairs % (device * self.processes):
            raise ValueError(
                f"dpo.batch_pairs {pairs} is not divisible by {self.processes} processes of "
                f"{device} pairs (per_device_batch_pairs)"
            )
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> RunConfig:
        sections = {"pretrain": self.pretrain, "classify": self.classify, "sft": self.sft}
        for name, section in sections.items():
            device = (section and section.per_device_batch_rows) or 1
            if section is not None and section.batch_rows % (device * self.processes):
                raise ValueError(
                    f"{name}.batch_rows {section.batch_rows} is not divisible by "
                    f"{self.processes} processes of {device} rows (per_device_batch_rows)"
                )
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
