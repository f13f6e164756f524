"""Packing loses nothing and begins rows where pieces begin; the mixture keeps its proportions."""

from __future__ import annotations

import hashlib
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import (
    SourceTexts,
    document_is_heldout,
    load_sources,
    mixture_schedule,
    mixture_table,
    pack_rows,
    read_documents,
)
from pipeline.errors import UserError
from pipeline.tokenizer import train_tokenizer

TOKENIZER = train_tokenizer(["abc abc"], 260)  # every byte is a token


def test_rows_by_hand():
    rows = pack_rows(["ab", "cdef", "g", "h"], TOKENIZER, row_tokens=5)
    texts = [TOKENIZER.backend.decode(row.tolist(), skip_special_tokens=False) for row in rows]
    end = "<|endoftext|>"
    # "cdef" did not fit behind "ab", so it begins the second row; the last row is filled up.
    assert texts == [f"ab{end}cde", f"cdef{end}g", f"g{end}h{end}ab"]


def test_a_long_document_is_cut_with_one_token_of_overlap():
    rows = pack_rows(["abcdefghij"], TOKENIZER, row_tokens=4)
    texts = [TOKENIZER.decode(row) for row in rows.tolist()]
    assert texts == ["abcde", "efghi", "ijab"]  # the end token between j and a is not text


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("abcdefgh ", min_size=1, max_size=30), min_size=1, max_size=12))
def test_every_target_of_every_document_is_seen(texts):
    rows = pack_rows(texts, TOKENIZER, row_tokens=7)
    assert rows.shape[1] == 8
    seen = {tuple(pair) for row in rows.tolist() for pair in itertools.pairwise(row)}
    for text in texts:
        ids = [*TOKENIZER.encode(text), TOKENIZER.eos_id]
        assert {tuple(pair) for pair in itertools.pairwise(ids)} <= seen


def test_mixture_keeps_proportions_and_uses_rows_evenly():
    sources, rows = mixture_schedule([10, 400], [0.25, 0.75], 4000, seed=3)
    share = (sources == 0).mean()
    assert abs(share - 0.25) < 5 * (0.25 * 0.75 / 4000) ** 0.5
    for source, count in ((0, 10), (1, 400)):
        uses = np.bincount(rows[sources == source], minlength=count)
        assert uses.max() - uses.min() <= 1  # a new epoch begins only when all rows were seen
    again = mixture_schedule([10, 400], [0.25, 0.75], 4000, seed=3)
    assert np.array_equal(rows, again[1])
    assert not np.array_equal(rows, mixture_schedule([10, 400], [0.25, 0.75], 4000, seed=4)[1])


def test_mixture_table_counts_by_hand():
    source = SourceTexts("notes", 1.0, ["ab", "é"], [])
    rows = pack_rows(source.train, TOKENIZER, row_tokens=4)
    (line,) = mixture_table([source], [rows], [3])
    assert line["bytes"] == 4
    assert line["documents"] == 2
    assert line["epochs"] == 3 / len(rows)


def test_heldout_documents_are_a_share_by_name():
    held = [document_is_heldout(0, "notes", str(i), 0.1) for i in range(5000)]
    assert abs(np.mean(held) - 0.1) < 5 * (0.09 / 5000) ** 0.5
    assert held[7] == document_is_heldout(0, "notes", "7", 0.1)


def test_sources_are_divided_by_document(tmp_path):
    corpus = tmp_path / "data" / "corpus"
    corpus.mkdir(parents=True)
    text = "".join(json.dumps({"id": str(i), "text": f"text {i}"}) + "\n" for i in range(4))
    (corpus / "notes.jsonl").write_text(text)
    entry = {
        "name": "notes",
        "path": "notes.jsonl",
        "proportion": 1.0,
        "text_column": "text",
        "id_column": "id",
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "bytes": len(text),
        "documents": 4,
        "heldout_ids": ["2"],
    }
    (corpus / "sources.json").write_text(json.dumps([entry]))
    (source,) = load_sources(tmp_path / "data", tmp_path)
    assert source.train == ["text 0", "text 1", "text 3"]
    assert source.heldout == ["text 2"]
    (corpus / "notes.jsonl").write_text(text.replace("text 3", "text 4"))
    with pytest.raises(UserError, match="has changed since"):
        load_sources(tmp_path / "data", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "holds no documents"),
        ("a.jsonl", b'{"text": ""}\n', r"a.jsonl:1.*holds no text"),
        ("a.jsonl", b'{"text": "x"}\n{"text": 3}\n', r"a.jsonl:2"),
        ("a.jsonl", b"{'text'}\n", "not valid JSON"),
        ("a.jsonl", b'{"text": "\xff"}', "not UTF-8"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("a.txt", b"  \n", "is empty"),
    ],
)
def test_broken_corpora_are_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_documents(tmp_path / name, "text", "id"))


def test_missing_corpus_is_one_line(tmp_path):
    for name in ("a.txt", "a.jsonl"):
        with pytest.raises(UserError, match="cannot be read"):
            list(read_documents(tmp_path / name, "text", "id"))
