"""Snapshots: whole or absent, of one run only, the newest two kept, weights and memory back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.checkpoints import Checkpoints, restore_training_state, training_state

TENSORS = {"a": torch.tensor([1.5, -2.0]), "b": torch.tensor([[3]])}


@pytest.fixture
def snapshots(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "stage", "key", tmp_path / "metrics.jsonl")


def steps_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_comes_back(snapshots: Checkpoints) -> None:
    assert snapshots.latest() is None
    assert snapshots.log is not None
    snapshots.log.write_text('{"step": 1}\n')
    snapshots.save(7, TENSORS, {"kl": 0.25})
    snapshots.log.write_text('{"step": 1}\n{"step": 8}\n')
    found = snapshots.latest()
    assert found is not None
    assert (found.step, found.values) == (7, {"kl": 0.25})
    assert {name: t.tolist() for name, t in found.tensors.items()} == {"a": [1.5, -2], "b": [[3]]}
    assert snapshots.log.read_text() == '{"step": 1}\n'  # what was logged later is done again


def test_only_the_newest_two_are_kept(snapshots: Checkpoints) -> None:
    for step in (1, 2, 10):
        snapshots.save(step, TENSORS, {})
    assert steps_in(snapshots.folder) == ["step-00000002", "step-00000010"]
    found = snapshots.latest()
    assert found is not None
    assert found.step == 10


def test_a_step_is_saved_again_in_place(snapshots: Checkpoints) -> None:
    snapshots.save(1, TENSORS, {"try": 1})
    snapshots.save(1, TENSORS, {"try": 2})
    found = snapshots.latest()
    assert found is not None
    assert found.values == {"try": 2}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip(folder / "state.safetensors"),
        lambda folder: (folder / "state.safetensors").unlink(),
        lambda folder: (folder / "index.json").unlink(),
        lambda folder: (folder / "index.json").write_text("{"),
        lambda folder: (folder / "extra").touch(),
        lambda folder: folder.rename(folder.with_name("step-00000099")),
        lambda folder: (folder / "index.json").write_text(
            (folder / "index.json").read_text().replace('"kl": 0.5', '"kl": 0.6')
        ),
    ],
)
def test_a_damaged_snapshot_is_passed_over(snapshots: Checkpoints, damage) -> None:
    snapshots.save(1, TENSORS, {"kl": 0.5})
    snapshots.save(2, TENSORS, {"kl": 0.5})
    damage(snapshots.folder / "step-00000002")
    found = snapshots.latest()
    assert found is not None
    assert found.step == 1
    snapshots.save(2, TENSORS, {})
    assert steps_in(snapshots.folder) == ["step-00000001", "step-00000002"]


def test_a_snapshot_of_another_key_is_not_found_and_goes(snapshots: Checkpoints) -> None:
    snapshots.save(5, TENSORS, {})
    other = Checkpoints(snapshots.folder, "other key", snapshots.log)
    assert other.latest() is None
    other.save(1, TENSORS, {})
    assert steps_in(snapshots.folder) == ["step-00000001"]


def test_a_save_that_was_killed_halfway_leaves_the_last_one(snapshots: Checkpoints) -> None:
    snapshots.save(1, TENSORS, {})
    (snapshots.folder / ".step-00000002.tmp-1").mkdir()
    found = snapshots.latest()
    assert found is not None
    assert found.step == 1
    snapshots.save(3, TENSORS, {})
    assert steps_in(snapshots.folder) == ["step-00000001", "step-00000003"]


def test_state_goes_into_plain_files_and_back(snapshots: Checkpoints) -> None:
    def made() -> tuple[torch.nn.Linear, list[torch.optim.Optimizer]]:
        model = torch.nn.Linear(3, 2)
        parameters = list(model.parameters())
        return model, [
            torch.optim.Muon(parameters[:1], lr=0.1),
            torch.optim.AdamW(parameters[1:], lr=0.1),
        ]

    model, optimizers = made()
    model(torch.ones(1, 3)).sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    snapshots.save(1, *training_state(model, optimizers))
    found = snapshots.latest()
    assert found is not None
    other, other_optimizers = made()
    restore_training_state(found, other, other_optimizers)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(optimizers, other_optimizers, strict=True):
        before, after = ours.state_dict()["state"], theirs.state_dict()["state"]
        assert before.keys() == after.keys()
        assert before
        for index, memory in before.items():
            assert memory.keys() == after[index].keys()
            assert all(torch.equal(value, after[index][name]) for name, value in memory.items())
