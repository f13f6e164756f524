"""Plain text keeps every character, whatever the blocks it is read in; pieces encode as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import texts
from pipeline.data.texts import text_documents, word_pieces
from pipeline.errors import UserError
from pipeline.tokenizer import train_tokenizer

WORDS = "the fox doesn't run 12 times, it's the fox who'll run the mill for 1234 plums\n\n  so "
RUNS = "one.\n\n\n\ntwo   three     four \n \n five\n\n\nsix\t\tseven  "
TOKENIZER = train_tokenizer([WORDS * 20, RUNS * 40], 330)  # some tokens are runs of spaces


def documents(tmp_path: Path, content: str, block: int = 2**16) -> list[str]:
    path = tmp_path / "a.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "BLOCK_CHARACTERS", block)
        return list(text_documents(path))


def test_marks_divide_documents_wherever_they_stand(tmp_path: Path) -> None:
    content = "One.\nStill one.\n<|endoftext|>\nTwo.<|endoftext|>Three\n<|endoftext|>\n"
    expected = ["One.\nStill one.", "Two.", "Three", ""]
    for block in (1, 2, 3, 7, 13, 14, 1000):
        assert documents(tmp_path, content, block) == expected


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.text("ab <|>", max_size=40), min_size=2, max_size=6),
    block=st.integers(1, 50),
)
def test_what_stands_between_marks_is_kept(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], block: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    assert documents(folder, "<|endoftext|>".join(parts), block) == parts


def test_a_long_text_without_marks_is_cut_at_line_ends(tmp_path: Path) -> None:
    content = "".join(f"line {i} of a long text\n" for i in range(5000))
    sections = documents(tmp_path, content)
    assert "".join(sections) == content
    assert all(section.endswith("\n") for section in sections)
    size = len(content) // 20
    assert all(size <= len(section) < size + 100 for section in sections[:-1])
    assert len(sections) == 19  # the last is not cut at all: it is less than two of them
    assert documents(tmp_path, content, 777) == sections


def test_a_text_of_one_line_is_cut_at_words_and_one_of_one_word_anywhere(tmp_path: Path) -> None:
    sections = documents(tmp_path, "words " * 20_000)
    assert "".join(sections) == "words " * 20_000
    assert all(section.endswith(" ") for section in sections)
    sections = documents(tmp_path, "w" * 50_000)
    assert "".join(sections) == "w" * 50_000
    assert {len(section) for section in sections[:-1]} == {5000}  # at twice a twentieth


def test_sections_of_a_large_text_stay_small(tmp_path: Path) -> None:
    sections = documents(tmp_path, "a line of the text\n" * 120_000)
    assert {len(section) for section in sections[:-1]} == {65_550}  # 3,450 lines of 19


def test_a_short_text_stays_whole(tmp_path: Path) -> None:
    for content in ("one long text", "line\n" * 400, ""):
        assert documents(tmp_path, content) == [content]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"good\n" * 30_000 + b"\xff"])
def test_what_is_not_utf8_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.txt: is not UTF-8 \(a byte 0xff"):
        list(text_documents(tmp_path / "a.txt"))


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfwords")
    assert list(text_documents(tmp_path / "a.txt")) == ["words"]


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        list(text_documents(tmp_path / "a.txt"))


SPACES = " \n\t\r\x0b\x1c\x85\xa0\u2003\u2028\u3000"


@pytest.mark.parametrize("size", range(1, 30))
def test_no_piece_ends_within_spaces_that_are_one_token(size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "PIECE_CHARACTERS", size)
        pieces = list(word_pieces(RUNS * 3))
    assert len(pieces) > 2
    together = [token_id for piece in pieces for token_id in TOKENIZER.encode(piece)]
    assert together == TOKENIZER.encode(RUNS * 3)


@settings(max_examples=200, deadline=None)
@given(
    st.text(st.one_of(st.sampled_from(f"thefox'ls12.,!{SPACES}"), st.characters(codec="utf-8"))),
    st.integers(1, 12),
)
def test_pieces_are_encoded_as_the_whole(text: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "PIECE_CHARACTERS", size)
        pieces = list(word_pieces(text))
    assert "".join(pieces) == text
    together = [token_id for piece in pieces for token_id in TOKENIZER.encode(piece)]
    assert together == TOKENIZER.encode(text)


def test_a_long_text_comes_in_small_pieces() -> None:
    pieces = list(word_pieces(WORDS * 2000))
    assert len(pieces) > 8
    assert max(len(piece) for piece in pieces) < 17_000
    assert list(word_pieces("")) == [""]
    whole = train_tokenizer([WORDS * 2000], 320)
    assert train_tokenizer(pieces, 320).backend.to_str() == whole.backend.to_str()
