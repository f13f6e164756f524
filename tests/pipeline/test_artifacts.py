"""Finished folders: what is written, what corruption is noticed, why a folder is stale, kills."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline import artifacts
from pipeline.artifacts import (
    Identity,
    Manifest,
    WorkRecord,
    file_sha256,
    publish,
    read_manifest,
    recover,
    stage_key,
    staleness,
    temporary_folder,
    verify,
)
from pipeline.run_lock import run_lock

WORK = WorkRecord({"python": "3"}, "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:01+00:00", 1.0, 5)


def identity(**changes: Any) -> Identity:
    values: dict[str, Any] = {
        "stage": "sft",
        "section": {"epochs": 4, "optimizer": {"learning_rate": 6e-4}},
        "seed": 0,
        "inputs": {"data": "d1", "base": "b1"},
        "version": 1,
    }
    return Identity(**values | changes)


def make(final: Path, files: dict[str, bytes], who: Identity | None = None) -> Manifest:
    temporary = temporary_folder(final)
    for name, content in files.items():
        (temporary / name).parent.mkdir(parents=True, exist_ok=True)
        (temporary / name).write_bytes(content)
    return publish(temporary, final, who or identity(), WORK)


FILES = {"model.safetensors": b"weights", "critic/config.json": b"{}", "metrics.jsonl": b"{}\n"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(tmp_path / "sft", FILES)
    return tmp_path / "sft"


def test_the_manifest_names_every_file_with_its_hash(folder: Path) -> None:
    values = json.loads((folder / "manifest.json").read_text())
    assert {name: (f["sha256"], f["size"]) for name, f in values["outputs"].items()} == {
        name: (hashlib.sha256(content).hexdigest(), len(content)) for name, content in FILES.items()
    }
    assert values["inputs"] == {"data": "d1", "base": "b1"}
    assert values["section"] == {"epochs": 4, "optimizer": {"learning_rate": 6e-4}}
    assert values["key"] == identity().key
    assert verify(folder) is None
    assert [path.name for path in folder.parent.iterdir()] == ["sft"]


def test_a_file_s_hash_is_that_of_sha256sum(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(os.urandom(1 << 20))
    output = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout
    assert file_sha256(path) == output.split()[0]


def test_every_flipped_bit_is_noticed(folder: Path) -> None:
    """One bit in each byte of the outputs, and in every sixth of the manifest's."""
    rng = random.Random(0)
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        for index in range(0, len(content), 6 if path.name == "manifest.json" else 1):
            flipped = bytearray(content)
            flipped[index] ^= 1 << rng.randrange(8)
            path.write_bytes(flipped)
            problem = verify(folder)
            assert problem is not None, (path.name, index)
            assert path.name in problem
        path.write_bytes(content)
    assert verify(folder) is None


def test_missing_added_and_cut_files_are_noticed(folder: Path) -> None:
    (folder / "extra.txt").write_text("x")
    assert verify(folder) == "extra.txt was added after publication"
    (folder / "extra.txt").unlink()
    (folder / "model.safetensors").write_bytes(b"weigh")
    assert verify(folder) == "model.safetensors has 5 bytes, not the 7 that were published"
    (folder / "model.safetensors").unlink()
    assert verify(folder) == "model.safetensors is missing"
    (folder / "manifest.json").unlink()
    assert verify(folder) == "manifest.json is missing"
    assert read_manifest(folder) is None


def test_the_content_hash_is_of_names_and_bytes_but_not_of_volatile_files(tmp_path: Path) -> None:
    contents = {
        name: make(tmp_path / name, files).content
        for name, files in {
            "same": FILES,
            "other metrics": FILES | {"metrics.jsonl": b"slower\n"},
            "other weights": FILES | {"model.safetensors": b"weightz"},
            "other name": {"model2.safetensors": b"weights", "critic/config.json": b"{}"},
            "one more": FILES | {"empty": b""},
        }.items()
    }
    assert contents["same"] == contents["other metrics"]
    assert len(set(contents.values())) == 4


def test_a_demonstration_makes_nothing_stale_that_learns_from_rankings(tmp_path: Path) -> None:
    names = ("rankings.jsonl", "skips.jsonl", "demonstrations.jsonl")
    files: dict[str, bytes] = dict.fromkeys(names, b"{}\n")
    label, data = identity(stage="label"), identity(stage="data")

    def changed(who: Identity, name: str) -> bool:
        before = make(tmp_path / "before", files, who).content
        return make(tmp_path / "after", files | {name: b"{}\n{}\n"}, who).content != before

    assert [changed(label, name) for name in names] == [True, False, False]
    assert [changed(data, name) for name in names] == [True, True, True]


