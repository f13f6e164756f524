"""Vocabularies that others trained, against GPT-2's algorithm written out.

Set ALIGN_DATA_ROOT to a folder with ``tokenizer/gpt2_encoder.json``, ``gpt2_vocab.bpe`` and
``gpt2_vectors.jsonl`` to also check OpenAI's own files.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import regex
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from transformers.convert_slow_tokenizer import bytes_to_unicode

from pipeline.errors import UserError
from pipeline.tokenizer import END, SPECIAL_TOKENS, Tokenizer, train_tokenizer
from pipeline.tokenizer_files import load_tokenizer_backend

SENTENCE = "The fox's kite isn't red: they'll fly 12 kites, über 漢字 and 🙂🙂.\n\n  Don't!"
# Words in which the order of merges matters: most of their pairs have a merge.
RNG = random.Random(0)
JUMBLE = " ".join("".join(RNG.choices("aeflot", k=6)) for _ in range(200))
MODEL = json.loads(train_tokenizer([SENTENCE] * 9 + [JUMBLE], 380).backend.to_str())["model"]
MERGES: list[tuple[str, str]] = [(left, right) for left, right in MODEL["merges"]]
# As GPT-2's: the bytes, what the merges make, and the end token last.
TOKENS = [*bytes_to_unicode().values(), *dict.fromkeys("".join(pair) for pair in MERGES), END]
VOCABULARY = {token: token_id for token_id, token in enumerate(TOKENS)}
MARKS = [token for token in SPECIAL_TOKENS if token != END]


def write_pair(folder: Path, vocabulary_name: str, merges_name: str) -> None:
    (folder / vocabulary_name).write_text(json.dumps(VOCABULARY), encoding="utf-8")
    lines = "".join(f"{left} {right}\n" for left, right in MERGES)
    (folder / merges_name).write_text(f"#version: 0.2\n{lines}", encoding="utf-8")


def write_tokenizer_json(folder: Path) -> None:
    backend = tokenizers.Tokenizer(models.BPE(VOCABULARY, MERGES))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    backend.decoder = decoders.ByteLevel()  # pyright: ignore
    backend.add_special_tokens([END])
    backend.enable_truncation(4)
    backend.enable_padding(length=9)
    backend.save(str(folder / "tokenizer.json"))


FORMS: dict[str, Callable[[Path], None]] = {
    "OpenAI's names": lambda folder: write_pair(folder, "encoder.json", "vocab.bpe"),
    "Hugging Face's names": lambda folder: write_pair(folder, "vocab.json", "merges.txt"),
    "one file": write_tokenizer_json,
}


def imported(folder: Path) -> Tokenizer:
    """As import_base makes it: the marks that the folder's tokenizer lacks are added."""
    backend = load_tokenizer_backend(folder)
    backend.add_special_tokens(MARKS)
    return Tokenizer(backend)


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    loaded: dict[str, Tokenizer] = {}
    for name, write in FORMS.items():
        folder = tmp_path_factory.mktemp("vocabulary")
        write(folder)
        loaded[name] = imported(folder)
    return loaded


# --- GPT-2's algorithm (Radford et al. 2019, encoder.py), slow and obvious ------------------------

GPT2_WORDS = regex.compile(
    r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
)


def gpt2_ids(text: str) -> Iterator[int]:
    ranks = {pair: rank for rank, pair in enumerate(MERGES)}
    alphabet = bytes_to_unicode()
    for word in GPT2_WORDS.findall(text):
        parts = [alphabet[byte] for byte in word.encode()]
        while True:
            pairs = [pair for pair in pairwise(parts) if pair in ranks]
            if not pairs:
                break
            best = min(pairs, key=ranks.__getitem__)
            place = 0
            while place < len(parts) - 1:
                if (parts[place], parts[place + 1]) == best:
                    parts[place : place + 2] = ["".join(best)]
                place += 1
        yield from (VOCABULARY[part] for part in parts)


