"""Rows are checked when they are read, and the error names the line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.records import (
    Demonstration,
    Prompt,
    Ranking,
    SampleSet,
    contradiction,
    read_rows,
    write_rows,
)


def ranking(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "submission_id": "s1",
        "prompt_id": "p1",
        "prompt": "Hi",
        "labeler": "amber",
        "responses": [
            {"response_id": f"r{i}", "text": text, "policy": "sft", "finished": True}
            for i, text in enumerate(["a", "", "c"])
        ],
        "ratings": [7, 1, 4],
        "answers": {"rude": [True, None, False]},
        "ranks": [1, 3, 2],
    }
    return values | changes


def sample_set(**changes: Any) -> dict[str, Any]:
    response = {
        "text": "",
        "policy": "sft",
        "seed": 1,
        "temperature": 1.0,
        "top_p": 1.0,
        "finished": True,
    }
    values = {
        "prompt_id": "p1",
        "prompt": "Hi",
        "responses": [response | {"response_id": f"r{i}"} for i in range(2)],
    }
    return values | changes


def write(path: Path, *lines: object) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def test_rows_survive_a_round_trip_byte_for_byte(tmp_path: Path) -> None:
    rows = [
        Demonstration(prompt="Grüße\u2028", response='"x"\n'),
        Demonstration(prompt="p", response="r", labeler="amber"),
    ]
    assert write_rows(tmp_path / "a.jsonl", rows) == 2
    assert read_rows(tmp_path / "a.jsonl", Demonstration) == rows
    write_rows(tmp_path / "b.jsonl", read_rows(tmp_path / "a.jsonl", Demonstration))
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_blank_lines_and_a_byte_order_mark_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\ufeff{"prompt": "p", "response": "r"}\n\n', encoding="utf-8")
    assert read_rows(path, Demonstration) == [Demonstration(prompt="p", response="r")]


def test_whole_rankings_and_samples_are_read(tmp_path: Path) -> None:
    assert read_rows(write(tmp_path / "r.jsonl", ranking()), Ranking)[0].ranks == [1, 3, 2]
    assert len(read_rows(write(tmp_path / "s.jsonl", sample_set()), SampleSet)[0].responses) == 2


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (ranking(ratings=[8, 1, 4]), "ratings.0: .*7, got 8"),
        (ranking(ratings=[0, 1, 4]), "ratings.0: .*1, got 0"),
        (ranking(ratings=[True, 1, 4]), "ratings.0: .*got True"),
        (ranking(ratings=["7", 1, 4]), "ratings.0: .*got '7'"),
        (ranking(ratings=[3.0, 1, 4]), "ratings.0: .*got 3.0"),
        (ranking(ratings=[7, 1]), "ratings has 2 entries for 3 responses"),
        (ranking(ranks=[1, 2]), "ranks has 2 entries for 3 responses"),
        (ranking(ranks=[0, 3, 2]), "ranks.0"),
        (ranking(answers={"rude": [True]}), r"answers\[rude\] has 1 entries"),
        (ranking(ranks=[3, 1, 2]), "rated lower"),
        (ranking(display_order=[0, 0, 1]), "display_order"),
        (ranking(labeler=""), "labeler: "),
        (ranking(extra=1), "extra: "),
        ({k: v for k, v in ranking().items() if k != "ranks"}, "ranks: "),
        (
            ranking(responses=ranking()["responses"][:1], ratings=[1], ranks=[1], answers={}),
            "at least 2",
        ),
        ("{broken", "not valid JSON"),
        ("[1]", "expected a JSON object"),
    ],
)
def test_a_broken_ranking_is_refused_with_its_line(tmp_path: Path, row: Any, words: str) -> None:
    path = write(tmp_path / "rankings.jsonl", ranking(), row)
    with pytest.raises(UserError, match=words) as caught:
        read_rows(path, Ranking)
    assert caught.value.where.endswith("rankings.jsonl:2")


def test_a_confirmed_contradiction_is_kept(tmp_path: Path) -> None:
    row = ranking(ranks=[3, 1, 2], confirmed_contradiction=True)
    assert read_rows(write(tmp_path / "r.jsonl", row), Ranking)[0].confirmed_contradiction


def test_contradiction_agrees_with_every_pair_tried() -> None:
    assert contradiction([7, 4, 4], [1, 2, 3]) is None  # equal ratings may be ranked
    assert contradiction([4, 4, 7], [1, 1, 1]) is None  # a tie contradicts nothing
    assert contradiction([3, 5], [1, 2]) == (0, 1)
    assert contradiction([5, 3], [2, 1]) == (1, 0)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "", "response": "r"},
        {"prompt": "p", "response": ""},
        {"prompt": "p"},
        {"prompt": "p", "response": None},
    ],
)
def test_a_demonstration_needs_both_texts(tmp_path: Path, row: Any) -> None:
    with pytest.raises(UserError, match=r"(prompt|response): "):
        read_rows(write(tmp_path / "d.jsonl", row), Demonstration)


def test_fewer_than_two_samples_or_equal_ids_are_refused(tmp_path: Path) -> None:
    responses = sample_set()["responses"]
    for wrong in (responses[:1], [responses[0], responses[0]]):
        with pytest.raises(UserError):
            read_rows(write(tmp_path / "s.jsonl", sample_set(responses=wrong)), SampleSet)


def test_a_split_outside_the_three_is_refused(tmp_path: Path) -> None:
    row = {"prompt_id": "p", "prompt": "p", "split": "test"}
    with pytest.raises(UserError, match="split"):
        read_rows(write(tmp_path / "p.jsonl", row), Prompt)


def test_missing_empty_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_rows(tmp_path / "none.jsonl", Prompt)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UserError, match="holds no Prompt rows"):
        read_rows(tmp_path / "empty.jsonl", Prompt)
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match="is not UTF-8"):
        read_rows(tmp_path / "binary.jsonl", Prompt)
