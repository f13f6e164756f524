"""Byte-level BPE with marks that text cannot forge."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.tokenizer import PAD, PROMPT_MARK, SPECIAL_TOKENS, Tokenizer, train_tokenizer

TEXTS = ["the fox met the owl by the river. the owl sang to the fox."] * 4
TOKENIZER = train_tokenizer(TEXTS, 300)


@given(st.text())
def test_round_trip(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_special_tokens_spelled_in_text_stay_text():
    text = "a" + "".join(SPECIAL_TOKENS)
    ids = TOKENIZER.encode(text)
    assert not {TOKENIZER.eos_id, *TOKENIZER.never_sampled_ids} & set(ids)
    assert TOKENIZER.decode(ids) == text


def test_conversation_format():
    prompt, response = TOKENIZER.encode("the fox"), TOKENIZER.encode("the owl")
    marks = TOKENIZER.prompt_mark_id, TOKENIZER.response_mark_id
    assert TOKENIZER.encode_prompt("the fox") == [marks[0], *prompt, marks[1]]
    assert TOKENIZER.encode_response("the owl") == [*response, TOKENIZER.eos_id]
    assert TOKENIZER.encode_response("the owl", finished=False) == response
    assert len({TOKENIZER.eos_id, TOKENIZER.pad_id, *marks}) == 4


def test_training_is_deterministic_and_merges_frequent_words():
    again = train_tokenizer(TEXTS, 300)
    assert again.backend.to_str() == TOKENIZER.backend.to_str()
    assert len(TOKENIZER.encode(" the")) == 1


def test_saved_files_load_here_and_know_the_special_tokens(tmp_path):
    TOKENIZER.save(tmp_path, context_tokens=64)
    again = Tokenizer.load(tmp_path)
    assert again.encode("the fox met <|pad|>") == TOKENIZER.encode("the fox met <|pad|>")
    assert again.never_sampled_ids == TOKENIZER.never_sampled_ids
    assert again.vocab_size == TOKENIZER.vocab_size
    assert TOKENIZER.hf.pad_token == PAD
    assert TOKENIZER.hf.convert_tokens_to_ids(PROMPT_MARK) == TOKENIZER.prompt_mark_id


def test_small_vocabulary_missing_and_broken_files_are_one_line(tmp_path):
    with pytest.raises(UserError, match="at least 260"):
        train_tokenizer(TEXTS, 259)
    with pytest.raises(UserError, match="is missing"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer.load(tmp_path)
