"""Finished folders: hashes, the manifest, atomic publication, and why a folder is stale.

A stage writes into a temporary sibling of its folder; ``publish`` makes every byte durable, writes
``manifest.json`` last and swaps the folder in. So a folder with a manifest is whole, and a run that
is killed at any point leaves the old folder or the new one. No torch here.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

MANIFEST = "manifest.json"
# Files with times in them: guarded against corruption, but no input of a later stage, so that a
# rerun which gives the same weights leaves the later stages fresh.
VOLATILE = frozenset({"metrics.jsonl"})
# What no stage of the same run reads: who writes a demonstration makes no reward model stale.
UNREAD = {"label": frozenset({"skips.jsonl", "demonstrations.jsonl"})}


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class OutputFile(_Checked):
    """A published file: its SHA-256 in hexadecimal and its size in bytes."""

    sha256: str
    size: int


class Manifest(_Checked):
    """What a finished folder says about itself. No absolute path, host or user name in it.

    ``content`` is one hash over all outputs that later stages may read; ``checksum`` one over the
    manifest itself. ``environment`` (versions, commit, precision) and the times are no part of
    the key.
    """

    stage: str
    key: str
    version: int
    seed: int
    section: dict[str, JsonValue]
    inputs: dict[str, str]
    outputs: dict[str, OutputFile]
    content: str
    environment: dict[str, JsonValue]
    started: str
    finished: str
    seconds: float
    peak_memory_bytes: int
    checksum: str


@dataclass(frozen=True)
class Identity:
    """All that decides a stage's outputs: its config section, the seed, inputs and VERSION."""

    stage: str
    section: Mapping[str, JsonValue]
    seed: int
    inputs: Mapping[str, str]
    version: int

    @property
    def key(self) -> str:
        """The hash that a fresh folder's manifest carries."""
        return stage_key(self.section, self.seed, self.inputs, self.version)


@dataclass(frozen=True)
class WorkRecord:
    """What the work was like, for the manifest only: times as ISO 8601, memory in bytes."""

    environment: Mapping[str, JsonValue]
    started: str
    finished: str
    seconds: float
    peak_memory_bytes: int


# --- hashes -------------------------------------------------------------------------------------


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_json(value: object) -> str:
    """The SHA-256 of a value's canonical JSON (sorted keys, no spaces), in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def stage_key(
    section: Mapping[str, JsonValue], seed: int, inputs: Mapping[str, str], version: int
) -> str:
    """The hash of everything that decides a stage's outputs."""
    return hash_json([dict(section), seed, dict(inputs), version])


def list_files(folder: Path) -> list[str]:
    """All files below ``folder`` but its manifest, as sorted relative paths with ``/``."""
    files = (
        (Path(parent) / name).relative_to(folder).as_posix()
        for parent, _, names in os.walk(folder)
        for name in names
    )
    return sorted(name for name in files if name != MANIFEST)


def content_hash(stage: str, outputs: Mapping[str, OutputFile]) -> str:
    """One hash over the names and bytes of all outputs that later stages read."""
    passed_over = VOLATILE | UNREAD.get(stage, frozenset())
    read = {n: f.sha256 for n, f in outputs.items() if n.rpartition("/")[2] not in passed_over}
    return hash_json(read)


