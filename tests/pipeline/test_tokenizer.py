"""Byte-level BPE with marks that text cannot forge, against a trainer by brute force.

Set ALIGN_DATA_ROOT to a folder with ``tokenizer/bpe_corpus.en`` and its reference merges to also
train on real text.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.convert_slow_tokenizer import bytes_to_unicode

from pipeline.errors import UserError
from pipeline.tokenizer import (
    PAD,
    PROMPT_MARK,
    SPECIAL_TOKENS,
    Tokenizer,
    byte_alphabet,
    train_tokenizer,
)

ROOT = Path(__file__).parents[2]
TEXTS = ["the fox met the owl by the river. the owl sang to the fox."] * 4
TOKENIZER = train_tokenizer(TEXTS, 300)
BYTES = {character: byte for byte, character in bytes_to_unicode().items()}
IDS = st.lists(st.integers(0, TOKENIZER.vocab_size - 1))

# --- encoding and decoding ------------------------------------------------------------------------


@settings(deadline=None)
@given(st.text())
def test_any_text_survives(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.decode_bytes(ids) == text.encode()


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_survive(data: bytes) -> None:
    """As Python reads a terminal: what is UTF-8 as characters, other bytes as lone surrogates."""
    text = data.decode(errors="surrogateescape")
    assert TOKENIZER.decode_bytes(TOKENIZER.encode(text)) == data
    assert TOKENIZER.encode_many(["the fox", text]) == [
        TOKENIZER.encode("the fox"),
        TOKENIZER.encode(text),
    ]


@settings(deadline=None)
@given(IDS, IDS)
def test_any_ids_have_bytes_that_join(first: list[int], second: list[int]) -> None:
    joined = TOKENIZER.decode_bytes(first) + TOKENIZER.decode_bytes(second)
    assert TOKENIZER.decode_bytes(first + second) == joined
    # decode is the tokenizers library's own, which replaces what is not UTF-8.
    assert TOKENIZER.decode(first + second) == joined.decode(errors="replace")


def test_the_byte_alphabet_is_gpt2s() -> None:
    assert byte_alphabet() == BYTES


def test_half_a_surrogate_pair_is_one_line() -> None:
    for encode in (TOKENIZER.encode, lambda text: TOKENIZER.encode_many(["the fox", text])):
        with pytest.raises(UserError, match=r"U\+D83D") as error:
            encode("a fox \udc80 \ud83d")
        assert "\n" not in str(error.value)


def test_special_tokens_spelled_in_text_stay_text() -> None:
    text = "a" + "".join(SPECIAL_TOKENS)
    ids = TOKENIZER.encode(text)
    assert not {TOKENIZER.eos_id, *TOKENIZER.never_sampled_ids} & set(ids)
    assert TOKENIZER.decode(ids) == text


def test_conversation_format() -> None:
    prompt, response = TOKENIZER.encode("the fox"), TOKENIZER.encode("the owl")
    marks = TOKENIZER.prompt_mark_id, TOKENIZER.response_mark_id
    assert TOKENIZER.encode_prompt("the fox") == [marks[0], *prompt, marks[1]]
    assert TOKENIZER.encode_response("the owl") == [*response, TOKENIZER.eos_id]
    assert TOKENIZER.encode_response("the owl", finished=False) == response
    assert len({TOKENIZER.eos_id, TOKENIZER.pad_id, *marks}) == 4


# --- training -------------------------------------------------------------------------------------

# Radford et al. 2019: contractions, words, numbers and signs, each with the space before it.
GPT2_WORDS = regex.compile(
    r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
)
Pair = tuple[str, str]


def brute_force_merges(text: str, count: int, preference: Callable[[Pair, list[str]], Any]):
    """Sennrich et al. 2016, algorithm 1, on bytes; of equally frequent pairs, the preferred one.

    ``preference`` gets a pair and the tokens in the order in which they came to be.
    """
    alphabet = bytes_to_unicode()
    words = Counter(tuple(alphabet[b] for b in word.encode()) for word in GPT2_WORDS.findall(text))
    tokens = sorted(alphabet.values())
    merges: list[Pair] = []
    for _ in range(count):
        pairs: Counter[Pair] = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                pairs[pair] += times
        most = max(pairs.values())
        ties = [pair for pair, times in pairs.items() if times == most]
        best = max(ties, key=lambda pair: preference(pair, tokens))
        merges.append(best)
        tokens.append("".join(best))
        words = merged(words, best)
    return merges


def merged(words: Counter[tuple[str, ...]], pair: Pair) -> Counter[tuple[str, ...]]:
    result: Counter[tuple[str, ...]] = Counter()
    for word, times in words.items():
        parts: list[str] = []
        for token in word:
            # The left neighbor must be an unmerged token: "aaa" is "aa" and "a".
            if parts and (parts[-1], token) == pair:
                parts[-1] = "".join(pair)
            else:
                parts.append(token)
        result[tuple(parts)] += times
    return result


def lowest_ids(pair: Pair, tokens: list[str]) -> tuple[int, ...]:
    """The rule of the ``tokenizers`` library."""
    return tuple(-tokens.index(token) for token in pair)


def greatest_bytes(pair: Pair, tokens: list[str]) -> tuple[bytes, ...]:
    """The rule of the reference merges."""
    return tuple(bytes(BYTES[character] for character in token) for token in pair)


def merges_of(tokenizer: Tokenizer) -> list[Pair]:
    return [tuple(pair) for pair in json.loads(tokenizer.backend.to_str())["model"]["merges"]]


def invented_text(seed: int, words: int) -> str:
    """Words of three letters, one of them two bytes long: full of ties, repeats and doubles."""
    rng = random.Random(seed)
    lengths = (rng.randint(1, 8) for _ in range(words))
    return " ".join("".join(rng.choice("abé") for _ in range(length)) for length in lengths)


@pytest.mark.parametrize("seed", range(2))
def test_training_is_greedy_merging_of_the_most_frequent_pair(seed: int) -> None:
    text = invented_text(seed, words=300)
    tokenizer = train_tokenizer([text], 320)
    assert tokenizer.vocab_size == 320
    assert merges_of(tokenizer) == brute_force_merges(text, 60, lowest_ids)
    # The text does have ties: another rule for them gives other merges.
    assert merges_of(tokenizer) != brute_force_merges(text, 60, greatest_bytes)


@pytest.mark.slow
def test_training_on_real_text_gives_the_reference_merges_up_to_ties(data_root: Path) -> None:
    folder = data_root / "tokenizer"
    text = (folder / "bpe_corpus.en").read_text(encoding="utf-8")
    lines = (folder / "bpe_train-bpe-reference-merges.txt").read_text(encoding="utf-8")
    reference = [tuple(line.split(" ")) for line in lines.splitlines()]
    # One trainer gives both lists; only its rule for ties differs.
    assert reference == brute_force_merges(text, len(reference), greatest_bytes)
    ours = merges_of(train_tokenizer([text], 260 + len(reference)))
    assert ours == brute_force_merges(text, len(reference), lowest_ids)


def test_training_is_the_same_in_every_process() -> None:
    program = (
        "import sys, hashlib\n"
        "from pipeline.tokenizer import train_tokenizer\n"
        "backend = train_tokenizer(sys.stdin.read().splitlines(), 400).backend\n"
        "print(hashlib.sha256(backend.to_str().encode()).hexdigest())\n"
    )
    text = "\n".join(invented_text(seed, words=40) for seed in range(200))
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            input=text,
            env=os.environ
            | {"PYTHONHASHSEED": hash_seed, "RAYON_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed, threads in (("1", "1"), ("2", "4"))
    }
    assert len(digests) == 1
    assert len(digests.pop().strip()) == 64


def test_frequent_words_become_one_token() -> None:
    assert len(TOKENIZER.encode(" the")) == 1


class CountedText(str):
    """A text that counts how many of its kind are in memory."""

    alive = 0
    most_alive = 0

    def __init__(self, _: str) -> None:
        CountedText.alive += 1
        CountedText.most_alive = max(CountedText.most_alive, CountedText.alive)

    def __del__(self) -> None:
        CountedText.alive -= 1


def test_texts_are_read_one_at_a_time() -> None:
    train_tokenizer((CountedText(f"text number {n}") for n in range(2000)), 300)
    assert 1 <= CountedText.most_alive < 300  # the library reads ahead by up to 256


def test_a_mistake_in_the_texts_is_reported_as_it_is() -> None:
    def texts() -> Iterator[str]:
        yield "the fox"
        raise UserError("corpus.jsonl:2", "holds no text.", "mend the row.")

    with pytest.raises(UserError, match=r"corpus\.jsonl:2: holds no text"):
        train_tokenizer(texts(), 300)


# --- files ----------------------------------------------------------------------------------------


def test_saved_files_load_here_and_know_the_special_tokens(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path, context_tokens=64)
    again = Tokenizer.load(tmp_path)
    assert again.encode("the fox met <|pad|>") == TOKENIZER.encode("the fox met <|pad|>")
    assert again.never_sampled_ids == TOKENIZER.never_sampled_ids
    assert again.vocab_size == TOKENIZER.vocab_size
    assert TOKENIZER.hf.pad_token == PAD
    assert TOKENIZER.hf.convert_tokens_to_ids(PROMPT_MARK) == TOKENIZER.prompt_mark_id


def test_small_vocabulary_missing_and_broken_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 260"):
        train_tokenizer(TEXTS, 259)
    with pytest.raises(UserError, match="is missing"):
        Tokenizer.load(tmp_path)
    for broken in ("{}", "", '{"version": "1.0", '):
        (tmp_path / "tokenizer.json").write_text(broken)
        with pytest.raises(UserError, match=r"tokenizer\.json: cannot be read") as error:
            Tokenizer.load(tmp_path)
        assert "\n" not in str(error.value)
