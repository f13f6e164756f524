"""The sources of a mixture: their documents one at a time, and which of them are held out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.artifacts import file_sha256, hash_json, list_files
from pipeline.config import CorpusSource
from pipeline.data.heldout import HELDOUT_FILE, Hashes, among, text_hash
from pipeline.data.tables import Entry, dataset_entries, file_entries, text_cell
from pipeline.data.texts import text_documents, word_pieces
from pipeline.errors import UserError

SOURCES_FILE = "sources.json"
ID_COLUMN = "id"  # the default, which may be absent


class SourceDocument(NamedTuple):
    """A document's id, None where it has none, and its text, empty where the row has none."""

    document_id: str | None
    text: str


class SourceEntry(CorpusSource):
    """One entry of ``corpus/sources.json``: a source as configured, and what was found in it.

    ``path`` starts in the run's ``data/corpus/`` if ``in_run``, else in ``data_root``. A local
    source has a ``sha256``, one on the hub the ``revision`` that was read. ``bytes`` are those of
    its text in UTF-8, ``empty_rows`` its rows without text, which are no documents.
    """

    in_run: bool
    sha256: str | None
    revision: str | None
    documents: int
    heldout_documents: int
    bytes: int
    empty_rows: int


@dataclass(frozen=True)
class Source:
    """A source of a finished data stage; ``place`` is None for one on the hub.

    ``heldout`` are the sorted hashes of the texts that no training may see, of all sources.
    """

    entry: SourceEntry
    place: Path | None
    heldout: Hashes

    def documents(self) -> Iterator[tuple[str, bool]]:
        """The text of each document, and whether it is held out."""
        for document in read_documents(self.entry, self.place, self.entry.revision):
            if document.text:
                yield document.text, self._is_heldout(document.text)

    def _is_heldout(self, text: str) -> bool:
        return bool(among(np.array([text_hash(text)], np.uint64), self.heldout)[0])


def training_texts(sources: Iterable[Source]) -> Iterator[str]:
    """All training text of the sources, in pieces that end where a word ends."""
    for source in sources:
        for text, is_heldout in source.documents():
            if not is_heldout:
                yield from word_pieces(text)


def load_sources(data_folder: Path, data_root: Path) -> list[Source]:
    """The sources that ``corpus/sources.json`` lists; no text is read yet.

    Raises:
        UserError: a local source is missing, or no longer the one that was listed.
    """
    corpus = data_folder / "corpus"
    listing = json.loads((corpus / SOURCES_FILE).read_text(encoding="utf-8"))
    heldout: Hashes = np.load(corpus / HELDOUT_FILE, allow_pickle=False)
    sources: list[Source] = []
    for values in listing:
        entry = SourceEntry.model_validate(values)
        place = None
        if entry.sha256 is not None:
            place = (corpus if entry.in_run else data_root) / str(entry.path or entry.dataset)
            _check_unchanged(place, entry.sha256)
        sources.append(Source(entry, place, heldout))
    return sources


def _check_unchanged(place: Path, sha256: str) -> None:
    if not place.exists():
        raise UserError(place, "is missing.", "put it back, or run the stage data again.")
    if place_sha256(place) != sha256:
        raise UserError(place, "has changed since the data stage.", "run the stage data again.")


def place_sha256(place: Path) -> str:
    """The SHA-256 of a file, or one over the names and bytes of all files in a folder."""
    if place.is_dir():
        return hash_json({name: file_sha256(place / name) for name in list_files(place)})
    return file_sha256(place)


def read_documents(
    source: CorpusSource, place: Path | None, revision: str | None = None
) -> Iterator[SourceDocument]:
    """The documents of a source, one at a time, up to ``max_documents`` that have text.

    Args:
        source: which columns to read, of which part.
        place: the file, or the folder of a dataset; None for one on the hub.
        revision: the dataset's, on the hub.

    Raises:
        UserError: the source cannot be read, a row is broken, or there is no text at all.
    """
    count = 0
    for document in _all_documents(source, place, revision):
        yield document
        count += bool(document.text)
        if count == source.max_documents:
            return
    if not count:
        where = place or f"dataset {source.dataset}"
        raise UserError(where, "holds no documents.", "supply at least one with text.")


def _all_documents(
    source: CorpusSource, place: Path | None, revision: str | None
) -> Iterator[SourceDocument]:
    kind = place.suffix.lower() if place is not None and source.path is not None else None
    if kind in (".json", ".csv"):
        fix = "write it as .jsonl or .parquet (or rename it, if it is plain text)."
        raise UserError(place, f"{kind} is no format for a corpus.", fix)
    if place is not None and kind not in (None, ".jsonl", ".parquet"):
        texts = map(_text_or_empty, text_documents(place))
        yield from (SourceDocument(None, text) for text in texts if text)
        return
    for where, columns in _entries(source, place, revision):
        text = text_cell(columns, source.text_column, where, "text_column")
        yield SourceDocument(_document_id(source, columns, where), _text_or_empty(text))


def _entries(source: CorpusSource, place: Path | None, revision: str | None) -> Iterator[Entry]:
    if source.path is not None and place is not None:
        wanted = [name for name in (source.text_column, source.id_column) if name is not None]
        return file_entries(place, wanted)
    name = str(place or source.dataset)
    return dataset_entries(name, source.dataset_config, source.dataset_split, revision)


def _text_or_empty(text: str) -> str:
    return "" if text.isspace() else text


def _document_id(source: CorpusSource, columns: dict[str, object], where: str) -> str | None:
    column = source.id_column
    if column is not None and column not in columns and column != ID_COLUMN:
        problem = f"there is no column {column!r}, only {', '.join(map(str, columns))}."
        raise UserError(where, problem, "correct id_column.")
    value = None if column is None else columns.get(column)
    return None if value is None else str(value)
