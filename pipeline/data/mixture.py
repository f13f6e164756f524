"""The mixture: in which order training sees the rows of its sources, and the table of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.shards import TokenizedSource

DRAWS_AT_ONCE = 2**20

MixtureSchedule = tuple[NDArray[np.uint16], NDArray[np.uint32]]


def mixture_schedule(
    row_counts: Sequence[int], proportions: Sequence[float], total_rows: int, seed: int
) -> MixtureSchedule:
    """``(source, row)`` for each of ``total_rows`` training rows, in order; six bytes a row.

    Each row's source is drawn by ``proportions``; within a source, rows come in a new random order
    every epoch, which only the seed and the epoch decide. The beginning does not depend on
    ``total_rows``, and nothing on the number of processes.
    """
    ends = np.cumsum(proportions)
    ends /= ends[-1]
    rng = np.random.default_rng([seed, 0])
    sources = np.empty(total_rows, np.uint16)
    for start in range(0, total_rows, DRAWS_AT_ONCE):
        draws = rng.random(min(DRAWS_AT_ONCE, total_rows - start))
        sources[start : start + len(draws)] = np.searchsorted(ends, draws, side="right")
    rows = np.empty(total_rows, np.uint32)
    for source, count in enumerate(row_counts):
        places = np.flatnonzero(sources == source)
        for epoch, start in enumerate(range(0, len(places), count)):
            order = np.random.default_rng([seed, 1, source, epoch]).permutation(count)
            rows[places[start : start + count]] = order[: len(places) - start]
    return sources, rows


@dataclass(frozen=True)
class MixtureRow:
    """One line of the mixture table (LLaMA's Table 1): what a source gives to training.

    ``bytes`` are those of its text in UTF-8; ``tokens`` counts each token once, with an end token
    for each document; ``epochs`` is how often training sees the source.
    """

    source: str
    documents: int
    bytes: int
    tokens: int
    proportion: float
    epochs: float


def mixture_table(
    sources: Sequence[TokenizedSource], schedule: MixtureSchedule
) -> list[dict[str, Any]]:
    """The rows of the mixture table, ready for JSON."""
    used = np.bincount(schedule[0], minlength=len(sources)).tolist()
    return [
        asdict(
            MixtureRow(
                source=source.name,
                documents=source.train.documents,
                bytes=source.train.bytes,
                tokens=source.train.tokens,
                proportion=source.proportion,
                epochs=rows / len(source.train.rows),
            )
        )
        for source, rows in zip(sources, used, strict=True)
    ]


def format_mixture(table: Sequence[Mapping[str, Any]]) -> str:
    """The mixture table as lines for the console; bytes in megabytes (a million bytes)."""
    width = max(len("source"), *(len(row["source"]) for row in table)) if table else 6
    lines = [f"  {'source':<{width}}  documents        MB       tokens  proportion   epochs"]
    lines += [
        f"  {row['source']:<{width}}  {row['documents']:>9,}  {row['bytes'] / 1e6:>8,.2f}"
        f"  {row['tokens']:>11,}  {row['proportion']:>9.1%}  {row['epochs']:>8.2f}"
        for row in table
    ]
    return "\n".join(lines)


def heldout_sample(sources: Sequence[TokenizedSource], max_rows: int) -> np.ndarray:
    """(N, T + 1) held-out rows, the sources in the mixture's proportions, as many as there are.

    At most ``max_rows``, and no more than the scarcest source's share allows; each source's are
    spread evenly over all that it has. N is 0 where nothing was held out.
    """
    parts = [source for source in sources if len(source.heldout.rows)]
    if not parts:
        return np.empty((0, 0), np.uint16)
    total = sum(source.proportion for source in parts)
    shares = [source.proportion / total for source in parts]
    rows = min(
        max_rows,
        *(len(source.heldout.rows) / share for source, share in zip(parts, shares, strict=True)),
    )
    chosen: list[np.ndarray] = []
    for source, share in zip(parts, shares, strict=True):
        available = len(source.heldout.rows)
        count = min(max(1, int(rows * share)), available)
        chosen.append(source.heldout.rows[np.arange(count) * available // count])
    return np.concatenate(chosen)
