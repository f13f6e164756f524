"""Corpora as rows of tokens, and the mixture that training sees.

A document is cut into pieces that fit a row; a row is filled with whole pieces from the start of
one, so that what a title announces stands in the same row as what follows it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import file_sha256
from pipeline.errors import UserError
from pipeline.records import Row, iter_json_lines, parse_row
from pipeline.tokenizer import Tokenizer

Rows = NDArray[np.int64]  # (rows, T + 1): inputs are [:, :-1], targets [:, 1:]


@dataclass(frozen=True)
class SourceTexts:
    """The documents of one source, divided by document into training and held-out text."""

    name: str
    proportion: float
    train: list[str]
    heldout: list[str]


@dataclass(frozen=True)
class MixtureRow:
    """One line of the mixture table (LLaMA's Table 1): what a source gave to training."""

    source: str
    documents: int
    bytes: int
    tokens: int
    proportion: float
    epochs: float


def document_is_heldout(seed: int, source: str, document_id: str, fraction: float) -> bool:
    """Whether a document is held out: a hash of its name, so the same one whatever the order."""
    digest = hashlib.sha256(f"{seed}\0{source}\0{document_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


class SourceEntry(Row):
    """One entry of ``corpus/sources.json``: where a source's texts are, and which are held out.

    ``path`` starts in the run's ``data/corpus/`` for the embedded world's texts, else in
    ``data_root``.
    """

    name: str
    path: str
    proportion: float
    text_column: str
    id_column: str | None
    sha256: str
    bytes: int
    documents: int
    heldout_ids: list[str]


def load_sources(data_folder: Path, data_root: Path) -> list[SourceTexts]:
    """The sources that ``corpus/sources.json`` lists, read from the run or from ``data_root``.

    Raises:
        UserError: a listed file is missing, broken or no longer the one that was listed, or a
            source has no training text.
    """
    corpus = data_folder / "corpus"
    listing = json.loads((corpus / "sources.json").read_text(encoding="utf-8"))
    return [
        _load_source(parse_row(SourceEntry, entry, str(corpus / "sources.json")), corpus, data_root)
        for entry in listing
    ]


def _load_source(entry: SourceEntry, corpus: Path, data_root: Path) -> SourceTexts:
    path = corpus / entry.path if (corpus / entry.path).exists() else data_root / entry.path
    texts = list(read_documents(path, entry.text_column, entry.id_column))
    if file_sha256(path) != entry.sha256:
        raise UserError(path, "has changed since the data stage.", "run the stage data again.")
    held_out = set(entry.heldout_ids)
    train = [text for document_id, text in texts if document_id not in held_out]
    if not train:
        raise UserError(path, "has no training documents.", "supply more documents.")
    heldout = [text for document_id, text in texts if document_id in held_out]
    return SourceTexts(entry.name, entry.proportion, train, heldout)


def read_documents(
    path: Path, text_column: str, id_column: str | None
) -> Iterator[tuple[str, str]]:
    """``(document id, text)`` of a JSON-lines file, or of a plain text file as one document.

    Without an id column a document is named by its line number.

    Raises:
        UserError: the file is missing or empty, or a row has no usable text.
    """
    if path.suffix != ".jsonl":
        yield path.name, _read_text(path)
        return
    count = 0
    for where, row in iter_json_lines(path):
        text = row.get(text_column)
        if not isinstance(text, str) or not text.strip():
            raise UserError(
                where, f"column {text_column!r} holds no text.", "mend the row or text_column."
            )
        count += 1
        yield (str(row[id_column]) if id_column and id_column in row else str(count)), text
    if not count:
        raise UserError(path, "holds no documents.", "supply at least one.")


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror}).", "check the path.") from None
    except UnicodeDecodeError as error:
        raise UserError(path, f"is not UTF-8 (byte {error.start}).", "save it as UTF-8.") from None
    if not text.strip():
        raise UserError(path, "is empty.", "supply some text.")
    return text


def pack_rows(texts: Sequence[str], tokenizer: Tokenizer, row_tokens: int) -> Rows:
    """Rows (N, row_tokens + 1) that each begin where a piece of a document begins.

    Every document ends with the end token. A piece that no longer fits whole fills the row's end
    and is the beginning of the next row as well: nothing is lost, and short documents are always
    seen whole once. The last row is filled with pieces from the front.
    """
    size = row_tokens + 1
    pieces: list[list[int]] = []
    for ids in tokenizer.encode_many(texts):
        document = [*ids, tokenizer.eos_id]
        # Pieces of a long document overlap by one token: the last target is the next first input.
        starts = range(0, max(1, len(document) - 1), row_tokens)
        pieces += [document[start : start + size] for start in starts]
    rows: list[list[int]] = []
    row: list[int] = []
    index = 0
    while index < len(pieces):
        row += pieces[index]
        if len(row) <= size:
            index += 1  # taken whole; a piece that was cut begins the next row instead
        if len(row) >= size:
            rows.append(row[:size])
            row = []
    if row:
        filler = rows[0] if rows else row
        rows.append((row + filler * size)[:size])
    return np.array(rows, dtype=np.int64)


def mixture_schedule(
    row_counts: Sequence[int], proportions: Sequence[float], total_rows: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``(source, row)`` for each of ``total_rows`` training rows, in order.

    Each row's source is drawn by ``proportions``; within a source, rows come in a new random order
    every epoch. A pure function of its arguments.
    """
    rng = np.random.default_rng([seed, 0])
    sources = rng.choice(len(row_counts), size=total_rows, p=np.array(proportions))
    rows = np.empty(total_rows, dtype=np.int64)
    for source, count in enumerate(row_counts):
        places = np.flatnonzero(sources == source)
        epochs = -(-len(places) // count)
        orders = [
            np.random.default_rng([seed, 1, source, epoch]).permutation(count)
            for epoch in range(epochs)
        ]
        if orders:
            rows[places] = np.concatenate(orders)[: len(places)]
    return sources.astype(np.int64), rows


def mixture_table(
    sources: Sequence[SourceTexts], packed: Sequence[Rows], used_rows: Sequence[int]
) -> list[dict[str, object]]:
    """The rows of the mixture table, ready for JSON; ``used_rows`` counts rows seen a source."""
    return [
        asdict(
            MixtureRow(
                source=source.name,
                documents=len(source.train),
                bytes=sum(len(text.encode()) for text in source.train),
                tokens=int(rows.size),
                proportion=source.proportion,
                epochs=used / len(rows),
            )
        )
        for source, rows, used in zip(sources, packed, used_rows, strict=True)
    ]
