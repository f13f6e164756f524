"""A base that somebody else trained: a GPT-2-shaped Hugging Face folder, made ready for the chain.

The tokens this project needs and the tokenizer lacks (a pad of its own, the prompt and response
marks) are appended to the vocabulary. Their embeddings start as the mean of the others (Hewitt
2021, "Initializing New Word Embeddings for Pretrained Language Models"), so the logits of the
tokens that were there before do not change.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import tokenizers
import torch

from pipeline.errors import UserError
from pipeline.model import GPT, load_gpt
from pipeline.tokenizer import SPECIAL_TOKENS, Tokenizer
from pipeline.tokenizer_files import load_tokenizer_backend

WANTED_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
)

# What GPT-2's configuration can vary and this project's GPT does not: key, the value it has.
FIXED_SETTINGS = {
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def import_base(folder: Path) -> tuple[GPT, Tokenizer, list[str]]:
    """The model and tokenizer of a folder, and the special tokens that were added to them.

    The model has exactly one embedding row per token of the tokenizer: rows beyond it, which some
    models have as padding, are dropped.

    Raises:
        UserError: a file is missing or broken, the model is not GPT-2's architecture, or the
            tokenizer does not belong to it.
    """
    gpt = load_gpt(folder)
    check_architecture(folder, gpt)
    backend = load_tokenizer_backend(folder)
    known_tokens = backend.get_vocab_size(with_added_tokens=True)
    highest_id = max(backend.get_vocab(with_added_tokens=True).values())
    if highest_id != known_tokens - 1 or known_tokens > gpt.config.vocab_size:
        raise UserError(
            folder,
            f"the tokenizer has {known_tokens} tokens with ids up to {highest_id}, the model "
            f"{gpt.config.vocab_size} embeddings.",
            "use the tokenizer files that belong to this model.",
        )
    added = [token for token in SPECIAL_TOKENS if backend.token_to_id(token) is None]
    backend.add_special_tokens([tokenizers.AddedToken(t, normalized=False) for t in added])
    tokenizer = Tokenizer(backend)
    return resize_vocabulary(gpt, known_tokens, tokenizer.vocab_size), tokenizer, added


def check_architecture(folder: Path, gpt: GPT) -> None:
    """Raises UserError where a model is a variant of GPT-2, or one of its weights is not finite."""
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    expected = FIXED_SETTINGS | {"n_inner": 4 * gpt.config.width}
    for key, value in expected.items():
        found = values.get(key)
        if found is not None and found != value:
            raise UserError(
                path,
                f"is a variant of GPT-2 that is not supported: {key} must be {value}, got {found}.",
                "use a model of GPT-2's own architecture.",
            )
    for name, weight in gpt.state_dict().items():
        if not bool(weight.isfinite().all()):
            raise UserError(folder, f"the weight {name} is not finite.", "restore the file.")


def resize_vocabulary(gpt: GPT, known_tokens: int, vocab_size: int) -> GPT:
    """A GPT with ``vocab_size`` embeddings: the ``known_tokens`` first ones, then their mean."""
    if gpt.config.vocab_size == known_tokens == vocab_size:
        return gpt
    resized = GPT(replace(gpt.config, vocab_size=vocab_size))
    known = gpt.wte.weight[:known_tokens]
    new = known.mean(dim=0, keepdim=True).expand(vocab_size - known_tokens, -1)
    state = gpt.state_dict() | {"wte.weight": torch.cat([known, new])}
    resized.load_state_dict(state)
    return resized


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