def test_the_key_changes_with_each_of_its_parts_and_with_nothing_else() -> None:
    parts = (identity().section, 0, {"data": "d1", "base": "b1"}, 1)
    key = stage_key(*parts)
    assert key == stage_key(
        {"optimizer": {"learning_rate": 0.0006}, "epochs": 4}, 0, {"base": "b1", "data": "d1"}, 1
    )
    others = [({"epochs": 4}, *parts[1:]), (parts[0], 1, *parts[2:])]
    others += [(*parts[:2], {"data": "d1", "base": "b2"}, 1), (*parts[:3], 2)]
    assert len({key, *(stage_key(*other) for other in others)}) == 5


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        ({}, None),
        (
            {"section": {"epochs": 4, "optimizer": {"learning_rate": 1e-4}}},
            "sft.optimizer.learning_rate changed from 0.0006 to 0.0001",
        ),
        (
            {"section": {"epochs": 4, "optimizer": {"learning_rate": 6e-4}, "new": "x"}},
            'sft.new changed from null to "x"',
        ),
        ({"seed": 7}, "seed changed from 0 to 7"),
        ({"version": 2}, "VERSION changed from 1 to 2"),
        ({"inputs": {"data": "d2", "base": "b1"}}, "data changed"),
        ({"inputs": {"data": "d1"}}, "base is no input any more"),
        ({"inputs": {"data": "d1", "base": "b1", "store": "s"}}, "store is a new input"),
        ({"seed": 7, "version": 2}, "seed changed from 0 to 7; VERSION changed from 1 to 2"),
        ({"stage": "dpo", "seed": 7}, "made by sft, now by dpo; seed changed from 0 to 7"),
    ],
)
def test_staleness_says_what_changed(folder: Path, now: dict[str, Any], reason: str) -> None:
    manifest = read_manifest(folder)
    assert manifest is not None
    assert staleness(manifest, identity(**now)) == reason


def test_publishing_again_replaces_the_folder(folder: Path) -> None:
    make(folder, {"model.safetensors": b"new"})
    assert verify(folder) is None
    assert (folder / "model.safetensors").read_bytes() == b"new"
    assert not (folder / "critic").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["sft"]


def test_every_byte_is_durable_before_the_manifest_and_the_manifest_before_the_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        events.append("fsync " + Path(path).name.partition(".tmp-")[0])
        real_fsync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        events.append(f"rename {self.name.partition('.tmp-')[0]}")
        return real_rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    make(tmp_path / "sft", {"a": b"1", "b": b"2"})
    assert sorted(events[:3]) == ["fsync .sft", "fsync a", "fsync b"]
    assert events[3:] == [
        "fsync manifest.json.tmp",
        "rename manifest.json.tmp",
        "fsync .sft",
        "rename .sft",
        f"fsync {tmp_path.name}",
    ]


@pytest.mark.parametrize("step", range(13))
def test_death_at_every_system_call_leaves_the_old_or_the_new(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The process dies just before its step-th fsync, rename or removal."""
    calls = 0

    def dying(real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > step:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        return call

    monkeypatch.setattr(artifacts.os, "fsync", dying(os.fsync))
    monkeypatch.setattr(Path, "rename", dying(Path.rename))
    monkeypatch.setattr(artifacts.shutil, "rmtree", dying(artifacts.shutil.rmtree))
    died = True
    try:
        make(folder, FILES | {"model.safetensors": b"new"})
        died = False
    except KeyboardInterrupt:
        pass
    monkeypatch.undo()
    # 3 files, 2 folders, manifest, its rename, folder, 2 renames, parent, removal
    assert died == (step < 12)
    recover(folder.parent)
    assert verify(folder) is None
    assert (folder / "model.safetensors").read_bytes() in (b"weights", b"new")
    assert [path.name for path in folder.parent.iterdir()] == ["sft"]


def publish_until_killed(final: Path, turn: int, reports: int) -> None:
    with run_lock(final.parent):
        while True:
            parts = {f"part{index}": str(turn).encode() * 2000 for index in range(4)}
            make(final, parts, identity(section={"turn": turn}))
            os.write(reports, f"{turn}\n".encode())
            turn += 1


def test_sigkill_at_random_moments_never_leaves_a_broken_folder(tmp_path: Path) -> None:
    rng = random.Random(0)
    final = tmp_path / "run" / "sft"
    turn, interrupted = 0, 0
    for _ in range(25):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                publish_until_killed(final, turn, writer)
            os._exit(1)
        os.close(writer)
        with os.fdopen(reader) as reports:
            turn = int(reports.readline())
            time.sleep(rng.uniform(0, 0.01))
            os.kill(child, signal.SIGKILL)
            turn = int([str(turn), *reports.read().split()][-1])
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        interrupted += any(path.name.startswith(".sft.") for path in final.parent.iterdir())
        with run_lock(final.parent):
            assert verify(final) is None
            parts = {(final / f"part{index}").read_text() for index in range(4)}
        # The last turn that was reported, or the next one, which died before it could say so.
        assert parts in ({str(turn) * 2000}, {str(turn + 1) * 2000})
        assert sorted(path.name for path in final.parent.iterdir()) == [".lock", "sft"]
        turn += 2
    assert interrupted > 0
