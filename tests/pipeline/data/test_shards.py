"""Tokens on the disk: as many as there are bytes, made once, of this text and tokenizer only."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import CorpusSource
from pipeline.data import shards
from pipeline.data.cache import Cache
from pipeline.data.shards import TokenizedSource, tokenize_sources, trained_tokenizer
from pipeline.data.sources import Source, load_sources
from pipeline.data.survey import survey_sources
from pipeline.tokenizer import Tokenizer, train_tokenizer

BYTES = train_tokenizer(["abc"], 260)  # every byte is a token
TEXTS = [f"text {i} " + "and é more " * (i % 7) for i in range(60)]


def load(root: Path, texts: list[str] = TEXTS, share: float = 0.2) -> list[Source]:
    corpus = root / "data" / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    (root / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (root / "b.txt").write_text("a single text " * 30)
    listed = [
        CorpusSource(name="a", path="a.jsonl", proportion=0.75),
        CorpusSource(name="b", path="b.txt", proportion=0.25),
    ]
    survey_sources(listed, root, corpus, in_run=False, seed=0, heldout_share=share)
    return load_sources(root / "data", root)


def tokenize(
    sources: list[Source], root: Path, tokenizer: Tokenizer = BYTES, row_tokens: int = 15
) -> list[TokenizedSource]:
    return tokenize_sources(sources, tokenizer, row_tokens, Cache(root / "cache"))


def words(rows: np.ndarray) -> str:
    decode = BYTES.backend.decode
    return " ".join(decode(row.tolist(), skip_special_tokens=False) for row in rows)


def test_each_part_counts_its_own_documents_and_tokens_once(tmp_path: Path) -> None:
    sources = load(tmp_path)
    a, b = tokenize(sources, tmp_path)
    for part, held in ((a.train, False), (a.heldout, True)):
        texts = [text for text, is_heldout in sources[0].documents() if is_heldout == held]
        size = sum(len(text.encode()) for text in texts)
        assert (part.documents, part.bytes, part.tokens) == (len(texts), size, size + len(texts))
        assert part.rows.shape[1] == 16
        assert part.rows.size > part.tokens  # some tokens stand in two rows
        for text in texts:
            assert text[:10] in words(part.rows)
    assert (a.name, a.proportion, b.name, b.proportion) == ("a", 0.75, "b", 0.25)
    assert (b.heldout.documents, b.heldout.rows.shape) == (0, (0, 16))
    assert (b.train.documents, b.train.tokens) == (1, 30 * 14 + 1)


def test_held_out_text_is_in_no_training_row(tmp_path: Path) -> None:
    a, _ = tokenize(load(tmp_path, [f"<{i}>" for i in range(100)]), tmp_path)
    train, heldout = (
        set(re.findall(r"<(\d+)>", words(part.rows))) for part in (a.train, a.heldout)
    )
    assert len(heldout) == a.heldout.documents
    assert train == {str(i) for i in range(100)} - heldout


def test_long_documents_are_encoded_in_parts_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["the fox and the mill " * 300, "plums ", "the owl " * 500]
    tokenizer = train_tokenizer(texts, 300)
    sources = load(tmp_path, texts)
    whole = tokenize(sources, tmp_path / "1", tokenizer)
    monkeypatch.setattr("pipeline.data.texts.PIECE_CHARACTERS", 50)
    monkeypatch.setattr(shards, "ENCODED_AT_ONCE", 200)
    parts = tokenize(sources, tmp_path / "2", tokenizer)
    for one, other in zip(whole, parts, strict=True):
        assert np.array_equal(one.train.rows, other.train.rows)
        assert np.array_equal(one.heldout.rows, other.heldout.rows)
    counted = sum(len(tokenizer.encode(text)) + 1 for text in texts)
    assert whole[0].train.tokens + whole[0].heldout.tokens == counted


def test_ids_take_two_bytes_where_they_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = load(tmp_path)
    small = tokenize(sources, tmp_path)[0].train.rows
    assert small.dtype == np.uint16
    sizes = {path.stat().st_size for path in (tmp_path / "cache").glob("*/train.bin")}
    assert small.nbytes in sizes
    monkeypatch.setattr(Tokenizer, "vocab_size", 2**16 + 1)
    large = tokenize(sources, tmp_path / "large")[0].train.rows
    assert large.dtype == np.uint32
    assert np.array_equal(small, large)


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of sources, once for each time that their text is read."""
    names: list[str] = []
    documents = Source.documents

    def counted(self: Source) -> Iterator[tuple[str, bool]]:
        names.append(self.entry.name)
        return documents(self)

    monkeypatch.setattr(Source, "documents", counted)
    return names


