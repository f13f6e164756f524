"""Freed memory is kept: large blocks made anew are not mapped and zeroed by the system again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from pipeline.environment import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def blocks():
    return [bytearray(40 * 2**20) for _ in range(3)]
blocks()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    blocks()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked")
def test_blocks_made_anew_cause_few_page_faults() -> None:
    def faults(mode: str) -> int:
        command = [sys.executable, "-c", FAULTS, mode]
        return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    assert faults("kept") * 10 < faults("default")
