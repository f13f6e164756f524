"""Any causal language model of ``transformers``, as a ``LanguageModel``.

A folder in GPT-2's shape becomes this project's ``GPT``, the fast path; every other architecture is
run by its own code in ``transformers``, in fp32.

Shapes: B rows, T tokens, C width, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.gpt2_format import (
    from_gpt2_weights,
    generation_defaults,
    gpt_config,
    is_gpt2,
    load_gpt,
    read_config,
    save_gpt,
)
from pipeline.language_model import LanguageModel
from pipeline.model import GPT

if TYPE_CHECKING:
    from pipeline.tokenizer import Tokenizer

OTHER_TASKS = (
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMaskedLM",
    "ForConditionalGeneration",
)

# Where architectures state the longest sequence they have positions for.
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


class HuggingFaceTrunk(LanguageModel):
    """A model of ``transformers`` without head and without dropout: hidden states alone.

    Args:
        inner: the model.
        width: of its hidden states.
    """

    def __init__(self, inner: Any, width: int) -> None:
        super().__init__()
        self.inner: Any = inner
        self.width = width
        self.vocab_size = inner.get_input_embeddings().weight.shape[0]
        self.context_tokens = context_of(inner.config.to_dict(), inner.config.model_type)
        accepted = inspect.signature(inner.forward).parameters
        self.takes_positions = "position_ids" in accepted
        self.takes_logits_to_keep = "logits_to_keep" in accepted
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode, in which gradients flow and nothing is dropped at random."""
        super().train(False)
        return self

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T, C) after the final norm, for ids (B, T); mask and padding as ``LanguageModel``."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        arguments = {"attention_mask": mask, "use_cache": False, "return_dict": True}
        if self.takes_positions:
            arguments["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        return self.inner.base_model(input_ids, **arguments).last_hidden_state


class HuggingFaceLM(HuggingFaceTrunk):
    """A causal model of ``transformers`` without dropout.

    Args:
        inner: the model, whose final hidden states times its output matrix are its logits
            (``check_language_model`` makes sure).
    """

    def __init__(self, inner: Any) -> None:
        super().__init__(inner, inner.get_output_embeddings().weight.shape[1])

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., V) for hidden states (..., C)."""
        return self.inner.get_output_embeddings()(hidden)

    def decoder(self, prompt_ids: Sequence[Sequence[int]], new_tokens: int) -> HuggingFaceDecoder:
        """The prompts, read and ready to grow."""
        return HuggingFaceDecoder(self, prompt_ids)


class HuggingFaceDecoder:
    """A ``Decoder`` on the model's own cache, its prompts padded on the left."""

    def __init__(self, model: HuggingFaceLM, prompt_ids: Sequence[Sequence[int]]) -> None:
        self.model = model
        device, Q = model.device, max(map(len, prompt_ids))
        ids = torch.zeros(len(prompt_ids), Q, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompt_ids):
            ids[row, Q - len(prompt) :] = torch.tensor(prompt)
            mask[row, Q - len(prompt) :] = 1
        self.mask = mask.to(device)
        self.cache: Any = None
        self._read(ids.to(device), (self.mask.cumsum(1) - 1).clamp(min=0))

    def append(self, tokens: Tensor) -> None:
        """Adds one token to each row."""
        positions = self.mask.sum(1, keepdim=True)
        self.mask = torch.cat([self.mask, torch.ones_like(positions)], dim=1)
        self._read(tokens[:, None], positions)

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but those indexed."""
        self.mask = self.mask[rows]
        self.cache.batch_select_indices(rows)

    def _read(self, ids: Tensor, positions: Tensor) -> None:
        arguments: dict[str, Any] = {"past_key_values": self.cache, "use_cache": True}
        if self.model.takes_positions:
            arguments["position_ids"] = positions
        if self.model.takes_logits_to_keep:
            arguments["logits_to_keep"] = 1
        output = self.model.inner(ids, attention_mask=self.mask, return_dict=True, **arguments)
        self.cache = output.past_key_values
        self.logits: Tensor = output.logits[:, -1]


def context_of(config: dict[str, Any], where: object) -> int:
    """The longest sequence of a model with this configuration.

    Of one whose rotary positions change for long texts (longrope), the longest before they do: past
    it, what a row becomes would depend on how long its neighbors are.

    Raises:
        UserError: the configuration does not say.
    """
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if "longrope" in (rope.get("rope_type"), rope.get("type")):
        key = "original_max_position_embeddings"
        config = {"max_position_embeddings": rope.get(key) or config.get(key)}
    for key in CONTEXT_KEYS:
        if isinstance(config.get(key), int):
            return config[key]
    raise UserError(
        where,
        f"states no context length (none of {', '.join(CONTEXT_KEYS)}).",
        "use a model whose configuration does.",
    )


@torch.no_grad()
def check_language_model(model: HuggingFaceLM, where: object) -> None:
    """Raises UserError where the model does not do what ``LanguageModel`` promises.

    Asked of it on a few tokens: its logits are its hidden states times its output matrix, and they
    are the same from the cache, beside shorter prompts, as from the whole text at once.
    """
    texts = [[token % model.vocab_size for token in range(first, first + 7)] for first in (3, 11)]
    whole = torch.tensor(texts, device=model.device)
    try:
        expected = model.inner(whole, use_cache=False).logits
        scale = 1e-4 * (1 + expected.abs().max())
        if (model(whole) - expected).abs().max() > scale:
            problem = "it does more to its logits than multiply by its output matrix"
        else:
            decoder = model.decoder([texts[0][:6], texts[1][:3]], 1)
            decoder.keep(torch.tensor([1], device=model.device))
            decoder.append(whole[1:, 3])
            if (decoder.logits[0] - expected[1, 3]).abs().max() <= scale:
                return
            problem = "it does not predict the same from its cache as from the whole text"
    except Exception as error:  # whatever an architecture raises that works in another way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        problem = f"it has no cache of keys and values whose rows can be dropped ({reason})"
    raise UserError(where, f"is not supported: {problem}.", "use another model.")


def trunk_of(model: LanguageModel) -> LanguageModel:
    """The part of a language model that a head of another kind can be put on."""
    if isinstance(model, HuggingFaceLM):
        return HuggingFaceTrunk(model.inner.base_model, model.width)
    return model


# --- folders --------------------------------------------------------------------------------------


def load_language_model(folder: str | Path) -> LanguageModel:
    """The causal model of a Hugging Face folder, in fp32 on the CPU.

    Raises:
        UserError: a file is missing or broken, or ``transformers`` has no such causal model.
    """
    check_kind(folder)
    if is_gpt2(read_config(folder)):
        return load_gpt(folder)
    return HuggingFaceLM(load_transformers_model(folder))


def check_kind(folder: str | Path) -> None:
    """Raises UserError where a folder holds something else than a whole language model."""
    path = Path(folder)
    if (path / "adapter_config.json").exists():
        raise UserError(
            path, "holds an adapter (adapter_config.json).", "merge it into its base first."
        )
    kinds = read_config(folder).get("architectures") or [""]
    if str(kinds[0]).endswith(OTHER_TASKS):
        raise UserError(
            path, f"holds {kinds[0]}, which does not write text.", "name a language model's folder."
        )


def load_transformers_model(folder: str | Path, **options: Any) -> Any:
    """The folder's causal model as ``transformers``' own class, in fp32 on the CPU.

    Raises:
        UserError: as ``load_language_model``.
    """
    import transformers

    check_kind(folder)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # it raises OSError, ValueError, KeyError, SafetensorError, ...
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            folder,
            f"cannot be loaded as a causal language model ({reason}).",
            "name a folder with config.json and safetensors weights of an architecture that "
            "transformers knows.",
        ) from None
    model, loading = loaded
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    wrong = sorted(str(key) for kind in kinds for key in loading[kind])
    if wrong:
        raise UserError(
            folder,
            f"its weights do not fit config.json at {wrong[0]} ({len(wrong)} weights in all).",
            "restore the folder: weights and configuration must come from one model.",
        )
    return model


def remove_dropout(model: Any) -> None:
    """Sets every chance of a model's dropout to 0, in modules and where functions are called."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def as_language_model(model: Any) -> LanguageModel:
    """A causal model of ``transformers`` as the class that its folder is loaded as."""
    config = model.config.to_dict()
    if not is_gpt2(config):
        return HuggingFaceLM(model)
    gpt = GPT(gpt_config(config))
    gpt.load_state_dict(from_gpt2_weights(model.cpu().state_dict()))
    return gpt


def save_language_model(model: LanguageModel, folder: str | Path, tokenizer: Tokenizer) -> None:
    """Writes a Hugging Face folder: weights, configuration, tokenizer, generation defaults."""
    if isinstance(model, GPT):
        save_gpt(model, folder, tokenizer)
        return
    assert isinstance(model, HuggingFaceLM)
    import transformers

    config = model.inner.config
    config.bos_token_id = config.eos_token_id = tokenizer.eos_id
    config.pad_token_id = tokenizer.pad_id
    model.inner.generation_config = transformers.GenerationConfig(**generation_defaults(tokenizer))
    model.inner.save_pretrained(folder)
    tokenizer.save(folder, model.context_tokens)


def context_tokens_of(folder: str | Path) -> int:
    """The longest sequence that the model of a folder reads; no weights are loaded.

    Raises:
        UserError: the configuration is missing, or does not say.
    """
    return context_of(read_config(folder), Path(folder) / "config.json")
