"""Sources of every kind give the same documents, one at a time, and say what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from pipeline.config import CorpusSource
from pipeline.data.sources import SourceDocument, load_sources, read_documents, training_texts
from pipeline.data.survey import survey_sources
from pipeline.errors import UserError

ROWS = [{"id": f"d{i}", "text": f"text number {i}"} for i in range(12)]


def write(root: Path, kind: str, rows: list[dict[str, Any]]) -> CorpusSource:
    """A source of the kind, named for it, with these rows."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    values: dict[str, Any] = {"name": kind, "proportion": 1.0}
    if kind == "dataset":
        (root / "folder").mkdir(exist_ok=True)
        (root / "folder" / "train.jsonl").write_text(lines)
        return CorpusSource.model_validate(values | {"dataset": "folder"})
    path = root / f"a.{kind}"
    if kind == "jsonl":
        path.write_text(lines)
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("\n<|endoftext|>\n".join(row["text"] or "" for row in rows))
    return CorpusSource.model_validate(values | {"path": path.name})


def place(root: Path, source: CorpusSource) -> Path:
    return root / str(source.path or source.dataset)


KINDS = ("jsonl", "parquet", "txt", "dataset")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_documents(tmp_path: Path, kind: str) -> None:
    source = write(tmp_path, kind, ROWS)
    found = list(read_documents(source, place(tmp_path, source)))
    assert [document.text for document in found] == [row["text"] for row in ROWS]
    ids = [None if kind == "txt" else row["id"] for row in ROWS]
    assert [document.document_id for document in found] == ids


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_text_are_no_documents_and_do_not_count(tmp_path: Path, kind: str) -> None:
    rows = [{"id": "0", "text": " \n"}, ROWS[0], {"id": "1", "text": None}, *ROWS[1:]]
    source = write(tmp_path, kind, rows).model_copy(update={"max_documents": 2})
    found = list(read_documents(source, place(tmp_path, source)))
    texts = ["", ROWS[0]["text"], "", ROWS[1]["text"]]  # between marks there are no rows
    assert [document.text for document in found] == [t for t in texts if t or kind != "txt"]


def test_ids_may_be_numbers_null_or_absent(tmp_path: Path) -> None:
    rows = [{"id": 7, "text": "a"}, {"id": None, "text": "b"}, {"text": "c"}]
    source = write(tmp_path, "jsonl", rows)
    assert list(read_documents(source, tmp_path / "a.jsonl")) == [
        SourceDocument("7", "a"),
        SourceDocument(None, "b"),
        SourceDocument(None, "c"),
    ]
    named = source.model_copy(update={"id_column": "key"})
    with pytest.raises(UserError, match=r"a.jsonl:1: there is no column 'key', only id, text"):
        list(read_documents(named, tmp_path / "a.jsonl"))
    without = source.model_copy(update={"id_column": None})
    assert {d.document_id for d in read_documents(without, tmp_path / "a.jsonl")} == {None}


def test_documents_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    source = write(tmp_path, "jsonl", ROWS)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write("broken\n")
    documents = read_documents(source, tmp_path / "a.jsonl")
    assert next(documents).text == ROWS[0]["text"]
    first = source.model_copy(update={"max_documents": 12})
    assert len(list(read_documents(first, tmp_path / "a.jsonl"))) == 12


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "a.jsonl: holds no documents"),
        ("a.jsonl", b'{"text": ""}\n{"text": null}\n', "a.jsonl: holds no documents"),
        ("a.jsonl", b'{"text": "x"}\n{"text": 3}\n', "a.jsonl:2: column 'text' is no text, got 3"),
        ("a.jsonl", b'{"body": "x"}\n', "a.jsonl:1: there is no column 'text', only body"),
        ("a.jsonl", b"{'text'}\n", "a.jsonl:1: not valid JSON"),
        ("a.jsonl", b'{"text": "\xff"}', "a.jsonl: is not UTF-8"),
        ("a.jsonl", b'{"text": "\\ud800"}', "a.jsonl:1: column 'text' holds half a character"),
        ("a.txt", b"\xff\xfe", "a.txt: is not UTF-8"),
        ("a.txt", b"  \n", "a.txt: holds no documents"),
        ("a.txt", b"<|endoftext|>\n<|endoftext|>", "a.txt: holds no documents"),
        ("a.parquet", b"", "a.parquet: not valid parquet"),
        ("a.json", b"[]", "a.json: .json is no format for a corpus"),
        ("a.csv", b"text\nx\n", "a.csv: .csv is no format for a corpus"),
    ],
)
def test_broken_corpora_are_one_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    source = CorpusSource(name="a", path=name, proportion=1.0)
    with pytest.raises(UserError) as caught:
        list(read_documents(source, tmp_path / name))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("rows", [[{"text": ""}], [{"body": "x"}]])
