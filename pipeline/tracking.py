"""A second place for metrics, where the config names one; ``metrics.jsonl`` is written always."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

FOLDER = ".tracking"  # of a run; TensorBoard's files are below it


def require_tracker(name: str | None) -> None:
    """Raises UserError where the package of the tracker is not installed."""
    if name is not None and importlib.util.find_spec(name) is None:
        raise UserError("tracker", f"{name} is not installed.", f"pip install {name}")


class Tracker:
    """A stage's metrics in TensorBoard, trackio or Weights & Biases, through Accelerate's classes.

    The run is the project, the stage is the run in it. Steps and names are those of
    ``metrics.jsonl``; what is no finite number is left out.

    Args:
        settings: the stage's section, shown with the run where the tracker has a place for it.
    """

    def __init__(
        self, name: str, run_folder: Path, stage: str, settings: Mapping[str, Any]
    ) -> None:
        import torch
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState(cpu=not torch.cuda.is_available())  # it will not log a word without one
        kind: Any = LOGGER_TYPE_TO_CLASS[name]
        if name == "tensorboard":
            self._tracker: GeneralTracker = kind(stage, logging_dir=run_folder / FOLDER)
        else:
            self._tracker = kind(run_folder.name, name=stage, config=dict(settings))
        self._tracker.main_process_only = False  # it is only made where the stage leads
        self._tracker.start()

    def log(self, step: int, metrics: Mapping[str, float | str]) -> None:
        """Adds the numbers of a step."""
        numbers = {
            name: float(value)
            for name, value in metrics.items()
            if not isinstance(value, str) and math.isfinite(value)
        }
        self._tracker.log(numbers, step=step)

    def close(self) -> None:
        """Writes what is left."""
        self._tracker.finish()
