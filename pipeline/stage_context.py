"""``open_stage``: the frame of every stage script.

It checks the world size, the inputs and the external files before any work, seeds the random
number generators, logs metrics, and publishes the output folder when the stage ends without an
exception. Torch and Accelerate are imported only by those stages that ask for them.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pydantic import JsonValue

from pipeline import chain
from pipeline.artifacts import (
    Identity,
    WorkRecord,
    file_sha256,
    publish,
    read_manifest,
    temporary_folder,
    verify,
)
from pipeline.config import RunConfig
from pipeline.environment import (
    environment,
    keep_freed_memory,
    peak_memory_bytes,
    reset_peak_memory,
)
from pipeline.errors import UserError
from pipeline.precision import autocast_of, forget_accelerate, precision_of
from pipeline.progress import Progress
from pipeline.run_lock import run_lock
from pipeline.sealed import keys_in
from pipeline.signals import sigterm_exits
from pipeline.tracking import Tracker, require_tracker

if TYPE_CHECKING:
    import accelerate
    import torch

    from pipeline.checkpoints import Checkpoints

METRICS_FILE = "metrics.jsonl"
CONFIG_FILE = "config.json"
CHECKPOINTS_FOLDER = ".checkpoints"


class StageContext:
    """What a running stage may use: its section, inputs, output folder, device and log."""

    def __init__(
        self,
        links: chain.StageLinks,
        config: RunConfig,
        run_folder: Path,
        output: Path,
        inputs: dict[str, str],
    ) -> None:
        self.links = links
        self.config = config
        self.run_folder = run_folder
        self.output = output
        self.section: Any = getattr(config, links.stage)
        self.seed = derive_seed(config.seed, links.stage)
        self.inputs = inputs
        self.is_leader = _rank() == 0
        self._started = time.monotonic()
        self._earlier_seconds = 0.0  # of the same work, before it was killed
        self._metrics: IO[str] | None = None
        self._tracker: Tracker | None = None
        self._spoke_of_snapshots = False

    @property
    def data_root(self) -> Path:
        """Where the relative paths of the config start."""
        return Path(self.config.data_root)

    def input(self, folder: str) -> Path:
        """The folder of an earlier stage, already verified: ``input("data")`` is ``…/data``."""
        if folder not in self.links.reads:
            raise KeyError(f"stage {self.links.stage} does not declare that it reads {folder}")
        return self.run_folder / folder

    def record_input(self, name: str, digest: str) -> None:
        """Adds an input that is no file, such as the label store, to the manifest and the key."""
        self.inputs[name] = digest

    @property
    def identity(self) -> Identity:
        """What decides the stage's outputs, as far as its inputs are known."""
        name = self.links.stage
        section = chain.section_values(name, self.config)
        version = chain.stage_version(name)
        return Identity(name, section, self.config.seed, self.inputs, version)

    @property
    def checkpoints_folder(self) -> Path:
        """Where the stage keeps what it needs to go on after it was killed; gone when it ends."""
        return self.run_folder / CHECKPOINTS_FOLDER / self.links.stage

    @functools.cached_property
    def checkpoints(self) -> Checkpoints:
        """The stage's snapshots: only those of the same config, seed and inputs are found."""
        from pipeline.checkpoints import Checkpoints

        return Checkpoints(self.checkpoints_folder, self.identity.key, self.metrics_path)

    def more_checkpoints(self, name: str, *, with_log: bool) -> Checkpoints:
        """Snapshots of another kind, such as of a phase before, or of the best weights so far."""
        from pipeline.checkpoints import Checkpoints

        folder = self.checkpoints_folder.with_name(f"{self.links.stage}-{name}")
        return Checkpoints(folder, self.identity.key, self.metrics_path if with_log else None)

    @property
    def metrics_path(self) -> Path:
        """The file that ``log`` writes to."""
        return self.output / METRICS_FILE

    # --- devices --------------------------------------------------------------------------------

    @functools.cached_property
    def device(self) -> torch.device:
        """CUDA when there is a GPU, else the CPU. The first use seeds torch."""
        import torch

        torch.manual_seed(self.seed)
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))

    @functools.cached_property
    def precision(self) -> str:
        """``bf16`` or ``fp32``: the configured one; for ``auto``, bf16 where it is native."""
        return precision_of(self.config, self.device)

    def autocast(self) -> AbstractContextManager[Any]:
        """A new context manager for forward passes in the run's precision."""
        return autocast_of(self.device, self.precision)()

    @functools.cached_property
    def accelerator(self) -> accelerate.Accelerator:
        """An Accelerator on ``device``, of all processes.

        Precision is not its business: forward passes run under ``autocast``.
        """
        import accelerate

        forget_accelerate()
        made = accelerate.Accelerator(
            cpu=self.device.type == "cpu", step_scheduler_with_optimizer=False
        )
        _check_world_size(self.links.stage, self.config, made.num_processes)
        return made

    # --- what the user sees ---------------------------------------------------------------------

    def decided_by_leader(self, decision: bool) -> bool:
        """The first process's decision, in every process."""
        if self.accelerator.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            (decision,) = broadcast_object_list([decision])
        return decision

    def log(self, step: int, **metrics: float | str) -> None:
        """Adds ``{"step", "seconds", **metrics}`` to ``metrics.jsonl``.

        ``seconds`` count from the stage's start; a number that is not finite is written as null.
        """
        if self._metrics is None:
            path = self.metrics_path
            if path.exists():  # of a checkpoint: the work goes on, and so does its time
                last = path.read_text(encoding="utf-8").splitlines()[-1]
                self._earlier_seconds = json.loads(last)["seconds"]
            self._metrics = path.open("a", encoding="utf-8")
        self._track(step, metrics)
        row: dict[str, Any] = {"step": step, "seconds": round(self.elapsed_seconds, 3)}
        for name, value in metrics.items():
            if not isinstance(value, str):
                value = float(value) if math.isfinite(value) else None
            row[name] = value
        self._metrics.write(json.dumps(row) + "\n")
        self._metrics.flush()

    def _track(self, step: int, metrics: Mapping[str, float | str]) -> None:
        name = self.config.tracker
        if name is None or not self.is_leader:
            return
        if self._tracker is None:
            stage = self.links.stage
            settings = chain.section_values(stage, self.config)
            self._tracker = Tracker(name, self.run_folder, stage, settings)
        self._tracker.log(step, metrics)

    def progress(self, total: int, label: str) -> Progress:
        """A bar of ``total`` steps, or lines when not on a terminal; the leader's only."""
        silent = None if self.is_leader else io.StringIO()
        made = Progress(total, f"{self.links.stage}: {label}", silent)
        keys = keys_in(self.checkpoints_folder)
        if keys and self.identity.key not in keys and not self._spoke_of_snapshots:
            left = "what a killed run left was of another config, seed or input"
            made.say(f"{self.links.stage}: starts over: {left}")
        self._spoke_of_snapshots = True
        return made

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the stage was opened, with those of the work that it resumed."""
        return self._earlier_seconds + time.monotonic() - self._started

    def work_record(self, started: datetime) -> WorkRecord:
        """What the manifest says of the work, which began at ``started``."""
        used: dict[str, JsonValue] = {
            "processes": chain.processes_of(self.links.stage, self.config)
        }
        if "device" in vars(self):
            used |= {"device": self.device.type, "precision": self.precision}
        return WorkRecord(
            environment=environment() | used,
            started=started.isoformat(timespec="seconds"),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(self.elapsed_seconds, 3),
            peak_memory_bytes=peak_memory_bytes(),
        )

    def close(self) -> None:
        """Closes the metrics file and the tracker."""
        if self._metrics is not None:
            self._metrics.close()
        if self._tracker is not None:
            self._tracker.close()
            self._tracker = None


@contextmanager
def open_stage(name: str, config: RunConfig, run_folder: Path) -> Generator[StageContext]:
    """The frame of a stage: a clean exit publishes, an exception or SIGTERM leaves nothing behind.

    Of several processes the first one leads: it alone holds the run folder and publishes. What the
    others write into their ``output`` is thrown away.

    Raises:
        UserError: the number of processes is not the configured one; the tracker is not installed;
            an input folder is missing or corrupt; an external file is missing; another process
            works in the run folder.
    """
    links = chain.links_of(name, config)
    chain.section_values(name, config)
    require_tracker(config.tracker)
    _check_world_size(name, config, int(os.environ.get("WORLD_SIZE", "1")))
    started = datetime.now(UTC)
    keep_freed_memory()
    reset_peak_memory()
    if _rank() > 0:
        inputs = _checked_inputs(links, config, run_folder, every_byte=False)
        with tempfile.TemporaryDirectory() as scratch, sigterm_exits():
            stage = StageContext(links, config, run_folder, Path(scratch), inputs)
            seed_generators(stage.seed)
            yield stage
            stage.close()
        return
    with run_lock(run_folder), sigterm_exits():
        inputs = _checked_inputs(links, config, run_folder)
        if links.reads:  # a first stage leaves no trace unless it succeeds
            save_config(config, run_folder)
        final = run_folder / links.folder
        temporary = temporary_folder(final)
        stage = StageContext(links, config, run_folder, temporary, inputs)
        seed_generators(stage.seed)
        try:
            yield stage
            stage.close()
            publish(temporary, final, stage.identity, stage.work_record(started))
            save_config(config, run_folder)
            for folder in stage.checkpoints_folder.parent.glob(f"{name}*"):
                if folder.name == name or folder.name.startswith(f"{name}-"):
                    shutil.rmtree(folder, ignore_errors=True)
        finally:
            stage.close()
            shutil.rmtree(temporary, ignore_errors=True)


def save_config(config: RunConfig, run_folder: Path) -> None:
    """Keeps the last config beside the stages' folders: a run folder can be named as a config."""
    write_config(config, run_folder / CONFIG_FILE)


