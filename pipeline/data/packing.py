"""Documents as rows of one length.

A document is cut into pieces that fit a row; a row is filled with whole pieces from the start of
one, so that what a title announces stands in the same row as what follows it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.unsignedinteger[Any]]


class RowPacker:
    """Packs documents into rows of ``row_tokens`` + 1 tokens, each handed to ``emit`` when full.

    Each row begins where a piece of a document begins. A piece that no longer fits whole fills the
    row's end and is the beginning of the next row as well: nothing is lost, and short documents
    are always seen whole once. The last row is filled with pieces from the front.
    """

    def __init__(self, row_tokens: int, dtype: np.dtype[Any], emit: Callable[[Ids], None]) -> None:
        self._row_tokens = row_tokens
        self._row: Ids = np.empty(row_tokens + 1, dtype)
        self._filled = 0
        self._first: Ids | None = None
        self._emit = emit

    def add(self, document: Ids) -> None:
        """Packs the ids of a document, its end token included."""
        # Pieces of a long document overlap by one token: the last target is the next first input.
        for start in range(0, max(1, len(document) - 1), self._row_tokens):
            piece = document[start : start + len(self._row)]
            if self._put(piece) < len(piece):
                self._put(piece)  # it was cut: it begins the next row instead

    def finish(self) -> None:
        """Hands out the last row, filled up."""
        if not self._filled:
            return
        filler = self._row[: self._filled].copy() if self._first is None else self._first
        while self._filled:
            self._put(filler)

    def _put(self, piece: Ids) -> int:
        """How many of the piece's ids found room in the row."""
        taken = piece[: len(self._row) - self._filled]
        self._row[self._filled : self._filled + len(taken)] = taken
        self._filled += len(taken)
        if self._filled == len(self._row):
            if self._first is None:
                self._first = self._row.copy()
            self._emit(self._row)
            self._filled = 0
        return len(taken)
