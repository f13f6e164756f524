"""From files of four kinds to batches: what the package promises as a whole."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from pipeline.config import CorpusSource
from pipeline.data import (
    Cache,
    load_sources,
    mixture_schedule,
    mixture_table,
    survey_sources,
    tokenize_sources,
    trained_tokenizer,
)

SHARES = {"lines": 0.4, "pages": 0.3, "book": 0.2, "notes": 0.1}


def write_sources(root: Path) -> list[CorpusSource]:
    rng = random.Random(0)
    words = [f"word{i}" for i in range(50)]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 60))) for _ in range(90)]
    rows = [{"id": str(i), "text": text} for i, text in enumerate(texts)]
    lines = [json.dumps(row) + "\n" for row in rows]
    (root / "lines.jsonl").write_text("".join(lines[:30]))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[20:60]), root / "pages.parquet")
    (root / "book.txt").write_text("\n<|endoftext|>\n".join(texts[50:80]))
    (root / "notes").mkdir()
    (root / "notes" / "train.jsonl").write_text("".join(lines[60:]))
    places = {
        "lines": {"path": "lines.jsonl"},
        "pages": {"path": "pages.parquet"},
        "book": {"path": "book.txt"},
        "notes": {"dataset": "notes"},
    }
    return [
        CorpusSource.model_validate({"name": name, "proportion": share} | places[name])
        for name, share in SHARES.items()
    ]


def test_from_sources_to_a_schedule_of_rows(tmp_path: Path) -> None:
    corpus = tmp_path / "data" / "corpus"
    corpus.mkdir(parents=True)
    listed = write_sources(tmp_path)
    survey_sources(listed, tmp_path, corpus, in_run=False, seed=1, heldout_share=0.2)
    sources, cache = load_sources(tmp_path / "data", tmp_path), Cache(tmp_path / "cache")
    tokenizer = trained_tokenizer(sources, 400, cache)
    tokenized = tokenize_sources(sources, tokenizer, 32, cache)
    counts = [len(source.train.rows) for source in tokenized]
    schedule = mixture_schedule(counts, [source.proportion for source in tokenized], 2000, seed=1)
    for row, count in zip(mixture_table(tokenized, schedule), counts, strict=True):
        share = SHARES[row["source"]]
        drawn = row["epochs"] * count / 2000
        assert abs(drawn - share) < 5 * (share * (1 - share) / 2000) ** 0.5

    trained: set[str] = set()
    held: set[str] = set()
    for source in sources:
        for text, is_heldout in source.documents():
            (held if is_heldout else trained).add(text)
    assert held
    assert not held & trained
    rows = [tokenized[s].train.rows[r] for s, r in zip(*schedule, strict=True)]
    seen = {tokenizer.decode(row.tolist()) for row in rows}
    short = [text for text in held if len(tokenizer.encode(text)) < 16 and len(text) > 30]
    assert short
    assert not [text for text in short for row in seen if text in row]
    assert np.max([np.max(row) for row in rows]) < tokenizer.vocab_size


def test_no_torch_is_loaded() -> None:
    program = "import sys, pipeline.data; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    root = Path(__file__).parents[2]
    output = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    assert not {"torch", "transformers", "datasets", "pyarrow"} & set(output.split())
