"""Instructions from files: columns, empty texts, and a split that only the prompt decides."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from pipeline.config import InstructionSource
from pipeline.errors import UserError
from pipeline.instructions import Instruction, read_instructions, split_instructions

ROWS = [
    {"instruction": "Add.", "input": "1 + 1", "output": "2"},
    {"instruction": "Say hi.", "input": "", "output": " Hi! "},
    {"instruction": "", "input": "Only input", "output": "Grüße\nzwei"},
]
EXPECTED = [
    Instruction("Add.\n1 + 1", "2"),
    Instruction("Say hi.", "Hi!"),
    Instruction("Only input", "Grüße\nzwei"),
]


def source(path: str, **changes: Any) -> InstructionSource:
    values = {"prompt_columns": ["instruction", "input"], "response_column": "output"}
    return InstructionSource.model_validate({"path": path} | values | changes)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, ROWS)
    assert read_instructions(source(name), tmp_path / name) == (EXPECTED, 0)
    with pytest.raises(UserError, match=r"no column 'answer', only instruction, input, output"):
        read_instructions(source(name, response_column="answer"), tmp_path / name)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe{", b'"x', b"[1]\n"])
def test_broken_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"a\.(jsonl|json|csv|parquet)"):
        read_instructions(source(name), tmp_path / name)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([ROWS[0], ROWS[0] | {"output": " "}], "a.jsonl:2: the response is empty. "),
        (
            [ROWS[0], {"instruction": " ", "input": "", "output": "x"}, ROWS[0] | {"output": ""}],
            "a.jsonl:2: the prompt is empty (2 such rows in all). ",
        ),
        ([ROWS[0] | {"output": None}], "a.jsonl:1: the response is empty. "),
        ([ROWS[0] | {"output": 2}], "a.jsonl:1: column 'output' is no text, got 2. "),
    ],
)
def test_a_row_without_text_is_named(tmp_path: Path, rows: list[Any], words: str) -> None:
    write(tmp_path / "a.jsonl", rows)
    with pytest.raises(UserError) as caught:
        read_instructions(source("a.jsonl"), tmp_path / "a.jsonl")
    assert words in str(caught.value)


def test_unknown_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").touch()
    for name in ("a.xlsx", "none.jsonl", "none.csv", "none.parquet"):
        with pytest.raises(UserError, match=name):
            read_instructions(source(name), tmp_path / name)


def test_a_ragged_csv_row_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("instruction,input,output\na,b,c\na,b\n")
    with pytest.raises(UserError, match=r"a\.csv:3: has another number of fields"):
        read_instructions(source("a.csv"), tmp_path / "a.csv")


def many(count: int) -> list[Instruction]:
    return [Instruction(f"Question {i}?", f"Answer {i}.") for i in range(count)]


def placed(rows: list[Instruction], seed: int = 0, **shares: float) -> dict[str, str]:
    """The split of each prompt by its text."""
    splits = split_instructions(rows, source("a.jsonl", **shares), seed, "a.jsonl")
    found = {row.prompt: "demonstrations" for row in splits.demonstrations}
    assert not set(found) & {prompt.prompt for prompt in splits.prompts}
    return found | {prompt.prompt: prompt.split for prompt in splits.prompts}


def test_a_prompt_s_split_is_its_own_whatever_stands_around_it() -> None:
    rows = many(400)
    whole = placed(rows)
    assert len(whole) == 400
    assert placed(rows[::-1]) == whole
    assert placed(rows[100:300]) == {row.prompt: whole[row.prompt] for row in rows[100:300]}
    assert placed(rows, seed=1) != whole


def test_the_shares_are_kept() -> None:
    where = list(placed(many(4000), demonstrations=0.6, label=0.1, ppo=0.2).values())
    for split, share in {"demonstrations": 0.6, "label": 0.1, "ppo": 0.2, "heldout": 0.1}.items():
        # four standard deviations of a binomial count
        assert abs(where.count(split) - 4000 * share) < 4 * (4000 * share * (1 - share)) ** 0.5


def test_equal_prompts_share_a_split_and_the_first_is_kept() -> None:
    rows = many(100)
    spelled = [Instruction(f"  QUESTION   {i}? ", "other") for i in range(100)]
    splits = split_instructions(rows + spelled, source("a.jsonl"), 0, "a.jsonl")
    demonstrated = {" ".join(row.prompt.lower().split()) for row in splits.demonstrations}
    assert len(splits.demonstrations) == 2 * len(demonstrated)
    assert len(splits.prompts) == 100 - len(demonstrated)
    assert not demonstrated & {prompt.prompt.lower() for prompt in splits.prompts}
    assert all(prompt.meta and prompt.meta["reference"] != "other" for prompt in splits.prompts)
    assert len({prompt.prompt_id for prompt in splits.prompts}) == len(splits.prompts)


def test_a_split_that_stays_empty_is_refused() -> None:
    with pytest.raises(UserError, match=r"a\.jsonl: no row fell into"):
        split_instructions(many(2), source("a.jsonl"), 0, "a.jsonl")
