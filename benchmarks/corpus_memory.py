"""Does memory grow with the corpus? The way from files to training, on 1, 4 and 16 times the text.

    python -m benchmarks.corpus_memory
    python -m benchmarks.corpus_memory --quick

Every size is measured in a fresh process: the data stage's reading, the tokenizer's training,
the writing of token shards, and 20 training steps. The figure is the peak of resident memory as the
kernel counts it (VmHWM), mapped file pages included, although the kernel can take those back.

The corpus is random words in distinct documents, a quarter each as JSON lines, plain text, parquet
in one row group, and a dataset's folder of parquet in row groups of a thousand, as the hub has
them (of JSON, `datasets` would hold ten megabytes at a time). Words follow Zipf's law with an
exponent (1.45) at which new words keep coming about as in English books: the tokenizer's training
has to remember each of them. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from pipeline.config import CorpusSource
from pipeline.environment import environment, peak_memory_bytes, reset_peak_memory

SCALES = (1, 4, 16)
MEGABYTES, QUICK_MEGABYTES = 6.0, 0.25  # of text at scale 1
WORDS_OF_A_DOCUMENT = 400
ZIPF_EXPONENT = 1.45
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
VOCAB_SIZE, ROW_TOKENS, BATCH_ROWS, STEPS = 4096, 128, 4, 20
PHASES = ("reading", "tokenizer", "tokens", "training")
LARGEST_GROWTH = 0.10
SOURCES = [
    CorpusSource(name="lines", path="lines.jsonl", proportion=0.25),
    CorpusSource(name="parquet", path="pages.parquet", proportion=0.25),
    CorpusSource(name="text", path="book.txt", proportion=0.25),
    CorpusSource(name="dataset", dataset="folder", proportion=0.25),
]


def word(rank: int) -> str:
    """The word of a rank: the more frequent, the shorter."""
    syllables = ""
    while rank:
        rank, digit = divmod(rank - 1, len(SYLLABLES))
        syllables += SYLLABLES[digit]
    return syllables


def documents(size: float, seed: int) -> Iterator[str]:
    """Distinct documents of random words, ``size`` bytes in all."""
    rng = np.random.default_rng(seed)
    written = 0
    while written < size:
        ranks = rng.zipf(ZIPF_EXPONENT, WORDS_OF_A_DOCUMENT).tolist()
        text = " ".join(map(word, ranks)) + ".\n"
        written += len(text)
        yield text


def write_corpus(root: Path, size: float) -> None:
    """The four sources, ``size`` bytes of text in all."""
    (root / "folder").mkdir(parents=True)
    with (root / "lines.jsonl").open("w", encoding="utf-8") as file:
        for number, text in enumerate(documents(size / 4, 0)):
            file.write(json.dumps({"id": f"{number}", "text": text}) + "\n")
    with (root / "book.txt").open("w", encoding="utf-8") as file:
        for text in documents(size / 4, 1):
            file.write(f"{text}<|endoftext|>\n")
    table = pyarrow.table({"text": list(documents(size / 4, 2))})
    pyarrow.parquet.write_table(table, root / "pages.parquet", row_group_size=2**30)
    table = pyarrow.table({"text": list(documents(size / 4, 3))})
    pyarrow.parquet.write_table(table, root / "folder" / "train.parquet", row_group_size=1000)


def measure(root: Path) -> dict[str, float]:
    """The peak of resident memory in each phase, in megabytes, of this process."""
    from pipeline.data import (
        Cache,
        load_sources,
        mixture_schedule,
        survey_sources,
        tokenize_sources,
        trained_tokenizer,
    )

    import torch  # isort: skip  (a stage has loaded it before it reads anything)

    torch.manual_seed(0)
    peaks: dict[str, float] = {}

    def phase_ended(name: str) -> None:
        peaks[name] = peak_memory_bytes() / 1e6
        reset_peak_memory()

    corpus = root / "data" / "corpus"
    corpus.mkdir(parents=True)
    survey_sources(SOURCES, root, corpus, in_run=False, seed=0, heldout_share=0.05)
    phase_ended("reading")
    cache, sources = Cache(root / "cache"), load_sources(root / "data", root)
    tokenizer = trained_tokenizer(sources, VOCAB_SIZE, cache)
    phase_ended("tokenizer")
    tokenized = tokenize_sources(sources, tokenizer, ROW_TOKENS, cache)
    phase_ended("tokens")
    packed = [source.train.rows for source in tokenized]
    proportions = [source.proportion for source in tokenized]
    schedule = mixture_schedule([len(rows) for rows in packed], proportions, STEPS * BATCH_ROWS, 0)
    train(packed, schedule, tokenizer.vocab_size)
    phase_ended("training")
    return peaks


def train(packed: Any, schedule: Any, vocab_size: int) -> None:
    """Twenty steps of a model so small that it does not hide what the data takes."""
    from pipeline.model import GPT, GPTConfig
    from pipeline.pretraining import batch_of, next_token_loss
    from pipeline.training import make_optimizers

    model = GPT(GPTConfig(vocab_size, ROW_TOKENS, layers=2, heads=2, width=64))
    optimizers = make_optimizers(
        model, learning_rate=1e-3, muon_learning_rate=0.02, weight_decay=0.0
    )
    for step in range(STEPS):
        next_token_loss(model, batch_of(packed, schedule, step, BATCH_ROWS)).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def measure_apart(scale: int, megabytes: float) -> dict[str, float]:
    """``measure`` in a fresh process, on a corpus that is written for it and removed again."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        write_corpus(root, scale * megabytes * 1e6)
        command = [sys.executable, "-m", "benchmarks.corpus_memory", "--measure", str(root)]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def growth(peaks: dict[int, dict[str, float]]) -> dict[str, float]:
    """By how much each phase's peak, and the highest of all, grows from the first to the last."""
    first, last = peaks[SCALES[0]], peaks[SCALES[-1]]
    shares = {phase: last[phase] / first[phase] - 1 for phase in PHASES}
    return {**shares, "peak": max(last.values()) / max(first.values()) - 1}


def print_table(megabytes: float, peaks: dict[int, dict[str, float]]) -> None:
    """Peak memory by size and phase, and its growth."""
    print(f"| corpus | text, MB | {' | '.join(PHASES)} | peak, MB |")
    print("|---" * (len(PHASES) + 3) + "|")
    for scale, peak in peaks.items():
        cells = [f"{peak[phase]:.0f}" for phase in PHASES]
        text = f"{scale * megabytes:g}"
        print(f"| {scale}× | {text} | {' | '.join(cells)} | {max(peak.values()):.0f} |")
    print(f"| growth | | {' | '.join(f'{share:.1%}' for share in growth(peaks).values())} |")


def main() -> None:
    """Measures the three sizes, prints the table and the figures as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny corpora: does it run?")
    parser.add_argument("--measure", type=Path, metavar="FOLDER", help="one size, in this process")
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.measure)))
        return
    megabytes = QUICK_MEGABYTES if arguments.quick else MEGABYTES
    peaks = {scale: measure_apart(scale, megabytes) for scale in SCALES}
    print_table(megabytes, peaks)
    holds = growth(peaks)["peak"] < LARGEST_GROWTH
    print(f"\n  {'yes' if holds else 'NO':<4}peak memory grows by less than {LARGEST_GROWTH:.0%}")
    figures = {
        "text_megabytes": {scale: scale * megabytes for scale in SCALES},
        "peak_megabytes": peaks,
        "growth": growth(peaks),
        "holds": holds,
        "n_runs_per_size": 1,
        "cpus": os.cpu_count(),
        "environment": environment(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
