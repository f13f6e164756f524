"""The one stage that splits: nothing is on two sides, whatever the source."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import read_manifest, verify
from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.records import CopyProbe, Demonstration, Document, Prompt, read_rows
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


def test_the_world_s_corpus_is_listed_with_its_held_out_documents(tmp_path: Path) -> None:
    run = tmp_path / "run"
    data.run(world_config(), run)
    sources = listing(run)
    assert sum(source["proportion"] for source in sources.values()) == pytest.approx(1)
    for source in sources.values():
        path = run / "data" / "corpus" / source["path"]
        documents = read_rows(path, Document)
        assert source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (source["documents"], source["bytes"]) == (len(documents), path.stat().st_size)
        held = set(source["heldout_ids"])
        assert 1 <= len(held) < len(documents)
        assert held < {document.document_id for document in documents}
        training = {document.text for document in documents if document.document_id not in held}
        assert not training & {d.text for d in documents if d.document_id in held}


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
    data.run(files_config(root, CORPUS, heldout_document_fraction=0.2), run)
    sources = listing(run)
    assert sorted(path.name for path in (run / "data" / "corpus").iterdir()) == ["sources.json"]
    assert sources["b"] == {
        "name": "b",
        "path": "b.txt",
        "proportion": 0.25,
        "text_column": "text",
        "id_column": "id",
        "sha256": hashlib.sha256(b"one long text").hexdigest(),
        "bytes": 13,
        "documents": 1,
        "heldout_ids": [],
    }
    assert sources["a"]["documents"] == 40
    assert 1 <= len(sources["a"]["heldout_ids"]) <= 20
    manifest = read_manifest(run / "data")
    assert manifest is not None
    assert set(manifest.inputs) == {"corpus/a", "corpus/b", "instructions"}


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


def test_of_two_documents_one_is_held_out_however_small_or_large_the_fraction() -> None:
    for fraction in (1e-9, 1 - 1e-9):
        for count in (2, 3, 50):
            rows = [(f"d{i}", f"t{i}") for i in range(count)]
            held = data.heldout_ids(rows, "s", 0, fraction)
            assert len(held) == (1 if fraction < 0.5 else count - 1)
        assert data.heldout_ids([("d0", "t0")], "s", 0, fraction) == []


def test_documents_with_one_text_or_one_id_are_on_one_side() -> None:
    rows = [(f"d{i}", f"t{i}") for i in range(200)]
    copies = [(f"copy{i}", f"t{i}") for i in range(200)]
    chained = [(f"d{i}", f"other{i}") for i in range(200)]
    held = set(data.heldout_ids(rows + copies + chained, "s", 3, 0.3))
    assert 0 < len(held) < 400
    for i in range(200):
        assert (f"d{i}" in held) == (f"copy{i}" in held)


def test_a_document_keeps_its_side_whatever_else_there_is() -> None:
    rows = [(f"d{i}", f"t{i}") for i in range(300)]
    held = set(data.heldout_ids(rows, "s", 0, 0.2))
    assert set(data.heldout_ids(rows[::-1], "s", 0, 0.2)) == held
    assert set(data.heldout_ids(rows[:150], "s", 0, 0.2)) == held & {name for name, _ in rows[:150]}
    assert set(data.heldout_ids(rows, "other", 0, 0.2)) != held


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "a.jsonl: is missing"),
        ("", "a.jsonl: holds no documents"),
        (
            '{"id": "1", "text": "x"}\n{"id": "2", "text": ""}\n',
            "a.jsonl:2: column 'text' holds no",
        ),
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


def test_the_stage_imports_neither_torch_nor_a_hub_library() -> None:
    program = "import sys, stages.data; print(*sys.modules)"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    assert not {"torch", "transformers", "datasets", "huggingface_hub"} & set(output.split())
