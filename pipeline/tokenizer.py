"""Byte-level BPE, and the one place where a prompt meets a response.

A conversation is ``<|prompt|> prompt <|response|> response <|endoftext|>``. The marks and the pad
are tokens of their own: the pad is never the end token (a masked end token is never learned), and
text that merely spells a mark is encoded as ordinary characters.

Every byte has a token, so any text, and any bytes, survive encoding and decoding unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from pipeline.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"
PAD = "<|pad|>"
PROMPT_MARK = "<|prompt|>"
RESPONSE_MARK = "<|response|>"
SPECIAL_TOKENS = (END, PAD, PROMPT_MARK, RESPONSE_MARK)
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)

# What errors="surrogateescape" makes of a byte that is not UTF-8 (PEP 383).
ESCAPED_BYTE = re.compile("([\\udc80-\\udcff])")


def byte_alphabet() -> dict[str, int]:
    """The 256 characters that vocabulary files write bytes with, and the bytes they stand for.

    Printable Latin-1 characters stand for their own bytes; the other bytes, in order, are written
    as the characters from U+0100 on. Radford et al. 2019, ``bytes_to_unicode``.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)).difference(printable))
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }


class Tokenizer:
    """A ``tokenizers.Tokenizer`` with this project's special tokens and conversation format."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        vocabulary = backend.get_vocab(with_added_tokens=True)
        missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
        if missing:
            raise UserError(
                "tokenizer",
                f"lacks the special tokens {', '.join(missing)}.",
                "make the base with pretrain or import_base, which add them.",
            )
        # A vocabulary file lists the end token among ordinary ones: it becomes a special one here.
        backend.add_special_tokens(list(SPECIAL_TOKENS))
        backend.encode_special_tokens = True
        self.backend = backend
        self.eos_id = vocabulary[END]
        self.pad_id = vocabulary[PAD]
        self.prompt_mark_id = vocabulary[PROMPT_MARK]
        self.response_mark_id = vocabulary[RESPONSE_MARK]

    @property
    def vocab_size(self) -> int:
        """The number of ids, special tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def never_sampled_ids(self) -> tuple[int, ...]:
        """Ids that no response may contain: the pad, the two marks, and whatever other special
        tokens an imported tokenizer has, which would vanish from the text."""
        return self._never_sampled_ids

    @cached_property
    def _never_sampled_ids(self) -> tuple[int, ...]:
        marks = (self.pad_id, self.prompt_mark_id, self.response_mark_id)
        added = self.backend.get_added_tokens_decoder()
        others = {token_id for token_id, token in added.items() if token.special}
        return (*marks, *sorted(others.difference(marks, [self.eos_id])))

    def encode(self, text: str) -> list[int]:
        """The ids of plain text; a special token spelled out in it is not special.

        A byte that is not UTF-8 and was read with ``errors="surrogateescape"``, as Python reads a
        terminal or a command line, becomes that byte's token.

        Raises:
            UserError: the text holds half of a surrogate pair, which is no character.
        """
        try:
            return self.backend.encode(text, add_special_tokens=False).ids
        except TypeError:  # what the library says of any text that has no UTF-8
            return self._encode_with_escaped_bytes(text)

    def _encode_with_escaped_bytes(self, text: str) -> list[int]:
        try:
            text.encode(errors="surrogateescape")
        except UnicodeEncodeError as error:
            half = f"U+{ord(text[error.start]):04X}"
            problem = f"holds half of a surrogate pair ({half}), which is no character."
            raise UserError("text", problem, "remove it or restore its other half.") from None
        ids: list[int] = []
        for part in ESCAPED_BYTE.split(text):
            is_byte = ESCAPED_BYTE.fullmatch(part)
            ids += [self._byte_ids[ord(part) & 0xFF]] if is_byte else self.encode(part)
        return ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """As ``encode`` for each text, in parallel.

        Raises:
            UserError: as ``encode``.
        """
        try:
            batch = self.backend.encode_batch(list(texts), add_special_tokens=False)
        except TypeError:
            return [self.encode(text) for text in texts]
        return [encoding.ids for encoding in batch]

    def encode_prompt(self, prompt: str) -> list[int]:
        """``<|prompt|> prompt <|response|>``: what a policy continues."""
        return [self.prompt_mark_id, *self.encode(prompt), self.response_mark_id]

    def encode_response(self, response: str, finished: bool = True) -> list[int]:
        """The response's ids, with the end token unless it was cut off before one."""
        return self.encode(response) + [self.eos_id] * finished

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, special tokens left out; U+FFFD where their bytes are not UTF-8."""
        return self.backend.decode(list(ids), skip_special_tokens=True)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of the ids, special tokens left out: exact also where they are not UTF-8.

        Unlike texts, the bytes of two sequences join to the bytes of the joined sequence: a
        character may be spread over several tokens.
        """
        return b"".join([self._token_bytes[token_id] for token_id in ids])

    @cached_property
    def _token_bytes(self) -> dict[int, bytes]:
        alphabet = byte_alphabet()
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        token_bytes = {
            token_id: bytes(alphabet[character] for character in token)
            if all(character in alphabet for character in token)
            else token.encode()  # an added token that is written as plain text
            for token, token_id in vocabulary.items()
        }
        for token_id, added in self.backend.get_added_tokens_decoder().items():
            if added.special:
                token_bytes[token_id] = b""
        return token_bytes

    @cached_property
    def _byte_ids(self) -> dict[int, int]:
        vocabulary = self.backend.get_vocab(with_added_tokens=False)
        return {byte: vocabulary[character] for character, byte in byte_alphabet().items()}

    @cached_property
    def hf(self) -> PreTrainedTokenizerFast:
        """The same tokenizer as Hugging Face's class, for TRL and for export."""
        from transformers import PreTrainedTokenizerFast

        # A plain copy: encode_special_tokens is a setting of ours and does not belong in files.
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        return PreTrainedTokenizerFast(
            tokenizer_object=backend,
            eos_token=END,
            bos_token=END,
            pad_token=PAD,
            additional_special_tokens=[PROMPT_MARK, RESPONSE_MARK],
        )

    def save(self, folder: str | Path, context_tokens: int) -> None:
        """Writes ``tokenizer.json`` and ``tokenizer_config.json``, as AutoTokenizer reads them."""
        self.hf.model_max_length = context_tokens
        self.hf.save_pretrained(str(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """The tokenizer of a model folder.

        Raises:
            UserError: the folder has no ``tokenizer.json``, or one without our special tokens.
        """
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise UserError(path, "is missing.", "name a model folder that this pipeline wrote.")
        backend = read_tokenizer_json(path)
        try:
            return cls(backend)
        except UserError as error:
            raise UserError(path, error.problem, error.fix) from None


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE trained on ``texts``; the same texts in the same order give the same merges.

    The texts are read one at a time and may be more than memory holds. Each merge joins the most
    frequent pair of neighbors (Sennrich et al. 2016); of equally frequent ones, that of the lowest
    ids. Texts that have fewer pairs to merge give a smaller vocabulary.

    Raises:
        UserError: ``vocab_size`` leaves no room for the 256 bytes and the special tokens.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise UserError(
            "pretrain.vocab_size",
            f"must hold 256 bytes and {len(SPECIAL_TOKENS)} special tokens, got {vocab_size}.",
            f"use at least {SMALLEST_VOCABULARY}.",
        )
    backend = byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend)


def byte_level(bpe: models.BPE) -> tokenizers.Tokenizer:
    """BPE between GPT-2's division of text into words and its alphabet of bytes."""
    backend = tokenizers.Tokenizer(bpe)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    backend.decoder = decoders.ByteLevel()  # pyright: ignore
    return backend


def read_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer of one ``tokenizer.json``.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception for a broken file
        raise UserError(path, f"cannot be read ({error}).", "restore the file.") from None
