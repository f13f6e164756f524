"""Snapshots of a training run: whole or absent, and of this very run.

A snapshot is a folder ``step-00000400`` of tensors (safetensors) and small values (JSON), with the
metrics logged so far. It is written beside its name, made durable and renamed, and it carries the
stage's key: a run whose config, seed or inputs changed never goes on from it. No pickle.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.artifacts import fsync
from pipeline.sealed import seal, sealed_values, whole_values

KEPT = 2  # the newest; the one before it serves when the newest is damaged
TENSORS, LOG = "state.safetensors", "metrics.jsonl"


@dataclass(frozen=True)
class Snapshot:
    """The state after ``step`` optimizer steps."""

    step: int
    tensors: dict[str, Tensor]
    values: dict[str, Any]


class Checkpoints:
    """The snapshots of one stage's run in ``folder``; ``log`` is its metrics file, kept along."""

    def __init__(self, folder: Path, key: str, log: Path | None) -> None:
        self.folder = folder
        self.key = key
        self.log = log

    def save(self, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Writes the snapshot of ``step`` and removes all but the newest two of this run."""
        final = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".{final.name}.tmp-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        # Copies: weights that are tied, or parts of one another, cannot be written as they are.
        plain = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        plain = {name: tensor.contiguous() for name, tensor in plain.items()}
        safetensors.torch.save_file(plain, temporary / TENSORS)
        if self.log and self.log.exists():
            shutil.copyfile(self.log, temporary / LOG)
        seal_snapshot(temporary, self.key, step, values)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        fsync(self.folder)
        keep_only(self.folder, newest_snapshots(self.folder, "step-*", self.key)[:KEPT])

    def latest(self) -> Snapshot | None:
        """The newest whole snapshot of this run, its metrics put back; None if there is none."""
        for path in whole_snapshots(self.folder, "step-*", self.key):
            found = sealed_values(path) or {}
            if self.log:
                restore_log(path, self.log)
            tensors = safetensors.torch.load_file(path / TENSORS)
            return Snapshot(found["step"], tensors, found["values"])
        return None


def seal_snapshot(folder: Path, key: str, step: int, values: Mapping[str, Any]) -> None:
    """Makes a snapshot whole, when all else is in its folder: of which run it is, and where."""
    seal(folder, {"key": key, "step": step, "values": dict(values)})


def newest_snapshots(folder: Path, pattern: str, key: str) -> list[Path]:
    """The sealed snapshots of the run with this key, the newest first; their bytes are not read.

    A snapshot's name ends with its step.
    """
    steps: dict[Path, int] = {}
    for path in folder.glob(pattern):
        found = sealed_values(path) or {}
        number = path.name.rpartition("-")[2]
        if found.get("key") == key and number.isdecimal() and int(number) == found.get("step"):
            steps[path] = int(number)
    return sorted(steps, key=lambda path: -steps[path])


def whole_snapshots(folder: Path, pattern: str, key: str) -> Iterator[Path]:
    """Those of ``newest_snapshots`` that are undamaged; only what is asked for is read."""
    newest = newest_snapshots(folder, pattern, key)
    return (path for path in newest if whole_values(path) is not None)


def keep_only(folder: Path, kept: Sequence[Path]) -> None:
    """Removes all else from ``folder``: what is older, damaged, unfinished, or another run's."""
    for path in folder.iterdir():
        if path.is_dir() and path not in kept:
            shutil.rmtree(path)
        elif not path.is_dir():
            path.unlink()


def restore_log(snapshot: Path, log: Path) -> None:
    """Puts the metrics back as they were when the snapshot was taken."""
    log.unlink(missing_ok=True)
    if (snapshot / LOG).exists():
        shutil.copyfile(snapshot / LOG, log)


def training_state(
    model: nn.Module, optimizers: Sequence[Optimizer]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and values of a snapshot: all weights, and what the optimizers remember."""
    tensors = {f"model.{name}": weight for name, weight in model.state_dict().items()}
    values: dict[str, Any] = {}
    for number, optimizer in enumerate(optimizers):
        for index, memory in optimizer.state_dict()["state"].items():
            for name, value in memory.items():
                path = f"optimizer.{number}.{index}.{name}"
                if isinstance(value, Tensor):
                    tensors[path] = value
                else:
                    values[path] = value
    return tensors, values


def restore_training_state(
    snapshot: Snapshot, model: nn.Module, optimizers: Sequence[Optimizer]
) -> None:
    """Puts a snapshot of ``training_state`` back, in place."""
    prefix = "model."
    weights = {
        name.removeprefix(prefix): tensor
        for name, tensor in snapshot.tensors.items()
        if name.startswith(prefix)
    }
    model.load_state_dict(weights)
    memories: list[dict[int, dict[str, Any]]] = [{} for _ in optimizers]
    for path, value in [*snapshot.tensors.items(), *snapshot.values.items()]:
        if path.startswith("optimizer."):
            _, number, index, name = path.split(".", 3)
            memories[int(number)].setdefault(int(index), {})[name] = value
    for optimizer, memory in zip(optimizers, memories, strict=True):
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": memory, "param_groups": groups})