PIECES = (
    *"aeflotxTF 12.,:!_-'\n\t",
    *("The", " fox", " kite", "'s", "'S", "n't", "'ll", "they", "  ", "üb", "ß", "é", "e\u0301"),
    *("漢", "字", "🙂", "👍🏽", "٣", "½", "²", "\u00a0", "\u2003", "\x00", "\x85", *SPECIAL_TOKENS),
)


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_every_form_encodes_as_gpt2_does(forms: dict[str, Tokenizer], text: str) -> None:
    expected = list(gpt2_ids(text))
    assert {name: form.encode(text) for name, form in forms.items()} == dict.fromkeys(
        FORMS, expected
    )
    assert VOCABULARY[END] not in expected  # typed by a user, it is text
    for form in forms.values():
        assert form.decode(expected) == text


def test_words_of_many_merges_are_encoded_as_gpt2_does(forms: dict[str, Tokenizer]) -> None:
    for text in (JUMBLE, SENTENCE):
        expected = list(gpt2_ids(text))
        assert len(expected) < 0.6 * len(text.encode())
        assert {name: form.encode(text) for name, form in forms.items()} == dict.fromkeys(
            FORMS, expected
        )


@pytest.mark.parametrize("name", FORMS)
def test_the_end_token_of_a_vocabulary_becomes_special(
    forms: dict[str, Tokenizer], name: str
) -> None:
    tokenizer = forms[name]
    assert tokenizer.eos_id == VOCABULARY[END]
    ids = [*tokenizer.encode("a kite"), tokenizer.eos_id, *tokenizer.never_sampled_ids]
    assert tokenizer.decode(ids) == "a kite"
    assert tokenizer.decode_bytes(ids) == b"a kite"


def test_windows_line_endings_are_read(tmp_path: Path) -> None:
    write_pair(tmp_path, "encoder.json", "vocab.bpe")
    path = tmp_path / "vocab.bpe"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert imported(tmp_path).encode(SENTENCE) == list(gpt2_ids(SENTENCE))


def test_gpt2s_own_files_give_its_published_encodings(data_root: Path, tmp_path: Path) -> None:
    data = data_root / "tokenizer"
    shutil.copy(data / "gpt2_encoder.json", tmp_path / "encoder.json")
    shutil.copy(data / "gpt2_vocab.bpe", tmp_path / "vocab.bpe")
    gpt2 = imported(tmp_path)
    assert (gpt2.vocab_size, gpt2.eos_id) == (50260, 50256)
    lines = (data / "gpt2_vectors.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 40
    assert [gpt2.encode(row["text"]) for row in rows] == [row["ids"] for row in rows]
    assert [gpt2.decode(row["ids"]) for row in rows] == [row["text"] for row in rows]


# --- what other tokenizers do to a text -----------------------------------------------------------


def write_changed(folder: Path, change: Callable[[tokenizers.Tokenizer], object]) -> Path:
    """A folder with GPT-2's tokenizer.json, changed."""
    write_pair(folder, "vocab.json", "merges.txt")
    backend = load_tokenizer_backend(folder)
    change(backend)
    backend.save(str(folder / "tokenizer.json"))
    return folder


def test_a_template_adds_nothing_to_a_text(tmp_path: Path) -> None:
    def begin_with_end(backend: tokenizers.Tokenizer) -> None:
        backend.post_processor = processors.TemplateProcessing(  # pyright: ignore
            single=f"{END} $A", special_tokens=[(END, VOCABULARY[END])]
        )

    folder = write_changed(tmp_path, begin_with_end)
    plain = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert plain.encode(SENTENCE).ids[0] == VOCABULARY[END]
    assert imported(folder).encode(SENTENCE) == list(gpt2_ids(SENTENCE))


def test_accents_stay_as_they_were_written(tmp_path: Path) -> None:
    def join_accents(backend: tokenizers.Tokenizer) -> None:
        backend.normalizer = normalizers.NFC()  # pyright: ignore

    tokenizer = imported(write_changed(tmp_path, join_accents))
    assert tokenizer.decode(tokenizer.encode("cafe\u0301")) == "cafe\u0301"


def test_a_blank_before_the_text_is_refused(tmp_path: Path) -> None:
    def add_blank(backend: tokenizers.Tokenizer) -> None:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # pyright: ignore

    with pytest.raises(UserError, match="does not give back the text"):
        load_tokenizer_backend(write_changed(tmp_path, add_blank))


def test_special_tokens_of_the_tokenizers_own_are_never_sampled(tmp_path: Path) -> None:
    def add_marks(backend: tokenizers.Tokenizer) -> None:
        backend.add_special_tokens(["<|im_start|>"])
        backend.add_tokens(["kitekite"])  # added, but text

    tokenizer = imported(write_changed(tmp_path, add_marks))
    mark, word = (tokenizer.backend.token_to_id(name) for name in ("<|im_start|>", "kitekite"))
    assert mark in tokenizer.never_sampled_ids
    assert word not in tokenizer.never_sampled_ids
    assert tokenizer.eos_id not in tokenizer.never_sampled_ids


def test_special_tokens_beside_a_vocabulary_are_known(tmp_path: Path) -> None:
    write_pair(tmp_path, "vocab.json", "merges.txt")
    size = len(VOCABULARY)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<b>": size + 1, "<a>": size}))
    names = {"eos_token": END, "additional_special_tokens": [{"content": "<a>"}, "<b>"]}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names))
    backend = load_tokenizer_backend(tmp_path)
    assert [backend.token_to_id(name) for name in ("<a>", "<b>")] == [size, size + 1]
    assert {size, size + 1} <= set(imported(tmp_path).never_sampled_ids)
    (tmp_path / "special_tokens_map.json").write_text("{")
    with pytest.raises(UserError, match=r"special_tokens_map\.json: cannot be read"):
        load_tokenizer_backend(tmp_path)


