"""Sources as rows of tokens in memory-mapped files, made once for a tokenizer and a row length."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import tokenizers
from numpy.typing import NDArray

from pipeline.artifacts import hash_json
from pipeline.chain import stage_version
from pipeline.data.cache import Cache, Values
from pipeline.data.packing import Ids, RowPacker
from pipeline.data.sources import Source, training_texts
from pipeline.data.texts import word_pieces
from pipeline.tokenizer import Tokenizer, train_tokenizer

Counts = dict[str, int]
Piece = tuple[str, tuple[int, bool] | None]
Rows = NDArray[np.integer[Any]]  # (rows, T + 1): inputs are [:, :-1], targets [:, 1:]

PARTS = ("train", "heldout")
TOKENIZER_FILE = "tokenizer.json"
ENCODED_AT_ONCE = 2**18  # characters


@dataclass(frozen=True)
class TokenPart:
    """The training or the held-out side of a source.

    ``tokens`` counts each token of each document once, its end token included; ``rows`` repeats
    some. ``bytes`` are those of the text in UTF-8.
    """

    rows: Rows
    documents: int
    bytes: int
    tokens: int


@dataclass(frozen=True)
class TokenizedSource:
    """A source as rows, which are mapped into memory and read as they are used."""

    name: str
    proportion: float
    train: TokenPart
    heldout: TokenPart


def trained_tokenizer(sources: Sequence[Source], vocab_size: int, cache: Cache) -> Tokenizer:
    """The tokenizer of the sources' training text, trained when it is not in the cache.

    Raises:
        UserError: a source cannot be read; as ``train_tokenizer``.
    """

    def make(folder: Path) -> Values:
        tokenizer = train_tokenizer(training_texts(sources), vocab_size)
        (folder / TOKENIZER_FILE).write_text(tokenizer.backend.to_str(), encoding="utf-8")
        _give_back_freed_memory()
        return {}

    contents = [_content(source) for source in sources]
    key = _key("tokenizer", contents, vocab_size, tokenizers.__version__)
    folder, _ = cache.entry(key, make)
    return Tokenizer(tokenizers.Tokenizer.from_file(str(folder / TOKENIZER_FILE)))


def tokenize_sources(
    sources: Sequence[Source], tokenizer: Tokenizer, row_tokens: int, cache: Cache
) -> list[TokenizedSource]:
    """Each source as rows of ``row_tokens`` + 1 tokens; only what is not in the cache is encoded.

    ``RowPacker`` says how rows are filled. Ids are stored in two bytes where the vocabulary fits.

    Raises:
        UserError: a source cannot be read.
    """
    vocabulary = hashlib.sha256(tokenizer.backend.to_str().encode()).hexdigest()
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 2**16 else "<u4")
    found: list[TokenizedSource] = []
    for source in sources:
        make = partial(
            _write_shard, source=source, tokenizer=tokenizer, row_tokens=row_tokens, dtype=dtype
        )
        key = _key("tokens", _content(source), vocabulary, row_tokens)
        folder, values = cache.entry(key, make)
        train, heldout = (
            _open_part(folder / f"{part}.bin", cast(Counts, values[part]), row_tokens, dtype)
            for part in PARTS
        )
        found.append(TokenizedSource(source.entry.name, source.entry.proportion, train, heldout))
    return found


def _give_back_freed_memory() -> None:
    """Returns to the system what the table of all distinct words took; glibc would keep it."""
    with suppress(OSError, AttributeError):  # another system's C library
        ctypes.CDLL(None).malloc_trim(0)


def _key(*parts: object) -> str:
    """A folder's name: what it is made from, and the VERSIONs of the code that reads and writes."""
    return hash_json([stage_version("data"), stage_version("pretrain"), *parts])[:32]


def _content(source: Source) -> list[object]:
    """All that decides the texts of a source and which of them are held out."""
    heldout = hashlib.sha256(source.heldout.tobytes()).hexdigest()
    return [source.entry.model_dump(mode="json", exclude={"name", "proportion"}), heldout]


# --- one shard ----------------------------------------------------------------------------------


class _PartWriter:
    """Writes the rows of one part of a source, and counts what goes into them."""

    def __init__(self, file: BinaryIO, row_tokens: int, dtype: np.dtype[Any]) -> None:
        self.counts: Counts = {"documents": 0, "bytes": 0, "tokens": 0, "rows": 0}
        self._file = file
        self._dtype = dtype
        self._packer = RowPacker(row_tokens, dtype, self._write)

    def add(self, ids: Sequence[int], size: int) -> None:
        self.counts["documents"] += 1
        self.counts["bytes"] += size
        self.counts["tokens"] += len(ids)
        self._packer.add(np.array(ids, self._dtype))

    def finish(self) -> None:
        self._packer.finish()

    def _write(self, row: Ids) -> None:
        self._file.write(row.tobytes())
        self.counts["rows"] += 1


def _write_shard(
    folder: Path, source: Source, tokenizer: Tokenizer, row_tokens: int, dtype: np.dtype[Any]
) -> Values:
    """Writes both parts in one reading of the source; returns what they count."""
    with ExitStack() as files:
        writers = [
            _PartWriter(files.enter_context((folder / f"{part}.bin").open("wb")), row_tokens, dtype)
            for part in PARTS
        ]
        for ids, size, is_heldout in _encoded(source, tokenizer):
            writers[is_heldout].add(ids, size)
        for writer in writers:
            writer.finish()
    return {part: dict(writer.counts) for part, writer in zip(PARTS, writers, strict=True)}


def _encoded(source: Source, tokenizer: Tokenizer) -> Iterator[tuple[list[int], int, bool]]:
    """Of each document its ids with the end token, its bytes, and whether it is held out."""
    ids: list[int] = []
    for batch in _batches(_pieces(source)):
        encodings = tokenizer.encode_many([piece for piece, _ in batch])
        for piece_ids, (_, end) in zip(encodings, batch, strict=True):
            ids += piece_ids
            if end is not None:
                yield [*ids, tokenizer.eos_id], *end
                ids = []


def _pieces(source: Source) -> Iterator[Piece]:
    """Each document in pieces; with the last come its bytes, and whether it is held out."""
    for text, is_heldout in source.documents():
        *pieces, last = word_pieces(text)
        yield from ((piece, None) for piece in pieces)
        yield last, (len(text.encode()), is_heldout)


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """As many pieces as are encoded at once: few enough that memory does not grow."""
    batch: list[Piece] = []
    characters = 0
    for piece in pieces:
        batch.append(piece)
        characters += len(piece[0])
        if characters >= ENCODED_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _open_part(path: Path, counts: Counts, row_tokens: int, dtype: np.dtype[Any]) -> TokenPart:
    shape = (counts["rows"], row_tokens + 1)
    rows: Rows = np.empty(shape, dtype)
    if counts["rows"]:  # an empty file cannot be mapped
        rows = np.memmap(path, dtype, "r", shape=shape)
    return TokenPart(rows, counts["documents"], counts["bytes"], counts["tokens"])
