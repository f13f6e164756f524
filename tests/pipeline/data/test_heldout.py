"""Held-out texts: a share by hash, nothing on both sides, something on each side of a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import heldout
from pipeline.data.heldout import among, heldout_texts, scan_source, text_hash

Documents = Sequence[tuple[str | None, str]]


def held(folder: Path, sources: Mapping[str, Documents], share: float, seed: int = 0) -> set[int]:
    scans = [scan_source(rows, name, seed, folder) for name, rows in sources.items()]
    chosen = heldout_texts(scans, share)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    for scan, rows in zip(scans, sources.values(), strict=True):
        expected = sum(text_hash(text) in set(chosen.tolist()) for _, text in rows)
        assert scan.count_among(chosen) == expected
    return set(chosen.tolist())


def ids_of(rows: Documents, chosen: set[int]) -> set[str | None]:
    return {name for name, text in rows if text_hash(text) in chosen}


ROWS = [(f"d{i}", f"t{i}") for i in range(300)]


def test_a_share_is_held_out(tmp_path: Path) -> None:
    for rows in ([(f"d{i}", f"t{i}") for i in range(5000)], [(None, f"t{i}") for i in range(5000)]):
        count = len(held(tmp_path, {"s": rows}, 0.1))
        assert abs(count / 5000 - 0.1) < 5 * (0.09 / 5000) ** 0.5


def test_documents_keep_their_side_whatever_else_there_is(tmp_path: Path) -> None:
    whole = ids_of(ROWS, held(tmp_path, {"s": ROWS}, 0.2))
    assert ids_of(ROWS, held(tmp_path, {"s": ROWS[::-1]}, 0.2)) == whole
    half = ROWS[:150]
    assert ids_of(half, held(tmp_path, {"s": half}, 0.2)) == whole & {name for name, _ in half}
    others = [(None, f"other {i}") for i in range(50)]
    assert ids_of(ROWS, held(tmp_path, {"a": others, "s": ROWS}, 0.2)) == whole
    assert ids_of(ROWS, held(tmp_path, {"other name": ROWS}, 0.2)) != whole
    assert ids_of(ROWS, held(tmp_path, {"s": ROWS}, 0.2, seed=1)) != whole


def test_rows_with_one_id_are_one_document(tmp_path: Path) -> None:
    pages = [(name, f"page {page} of {name}") for name, _ in ROWS for page in range(3)]
    chosen = held(tmp_path, {"s": pages}, 0.3)
    sides: dict[str, set[bool]] = {}
    for name, text in pages:
        sides.setdefault(name, set()).add(text_hash(text) in chosen)
    assert {len(side) for side in sides.values()} == {1}
    assert 0.2 < np.mean([side == {True} for side in sides.values()]) < 0.4


def test_without_ids_the_text_decides_alike_in_every_source(tmp_path: Path) -> None:
    rows = [(None, text) for _, text in ROWS]
    assert held(tmp_path, {"a": rows}, 0.2) == held(tmp_path, {"b": rows}, 0.2)
    assert held(tmp_path, {"a": rows[:200], "b": rows[100:]}, 0.2) == held(
        tmp_path, {"a": rows}, 0.2
    )


def test_of_two_texts_one_is_held_out_however_small_or_large_the_share(tmp_path: Path) -> None:
    for count in (2, 3, 50):
        assert len(held(tmp_path, {"s": ROWS[:count]}, 1e-9)) == 1
        assert len(held(tmp_path, {"s": ROWS[:count]}, 1 - 1e-9)) == count - 1


def test_a_single_text_is_trained_on_even_if_another_source_would_hold_it_out(
    tmp_path: Path,
) -> None:
    for share in (1e-9, 0.5, 1 - 1e-9):
        assert held(tmp_path, {"s": [("a", "one"), ("b", " one\n"), (None, "one")]}, share) == set()
    chosen = held(tmp_path, {"large": ROWS, "small": [(None, "t7")]}, 1 - 1e-9)
    assert text_hash("t7") not in chosen
    assert len(chosen) >= 298


def test_sources_without_a_choice_have_nothing_held_out(tmp_path: Path) -> None:
    both = {"a": [("1", "x")], "b": [("2", "y")], "c": [("3", "x"), ("4", "y")]}
    assert held(tmp_path, both, 0.5) == set()


SOURCES = st.lists(
    st.lists(
        st.tuples(st.one_of(st.none(), st.sampled_from("ijklm")), st.sampled_from("abcdefgh")),
        min_size=1,
        max_size=9,
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=100, deadline=None)
@given(SOURCES, st.sampled_from([0.001, 0.3, 0.5, 0.9]), st.integers(0, 50), st.integers(1, 5))
def test_every_source_has_training_text_in_any_order(
    tmp_path_factory: pytest.TempPathFactory,
    sources: list[Documents],
    share: float,
    seed: int,
    pairs: int,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    named = {f"s{i}": rows for i, rows in enumerate(sources)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heldout, "PAIRS_AT_ONCE", pairs)
        chosen = held(folder, named, share, seed)
    shuffled = {name: rows[::-1] for name, rows in reversed(named.items())}
    assert held(folder, shuffled, share, seed) == chosen
    for rows in sources:
        texts = {text_hash(text) for _, text in rows}
        assert texts - chosen
        if len(sources) == 1 and len(texts) > 1:
            assert texts & chosen


def test_one_reading_counts_what_there_is(tmp_path: Path) -> None:
    scan = scan_source([("1", "é"), ("2", ""), (None, "abc"), ("3", "")], "s", 0, tmp_path)
    assert (scan.documents, scan.bytes, scan.empty_rows) == (2, 5, 2)
    assert list(tmp_path.iterdir()) == []


def test_membership_is_that_of_a_set() -> None:
    rng = np.random.default_rng(0)
    found = np.unique(rng.integers(0, 2**64, 50, dtype=np.uint64))
    values = np.concatenate([found[::3], rng.integers(0, 2**64, 100, dtype=np.uint64)])
    values = np.concatenate([values, np.array([0, 2**64 - 1], np.uint64)])
    assert among(values, found).tolist() == [v in set(found.tolist()) for v in values.tolist()]
    assert not among(values, found[:0]).any()