# --- bad input ------------------------------------------------------------------------------------


def replace_line(path: Path, number: int, line: str | None) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[number - 1 :] = [] if line is None else [line, *lines[number:]]
    path.write_text("\n".join(lines), encoding="utf-8")


def change_vocabulary(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    vocabulary = json.loads(path.read_text(encoding="utf-8"))
    change(vocabulary)
    path.write_text(json.dumps(vocabulary), encoding="utf-8")


FIRST = "".join(MERGES[0])

BROKEN: list[tuple[str, Callable[[Path, Path], object], str]] = [
    ("no JSON", lambda v, m: v.write_text("{"), r"vocab\.json: cannot be read"),
    ("no text", lambda v, m: m.write_bytes(b"#version\n\xff \xfe"), r"merges\.txt: cannot be read"),
    ("a list", lambda v, m: v.write_text("[1, 2]"), r"vocab\.json: must map tokens to the ids"),
    (
        "an id twice",
        lambda v, m: change_vocabulary(v, lambda values: values.update({FIRST: 7})),
        r"vocab\.json: must map tokens to the ids",
    ),
    (
        "a word for an id",
        lambda v, m: change_vocabulary(v, lambda values: values.update({FIRST: "7"})),
        r"vocab\.json: must map tokens to the ids",
    ),
    (
        "a line of one token",
        lambda v, m: replace_line(m, 3, "kite"),
        r"merges\.txt:3: must hold two tokens with a space between, got 'kite'",
    ),
    (
        "a merge that the vocabulary does not know",
        lambda v, m: replace_line(m, 3, "q z"),
        r"merges\.txt:3: needs the token 'qz', which vocab\.json lacks",
    ),
    (
        "half of the merges",
        lambda v, m: replace_line(m, 20, None),
        r"merges\.txt: lacks merges: nothing makes the token 'Ġ.*' \(\d+ in all\)",
    ),
    (
        "a byte without a token",
        lambda v, m: change_vocabulary(v, lambda values: values.update({"ab": values.pop("q")})),
        r"vocab\.json: is not byte-level: 1 of the 256 bytes",
    ),
]


@pytest.mark.parametrize(("change", "message"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_broken_files_are_one_line(
    tmp_path: Path, change: Callable[[Path, Path], object], message: str
) -> None:
    write_pair(tmp_path, "vocab.json", "merges.txt")
    change(tmp_path / "vocab.json", tmp_path / "merges.txt")
    with pytest.raises(UserError, match=message) as error:
        load_tokenizer_backend(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_tokenizer_and_one_of_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")  # half a pair is none
    with pytest.raises(UserError, match="has no tokenizer"):
        load_tokenizer_backend(tmp_path)
    words = tokenizers.Tokenizer(models.WordLevel({"fox": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"tokenizer\.json: is not byte-level: 256 of the 256"):
        load_tokenizer_backend(tmp_path)
