"""A base that somebody else trained: the folder of a causal model, made ready for the chain.

The tokens this project needs and the tokenizer lacks (a pad of its own, the prompt and response
marks) are appended to the vocabulary. Their embeddings start as the mean of the others (Hewitt
2021, "Initializing New Word Embeddings for Pretrained Language Models"), so the logits of the
tokens that were there before do not change.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.hugging_face import HuggingFaceLM, check_language_model, load_language_model
from pipeline.language_model import LanguageModel
from pipeline.model import GPT
from pipeline.tokenizer import SPECIAL_TOKENS, Tokenizer
from pipeline.tokenizer_files import load_tokenizer_backend

WANTED_FILES = (
    "config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)


def import_base(folder: Path) -> tuple[LanguageModel, Tokenizer, list[str]]:
    """The model and tokenizer of a folder, and the special tokens that were added to them.

    The model has exactly one embedding row per token of the tokenizer: rows beyond it, which some
    models have as padding, are dropped.

    Raises:
        UserError: a file is missing or broken, the model does not do what ``LanguageModel``
            promises, or the tokenizer is not byte-level or does not belong to it.
    """
    model = load_language_model(folder)
    check_weights(folder, model)
    if isinstance(model, HuggingFaceLM):
        check_language_model(model, folder / "config.json")
    backend = load_tokenizer_backend(folder)
    known_tokens = backend.get_vocab_size(with_added_tokens=True)
    highest_id = max(backend.get_vocab(with_added_tokens=True).values())
    if highest_id != known_tokens - 1 or known_tokens > model.vocab_size:
        raise UserError(
            folder,
            f"the tokenizer has {known_tokens} tokens with ids up to {highest_id}, the model "
            f"{model.vocab_size} embeddings.",
            "use the tokenizer files that belong to this model.",
        )
    added = [token for token in SPECIAL_TOKENS if backend.token_to_id(token) is None]
    backend.add_special_tokens([tokenizers.AddedToken(t, normalized=False) for t in added])
    tokenizer = Tokenizer(backend)
    return resize_vocabulary(model, known_tokens, tokenizer.vocab_size), tokenizer, added


def check_weights(folder: Path, model: LanguageModel) -> None:
    """Raises UserError where a weight is not finite."""
    for name, weight in model.state_dict().items():
        if not bool(weight.isfinite().all()):
            raise UserError(folder, f"the weight {name} is not finite.", "restore the file.")


def resize_vocabulary(model: LanguageModel, known_tokens: int, vocab_size: int) -> LanguageModel:
    """The model with ``vocab_size`` embeddings: the ``known_tokens`` first ones, then their mean.

    So with the rows of an output matrix of its own, and their biases.
    """
    if model.vocab_size == known_tokens == vocab_size:
        return model
    if isinstance(model, GPT):
        resized = GPT(replace(model.config, vocab_size=vocab_size))
        table = with_mean_rows(model.wte.weight, known_tokens, vocab_size)
        resized.load_state_dict(model.state_dict() | {"wte.weight": table})
        return resized
    assert isinstance(model, HuggingFaceLM)
    inner: Any = model.inner
    embeddings = (inner.get_input_embeddings(), inner.get_output_embeddings())
    before = [dict(embedding.named_parameters()) for embedding in embeddings]
    inner.resize_token_embeddings(vocab_size, mean_resizing=False)
    embeddings = (inner.get_input_embeddings(), inner.get_output_embeddings())
    with torch.no_grad():
        for old, embedding in zip(before, embeddings, strict=True):
            for name, parameter in embedding.named_parameters():
                parameter.copy_(with_mean_rows(old[name], known_tokens, vocab_size))
    return HuggingFaceLM(inner)


def with_mean_rows(table: Tensor, known: int, total: int) -> Tensor:
    """The ``known`` first rows of a table (or of a bias), then their mean up to ``total`` rows."""
    kept = table.detach()[:known]
    mean = kept.mean(dim=0, keepdim=True)
    return torch.cat([kept, mean.expand(total - known, *mean.shape[1:])])


def download(hub_id: str) -> Path:
    """The local folder with the files of a model on the Hugging Face hub.

    Raises:
        UserError: the hub cannot be reached, or has no such model.
    """
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=list(WANTED_FILES)))
    except Exception as error:  # network, authentication and naming errors share no base class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            "import_base.hub_id",
            f"{hub_id!r} cannot be downloaded ({reason}).",
            "check the name and the network, or give import_base.path.",
        ) from None