def test_nothing_is_read_again_for_the_same_texts(tmp_path: Path, readings: list[str]) -> None:
    for _ in range(2):
        cache = Cache(tmp_path / "cache")
        sources = load(tmp_path)
        tokenizer = trained_tokenizer(sources, 300, cache)
        tokenize_sources(sources, tokenizer, 15, cache)
        cache.remove_unused()
    assert readings == ["a", "b"] * 2  # once for the tokenizer, once for the tokens
    assert len(list((tmp_path / "cache").iterdir())) == 4  # and the lock


def test_another_text_share_tokenizer_or_row_length_is_another_shard(
    tmp_path: Path, readings: list[str]
) -> None:
    tokenize(load(tmp_path), tmp_path)
    tokenize(load(tmp_path), tmp_path, row_tokens=16)
    assert readings == ["a", "b"] * 2
    tokenize(load(tmp_path), tmp_path, train_tokenizer(TEXTS, 270))
    assert readings == ["a", "b"] * 3
    tokenize(load(tmp_path, share=0.5), tmp_path)
    assert readings == ["a", "b"] * 4
    tokenize(load(tmp_path, [*TEXTS, "one more"]), tmp_path)
    assert readings[8] == "a"


@pytest.mark.parametrize("stage", ["data", "pretrain"])
def test_a_raised_version_makes_tokenizer_and_shards_anew(
    tmp_path: Path, readings: list[str], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    sources = load(tmp_path)
    for version in (1, 1, 2):
        versions = {"data": 1, "pretrain": 1} | {stage: version}
        monkeypatch.setattr(shards, "stage_version", versions.__getitem__)
        cache = Cache(tmp_path / "cache")
        tokenize_sources(sources, trained_tokenizer(sources, 300, cache), 15, cache)
    assert readings == ["a", "b"] * 4


def test_a_flipped_bit_is_noticed_and_the_shard_made_again(
    tmp_path: Path, readings: list[str]
) -> None:
    sources = load(tmp_path)
    rows = np.array(tokenize(sources, tmp_path)[1].train.rows)
    shards = (tmp_path / "cache").glob("*/train.bin")
    (path,) = [shard for shard in shards if shard.stat().st_size == rows.nbytes]
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    assert np.array_equal(tokenize(sources, tmp_path)[1].train.rows, rows)
    assert readings == ["a", "b", "b"]


def test_the_cached_tokenizer_is_that_of_the_training_text(tmp_path: Path) -> None:
    sources = load(tmp_path)
    texts = [text for source in sources for text, held in source.documents() if not held]
    expected = train_tokenizer(texts, 290).backend.to_str()
    for _ in range(2):
        tokenizer = trained_tokenizer(sources, 290, Cache(tmp_path / "cache"))
        assert tokenizer.backend.to_str() == expected
        assert tokenizer.encode("<|endoftext|>") != [tokenizer.eos_id]  # text, not the token
    assert trained_tokenizer(sources, 280, Cache(tmp_path / "cache")).vocab_size == 280


def test_training_the_tokenizer_again_gives_the_same_shards(tmp_path: Path) -> None:
    sources = load(tmp_path)
    keys = []
    for name in ("1", "2"):
        cache = Cache(tmp_path / name)
        tokenize_sources(sources, trained_tokenizer(sources, 300, cache), 15, cache)
        keys.append(sorted(path.name for path in (tmp_path / name).iterdir()))
    assert keys[0] == keys[1]
