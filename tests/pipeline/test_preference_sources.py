"""Preferences of others: every format, what is left out and counted, and broken rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import UserError
from pipeline.preference_sources import PreferenceSet, read_preferences
from pipeline.preferences import PromptComparisons, split_comparisons
from pipeline.source_config import PreferenceSource

PAIR = {"prompt_columns": ["task", "input"], "chosen_column": "good", "rejected_column": "bad"}
RANKED = {"prompt_columns": ["task"], "responses_column": "texts", "ranks_column": "ranks"}
CHAT = {"messages_column": "turns", "responses_column": "texts", "ranks_column": "ranks"}


def source(columns: dict[str, Any], **changes: Any) -> PreferenceSource:
    place = {} if "dataset" in changes else {"path": "a.jsonl"}
    return PreferenceSource.model_validate(place | columns | changes)


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
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
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)


def read(
    folder: Path, rows: Sequence[dict[str, Any]], columns: dict[str, Any], **changes: Any
) -> PreferenceSet:
    write(folder / "a.jsonl", rows)
    return read_preferences(source(columns, **changes), folder)


def choices(one: PromptComparisons) -> set[tuple[str, str]]:
    """(better, worse) as texts."""
    return {(one.responses[b].text, one.responses[w].text) for b, w in one.pairs}


def ties(one: PromptComparisons) -> set[frozenset[str]]:
    return {frozenset(one.responses[i].text for i in tie) for tie in one.ties}


# --- formats --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_every_format_gives_the_same_pairs(tmp_path: Path, name: str) -> None:
    rows = [
        {"task": "Add.", "input": " 1 + 1", "good": "2", "bad": "3 \n", "unused": "x"},
        {"task": "Grüße", "input": "", "good": "Hallo\nzwei", "bad": "Nein", "unused": ""},
        {"task": "Add.", "input": "1 + 1", "good": "2", "bad": "4", "unused": ""},
    ]
    write(tmp_path / name, rows)
    found = read_preferences(source(PAIR, path=name), tmp_path)
    assert (found.rows, found.left_out, found.revision) == (3, {}, None)
    add, greet = found.comparisons
    assert (add.prompt, greet.prompt) == ("Add.\n1 + 1", "Grüße")
    assert [response.text for response in add.responses] == ["2", "3", "4"]  # 2 stands once
    assert choices(add) == {("2", "3"), ("2", "4")}
    assert choices(greet) == {("Hallo\nzwei", "Nein")}
    assert add.labelers == ("external", "external")
    assert add.rating_gaps == (None, None)
    assert (add.ties, add.group) == ((), add.prompt)
    assert {(response.policy, response.finished) for response in add.responses} == {
        ("external", True)
    }


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_every_format_with_lists_gives_the_same_ranks(tmp_path: Path, name: str) -> None:
    turns = [{"role": "user", "content": " Hi. "}]
    longer = [*turns, {"role": "assistant", "content": "Hi!"}, {"role": "user", "content": "Bye"}]
    rows = [
        {"turns": turns, "texts": ["x", "y", "z"], "ranks": [2, 1, 2], "who": "ann", "tree": 7},
        {"turns": longer, "texts": ["u", "v"], "ranks": [1, 2], "who": None, "tree": 7},
        {"turns": turns, "texts": ["x", "y"], "ranks": [1, 2], "who": "bob", "tree": None},
    ]
    write(tmp_path / name, rows)
    named = source(CHAT, path=name, labeler_column="who", group_column="tree")
    found = read_preferences(named, tmp_path)
    hi, bye = found.comparisons
    assert (hi.prompt, bye.prompt) == ("Hi.", "user: Hi.\nassistant: Hi!\nuser: Bye")
    # ann: y over x and z, which tie; bob: x over y.
    assert [response.text for response in hi.responses] == ["x", "y", "z"]
    assert hi.pairs == ((1, 0), (1, 2), (0, 1))
    assert hi.labelers == ("ann", "ann", "bob")
    assert hi.ties == ((0, 2),)
    assert bye.labelers == ("external",)
    # The row without a tree has the prompt for its group, which stands in tree 7 as well.
    assert hi.group == bye.group == "7"


def test_a_dataset_in_a_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "chats").mkdir()
    write(tmp_path / "chats" / "train.jsonl", [{"task": "p", "texts": ["x", "y"], "ranks": [2, 1]}])
    found = read_preferences(source(RANKED, dataset="chats"), tmp_path)
    assert [choices(one) for one in found.comparisons] == [{("y", "x")}]
    assert found.revision is None


def test_a_response_is_known_by_its_prompt_and_text(tmp_path: Path) -> None:
    rows = [{"task": p, "texts": ["x", "y"], "ranks": [1, 2]} for p in ("p", "q")]
    p, q = read(tmp_path, rows, RANKED).comparisons
    ids = [response.response_id for one in (p, q) for response in one.responses]
    assert len(set(ids)) == 4
    (again,) = read(tmp_path, [rows[0]], RANKED).comparisons
    assert again.responses == p.responses


# --- what is left out -----------------------------------------------------------------------------


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    rows = [
        {"task": "four", "texts": ["a", "b", "12345", "12345678"], "ranks": [4, 3, 2, 1]},
        {"task": "four", "texts": ["a", "1234567"], "ranks": [1, 2]},
        {"task": " ", "texts": ["a", "b"], "ranks": [1, 2]},
        {"task": "same", "texts": ["a", " a", "a\n"], "ranks": [1, 2, 3]},
        {"task": "lone", "texts": ["a"], "ranks": [1]},
        {"task": "none", "texts": [], "ranks": []},
        {"task": "mute", "texts": ["", None, "b"], "ranks": [1, 1, 2]},
        {"task": "mute", "texts": ["a", "b", " "], "ranks": [1, 2, 3]},
    ]
    found = read(tmp_path, rows, RANKED, max_characters=9)
    assert found.rows == 8
    assert found.left_out == {
        "responses too long": 2,  # 4 + 8 and 4 + 7 characters; 4 + 5 are 9
        "rows with an empty prompt": 1,
        "rows of equal responses": 1,
        "rows with fewer than 2 responses": 4,  # the second, lone, none, the first mute one
        "empty responses": 2,  # those of the first mute row are one response, ranked alike
    }
    four, mute = found.comparisons
    assert choices(four) == {("12345", "a"), ("12345", "b"), ("b", "a")}
    assert choices(mute) == {("a", "b")}


def test_a_pair_of_equal_responses_is_left_out(tmp_path: Path) -> None:
    rows = [
        {"task": "p", "input": "", "good": "same", "bad": "same "},
        {"task": "p", "input": "", "good": "x", "bad": "y"},
    ]
    found = read(tmp_path, rows, PAIR)
    assert found.left_out == {"rows of equal responses": 1}
    assert [choices(one) for one in found.comparisons] == [{("x", "y")}]


@pytest.mark.parametrize(
    ("texts", "ranks", "expected", "tied", "left_out"),
    [
        # Both x stand above all others: one x remains.
        (["x", "y", "x"], [1, 3, 2], {("x", "y")}, set(), {}),
        (["x", "y", "x", "z"], [2, 1, 2, 2], {("y", "x"), ("y", "z")}, {frozenset("xz")}, {}),
        # One x above y and one below, or one level with it: neither counts.
        (["x", "y", "x", "z"], [1, 2, 3, 4], {("y", "z")}, set(), 2),
        (["x", "y", "x", "z"], [1, 2, 2, 4], {("y", "z")}, set(), 2),
        (["x", "y", "x", "z"], [1, 1, 2, 4], {("y", "z")}, set(), 2),
        (["x", "y", "x", "y", "z", "w"], [1, 2, 3, 4, 5, 6], {("z", "w")}, set(), 4),
    ],
)
def test_a_response_that_a_row_holds_twice(
    tmp_path: Path,
    texts: list[str],
    ranks: list[int],
    expected: set[tuple[str, str]],
    tied: set[frozenset[str]],
    left_out: int | dict[str, int],
) -> None:
    found = read(tmp_path, [{"task": "p", "texts": texts, "ranks": ranks}], RANKED)
    (one,) = found.comparisons
    assert choices(one) == expected
    assert ties(one) == tied
    assert found.left_out == (left_out and {"responses ranked twice, not alike": left_out})


@given(
    st.lists(st.tuples(st.sampled_from("wxyz"), st.integers(1, 6)), min_size=6, max_size=6).filter(
        lambda row: len({text for text, _ in row}) > 1
    )
)
def test_no_pair_contradicts_a_copy_in_its_row(
    tmp_path_factory: pytest.TempPathFactory, row: list[tuple[str, int]]
) -> None:
    """A text stays if its copies stand alike towards every other response of the row."""
    copies = {text: [rank for other, rank in row if other == text] for text, _ in row}

    def order(rank: int, other: int) -> int:
        return (rank > other) - (rank < other)

    kept = {
        text
        for text, ranks in copies.items()
        if all(len({order(r, other) for r in ranks}) == 1 for t, other in row if t != text)
    }
    values = {"task": "p", "texts": [text for text, _ in row], "ranks": [rank for _, rank in row]}
    folder = tmp_path_factory.mktemp("row")
    if len(kept) < 2:
        with pytest.raises(UserError, match="has no preferences"):
            read(folder, [values], RANKED)
        return
    found = read(folder, [values], RANKED)
    (one,) = found.comparisons
    assert {response.text for response in one.responses} == kept
    pairs = list(permutations(kept, 2))
    assert choices(one) == {(a, b) for a, b in pairs if copies[a][0] < copies[b][0]}
    assert ties(one) == {
        frozenset(pair) for pair in pairs if copies[pair[0]][0] == copies[pair[1]][0]
    }
    lost = len(row) - sum(len(copies[text]) for text in kept)
    assert sum(found.left_out.values()) == lost


def test_a_source_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    same = {"task": "p", "input": "", "good": "x", "bad": "x"}
    with pytest.raises(UserError, match=r"a\.jsonl: has no preferences \(2 rows of equal resp"):
        read(tmp_path, [same, same], PAIR)
    with pytest.raises(UserError, match=r"has no preferences \(no rows\)"):
        read(tmp_path, [], PAIR)
    with pytest.raises(UserError, match=r"absent\.jsonl: cannot be read"):
        read_preferences(source(PAIR, path="absent.jsonl"), tmp_path)


# --- broken rows ----------------------------------------------------------------------------------

ROW = {"turns": [{"role": "user", "content": "p"}], "texts": ["x", "y"], "ranks": [1, 2]}


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ({"ranks": [1, 2, 3]}, "3 ranks for 2 responses"),
        ({"ranks": [1]}, "1 ranks for 2 responses"),
        ({"ranks": [1, 2.0]}, r"whole number, got 2\.0"),
        ({"ranks": ["1", "2"]}, "whole number, got '1'"),
        ({"ranks": [True, 2]}, "whole number, got True"),
        ({"ranks": [None, 2]}, "whole number, got None"),
        ({"ranks": [0, 1]}, r"from 1 \(best\) to 2 here, got 0"),
        ({"ranks": [3, 1]}, r"from 1 \(best\) to 2 here, got 3"),
        ({"ranks": 1}, "'ranks' is no list, got 1"),
        ({"texts": "xy"}, "'texts' is no list, got 'xy'"),
        ({"texts": ["x", 2]}, r"'texts\[1\]' is no text, got 2"),
        ({"texts": ["x", "\ud800"]}, "half a character"),
        ({"turns": "p"}, "'turns' is no list, got 'p'"),
        ({"turns": ["p"]}, "turns 1: is no turn"),
        ({"turns": [{"role": "user"}]}, "turns 1: there is no column 'content', only role"),
        ({"who": ["ann"]}, r"'who' is no text, got \['ann'\]"),
        ({"who": True}, "'who' is no text, got True"),
        ({"tree": 1.5}, r"'tree' is no text, got 1\.5"),
    ],
)
def test_broken_rows_are_named(tmp_path: Path, broken: dict[str, Any], problem: str) -> None:
    whole = ROW | {"who": "ann", "tree": "t"}
    named = {"labeler_column": "who", "group_column": "tree"}
    assert len(read(tmp_path, [whole], CHAT, **named).comparisons) == 1
    with pytest.raises(UserError, match=rf"a\.jsonl:2.*{problem}") as caught:
        read(tmp_path, [whole, whole | broken], CHAT, **named)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("column", ["turns", "texts", "ranks", "who", "tree"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    row = ROW | {"who": "ann", "tree": "t"}
    del row[column]
    with pytest.raises(UserError, match=rf"a\.jsonl:1: there is no column '{column}', only"):
        read(tmp_path, [row], CHAT, labeler_column="who", group_column="tree")


@pytest.mark.parametrize("column", ["task", "input", "good", "bad"])
def test_a_missing_column_of_a_pair_is_named(tmp_path: Path, column: str) -> None:
    row = {"task": "p", "input": "", "good": "x", "bad": "y"}
    del row[column]
    with pytest.raises(UserError, match=rf"a\.jsonl:1: there is no column '{column}', only"):
        read(tmp_path, [row], PAIR)


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"prompt_columns": []}, "prompt_columns, or its messages_column"),
        ({"messages_column": "turns"}, "prompt_columns, or its messages_column"),
        ({"chosen_column": None, "rejected_column": None}, "or responses_column and ranks_column"),
        ({"responses_column": "texts", "ranks_column": "ranks"}, "or responses_column and ranks"),
        ({"ranks_column": "ranks"}, "name chosen_column and rejected_column, or responses"),
        ({"rejected_column": None}, "chosen_column and rejected_column go together"),
        (
            {"chosen_column": None, "rejected_column": None, "responses_column": "texts"},
            "responses_column and ranks_column go together",
        ),
        ({"rejected_column": "good"}, "are both 'good'"),
        ({"path": None}, "name either path"),
        ({"dataset_split": "test"}, "go with dataset"),
        ({"max_characters": 0}, "greater than 0"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], problem: str) -> None:
    source(PAIR)
    with pytest.raises(ValidationError, match=problem):
        PreferenceSource.model_validate({"path": "a.jsonl"} | PAIR | changes)


# --- public data ----------------------------------------------------------------------------------


def test_public_rankings_are_read_whole(data_root: Path) -> None:
    place = "preferences/oasst_ranked.jsonl"
    columns = CHAT | {"messages_column": "messages", "responses_column": "responses"}
    found = read_preferences(source(columns, path=place, group_column="tree"), data_root)
    rows = [json.loads(line) for line in (data_root / place).read_text().splitlines()]
    assert (found.rows, found.left_out) == (len(rows), {})
    assert len(found.comparisons) == len({json.dumps(row["messages"]) for row in rows})
    sizes = [len(row["ranks"]) for row in rows]  # no row has a tie
    assert sum(len(one.pairs) for one in found.comparisons) == sum(k * (k - 1) // 2 for k in sizes)
    assert {one.group for one in found.comparisons} == {row["tree"] for row in rows}
    training, validation = split_comparisons(found.comparisons, 0.2, 0)
    assert not {one.group for one in training} & {one.group for one in validation}