# --- reading a finished folder ------------------------------------------------------------------


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a finished folder; None when it is missing, broken or altered."""
    try:
        values: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        manifest = Manifest.model_validate(values)
    except (OSError, ValueError, ValidationError):
        return None
    return manifest if manifest.checksum == _checksum(values) else None


def verify(folder: Path) -> str | None:
    """What is wrong with a finished folder, such as ``model.safetensors is missing``, or None.

    Every byte is read: a missing, added or altered file is found, the manifest's own included.
    """
    if not (folder / MANIFEST).is_file():
        return f"{MANIFEST} is missing"
    manifest = read_manifest(folder)
    if manifest is None:
        return f"{MANIFEST} is damaged"
    found = list_files(folder)
    for name, output in manifest.outputs.items():
        if name not in found:
            return f"{name} is missing"
        size = (folder / name).stat().st_size
        if size != output.size:
            return f"{name} has {size} bytes, not the {output.size} that were published"
        if file_sha256(folder / name) != output.sha256:
            return f"{name} differs from what was published"
    extra = [name for name in found if name not in manifest.outputs]
    return f"{extra[0]} was added after publication" if extra else None


def staleness(manifest: Manifest, identity: Identity) -> str | None:
    """Why a whole folder no longer fits what is asked for now; None when it is fresh."""
    if manifest.key == identity.key:
        return None
    reasons: list[str] = []
    if manifest.stage != identity.stage:
        reasons.append(f"made by {manifest.stage}, now by {identity.stage}")
    else:
        reasons += _changes(identity.stage, dict(manifest.section), dict(identity.section))
    if manifest.seed != identity.seed:
        reasons.append(f"seed changed from {manifest.seed} to {identity.seed}")
    if manifest.version != identity.version:
        reasons.append(f"VERSION changed from {manifest.version} to {identity.version}")
    for name in sorted({*manifest.inputs, *identity.inputs}):
        if manifest.inputs.get(name) != identity.inputs.get(name):
            reasons.append(f"{name} {_input_change(name, manifest, identity)}")
    return "; ".join(reasons) or "the key changed"


def _input_change(name: str, manifest: Manifest, identity: Identity) -> str:
    if name not in manifest.inputs:
        return "is a new input"
    return "changed" if name in identity.inputs else "is no input any more"


def _changes(path: str, old: JsonValue, new: JsonValue) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            change
            for key in keys
            for change in _changes(f"{path}.{key}", old.get(key), new.get(key))
        ]
    if old == new:
        return []
    return [f"{path} changed from {_brief(old)} to {_brief(new)}"]


def _brief(value: JsonValue) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"


# --- publication --------------------------------------------------------------------------------


def temporary_folder(final: Path) -> Path:
    """A new, empty sibling of ``final`` to write into; removed by ``recover`` if left behind."""
    folder = final.with_name(f".{final.name}.tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    folder.mkdir(parents=True)
    return folder


def publish(temporary: Path, final: Path, identity: Identity, work: WorkRecord) -> Manifest:
    """The manifest written, after ``temporary`` has become ``final`` and is durable.

    An older ``final`` steps aside first; ``recover`` puts it back when the process dies between
    the two renames.
    """
    manifest = _write_manifest(temporary, identity, work)
    aside = final.with_name(f".{final.name}.old-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    if os.path.lexists(final):
        final.rename(aside)
    temporary.rename(final)
    fsync(final.parent)
    if os.path.lexists(aside):
        _remove(aside)
    return manifest


def _remove(path: Path) -> None:
    """Removes a folder, or the link or file that stood in a folder's place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _write_manifest(folder: Path, identity: Identity, work: WorkRecord) -> Manifest:
    outputs: dict[str, OutputFile] = {}
    for name in list_files(folder):
        path = folder / name
        fsync(path)
        outputs[name] = OutputFile(sha256=file_sha256(path), size=path.stat().st_size)
    for parent, _, _ in os.walk(folder):
        fsync(Path(parent))
    manifest = Manifest(
        stage=identity.stage,
        key=identity.key,
        version=identity.version,
        seed=identity.seed,
        section=dict(identity.section),
        inputs=dict(identity.inputs),
        outputs=outputs,
        content=content_hash(identity.stage, outputs),
        environment=dict(work.environment),
        started=work.started,
        finished=work.finished,
        seconds=work.seconds,
        peak_memory_bytes=work.peak_memory_bytes,
        checksum="",
    )
    values = manifest.model_dump(mode="json")
    values["checksum"] = _checksum(values)
    unfinished = folder / f"{MANIFEST}.tmp"
    with unfinished.open("w", encoding="utf-8") as file:
        json.dump(values, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(folder / MANIFEST)
    fsync(folder)
    return Manifest.model_validate(values)


def _checksum(values: Mapping[str, Any]) -> str:
    return hash_json({key: value for key, value in values.items() if key != "checksum"})


def fsync(path: Path) -> None:
    """Makes a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def recover(run_folder: Path) -> None:
    """Undoes what killed runs left: folders put aside return or go, temporary ones go.

    Call it under ``run_lock`` only: nobody else can then be writing here.
    """
    for aside in run_folder.glob(".*.old-*"):
        final = run_folder / aside.name[1:].partition(".old-")[0]
        if os.path.lexists(final):
            _remove(aside)
        else:
            aside.rename(final)
            fsync(run_folder)
    for temporary in run_folder.glob(".*.tmp-*"):
        _remove(temporary)
