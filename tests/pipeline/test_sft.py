"""Rows of demonstrations: labels on the response and its end token only, nothing lost silently."""

from __future__ import annotations

import pytest

from pipeline.errors import UserError
from pipeline.records import Demonstration
from pipeline.sft import (
    SftRow,
    check_labels,
    collate,
    encode_demonstration,
    encode_demonstrations,
    validation_prompts,
)
from pipeline.tokenizer import Tokenizer

DEMONSTRATIONS = [
    Demonstration(prompt="Where does the fox live?", response="It lives in the old mill."),
    Demonstration(prompt="Who eats plums?", response="The red fox."),
    Demonstration(prompt="Thank the owl.", response="Thanks for the blue kite, small owl."),
    Demonstration(prompt="Who?", response="It"),
]


@pytest.fixture(scope="module")
def rows(tiny_tokenizer: Tokenizer) -> list[SftRow]:
    return [encode_demonstration(one, tiny_tokenizer) for one in DEMONSTRATIONS]


def test_labels_are_the_response_and_its_end_token(tiny_tokenizer: Tokenizer) -> None:
    row = encode_demonstration(DEMONSTRATIONS[0], tiny_tokenizer)
    trained = [label for label in row["labels"] if label != -100]
    untrained = [i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label < 0]

    assert trained[-1] == tiny_tokenizer.eos_id
    assert tiny_tokenizer.decode(trained[:-1]) == "It lives in the old mill."
    assert untrained[0] == tiny_tokenizer.prompt_mark_id
    assert untrained[-1] == tiny_tokenizer.response_mark_id
    assert tiny_tokenizer.decode(untrained[1:-1]) == "Where does the fox live?"
    assert row["input_ids"] == untrained + trained


def test_collate_pads_on_the_right_with_masked_labels() -> None:
    short: SftRow = {"input_ids": [7, 8], "labels": [-100, 8]}
    long: SftRow = {"input_ids": [4, 5, 6], "labels": [-100, 5, 6]}
    batch = collate([short, long], pad_id=99)

    assert batch["input_ids"].tolist() == [[7, 8, 99], [4, 5, 6]]
    assert batch["labels"].tolist() == [[-100, 8, -100], [-100, 5, 6]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("row", "position", "label"),
    [
        pytest.param(0, 1, 40, id="a prompt token is trained on"),
        pytest.param(0, "end", -100, id="the end token is not trained on"),
        pytest.param(1, -1, 1, id="padding is trained on"),
    ],
)
def test_check_labels_refuses_a_wrong_label(
    rows: list[SftRow], tiny_tokenizer: Tokenizer, row: int, position: int | str, label: int
) -> None:
    batch = collate(rows[:2], tiny_tokenizer.pad_id)
    check_labels(batch, tiny_tokenizer)
    index = len(rows[row]["labels"]) - 1 if position == "end" else int(position)
    batch["labels"][row, index] = label
    with pytest.raises(RuntimeError, match=f"row {row}"):
        check_labels(batch, tiny_tokenizer)


def test_too_long_demonstrations_are_named_and_counted(tiny_tokenizer: Tokenizer) -> None:
    lengths = [
        len(encode_demonstration(row, tiny_tokenizer)["input_ids"]) for row in DEMONSTRATIONS
    ]
    context = sorted(lengths)[1]  # two of four fit
    first = next(index for index, length in enumerate(lengths, start=1) if length > context)
    with pytest.raises(UserError) as error:
        encode_demonstrations(DEMONSTRATIONS, tiny_tokenizer, context, "demonstrations.jsonl")
    assert error.value.where == f"demonstrations.jsonl: demonstration {first}"
    assert f"takes {lengths[first - 1]} tokens" in error.value.problem
    assert f"context of {context} (2 of 4" in error.value.problem
    with pytest.raises(UserError, match="2 of 4"):
        encode_demonstrations(DEMONSTRATIONS, tiny_tokenizer, context, "file", 0.49)
    rows, lines = encode_demonstrations(DEMONSTRATIONS, tiny_tokenizer, context, "file", 0.5)
    fitting = [length <= context for length in lengths]
    assert [row is not None for row in rows] == fitting
    too_long = [i for i, fits in enumerate(fitting, start=1) if not fits]
    assert [line.split(" takes ")[0] for line in lines] == [
        f"file: demonstration {number}" for number in too_long
    ]
    assert all(line.endswith("left out") for line in lines)


def test_validation_prompts_do_not_depend_on_order_or_repetition() -> None:
    prompts = [f"prompt {index}" for index in range(40)]
    chosen = validation_prompts(prompts, 0.1, seed=3)
    assert len(chosen) == 4
    assert validation_prompts(prompts[::-1] + prompts, 0.1, seed=3) == chosen
    assert validation_prompts(prompts, 0.1, seed=4) != chosen
    assert len(validation_prompts(prompts[:2], 0.01, seed=3)) == 1
    assert len(validation_prompts(prompts[:2], 0.99, seed=3)) == 1
    with pytest.raises(UserError, match="one prompt"):
        validation_prompts(["same", "same"], 0.5, seed=3)
