"""Tokenizers that somebody else trained: a ``tokenizer.json``, or GPT-2's vocabulary and merges.

OpenAI published the pair as ``encoder.json`` and ``vocab.bpe``; Hugging Face's folders call it
``vocab.json`` and ``merges.txt``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, models, processors

from pipeline.errors import UserError
from pipeline.tokenizer import byte_alphabet, byte_level, read_tokenizer_json

PROBE_TEXT = "the owl  and\ttwo\n\nCafe\u0301s \u212b ,  don't .\n "
VOCABULARY_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))


def load_tokenizer_backend(folder: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a folder: ``tokenizer.json``, else GPT-2's vocabulary and merges.

    It may lack our special tokens.

    Raises:
        UserError: neither is there, a file is broken, the merges do not fit the vocabulary, or the
            tokenizer is not byte-level.
    """
    path = folder / "tokenizer.json"
    pairs = [(folder / vocabulary, folder / merges) for vocabulary, merges in VOCABULARY_FILES]
    whole = [pair for pair in pairs if all(file.is_file() for file in pair)]
    if path.is_file():
        backend = read_tokenizer_json(path)
    elif whole:
        path = whole[0][0]
        backend = byte_level(read_bpe(*whole[0]))
        names = special_names(folder)
        backend.add_special_tokens([AddedToken(name, normalized=False) for name in names])
    else:
        raise UserError(
            folder,
            "has no tokenizer: neither tokenizer.json nor vocab.json with merges.txt.",
            "add the tokenizer files of this model.",
        )
    lost = byte_alphabet().keys() - backend.get_vocab(with_added_tokens=False).keys()
    if lost:
        raise UserError(
            path,
            f"is not byte-level: {len(lost)} of the 256 bytes have no token.",
            "use a model with a tokenizer of GPT-2's kind.",
        )
    # A stored limit would cut prompts silently.
    backend.no_truncation()
    backend.no_padding()
    # What a template puts around a text, the chain's conversations do not have.
    if backend.post_processor is not None and backend.num_special_tokens_to_add(False):
        backend.post_processor = processors.ByteLevel(trim_offsets=False)  # pyright: ignore
    if not keeps_text(backend):
        backend.normalizer = None  # pyright: ignore  # Qwen's joins accents to their letters
    if not keeps_text(backend):
        raise UserError(
            path,
            f"does not give back the text it encoded: {PROBE_TEXT!r} becomes "
            f"{backend.decode(backend.encode(PROBE_TEXT, add_special_tokens=False).ids)!r}.",
            "use a tokenizer without add_prefix_space and without a normalizer.",
        )
    return backend


def special_names(folder: Path) -> list[str]:
    """The special tokens that a vocabulary's neighbors name; those it lacks in order of their ids.

    ``added_tokens.json`` maps tokens past the vocabulary to ids, ``special_tokens_map.json`` names
    the special ones by their use.

    Raises:
        UserError: one of the two files is broken.
    """
    added, uses = (
        _read_object(folder / f"{n}.json") for n in ("added_tokens", "special_tokens_map")
    )
    names = sorted(added, key=lambda name: added[name])
    for value in uses.values():
        for token in value if isinstance(value, list) else [value]:
            names.append(token["content"] if isinstance(token, dict) else str(token))
    return list(dict.fromkeys(names))


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(path, f"cannot be read ({error}).", "restore the file.") from None
    if not isinstance(values, dict):
        raise UserError(path, "must hold a JSON object.", "restore the file.")
    return values


def keeps_text(backend: tokenizers.Tokenizer) -> bool:
    """True where decoding gives back what was encoded, to the last blank and accent."""
    ids = backend.encode(PROBE_TEXT, add_special_tokens=False).ids
    return backend.decode(ids, skip_special_tokens=False) == PROBE_TEXT


def read_bpe(vocabulary_path: Path, merges_path: Path) -> models.BPE:
    """The BPE of a JSON vocabulary {token: id} and a text file with one merge a line.

    Raises:
        UserError: a file cannot be read, the ids are not 0 to n - 1, a line of the merges is
            broken or joins what the vocabulary lacks, or merges are missing.
    """
    vocabulary = _read_vocabulary(vocabulary_path)
    try:
        lines = merges_path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(merges_path, f"cannot be read ({error}).", "restore the file.") from None
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(lines, start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        where = f"{merges_path}:{number}"
        parts = line.split(" ")
        if len(parts) != 2:
            problem = f"must hold two tokens with a space between, got {line[:40]!r}."
            raise UserError(where, problem, "restore the file.")
        unknown = [token for token in (*parts, "".join(parts)) if token not in vocabulary]
        if unknown:
            problem = f"needs the token {unknown[0]!r}, which {vocabulary_path.name} lacks."
            raise UserError(where, problem, "use the two files of one tokenizer.")
        merges.append((parts[0], parts[1]))
    # Ġ is a space, which no special token's name starts with.
    made = {"".join(pair) for pair in merges} | byte_alphabet().keys()
    unmade = [token for token in vocabulary if token.startswith("Ġ") and token not in made]
    if unmade:
        problem = f"lacks merges: nothing makes the token {unmade[0]!r} ({len(unmade)} in all)."
        raise UserError(merges_path, problem, "use the two files of one tokenizer.")
    return models.BPE(vocabulary, merges)


def _read_vocabulary(path: Path) -> dict[str, int]:
    try:
        vocabulary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(path, f"cannot be read ({error}).", "restore the file.") from None
    if isinstance(vocabulary, dict):
        ids = list(vocabulary.values())
        if all(type(i) is int for i in ids) and sorted(ids) == list(range(len(ids))):
            return vocabulary
    problem = "must map tokens to the ids 0 to n - 1, each once."
    raise UserError(path, problem, "restore the file.")
