"""Packing loses nothing and begins rows where pieces begin; the rule in a list-based version."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.packing import RowPacker


def pack(documents: list[list[int]], row_tokens: int) -> list[list[int]]:
    rows: list[list[int]] = []
    packer = RowPacker(row_tokens, np.dtype("<u2"), lambda row: rows.append(row.tolist()))
    for document in documents:
        packer.add(np.array(document, np.uint16))
    packer.finish()
    return rows


def pack_by_lists(documents: list[list[int]], row_tokens: int) -> list[list[int]]:
    """The rule with everything in memory."""
    size = row_tokens + 1
    pieces = [
        document[start : start + size]
        for document in documents
        for start in range(0, max(1, len(document) - 1), row_tokens)
    ]
    rows: list[list[int]] = []
    row: list[int] = []
    while pieces:
        row = row + pieces[0]
        if len(row) <= size:
            pieces.pop(0)  # taken whole; a piece that was cut begins the next row instead
        if len(row) >= size:
            rows.append(row[:size])
            row = []
    if row:
        rows.append((row + (rows[0] if rows else row) * size)[:size])
    return rows


def text_rows(texts: list[str], row_tokens: int) -> list[str]:
    """Each letter is a token, and a full stop the end token."""
    rows = pack([[ord(letter) for letter in f"{text}."] for text in texts], row_tokens)
    return ["".join(map(chr, row)) for row in rows]


def test_rows_by_hand() -> None:
    # "cdef" did not fit behind "ab", so it begins the second row; the last row is filled up.
    assert text_rows(["ab", "cdef", "g", "h"], 5) == ["ab.cde", "cdef.g", "g.h.ab"]


def test_a_long_document_is_cut_with_one_token_of_overlap() -> None:
    assert text_rows(["abcdefghij"], 4) == ["abcde", "efghi", "ij.ab"]


def test_a_single_short_document_fills_its_row_by_itself() -> None:
    assert text_rows(["ab"], 7) == ["ab.ab.ab"]
    assert text_rows([], 7) == []


DOCUMENTS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=30), max_size=12)


@settings(max_examples=100, deadline=None)
@given(DOCUMENTS, st.integers(1, 12))
def test_rows_are_those_of_the_rule(documents: list[list[int]], row_tokens: int) -> None:
    assert pack(documents, row_tokens) == pack_by_lists(documents, row_tokens)


@settings(max_examples=100, deadline=None)
@given(DOCUMENTS)
def test_every_target_of_every_document_is_seen(documents: list[list[int]]) -> None:
    rows = pack(documents, 7)
    assert {len(row) for row in rows} <= {8}
    seen = {pair for row in rows for pair in itertools.pairwise(row)}
    for document in documents:
        assert set(itertools.pairwise(document)) <= seen
