"""Which documents are held out: one rule for all sources, and no text on both sides.

A document's position in [0, 2**64) is a hash of its id, or of its text where it has no id; it is
held out if that is below the held-out share. What is stored is the hash of its text: every
document with that text, in any source, is held out as well. Each source keeps some training
text, and gives some held-out text if it has two different texts.
"""

from __future__ import annotations

import hashlib
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

HELDOUT_FILE = "heldout.npy"
PAIR = struct.Struct("<QQ")
PAIRS_AT_ONCE = 2**16


def text_hash(text: str) -> int:
    """Eight bytes of a text's SHA-256; blank ends do not count."""
    return int.from_bytes(hashlib.sha256(text.strip().encode()).digest()[:8], "little")


def document_position(seed: int, source: str, document_id: str | None, text: int) -> int:
    """Where a document stands in [0, 2**64): by its id in its source, else by its text's hash."""
    identity = f"text\0{text}" if document_id is None else f"id\0{source}\0{document_id}"
    return int.from_bytes(hashlib.sha256(f"{seed}\0{identity}".encode()).digest()[:8], "little")


def among(values: Hashes, found: Hashes) -> NDArray[np.bool_]:
    """True where a value is one of ``found``, which is sorted."""
    if not len(found):
        return np.zeros(len(values), np.bool_)
    places = np.searchsorted(found, values).clip(max=len(found) - 1)
    return found[places] == values


@dataclass(frozen=True)
class SourceScan:
    """What one reading of a source found; ``pairs`` holds (position, text hash) by document."""

    documents: int
    bytes: int
    empty_rows: int
    pairs: IO[bytes]

    def chunks(self) -> Iterator[tuple[Hashes, Hashes]]:
        """Positions and text hashes of some documents at a time, in order."""
        self.pairs.seek(0)
        while data := self.pairs.read(PAIR.size * PAIRS_AT_ONCE):
            pairs = np.frombuffer(data, "<u8").astype(np.uint64).reshape(-1, 2)
            yield pairs[:, 0], pairs[:, 1]

    def count_among(self, texts: Hashes) -> int:
        """How many documents have one of these texts (sorted)."""
        return sum(int(among(found, texts).sum()) for _, found in self.chunks())


def scan_source(
    documents: Iterable[tuple[str | None, str]], source: str, seed: int, folder: Path
) -> SourceScan:
    """Reads a source once: its (id, text) documents, of which those with an empty text only count.

    Sixteen bytes a document go to a nameless file in ``folder``; nothing is kept in memory.
    """
    pairs = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  it lives as long as the scan
    count = size = empty = 0
    for document_id, text in documents:
        if not text:
            empty += 1
            continue
        hashed = text_hash(text)
        pairs.write(PAIR.pack(document_position(seed, source, document_id, hashed), hashed))
        count += 1
        size += len(text.encode())
    return SourceScan(count, size, empty, pairs)


def heldout_texts(scans: Sequence[SourceScan], share: float) -> Hashes:
    """The sorted hashes of the texts to hold out, about ``share`` of each source's documents.

    Of each source the text of the last position stays in training; a source that would give no
    held-out text gives that of its first position, unless it has to stay. The order of sources
    and of documents does not matter.
    """
    limit = np.uint64(min(int(share * 2**64), 2**64 - 1))
    kept = np.unique(np.array([_last_text(scan) for scan in scans], np.uint64))
    below = [texts[positions < limit] for scan in scans for positions, texts in scan.chunks()]
    chosen = np.unique(np.concatenate(below)) if below else np.array([], np.uint64)
    chosen = chosen[~among(chosen, kept)]
    first = [_first_text(scan, kept) for scan in scans if not scan.count_among(chosen)]
    added = np.array([text for text in first if text is not None], np.uint64)
    return np.unique(np.concatenate([chosen, added]))


def _last_text(scan: SourceScan) -> int:
    ends = [_extreme(positions, texts, -1) for positions, texts in scan.chunks()]
    return max(ends)[1]


def _first_text(scan: SourceScan, without: Hashes) -> int | None:
    """The text of the first position that is none of ``without``."""
    begins: list[tuple[int, int]] = []
    for positions, texts in scan.chunks():
        free = ~among(texts, without)
        if free.any():
            begins.append(_extreme(positions[free], texts[free], 0))
    return min(begins)[1] if begins else None


def _extreme(positions: Hashes, texts: Hashes, place: int) -> tuple[int, int]:
    """The first (0) or last (-1) of the pairs in order of position, then of text."""
    index = np.lexsort((texts, positions))[place]
    return int(positions[index]), int(texts[index])
