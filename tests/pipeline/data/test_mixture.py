"""The mixture keeps its proportions and uses rows evenly, in an order that the seed decides."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data import mixture
from pipeline.data.mixture import format_mixture, heldout_sample, mixture_schedule, mixture_table
from pipeline.data.shards import TokenizedSource, TokenPart


def test_proportions_are_kept_and_rows_used_evenly() -> None:
    sources, rows = mixture_schedule([10, 400], [0.25, 0.75], 4000, seed=3)
    share = (sources == 0).mean()
    assert abs(share - 0.25) < 5 * (0.25 * 0.75 / 4000) ** 0.5
    for source, count in ((0, 10), (1, 400)):
        uses = np.bincount(rows[sources == source], minlength=count)
        assert uses.max() - uses.min() <= 1  # a new epoch begins only when all rows were seen


def test_each_epoch_has_an_order_of_its_own() -> None:
    _, rows = mixture_schedule([50], [1.0], 150, seed=0)
    epochs = rows.reshape(3, 50)
    assert [sorted(epoch) for epoch in epochs.tolist()] == [list(range(50))] * 3
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3
    assert epochs[0].tolist() != list(range(50))


def test_order_is_a_function_of_the_seed_and_its_beginning_not_of_the_length() -> None:
    first = mixture_schedule([7, 30], [0.5, 0.5], 500, seed=3)
    longer = mixture_schedule([7, 30], [0.5, 0.5], 2000, seed=3)
    other = mixture_schedule([7, 30], [0.5, 0.5], 500, seed=4)
    for whole, beginning, another in zip(longer, first, other, strict=True):
        assert np.array_equal(whole[:500], beginning)
        assert not np.array_equal(another, beginning)


def test_sources_are_drawn_as_numpy_s_choice_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "DRAWS_AT_ONCE", 64)  # in parts
    shares = [0.2, 0.5, 0.3]
    sources, _ = mixture_schedule([5, 6, 7], shares, 1000, seed=9)
    expected = np.random.default_rng([9, 0]).choice(3, size=1000, p=shares)
    assert sources.tolist() == expected.tolist()


def test_shares_that_do_not_quite_sum_to_one_are_raised_to_it() -> None:
    sources, _ = mixture_schedule([3, 3], [0.3, 0.6], 3000, seed=0)
    assert sources.max() == 1
    assert abs((sources == 0).mean() - 1 / 3) < 5 * (2 / 9 / 3000) ** 0.5


def test_ten_million_rows_take_six_bytes_each() -> None:
    sources, rows = mixture_schedule([1_000_000, 70_000], [0.9, 0.1], 10_000_000, seed=0)
    assert sources.nbytes + rows.nbytes == 60_000_000
    assert int(rows.max()) == 999_999


def part(rows: int, documents: int = 0, size: int = 0, tokens: int = 0) -> TokenPart:
    return TokenPart(np.zeros((rows, 5), np.uint16), documents, size, tokens)


NOTES = TokenizedSource("notes", 0.25, part(2, documents=3, size=1_234_567, tokens=9), part(1))
CHAT = TokenizedSource("a long name", 0.75, part(5, documents=4, size=8, tokens=16), part(0))


def test_the_table_by_hand() -> None:
    schedule = np.array([0, 1, 1, 0, 0, 1, 1, 0], np.uint16), np.zeros(8, np.uint32)
    assert mixture_table([NOTES, CHAT], schedule) == [
        {
            "source": "notes",
            "documents": 3,
            "bytes": 1_234_567,
            "tokens": 9,
            "proportion": 0.25,
            "epochs": 2.0,
        },
        {
            "source": "a long name",
            "documents": 4,
            "bytes": 8,
            "tokens": 16,
            "proportion": 0.75,
            "epochs": 0.8,
        },
    ]


def test_a_source_that_was_never_drawn_has_no_epochs() -> None:
    schedule = np.zeros(4, np.uint16), np.zeros(4, np.uint32)
    epochs = [row["epochs"] for row in mixture_table([NOTES, CHAT], schedule)]
    assert epochs == [2.0, 0.0]


def test_the_table_is_shown_in_columns() -> None:
    schedule = np.zeros(4, np.uint16), np.zeros(4, np.uint32)
    lines = format_mixture(mixture_table([NOTES, CHAT], schedule)).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line.split() for line in lines] == [
        ["source", "documents", "MB", "tokens", "proportion", "epochs"],
        ["notes", "3", "1.23", "9", "25.0%", "2.00"],
        ["a", "long", "name", "4", "0.00", "16", "75.0%", "0.00"],
    ]


def source_of(name: str, proportion: float, first: int, rows: int) -> TokenizedSource:
    """A source whose held-out rows are first, first + 1, …, each written twice."""
    heldout = np.repeat(np.arange(first, first + rows, dtype=np.uint16)[:, None], 2, axis=1)
    return TokenizedSource(name, proportion, part(3), TokenPart(heldout, rows, 0, 0))


def test_held_out_text_is_taken_in_the_mixtures_shares() -> None:
    """60 of 120 rows and 20 of 40, spread evenly; then as many as the scarce one allows."""
    sources = [source_of("a", 0.75, 0, 120), source_of("b", 0.25, 500, 40)]
    rows = heldout_sample(sources, 80)[:, 0]
    assert rows[:60].tolist() == list(range(0, 120, 2))
    assert rows[60:].tolist() == list(range(500, 540, 2))
    assert len(heldout_sample(sources, 1000)) == 160
    scarce = [source_of("a", 0.75, 0, 120), source_of("b", 0.25, 500, 10)]
    assert heldout_sample(scarce, 1000)[:, 0].tolist() == [*range(0, 120, 4), *range(500, 510)]


def test_a_source_without_held_out_text_has_no_share_of_it() -> None:
    sources = [source_of("a", 0.5, 0, 10), TokenizedSource("b", 0.5, part(3), part(0))]
    assert heldout_sample(sources, 5)[:, 0].tolist() == [0, 2, 4, 6, 8]
    assert len(heldout_sample(sources[1:], 5)) == 0
