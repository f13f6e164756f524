"""Rows of files and datasets; what cannot be read is one line. Nothing here needs a network."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from pipeline.data import tables
from pipeline.data.tables import dataset_entries, file_entries, latest_revision, text_cell
from pipeline.errors import UserError

ROWS = [{"id": f"{i}", "text": f"text {i}", "size": i} for i in range(150)]


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def test_parquet_rows_come_in_order_with_the_columns_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, ROWS)
    entries = list(file_entries(path, ["text", "id"]))
    assert [row for _, row in entries] == [{"id": r["id"], "text": r["text"]} for r in ROWS]
    assert entries[149][0] == f"{path}, row 150"
    assert [row for _, row in file_entries(path)] == ROWS
    assert [row for _, row in file_entries(path, ["absent", "id"])] == ROWS


def test_a_row_group_of_parquet_is_not_held_in_memory(tmp_path: Path) -> None:
    rows = [{"text": random.Random(i).randbytes(500).hex()} for i in range(9000)]
    write_parquet(tmp_path / "a.parquet", rows)
    assert (tmp_path / "a.parquet").stat().st_size > 8_000_000
    before = pyarrow.total_allocated_bytes()
    for _ in file_entries(tmp_path / "a.parquet"):
        assert pyarrow.total_allocated_bytes() - before < 6_000_000


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 40 + b"PAR1", b"{}" * 30])
def test_a_parquet_file_that_is_none_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.parquet: (not valid parquet|cannot be read)") as error:
        list(file_entries(tmp_path / "a.parquet"))
    assert len(str(error.value).splitlines()) == 1


def test_a_cut_off_parquet_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, ROWS)
    content = bytearray(path.read_bytes())
    content[4:60] = bytes(56)  # the first page
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.parquet"):
        list(file_entries(path))


def test_parquet_text_that_is_not_utf8_is_one_line(tmp_path: Path) -> None:
    column = pyarrow.array([b"good", b"\xff"]).cast(pyarrow.string(), safe=False)
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: is not UTF-8 \(a byte 0xff"):
        list(file_entries(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": 1, "body": "x"}, "there is no column 'text', only id, body. Fix: correct where."),
        ({"text": 3}, "column 'text' is no text, got 3"),
        ({"text": b"x"}, "column 'text' is no text, got b'x'"),
        ({"text": "\ud83d"}, "column 'text' holds half a character"),
    ],
)
def test_a_cell_without_text_is_one_line(row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        text_cell(row, "text", "a.jsonl:4", "where")
    assert f"a.jsonl:4: {message}" in str(caught.value)


def test_cells() -> None:
    assert text_cell({"text": " é "}, "text", "", "") == " é "
    assert text_cell({"text": None}, "text", "", "") == ""


# --- datasets -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset of two splits, as ``datasets`` understands a folder."""
    folder = tmp_path / "notes"
    folder.mkdir()
    for split, rows in (("train", ROWS), ("test", ROWS[:2])):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines)
    return folder


def test_a_folder_is_a_dataset(folder: Path) -> None:
    entries = list(dataset_entries(str(folder), None, "train", None))
    assert [row for _, row in entries] == ROWS
    assert entries[2][0] == f"dataset {folder}, row 3"
    assert len(list(dataset_entries(str(folder), None, "test", None))) == 2


@pytest.mark.parametrize(
    ("config", "split", "message"),
    [
        (None, "absent", "Bad split: absent"),
        ("absent", "train", "BuilderConfig 'absent' not found"),
    ],
)
def test_an_absent_part_is_one_line(
    folder: Path, config: str | None, split: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        list(dataset_entries(str(folder), config, split, None))


@pytest.mark.parametrize(
    "content", [b'{"text": "a"}\n{"text": \n', b'{"text": "\xff"}\n', b"", None]
)
def test_a_broken_folder_is_one_line(folder: Path, content: bytes | None) -> None:
    if content is None:
        (folder / "train.jsonl").unlink()
    else:
        (folder / "train.jsonl").write_bytes(content)
    (folder / "test.jsonl").unlink()
    with pytest.raises(UserError, match=r"dataset .*notes.*: cannot be loaded") as caught:
        list(dataset_entries(str(folder), None, "train", None))
    assert len(str(caught.value).splitlines()) == 1


def test_what_the_hub_does_not_reach_is_one_line() -> None:
    """Tests are offline, so that no name is reached."""
    with pytest.raises(UserError, match="dataset somebody/books: is no folder below data_root"):
        latest_revision("somebody/books")
    with pytest.raises(UserError, match="dataset somebody/books: cannot be loaded"):
        list(dataset_entries("somebody/books", None, "train", "0123abcd"))


def test_the_hub_s_revision_is_asked_for_and_pinned(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    import huggingface_hub

    asked: list[Any] = []
    load_builder = datasets.load_dataset_builder

    class Api:
        def dataset_info(self, name: str) -> Any:
            asked.append(name)
            return type("Info", (), {"sha": "0123abcd"})

    def load(name: str, config: str | None, revision: str) -> Any:
        asked.append((name, config, revision))
        return load_builder(str(folder))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    revision = latest_revision("somebody/books")
    assert [row for _, row in dataset_entries("somebody/books", "en", "train", revision)] == ROWS
    assert asked == ["somebody/books", ("somebody/books", "en", "0123abcd")]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_long_file_of_a_dataset_is_not_held_in_memory(tmp_path: Path, kind: str) -> None:
    rows = [{"text": random.Random(i).randbytes(500).hex()} for i in range(30_000)]
    path = tmp_path / f"train.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=500)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    del rows
    assert path.stat().st_size > 28_000_000
    before = pyarrow.total_allocated_bytes()
    for number, _ in enumerate(dataset_entries(str(tmp_path), None, "train", None)):
        if number % 1000 == 0:
            assert pyarrow.total_allocated_bytes() - before < 8_000_000


def test_the_hub_s_libraries_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded while the hub was closed, they are asked to read again."""
    import datasets.config
    import huggingface_hub.constants

    for module in (huggingface_hub.constants, datasets.config):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    tables._follow_offline_switches()
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
    assert not datasets.config.HF_HUB_OFFLINE
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    tables._follow_offline_switches()
    assert datasets.config.HF_HUB_OFFLINE
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
