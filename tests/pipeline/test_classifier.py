"""The classifier against plain transformers, its measures against tables worked by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from scipy.stats import binomtest

from pipeline.classifier import (
    Classifier,
    classify_rows,
    encode_text,
    labels_of,
    load_classifier,
    save_classifier,
)
from pipeline.errors import UserError
from pipeline.hugging_face import HuggingFaceLM, trunk_of
from pipeline.labeled_texts import (
    LabeledText,
    classification_report,
    divide_texts,
    label_names,
    read_labeled_texts,
    require_all_labels,
)
from pipeline.model import GPT
from pipeline.reward_files import require_classifier
from pipeline.source_config import LabeledSource
from pipeline.tokenizer import Tokenizer

LABELS = ["ham", "spam", "süß"]
TEXTS = ["Where is the fox?", "In the old mill.", "Mill", "the red kite flew home again"]


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_plain_transformers_gives_the_same_logits_and_labels(
    shape: str, tiny_gpt: GPT, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    base: Any = tiny_gpt
    if shape == "llama":
        sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        config = transformers.LlamaConfig(
            vocab_size=tiny_tokenizer.vocab_size, num_attention_heads=4, **sizes
        )
        base = HuggingFaceLM(transformers.AutoModelForCausalLM.from_config(config))
    model = Classifier(base, LABELS, torch.Generator().manual_seed(0)).eval()
    save_classifier(model, tmp_path, tiny_tokenizer)
    rows = [encode_text(tiny_tokenizer, text) for text in TEXTS]
    ours = classify_rows(model, rows, tiny_tokenizer.pad_id)
    assert ours.exp().sum(1).tolist() == pytest.approx([1.0] * len(rows))

    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert theirs.config.id2label == dict(enumerate(LABELS))
    assert theirs.config.label2id == {label: i for i, label in enumerate(LABELS)}
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    with torch.no_grad():
        logits = theirs(**tokenizer.pad({"input_ids": rows}, return_tensors="pt")).logits
    torch.testing.assert_close(ours, logits.log_softmax(-1), atol=1e-5, rtol=0)
    again = load_classifier(tmp_path)
    assert again.labels == tuple(LABELS)
    reloaded = classify_rows(again.eval(), rows, tiny_tokenizer.pad_id)
    torch.testing.assert_close(reloaded, ours, atol=1e-5, rtol=0)

    # As a user of transformers alone calls it: with texts, not ids.
    plain = transformers.pipeline("text-classification", model=str(tmp_path), top_k=None)
    said: Any = plain(TEXTS)
    for answers, expected in zip(said, ours.exp().tolist(), strict=True):
        shares = {answer["label"]: answer["score"] for answer in answers}
        assert [shares[label] for label in LABELS] == pytest.approx(expected, abs=1e-5)
    assert Tokenizer.load(tmp_path).encode("Mill") == tiny_tokenizer.encode("Mill")


def test_the_head_is_read_at_the_end_token_and_never_at_padding(
    tiny_gpt: GPT, tiny_tokenizer: Tokenizer
) -> None:
    model = Classifier(tiny_gpt, LABELS, torch.Generator().manual_seed(0)).eval()
    rows = [encode_text(tiny_tokenizer, text) for text in TEXTS]
    assert {row[-1] for row in rows} == {tiny_tokenizer.backend.token_to_id("<|endoftext|>")}
    together = classify_rows(model, rows, tiny_tokenizer.pad_id)
    for row, ours in zip(rows, together, strict=True):
        with torch.no_grad():
            logits = tiny_gpt.hidden_states(torch.tensor([row]))[0, -1] @ model.score.weight.T
        torch.testing.assert_close(ours, logits.log_softmax(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Phi", "Cohere"])
def test_what_cannot_be_saved_is_known_before_it_is_trained(
    name: str, tiny_tokenizer: Tokenizer
) -> None:
    config = getattr(transformers, f"{name}Config")(
        vocab_size=tiny_tokenizer.vocab_size, hidden_size=32, intermediate_size=48,
        num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
    )  # fmt: skip
    if name == "Cohere":  # transformers has no classifier of it
        config.logit_scale = 1.0
    trunk = trunk_of(HuggingFaceLM(transformers.AutoModelForCausalLM.from_config(config)))
    if name == "Cohere":
        with pytest.raises(UserError, match="base: transformers has no classifier of 'cohere'"):
            require_classifier(trunk, LABELS, tiny_tokenizer)
    else:
        require_classifier(trunk, LABELS, tiny_tokenizer)


def test_a_head_of_another_size_than_the_labels_is_refused(
    tiny_gpt: GPT, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save_classifier(Classifier(tiny_gpt, LABELS), tmp_path, tiny_tokenizer)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    del values["id2label"]["2"]
    path.write_text(json.dumps(values))
    assert labels_of(tmp_path) == ["ham", "spam"]
    with pytest.raises(UserError, match="no head for its 2 labels"):
        load_classifier(tmp_path)
    for broken in (["ham"], {"first": "ham"}):
        path.write_text(json.dumps(values | {"id2label": broken}))
        with pytest.raises(UserError, match="id2label has no numbers"):
            labels_of(tmp_path)


def test_measures_by_hand() -> None:
    # Truth a a a b, said a a b b: one a is taken for b.
    shares = np.array([[0.9, 0.1], [0.6, 0.4], [0.25, 0.75], [0.5, 0.5 + 1e-9]])
    report = classification_report(np.log(shares), [0, 0, 0, 1], ["a", "b"])
    assert (report["accuracy"]["mean"], report["accuracy"]["n"]) == (0.75, 4)
    expected = binomtest(3, 4).proportion_ci(method="wilson")
    assert report["accuracy"]["ci95"] == pytest.approx([expected.low, expected.high])
    assert report["largest_class"]["mean"] == 0.75
    assert report["log_loss"] == pytest.approx(-np.log([0.9, 0.6, 0.25, 0.5]).mean(), abs=1e-6)
    a, b = report["labels"]["a"], report["labels"]["b"]
    assert (a["precision"]["mean"], a["recall"]["mean"]) == (1.0, pytest.approx(2 / 3))
    assert (b["precision"]["mean"], b["recall"]["mean"]) == (0.5, 1.0)
    assert (a["f1"], b["f1"]) == (pytest.approx(0.8), pytest.approx(2 / 3))
    assert report["confusion"] == {"a": {"a": 2, "b": 1}, "b": {"a": 0, "b": 1}}


def test_a_label_that_is_never_said_has_no_precision() -> None:
    report = classification_report(np.log([[0.9, 0.1], [0.8, 0.2]]), [0, 0], ["a", "b"])
    assert report["labels"]["b"]["precision"]["mean"] is None
    assert report["labels"]["b"]["recall"]["mean"] is None
    assert report["labels"]["b"]["f1"] is None


def test_equal_texts_stand_on_one_side_whatever_the_order_of_the_rows() -> None:
    rows = [LabeledText(f"text {i % 40}", "ab"[i % 2], f"f:{i}") for i in range(100)]
    training, validation = divide_texts(rows, 0.25, seed=1)
    assert sorted(training + validation) == sorted(rows)
    assert not {row.text for row in training} & {row.text for row in validation}
    assert len({row.text for row in validation}) == 10
    assert sorted(divide_texts(rows[::-1], 0.25, seed=1)[1]) == sorted(validation)
    assert sorted(divide_texts(rows, 0.25, seed=2)[1]) != sorted(validation)


def test_labels_may_be_texts_numbers_and_booleans(tmp_path: Path) -> None:
    values = ["spam", 3, True, False]
    lines = [json.dumps({"t": f" text {i} ", "l": value}) for i, value in enumerate(values)]
    (tmp_path / "f.jsonl").write_text("\n".join(lines))
    source = LabeledSource(path="f.jsonl", text_column="t", label_column="l")
    rows, revision = read_labeled_texts(source, tmp_path)
    assert revision is None
    assert [row.label for row in rows] == ["spam", "3", "true", "false"]
    assert [row.text for row in rows] == [f"text {i}" for i in range(4)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], r"f\.jsonl: has no rows"),
        ([{"text": "x"}], r"f\.jsonl:1: there is no column 'label'"),
        ([{"text": "x", "label": None}], r"f\.jsonl:1: column 'label' is empty"),
        ([{"text": "x", "label": 0.5}], r"f\.jsonl:1: column 'label' is 0\.5, and no label"),
        ([{"text": "x", "label": ["a"]}], r"f\.jsonl:1: column 'label' is \['a'\], and no label"),
        ([{"text": 3, "label": "a"}], r"f\.jsonl:1: column 'text' is no text, got 3"),
        ([{"text": " ", "label": "a"}], r"f\.jsonl:1: column 'text' is empty"),
        ([{"words": "x", "label": "a"}], r"f\.jsonl:1: there is no column 'text'"),
    ],
)
def test_unusable_rows_are_one_line(
    tmp_path: Path, lines: list[dict[str, Any]], message: str
) -> None:
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=message) as error:
        read_labeled_texts(LabeledSource(path="f.jsonl"), tmp_path)
    assert "\n" not in str(error.value)


def labeled(*pairs: tuple[str, str]) -> list[LabeledText]:
    return [LabeledText(text, label, f"f:{i}") for i, (text, label) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["10", "9", "-1", "9"], ["-1", "9", "10"]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["true", "false"], ["false", "true"]),
    ],
)
def test_labels_are_in_the_order_of_numbers_where_all_are(
    labels: list[str], expected: list[str]
) -> None:
    rows = labeled(*((f"text {i}", label) for i, label in enumerate(labels)))
    assert label_names(rows, "f") == expected


def test_too_few_labels_or_texts_are_refused() -> None:
    with pytest.raises(UserError, match="f: has texts of one label only: a"):
        label_names(labeled(("x", "a"), ("y", "a")), "f")
    with pytest.raises(UserError, match="f: has a single text"):
        label_names(labeled(("x", "a"), ("x", "b")), "f")
    require_all_labels(labeled(("x", "a"), ("y", "b")), ["a", "b"], "f")
    with pytest.raises(UserError, match="f: all texts of label 'b' are held out"):
        require_all_labels(labeled(("x", "a"), ("y", "a")), ["a", "b"], "f")
