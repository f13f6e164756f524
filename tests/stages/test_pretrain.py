"""The stage on a tiny world: a base that transformers reads, honest numbers, and the probe."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.artifacts import verify
from pipeline.config import RunConfig
from pipeline.data import Cache, Source, load_sources, tokenize_sources
from pipeline.errors import UserError
from pipeline.gpt2_format import load_gpt
from pipeline.tokenizer import Tokenizer
from stages import data, pretrain

SIZES = {
    "documents": 90,
    "demonstrations": 4,
    "label_prompts": 4,
    "ppo_prompts": 4,
    "heldout_prompts": 4,
}
STEPS, BATCH_ROWS, ROW_TOKENS = 20, 8, 24


def make_config(**values: Any) -> RunConfig:
    section = {
        "vocab_size": 320,
        "layers": 1,
        "heads": 2,
        "width": 32,
        "context_tokens": 128,
        "row_tokens": ROW_TOKENS,
        "batch_rows": BATCH_ROWS,
        "steps": STEPS,
        "warmup_steps": 2,
        "log_every_steps": 8,
    }
    return RunConfig.model_validate(
        {
            "name": "tiny",
            "precision": "fp32",
            "data": {"tinyworld": SIZES},
            "pretrain": section | values,
        }
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with data and base."""
    run_folder = tmp_path_factory.mktemp("pretrain") / "run"
    data.run(make_config(), run_folder)
    pretrain.run(make_config(), run_folder)
    return run_folder


def copy_data(finished: Path, run_folder: Path) -> Path:
    shutil.copytree(finished / "data", run_folder / "data")
    return run_folder


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_publishes_a_folder_that_transformers_reads(finished: Path) -> None:
    base = finished / "base"
    assert verify(base) is None
    theirs = AutoModelForCausalLM.from_pretrained(base)
    assert theirs.num_parameters() == read(base / "pretraining.json")["parameters"]
    ids = AutoTokenizer.from_pretrained(base)("the fox", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, load_gpt(base)(ids), atol=1e-5)


def test_heldout_losses_are_those_of_transformers_row_by_row(
    finished: Path, tmp_path: Path
) -> None:
    base = finished / "base"
    theirs = AutoModelForCausalLM.from_pretrained(base).eval()
    results = read(base / "pretraining.json")
    sources = load_sources(finished / "data", finished)
    tokenized = tokenize_sources(sources, Tokenizer.load(base), ROW_TOKENS, Cache(tmp_path))
    assert results["heldout_loss"].keys() == {source.name for source in tokenized}
    for source in tokenized:
        rows = torch.from_numpy(source.heldout.rows.astype(np.int64))
        with torch.no_grad():  # given as labels, each token but the first is predicted
            losses = [float(theirs(row[None], labels=row[None]).loss) for row in rows]
        loss = results["heldout_loss"][source.name]
        assert loss == pytest.approx(float(np.mean(losses)), rel=1e-5)
        assert results["heldout_perplexity"][source.name] == pytest.approx(math.exp(loss))


def test_the_loss_falls_and_the_logged_steps_are_those_asked_for(finished: Path) -> None:
    lines = (finished / "base" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["step"] for row in rows] == [8, 16, 20]
    assert rows[-1]["loss"] < rows[0]["loss"] < math.log(320)


def test_the_mixture_table_counts_the_training_texts(finished: Path, tmp_path: Path) -> None:
    table = {row["source"]: row for row in read(finished / "base" / "mixture.json")}
    sources = load_sources(finished / "data", finished)
    assert table.keys() == {source.entry.name for source in sources}
    tokenizer = Tokenizer.load(finished / "base")
    tokenized = tokenize_sources(sources, tokenizer, ROW_TOKENS, Cache(tmp_path))
    seen_rows = 0.0
    for source, parts in zip(sources, tokenized, strict=True):
        texts = [text for text, is_heldout in source.documents() if not is_heldout]
        row = table[source.entry.name]
        assert row["documents"] == len(texts)
        assert row["bytes"] == sum(len(text.encode()) for text in texts)
        assert row["tokens"] == sum(len(tokenizer.encode(text)) + 1 for text in texts)
        seen_rows += row["epochs"] * len(parts.train.rows)
    assert seen_rows == pytest.approx(STEPS * BATCH_ROWS)
    assert sum(row["proportion"] for row in table.values()) == pytest.approx(1)


def test_a_rerun_with_another_learning_rate_reads_no_text(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_folder = copy_data(finished, tmp_path / "run")
    shutil.copytree(finished / ".cache", run_folder / ".cache")
    before = sorted((run_folder / ".cache" / "tokens").iterdir())

    def refuse(source: Source) -> None:
        raise AssertionError(f"{source.entry.name} is read again")

    monkeypatch.setattr(Source, "documents", refuse)
    pretrain.run(make_config(learning_rate=1e-3), run_folder)
    assert sorted((run_folder / ".cache" / "tokens").iterdir()) == before


def test_the_same_seed_gives_the_same_files(finished: Path, tmp_path: Path) -> None:
    again = copy_data(finished, tmp_path / "again")
    pretrain.run(make_config(), again)
    for name in ("model.safetensors", "tokenizer.json", "pretraining.json", "mixture.json"):
        assert (again / "base" / name).read_bytes() == (finished / "base" / name).read_bytes()


def test_a_base_that_cannot_copy_is_not_published(finished: Path, tmp_path: Path) -> None:
    run_folder = copy_data(finished, tmp_path / "run")
    with pytest.raises(UserError, match=r"copies names from titles in \d+% of the probes"):
        pretrain.run(make_config(steps=2, copy_probe_minimum=1.0), run_folder)
    folders = sorted(path.name for path in run_folder.iterdir() if path.is_dir())
    assert [name for name in folders if not name.startswith(".")] == ["data"]


@pytest.mark.parametrize(
    ("accuracy", "minimum", "message"),
    [(None, None, None), (0.1, None, None), (0.6, 0.6, None), (0.59, 0.6, "59% of the probes")],
)
def test_the_probe_stops_below_its_minimum_only(
    accuracy: float | None, minimum: float | None, message: str | None
) -> None:
    if message is None:
        pretrain.check_copying(accuracy, minimum)
        return
    with pytest.raises(UserError, match=message):
        pretrain.check_copying(accuracy, minimum)


def test_a_minimum_without_probes_is_refused() -> None:
    with pytest.raises(UserError, match="no copy probes"):
        pretrain.check_copying(None, 0.5)