def test_parquet_without_text_is_one_line(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    source = CorpusSource(name="a", path="a.parquet", proportion=1.0)
    with pytest.raises(
        UserError, match=r"a\.parquet(: holds no documents|, row 1: there is no column)"
    ):
        list(read_documents(source, tmp_path / "a.parquet"))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_a_missing_corpus_is_one_line(tmp_path: Path, name: str) -> None:
    source = CorpusSource(name="a", path=name, proportion=1.0)
    with pytest.raises(UserError, match="cannot be read"):
        list(read_documents(source, tmp_path / name))


# --- the survey and what is loaded of it ----------------------------------------------------------


def survey(root: Path, sources: list[CorpusSource], share: float = 0.3) -> Path:
    """A data folder with the listing of the sources."""
    corpus = root / "data" / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    survey_sources(sources, root, corpus, in_run=False, seed=0, heldout_share=share)
    return root / "data"


def test_one_text_is_on_one_side_in_all_sources(tmp_path: Path) -> None:
    """Four sources with ids of their own share their texts, and one holds each of them twice."""
    rows = [{"id": f"d{i}", "text": f"text {i}"} for i in range(40)]
    sources = [
        write(tmp_path, "jsonl", rows),
        write(tmp_path, "parquet", [{**row, "id": f"p{row['id']}"} for row in rows[::-1]]),
        write(tmp_path, "txt", [*rows, {"text": "only here"}]),
        write(tmp_path, "dataset", [{**row, "id": i} for i, row in enumerate(rows * 2)]),
    ]
    sides: dict[str, set[bool]] = {}
    for source in load_sources(survey(tmp_path, sources), tmp_path):
        counts = {True: 0, False: 0}
        for text, is_heldout in source.documents():
            sides.setdefault(text, set()).add(is_heldout)
            counts[is_heldout] += 1
        assert counts[True] == source.entry.heldout_documents >= 1
        assert counts[False] == source.entry.documents - source.entry.heldout_documents >= 1
    assert {len(side) for side in sides.values()} == {1}
    assert len(sides) == 41


def test_training_texts_leave_out_what_is_held_out(tmp_path: Path) -> None:
    loaded = load_sources(survey(tmp_path, [write(tmp_path, "jsonl", ROWS)]), tmp_path)
    held = {text for text, is_heldout in loaded[0].documents() if is_heldout}
    assert 1 <= len(held) == loaded[0].entry.heldout_documents
    assert set(training_texts(loaded)) == {row["text"] for row in ROWS} - held


def test_the_listing_counts_and_holds_no_lists(tmp_path: Path) -> None:
    rows = [*ROWS, {"id": "e", "text": " "}]
    folder = survey(tmp_path, [write(tmp_path, "jsonl", rows), write(tmp_path, "dataset", rows)])
    entries = json.loads((folder / "corpus" / "sources.json").read_text())
    assert [(entry["path"], entry["dataset"]) for entry in entries] == [
        ("a.jsonl", None),
        (None, "folder"),
    ]
    for entry in entries:
        assert entry["documents"] == 12
        assert entry["empty_rows"] == 1
        assert entry["bytes"] == sum(len(row["text"]) for row in ROWS)
        assert entry["revision"] is None
        assert not [value for value in entry.values() if isinstance(value, list | dict)]
    assert sorted(path.name for path in (folder / "corpus").iterdir()) == [
        "heldout.npy",
        "sources.json",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_has_changed_is_one_line(tmp_path: Path, kind: str) -> None:
    source = write(tmp_path, kind, ROWS)
    folder = survey(tmp_path, [source])
    load_sources(folder, tmp_path)
    write(tmp_path, kind, [*ROWS[:-1], {"id": "d11", "text": "text number 12"}])
    with pytest.raises(UserError, match=r"(a\.\w+|folder): has changed since the data stage"):
        load_sources(folder, tmp_path)
    if kind == "dataset":
        (tmp_path / "folder").rename(tmp_path / "elsewhere")
    else:
        place(tmp_path, source).unlink()
    with pytest.raises(UserError, match=r"(a\.\w+|folder): is missing"):
        load_sources(folder, tmp_path)


def test_a_hub_dataset_is_read_at_the_revision_that_was_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned: list[Any] = []

    def entries(*asked: str | None) -> list[tuple[str, dict[str, str]]]:
        pinned.append(asked)
        return [("somewhere", row) for row in ROWS]

    monkeypatch.setattr("pipeline.data.sources.dataset_entries", entries)
    monkeypatch.setattr("pipeline.data.survey.latest_revision", lambda name: f"{name}@abc")
    source = CorpusSource(
        name="books", dataset="us/books", dataset_config="en", dataset_split="test", proportion=1.0
    )
    (loaded,) = load_sources(survey(tmp_path, [source]), tmp_path)
    assert len(list(loaded.documents())) == 12
    assert pinned == [("us/books", "en", "test", "us/books@abc")] * 2
    assert (loaded.entry.revision, loaded.entry.sha256) == ("us/books@abc", None)
