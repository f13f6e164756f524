"""A cache entry is made once, made anew when a byte is wrong, and made by one of several."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from pipeline.data.cache import Cache, Values


class Maker:
    """Writes a file and counts how often."""

    def __init__(self, content: bytes = b"tokens") -> None:
        self.calls = 0
        self.content = content

    def __call__(self, folder: Path) -> Values:
        self.calls += 1
        (folder / "a.bin").write_bytes(self.content)
        return {"rows": self.calls}


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    make = Maker()
    for _ in range(3):
        folder, values = Cache(tmp_path / "cache").entry("k", make)
        assert folder == tmp_path / "cache" / "k"
        assert (folder / "a.bin").read_bytes() == b"tokens"
        assert values == {"rows": 1}
    Cache(tmp_path / "cache").entry("other", make)
    assert make.calls == 2


def damage(folder: Path, how: str) -> None:
    file, index = folder / "a.bin", folder / "index.json"
    if how == "flip":
        file.write_bytes(b"tokenz")
    elif how == "truncate":
        file.write_bytes(b"token")
    elif how == "remove":
        file.unlink()
    elif how == "add":
        (folder / "b.bin").touch()
    elif how == "index":
        index.write_text(index.read_text().replace('"rows": 1', '"rows": 7'))
    elif how == "no index":
        index.unlink()
    else:
        index.write_text(json.dumps([1]))


@pytest.mark.parametrize(
    "how", ["flip", "truncate", "remove", "add", "index", "no index", "other shape"]
)
def test_a_damaged_entry_is_made_anew(tmp_path: Path, how: str) -> None:
    make = Maker()
    folder, _ = Cache(tmp_path).entry("k", make)
    damage(folder, how)
    folder, values = Cache(tmp_path).entry("k", make)
    assert values == {"rows": 2}
    assert sorted(path.name for path in folder.iterdir()) == ["a.bin", "index.json"]
    assert (folder / "a.bin").read_bytes() == b"tokens"


def test_an_entry_under_another_name_is_none(tmp_path: Path) -> None:
    make = Maker()
    folder, _ = Cache(tmp_path).entry("k", make)
    folder.rename(tmp_path / "other")
    assert Cache(tmp_path).entry("other", make)[1] == {"rows": 2}


def test_what_was_not_asked_for_is_removed(tmp_path: Path) -> None:
    for key in ("a", "b", "c"):
        Cache(tmp_path).entry(key, Maker())
    (tmp_path / ".d.tmp-1").mkdir()
    cache = Cache(tmp_path)
    cache.entry("b", Maker())
    assert (tmp_path / "a").is_dir()
    cache.remove_unused()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "b"]
    Cache(tmp_path / "none").remove_unused()
    assert not (tmp_path / "none").exists()


def test_what_killed_processes_left_goes_before_more_is_written(tmp_path: Path) -> None:
    left_behind = tmp_path / f".k.tmp-{os.getpid()}"
    left_behind.mkdir()
    (left_behind / "half.bin").touch()
    (tmp_path / ".other.tmp-1").mkdir()
    folder, _ = Cache(tmp_path).entry("k", Maker())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "k"]
    assert not (folder / "half.bin").exists()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> Values:
        (folder / "a.bin").touch()
        raise RuntimeError("no space")

    with pytest.raises(RuntimeError, match="no space"):
        Cache(tmp_path).entry("k", fail)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_one_makes_it_and_the_others_wait(tmp_path: Path) -> None:
    calls: list[str] = []
    found: list[Values] = []

    def slow(folder: Path) -> Values:
        calls.append("made")
        time.sleep(0.2)
        (folder / "a.bin").touch()
        return {"rows": 5}

    def work() -> None:
        found.append(Cache(tmp_path).entry("k", slow)[1])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == ["made"]
    assert found == [{"rows": 5}] * 4