def write_config(config: RunConfig, path: Path) -> None:
    """Writes a config as JSON, readable by its owner only: a store's URL may hold a password."""
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(config.model_dump_json(indent=1) + "\n")
    unfinished.replace(path)


def derive_seed(seed: int, name: str) -> int:
    """A seed below 2**31 for one purpose, such as a stage, drawn from the run's seed."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:4]) & 0x7FFF_FFFF


def seed_generators(seed: int) -> None:
    """Seeds Python's generator, and NumPy's and torch's where they are loaded."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def names_hub(config: RunConfig) -> bool:
    """Whether the config itself asks for something from the Hugging Face hub."""
    base = config.import_base
    return bool(base and base.hub_id) or chain.names_hub_dataset(config)


# --- parts of open_stage ------------------------------------------------------------------------


def _rank() -> int:
    """The number of this process among those of the stage; 0 leads."""
    return int(os.environ.get("RANK", "0"))


def _check_world_size(stage: str, config: RunConfig, world_size: int) -> None:
    asked = chain.processes_of(stage, config)
    if world_size == asked:
        return
    if asked == 1:
        problem = f"the stage {stage} runs in one process with this config, got {world_size}."
        fix = f"start it with python -m stages.{stage}."
        if stage in chain.PARALLEL_STAGES:
            fix = f"set processes={world_size}."
        raise UserError("processes", problem, fix)
    raise UserError(
        "processes",
        f"the config asks for {asked}, got {world_size} (accelerate launch --cpu starts one "
        "process whatever --num_processes says).",
        f"use align run, start it with torchrun --nproc_per_node {asked} -m stages.{stage} …, "
        f"or set processes={world_size}.",
    )


