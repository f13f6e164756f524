"""A stage's metrics in TensorBoard's own files, read by TensorBoard."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.stage_context import open_stage
from pipeline.tracking import FOLDER, require_tracker


def make_config(tracker: str | None) -> RunConfig:
    values: dict[str, Any] = {"data": {"tinyworld": {}}, "pretrain": {}, "tracker": tracker}
    return RunConfig.model_validate(values)


@pytest.mark.parametrize("tracker", [None, "tensorboard"])
def test_every_number_of_the_metrics_file_is_tracked(tmp_path: Path, tracker: str | None) -> None:
    run_folder = tmp_path / "run"
    with open_stage("data", make_config(tracker), run_folder) as stage:
        stage.log(1, **{"objective/kl": 0.5, "text": "a sample", "loss": math.nan})
        stage.log(2, **{"objective/kl": 0.25})
    rows = [
        json.loads(line)
        for line in (run_folder / "data" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [row["objective/kl"] for row in rows] == [0.5, 0.25]
    folder = run_folder / FOLDER / "data"
    assert folder.exists() == (tracker is not None)
    if tracker is not None:
        events = EventAccumulator(str(folder)).Reload()
        assert events.Tags()["scalars"] == ["objective/kl"]
        found = [(event.step, event.value) for event in events.Scalars("objective/kl")]
        assert found == [(1, 0.5), (2, 0.25)]


def test_a_tracker_that_is_not_installed_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with (
        pytest.raises(UserError, match=r"tracker: wandb is not installed\. Fix: pip install wandb"),
        open_stage("data", make_config("wandb"), tmp_path / "run"),
    ):
        raise AssertionError("the stage began")
    assert not (tmp_path / "run" / "data").exists()
    require_tracker(None)
