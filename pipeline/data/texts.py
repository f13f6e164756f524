"""Plain text: the documents of a file, and long texts in pieces that are encoded alike."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import UserError

MARK = "<|endoftext|>"  # as GPT-2's data was written
BLOCK_CHARACTERS = 2**16
LEAST_SECTION, MOST_SECTION = 2**10, 2**16  # characters
SECTIONS = 20  # of a short text; with the default held-out share, about one is held out
PIECE_CHARACTERS = 2**14

# Where GPT-2's division into words always has a border: no word ends in a space and goes on.
BORDER = re.compile(r"(?<=\S)[ \n]")


def text_documents(path: Path) -> Iterator[str]:
    """The documents of a plain text file, read block by block.

    They are what stands between ``<|endoftext|>`` marks. A file without a mark is one long text:
    it is cut into sections that end with a line, about a twentieth of it each but of 1,024 to
    65,536 characters, so that a part of it can be held out; a very short text stays whole.

    Raises:
        UserError: the file cannot be read or is not UTF-8.
    """
    try:
        if any(MARK in window for window in _windows(path)):
            yield from _between_marks(path)
        else:
            size = path.stat().st_size // SECTIONS
            yield from _sections(path, min(max(size, LEAST_SECTION), MOST_SECTION))
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror}).", "check the path.") from None
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 (a byte {error.object[error.start]:#04x}: {error.reason})."
        raise UserError(path, problem, "save it as UTF-8.") from None


def _blocks(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
        while block := file.read(BLOCK_CHARACTERS):
            yield block


def _windows(path: Path) -> Iterator[str]:
    """Each block behind the end of the one before, so that a mark on their border is seen."""
    end = ""
    for block in _blocks(path):
        yield end + block
        end = (end + block)[1 - len(MARK) :]


def _between_marks(path: Path) -> Iterator[str]:
    parts: list[str] = []  # of the document that has begun
    end = ""
    for block in _blocks(path):
        *documents, end = (end + block).split(MARK)
        for document in documents:
            yield "".join([*parts, document]).strip("\n")
            parts = []
        keep = 1 - len(MARK)  # a mark may have begun here
        parts.append(end[:keep])
        end = end[keep:]
    yield "".join([*parts, end]).strip("\n")


def _sections(path: Path, size: int) -> Iterator[str]:
    """Sections of ``size`` to twice as many characters, to the end of a line or else of a word."""
    rest = ""
    for block in _blocks(path):
        rest += block
        while len(rest) > 2 * size:
            ends = [rest.find(end, size, 2 * size) + 1 for end in "\n "]
            cut = ends[0] or ends[1] or 2 * size
            yield rest[:cut]
            rest = rest[cut:]
    yield rest


def word_pieces(text: str) -> Iterator[str]:
    """The text in pieces of about 16,384 characters that end where a word ends.

    A byte-level BPE with GPT-2's division into words encodes the pieces as it encodes the whole,
    in less memory.
    """
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        border = BORDER.search(text, start + PIECE_CHARACTERS)
        if border is None:
            break
        yield text[start : border.start()]
        start = border.start()
    yield text[start:]