def _checked_inputs(
    links: chain.StageLinks, config: RunConfig, run_folder: Path, every_byte: bool = True
) -> dict[str, str]:
    """The hash of each input, after every byte of it was checked: the leader does it for all."""
    inputs: dict[str, str] = {}
    for folder in links.reads:
        path = run_folder / folder
        maker = chain.maker_of(folder, config)
        if not path.exists():
            problem = f"is missing, and {links.stage} reads it."
            raise UserError(path, problem, f"run the stage {maker} first, or use align run.")
        problem = verify(path) if every_byte else None
        manifest = read_manifest(path)
        if problem is not None or manifest is None:
            raise corrupt_folder(path, problem or "manifest.json is damaged", maker)
        inputs[folder] = manifest.content
    missing = chain.missing_file(links.stage, config)
    if missing is not None:
        name, file = missing
        raise UserError(file, f"is missing ({name}).", "check the path and data_root.")
    for name, file in chain.external_files(links.stage, config).items():
        inputs[name] = file_sha256(file)
    return inputs


def corrupt_folder(folder: Path, problem: str, maker: str) -> UserError:
    """The error for a published folder that does not verify."""
    return UserError(
        folder,
        f"is corrupt: {problem}.",
        f"rebuild it with align run CONFIG --from {maker}, or delete the folder.",
    )
