"""The one stage that splits: nothing is on two sides, whatever the source."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import read_manifest, verify
from pipeline.config import RunConfig
from pipeline.data import load_sources
from pipeline.errors import UserError
from pipeline.records import CopyProbe, Demonstration, Document, Prompt, read_rows
from pipeline.stage_context import names_hub
from stages import data

SIZES = {
    "documents": 120,
    "demonstrations": 12,
    "label_prompts": 9,
    "ppo_prompts": 10,
    "heldout_prompts": 11,
}


def world_config(seed: int = 0) -> RunConfig:
    return RunConfig.model_validate({"seed": seed, "data": {"tinyworld": SIZES}, "pretrain": {}})


def files_config(root: Path, corpus: list[dict[str, Any]], **changes: Any) -> RunConfig:
    instructions = {"path": "i.jsonl", "prompt_columns": ["q"], "response_column": "a"}
    section = {"corpus": corpus, "instructions": instructions} | changes
    return RunConfig.model_validate({"data_root": str(root), "data": section, "pretrain": {}})


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    write_lines(root / "i.jsonl", [{"q": f"Q{i}", "a": f"A{i}"} for i in range(60)])
    write_lines(root / "a.jsonl", [{"id": f"d{i}", "text": f"text {i}"} for i in range(40)])
    (root / "b.txt").write_text("one long text", encoding="utf-8")
    return root


CORPUS = [
    {"name": "a", "path": "a.jsonl", "proportion": 0.75},
    {"name": "b", "path": "b.txt", "proportion": 0.25},
]


def listing(run: Path) -> dict[str, Any]:
    entries = json.loads((run / "data" / "corpus" / "sources.json").read_text(encoding="utf-8"))
    return {entry["name"]: entry for entry in entries}


def test_the_world_is_written_in_the_sizes_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    data.run(world_config(), run)
    folder = run / "data"
    assert verify(folder) is None
    assert len(read_rows(folder / "demonstrations.jsonl", Demonstration)) == 12
    prompts = read_rows(folder / "prompts.jsonl", Prompt)
    counts = {
        split: sum(p.split == split for p in prompts) for split in ("label", "ppo", "heldout")
    }
    assert counts == {"label": 9, "ppo": 10, "heldout": 11}
    assert len({prompt.prompt for prompt in prompts}) == 30
    for probe in read_rows(folder / "copy_probes.jsonl", CopyProbe):
        assert probe.target.strip() in probe.prefix
    world = json.loads((folder / "world.json").read_text())
    assert world["seed"] == 0
    assert 0 < world["constants"]["FLAWED_DEMONSTRATION_SHARE"] <= 0.9
    assert "label 9, ppo 10, heldout 11" in capsys.readouterr().out


def test_the_world_s_corpus_is_listed_and_nothing_is_on_two_sides(tmp_path: Path) -> None:
    run = tmp_path / "run"
    data.run(world_config(), run)
    entries = listing(run)
    assert sum(entry["proportion"] for entry in entries.values()) == pytest.approx(1)
    sides: dict[str, set[bool]] = {}
    for source in load_sources(run / "data", tmp_path):
        entry = entries[source.entry.name]
        path = run / "data" / "corpus" / entry["path"]
        texts = [document.text for document in read_rows(path, Document)]
        found = list(source.documents())
        assert [text for text, _ in found] == texts
        assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert entry["documents"] == len(texts)
        assert entry["bytes"] == sum(len(text.encode()) for text in texts)
        held = [text for text, is_heldout in found if is_heldout]
        assert 1 <= entry["heldout_documents"] == len(held) < len(texts)
        for text, is_heldout in found:
            sides.setdefault(text, set()).add(is_heldout)
    assert {len(side) for side in sides.values()} == {1}


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        data.run(world_config(seed), tmp_path / name)
        manifest = read_manifest(tmp_path / name / "data")
        assert manifest is not None
        contents.append(manifest.content)
    assert contents[0] == contents[1] != contents[2]


def test_files_are_listed_not_copied(tmp_path: Path, root: Path) -> None:
    run = tmp_path / "run"
    data.run(files_config(root, CORPUS, heldout_document_fraction=0.5), run)
    sources = listing(run)
    names = sorted(path.name for path in (run / "data" / "corpus").iterdir())
    assert names == ["heldout.npy", "sources.json"]
    assert sources["b"] == {
        "path": "b.txt",
        "dataset": None,
        "dataset_config": None,
        "dataset_split": "train",
        "name": "b",
        "proportion": 0.25,
        "text_column": "text",
        "id_column": "id",
        "max_documents": None,
        "in_run": False,
        "sha256": hashlib.sha256(b"one long text").hexdigest(),
        "revision": None,
        "documents": 1,
        "heldout_documents": 0,
        "bytes": 13,
        "empty_rows": 0,
    }
    assert sources["a"]["documents"] == 40
    assert 10 <= sources["a"]["heldout_documents"] <= 30
    manifest = read_manifest(run / "data")
    assert manifest is not None
    assert set(manifest.inputs) == {"corpus/a", "corpus/b", "instructions"}


def test_a_dataset_folder_is_hashed_file_by_file(tmp_path: Path, root: Path) -> None:
    for folder in ("books", "asked"):
        (root / folder).mkdir()
    (root / "a.jsonl").rename(root / "books" / "train.jsonl")
    (root / "books" / "README.md").write_text("Forty notes.")
    (root / "i.jsonl").rename(root / "asked" / "train.jsonl")
    corpus = [{"name": "a", "dataset": "books", "max_documents": 9, "proportion": 1.0}]
    asked = {"dataset": "asked", "prompt_columns": ["q"], "response_column": "a"}
    run = tmp_path / "run"
    config = files_config(root, corpus, instructions=asked)
    data.run(config, run)
    assert listing(run)["a"]["documents"] == 9
    manifest = read_manifest(run / "data")
    assert manifest is not None
    assert set(manifest.inputs) == {
        "corpus/a/README.md",
        "corpus/a/train.jsonl",
        "instructions/train.jsonl",
    }
    assert not names_hub(config)
    (root / "books").rename(root / "gone")
    assert names_hub(config)  # what is no folder is a name on the hub


def test_what_is_left_out_is_said(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(root / "i.jsonl", [{"q": f"Q{i % 60}", "a": f"A{i}"} for i in range(61, 180)])
    write_lines(root / "a.jsonl", [{"text": text} for text in ("one", "", " ", "two")])
    data.run(files_config(root, CORPUS), tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "data" / "summary.json").read_text())
    prompts = read_rows(tmp_path / "run" / "data" / "prompts.jsonl", Prompt)
    asked = [i % 60 for i in range(61, 180)]
    expected = sum(asked.count(int(prompt.prompt[1:])) - 1 for prompt in prompts)
    assert summary["repeated_prompts_left_out"] == expected > 0
    assert summary["demonstrations"] + len(prompts) + expected == 119
    assert summary["corpus"]["a"]["empty_rows"] == 2
    printed = capsys.readouterr().out
    assert f"{expected} repeated prompts left out" in printed
    assert "2 empty rows left out" in printed


def test_hub_revisions_are_recorded(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"q": f"Q{i}", "a": f"A{i}", "text": f"text {i}"} for i in range(60)]
    pinned: list[tuple[str, str | None]] = []

    def entries(
        name: str, config: str | None, split: str, revision: str | None
    ) -> list[tuple[str, dict[str, str]]]:
        pinned.append((name, revision))
        return [("somewhere", row) for row in rows]

    for module in ("pipeline.data.sources", "pipeline.instructions"):
        monkeypatch.setattr(f"{module}.dataset_entries", entries)
    monkeypatch.setattr("pipeline.data.survey.latest_revision", lambda name: f"{name}@1")
    corpus = [{"name": "a", "dataset": "us/books", "proportion": 1.0}]
    asked = {"dataset": "us/asked", "prompt_columns": ["q"], "response_column": "a"}
    data.run(files_config(root, corpus, instructions=asked), tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "data" / "summary.json").read_text())
    assert summary["corpus"]["a"]["revision"] == listing(tmp_path / "run")["a"]["revision"]
    assert summary["corpus"]["a"]["revision"] == "us/books@1"
    assert summary["instructions_revision"] == "us/asked@1"
    assert sorted(pinned) == [("us/asked", "us/asked@1"), ("us/books", "us/books@1")]


def test_instructions_are_divided_and_carry_their_reference(tmp_path: Path, root: Path) -> None:
    run = tmp_path / "run"
    data.run(files_config(root, CORPUS), run)
    demonstrations = read_rows(run / "data" / "demonstrations.jsonl", Demonstration)
    prompts = read_rows(run / "data" / "prompts.jsonl", Prompt)
    expected = {f"Q{i}": f"A{i}" for i in range(60)}
    pairs = {d.prompt: d.response for d in demonstrations}
    pairs |= {p.prompt: p.meta["reference"] for p in prompts if p.meta}
    assert pairs == expected
    assert len(demonstrations) + len(prompts) == 60


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "a.jsonl: is missing"),
        ("", "a.jsonl: holds no documents"),
        ('{"text": ""}\n', "a.jsonl: holds no documents"),
        ('{"text": "x"}\n{"body": "x"}\n', "a.jsonl:2: there is no column 'text', only body"),
        ('{"id": "1", "text": "x"}\n{"id": \n', "a.jsonl:2: not valid JSON"),
    ],
)
def test_a_bad_corpus_is_refused_and_nothing_is_left(
    tmp_path: Path, root: Path, content: str | None, words: str
) -> None:
    (root / "a.jsonl").unlink()
    if content is not None:
        (root / "a.jsonl").write_text(content)
    with pytest.raises(UserError) as caught:
        data.run(files_config(root, CORPUS), tmp_path / "run")
    assert words in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"path": "b.parquet"}, "b.parquet: not valid parquet"),
        ({"dataset": "nobody/nothing"}, "dataset nobody/nothing: is no folder below data_root"),
        ({"dataset": "empty"}, "empty: cannot be loaded"),
        ({"path": "a.jsonl", "text_column": "body"}, "a.jsonl:1: there is no column 'body'"),
        ({"path": "a.jsonl", "id_column": "name"}, "a.jsonl:1: there is no column 'name'"),
    ],
)
def test_a_bad_source_is_one_line_and_nothing_is_left(
    tmp_path: Path, root: Path, source: dict[str, str], words: str
) -> None:
    (root / "b.parquet").write_text("no parquet")
    (root / "empty").mkdir()
    config = files_config(root, [{"name": "b", "proportion": 1.0} | source])
    with pytest.raises(UserError) as caught:
        data.run(config, tmp_path / "run")
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"proportion": 0.5}, "sum to 0.75, not to 1"),
        ({"dataset": "books"}, "name either path (a file) or dataset"),
        ({"path": None}, "name either path (a file) or dataset"),
        ({"dataset_split": "test"}, "go with dataset, not with path"),
        ({"max_documents": 0}, "max_documents"),
    ],
)
def test_an_impossible_corpus_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        files_config(Path(), [CORPUS[0] | changes, CORPUS[1]])


def test_the_stage_imports_neither_torch_nor_a_hub_library() -> None:
    program = "import sys, stages.data; print(*sys.modules)"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    assert not {"torch", "transformers", "datasets", "huggingface_hub"} & set(output.split())
