"""Starts a stage in several processes on this machine, for ``align run``.

On several machines, or with a launcher of one's own, start the stage itself:
``torchrun --nproc_per_node 8 -m stages.pretrain CONFIG`` or ``accelerate launch -m …``. Here every
process prints plainly, and the first that fails ends the others.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.run_lock import HOLDER, lock_descriptor
from pipeline.signals import sigterm_exits
from pipeline.stage_context import write_config
from stages.cli import StageFailedError, run_folder_of

POLL_SECONDS = 0.1
GRACE_SECONDS = 10.0


def launch_stage(name: str, config: RunConfig, processes: int) -> None:
    """Runs a stage in ``processes`` processes, which share this process' lock of the run folder.

    Raises:
        StageFailedError: one of them failed; the others were stopped.
    """
    lock = lock_descriptor(run_folder_of(config))
    with tempfile.TemporaryDirectory() as folder, sigterm_exits():
        path = Path(folder) / "config.json"
        write_config(config, path)
        command = [sys.executable, "-m", f"stages.{name}", str(path)]
        port = str(_free_port())
        workers = [
            subprocess.Popen(
                command, env=os.environ | _environment(rank, processes, port), pass_fds=[lock]
            )
            for rank in range(processes)
        ]
        try:
            _wait(name, workers)
        finally:
            _stop(workers)


def _environment(rank: int, processes: int, port: str) -> dict[str, str]:
    """What torch.distributed and Accelerate look for."""
    threads = max(1, (os.cpu_count() or 1) // processes)
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        HOLDER: str(os.getpid()),
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait(stage: str, workers: Sequence[subprocess.Popen[bytes]]) -> None:
    while True:
        codes = [worker.poll() for worker in workers]
        failed = [code for code in codes if code]
        if failed:
            raise StageFailedError(stage, failed[0])
        if all(code == 0 for code in codes):
            return
        time.sleep(POLL_SECONDS)


def _stop(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends what still runs: asked first, so that it can tidy up."""
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()
    for worker in workers:
        try:
            worker.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
