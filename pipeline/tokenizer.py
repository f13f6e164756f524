"""Byte-level BPE, and the one place where a prompt meets a response.

A conversation is ``<|prompt|> prompt <|response|> response <|endoftext|>``. The marks and the pad
are tokens of their own: the pad is never the end token (a masked end token is never learned), and
text that merely spells a mark is encoded as ordinary characters.
"""

from __future__ import annotations

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
        """Ids that no response may contain: the pad and the two marks."""
        return (self.pad_id, self.prompt_mark_id, self.response_mark_id)

    def encode(self, text: str) -> list[int]:
        """The ids of plain text; a special token spelled out in it is not special."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """As ``encode`` for each text, in parallel."""
        batch = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in batch]

    def encode_prompt(self, prompt: str) -> list[int]:
        """``<|prompt|> prompt <|response|>``: what a policy continues."""
        return [self.prompt_mark_id, *self.encode(prompt), self.response_mark_id]

    def encode_response(self, response: str, finished: bool = True) -> list[int]:
        """The response's ids, with the end token unless it was cut off before one."""
        return self.encode(response) + [self.eos_id] * finished

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, special tokens left out."""
        return self.backend.decode(list(ids), skip_special_tokens=True)

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
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)))
        except UserError as error:
            raise UserError(path, error.problem, error.fix) from None
        except Exception as error:  # the library raises plain Exception for a broken file
            raise UserError(path, f"cannot be read ({error}).", "restore the file.") from None


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE trained on ``texts``; the same texts in the same order give the same merges.

    Raises:
        UserError: ``vocab_size`` leaves no room for the 256 bytes and the special tokens.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise UserError(
            "pretrain.vocab_size",
            f"must hold 256 bytes and {len(SPECIAL_TOKENS)} special tokens, got {vocab_size}.",
            f"use at least {SMALLEST_VOCABULARY}.",
        )
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    backend.decoder = decoders.ByteLevel()  # pyright: ignore
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend)
