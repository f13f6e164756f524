"""Tokenizers that somebody else trained: a ``tokenizer.json``, or GPT-2's vocabulary and merges.

OpenAI published the pair as ``encoder.json`` and ``vocab.bpe``; Hugging Face's folders call it
``vocab.json`` and ``merges.txt``.
"""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from tokenizers import models

from pipeline.errors import UserError
from pipeline.tokenizer import byte_alphabet, byte_level, read_tokenizer_json

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
    return backend


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
