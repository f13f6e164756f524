"""A run folder belongs to one process at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.run_lock import run_lock

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys
from pathlib import Path
from pipeline.run_lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_another_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="another process"), run_lock(tmp_path):
        pass
    process.kill()
    process.wait()
    with run_lock(tmp_path):
        pass


def test_nested_use_is_one_lock(tmp_path: Path) -> None:
    with run_lock(tmp_path), run_lock(tmp_path / "." / ""):
        (tmp_path / ".sft.tmp-1-x").mkdir()
        with run_lock(tmp_path):
            assert (tmp_path / ".sft.tmp-1-x").exists()  # nobody tidies up under a running stage
    with run_lock(tmp_path):
        assert not (tmp_path / ".sft.tmp-1-x").exists()


def test_a_folder_made_only_for_the_lock_goes_again(tmp_path: Path) -> None:
    with run_lock(tmp_path / "a" / "run"):
        assert (tmp_path / "a" / "run").is_dir()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "b").mkdir()
    with run_lock(tmp_path / "b" / "run"):
        pass
    assert list(tmp_path.rglob("*")) == [tmp_path / "b"]


def test_a_file_in_the_way_is_a_plain_error(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="cannot be written"), run_lock(tmp_path / "run"):
        pass


def test_folders_put_aside_return_only_when_the_place_is_free(tmp_path: Path) -> None:
    (tmp_path / ".sft.old-1-a").mkdir()
    (tmp_path / ".sft.old-1-a" / "kept").touch()
    (tmp_path / ".ppo.old-1-b").mkdir()
    (tmp_path / "ppo").mkdir()
    (tmp_path / "ppo" / "new").touch()
    with run_lock(tmp_path):
        assert (tmp_path / "sft" / "kept").exists()
        assert (tmp_path / "ppo" / "new").exists()
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "ppo", "sft"]
