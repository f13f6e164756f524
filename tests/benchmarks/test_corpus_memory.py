"""The benchmark end to end on tiny corpora; what it writes and counts."""

from __future__ import annotations

import itertools
import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.data.sources import read_documents

QuickRun = Callable[[str], list[str]]
ROOT = Path(__file__).parents[2]
# Benchmarks are run from the repository and not installed, so there is nothing to import.
BENCHMARK = runpy.run_path(str(ROOT / "benchmarks" / "corpus_memory.py"))


@pytest.mark.slow
def test_the_last_line_holds_the_figures(tmp_path: Path, quick_run: QuickRun) -> None:
    lines = quick_run("corpus_memory")
    figures = json.loads(lines[-1])
    assert list(figures["peak_megabytes"]) == ["1", "4", "16"]
    for peaks in figures["peak_megabytes"].values():
        assert all(100 < megabytes < 2000 for megabytes in peaks.values())
    highest = [max(peaks.values()) for peaks in figures["peak_megabytes"].values()]
    assert figures["growth"]["peak"] == pytest.approx(highest[-1] / highest[0] - 1)
    assert figures["holds"] == (figures["growth"]["peak"] < 0.1)
    assert list(tmp_path.iterdir()) == []


def test_each_rank_has_a_word_of_its_own_and_frequent_words_are_short() -> None:
    words = [BENCHMARK["word"](rank) for rank in range(1, 30_000)]
    assert len(set(words)) == len(words)
    assert [len(word) for word in words] == sorted(len(word) for word in words)
    assert "" not in words


def test_four_sources_of_distinct_documents_are_written(tmp_path: Path) -> None:
    BENCHMARK["write_corpus"](tmp_path / "root", 40_000)
    texts = []
    for source in BENCHMARK["SOURCES"]:
        place = tmp_path / "root" / (source.path or source.dataset)
        found = [document.text for document in read_documents(source, place)]
        assert 10_000 <= sum(map(len, found)) < 14_000
        texts += found
    assert len(set(texts)) == len(texts)
    assert not any(one in other for one, other in itertools.permutations(texts, 2))


def test_growth_is_from_the_smallest_to_the_largest() -> None:
    phases = BENCHMARK["PHASES"]
    peaks = {
        1: dict.fromkeys(phases, 100.0) | {"training": 200.0},
        4: dict.fromkeys(phases, 900.0),
        16: dict.fromkeys(phases, 110.0) | {"tokens": 240.0},
    }
    assert BENCHMARK["growth"](peaks) == pytest.approx(
        {"reading": 0.1, "tokenizer": 0.1, "tokens": 1.4, "training": -0.45, "peak": 0.2}
    )
