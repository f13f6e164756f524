"""The frame of a stage: inputs checked before any work, output published whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from pipeline import precision as precision_module
from pipeline.artifacts import read_manifest, verify
from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.precision import forget_accelerate
from pipeline.stage_context import derive_seed, names_hub, open_stage

ROOT = Path(__file__).parents[2]


def make_config(**changes: object) -> RunConfig:
    return RunConfig.model_validate({"data": {"tinyworld": {}}, "pretrain": {}} | changes)


CONFIG = make_config(name="x")


def write_stage(run: Path, name: str = "data", text: str = "text", config: RunConfig = CONFIG):
    with open_stage(name, config, run) as stage:
        (stage.output / "file.txt").write_text(text)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_a_clean_exit_publishes_a_whole_folder(run: Path) -> None:
    write_stage(run)
    assert verify(run / "data") is None
    manifest = read_manifest(run / "data")
    assert manifest is not None
    assert (manifest.stage, manifest.seed, manifest.inputs) == ("data", 0, {})
    assert manifest.peak_memory_bytes > 10_000_000
    assert manifest.section == CONFIG.data.model_dump(mode="json")
    packages = manifest.environment["packages"]
    assert isinstance(packages, dict)
    assert packages["torch"] == torch.__version__
    assert sorted(path.name for path in run.iterdir()) == [".lock", "config.json", "data"]
    assert RunConfig.model_validate_json((run / "config.json").read_text()) == CONFIG


def test_the_manifest_names_no_place_host_user_or_password(run: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "texts"
    corpus.mkdir()
    (corpus / "a.txt").write_text("text")
    (corpus / "i.jsonl").write_text('{"p": "x", "r": "y"}\n')
    config = make_config(
        data_root=str(corpus),
        data={
            "corpus": [{"name": "a", "path": "a.txt", "proportion": 1.0}],
            "instructions": {"path": "i.jsonl", "prompt_columns": ["p"], "response_column": "r"},
        },
        label={"database": "postgresql://ann:secret@host/labels"},
    )
    write_stage(run, config=config)
    write_stage(run, "pretrain", config=config)
    write_stage(run, "sft", config=config)
    write_stage(run, "sample", config=config)
    write_stage(run, "label", config=config)
    for folder in ("data", "base", "labels"):
        text = (run / folder / "manifest.json").read_text()
        for secret in (str(tmp_path), str(Path.home()), os.uname().nodename, "secret", "ann:"):
            assert secret not in text
    manifest = read_manifest(run / "data")
    assert manifest is not None
    assert manifest.inputs["corpus/a"] == hashlib.sha256(b"text").hexdigest()


def test_inputs_are_the_content_of_the_folders_read(run: Path) -> None:
    write_stage(run)
    with open_stage("pretrain", CONFIG, run) as stage:
        assert (stage.input("data") / "file.txt").read_text() == "text"
        assert stage.section is CONFIG.pretrain
        with pytest.raises(KeyError, match="does not declare"):
            stage.input("sft")
        stage.record_input("store", "abc")
    data, base = read_manifest(run / "data"), read_manifest(run / "base")
    assert data is not None
    assert base is not None
    assert base.inputs == {"data": data.content, "store": "abc"}


def test_an_exception_leaves_the_older_folder_and_nothing_else(run: Path) -> None:
    def fail_half_way() -> None:
        with open_stage("data", CONFIG, run) as stage:
            (stage.output / "file.txt").write_text("half")
            raise ZeroDivisionError

    write_stage(run, text="old")
    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert (run / "data" / "file.txt").read_text() == "old"
    assert sorted(path.name for path in run.iterdir()) == [".lock", "config.json", "data"]


def test_a_first_stage_that_fails_leaves_no_run_folder(run: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_stage("data", CONFIG, run):
        _ = 1 / 0
    assert not run.exists()


def test_sigterm_removes_what_is_half_written(run: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from pipeline.config import RunConfig; from pipeline.stage_context import open_stage\n"
        f"config = RunConfig.model_validate_json({CONFIG.model_dump_json()!r})\n"
        "with open_stage('data', config, Path(sys.argv[1])) as stage:\n"
        "    (stage.output / 'half').touch(); print('working', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, run],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 128 + signal.SIGTERM
    assert not run.exists()


def test_a_missing_or_corrupt_input_is_refused_before_any_work(run: Path) -> None:
    def refusal() -> str:
        with pytest.raises(UserError) as caught, open_stage("pretrain", CONFIG, run):
            pytest.fail("the stage was entered")
        return str(caught.value)

    assert refusal() == (
        f"{run}/data: is missing, and pretrain reads it. "
        "Fix: run the stage data first, or use align run."
    )
    write_stage(run)
    (run / "data" / "file.txt").write_text("tExt")
    assert "file.txt differs from what was published" in refusal()
    assert "--from data" in refusal()
    shutil.rmtree(run / "data")
    (run / "data").mkdir()
    assert "manifest.json is missing" in refusal()


def test_external_files_must_be_there_and_relative(run: Path, tmp_path: Path) -> None:
    for path, words in (("none.jsonl", "none.jsonl: is missing"), ("/abs", "relative")):
        source = {"path": path, "prompt_columns": ["p"], "response_column": "r"}
        config = make_config(
            data={"instructions": source},
            pretrain=None,
            import_base={"path": "x"},
            data_root=str(tmp_path),
        )
        with pytest.raises(UserError, match=words), open_stage("data", config, run):
            pass


def test_a_stage_whose_section_is_absent_is_refused(run: Path) -> None:
    with (
        pytest.raises(UserError, match="run pretrain instead"),
        open_stage("import_base", CONFIG, run),
    ):
        pass


@pytest.mark.parametrize(
    ("stage", "started", "asked", "words"),
    [
        ("pretrain", 2, 1, "runs in one process with this config, got 2. Fix: set processes=2"),
        ("pretrain", 1, 2, "asks for 2, got 1 .*--cpu .*torchrun --nproc_per_node 2"),
        ("data", 2, 2, "data runs in one process .*python -m stages.data"),
    ],
)
def test_another_number_of_processes_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, stage: str, started: int, asked: int, words: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(started))
    with (
        pytest.raises(UserError, match=words),
        open_stage(stage, make_config(processes=asked), run),
    ):
        pass


def test_only_the_leader_of_several_processes_publishes(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stage(run)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    before = sorted(run.rglob("*"))
    with open_stage("pretrain", make_config(name="x", processes=2), run) as stage:
        assert not stage.is_leader
        (stage.output / "file.txt").write_text("thrown away")
        stage.log(1, loss=1.0)
        follower = stage
    assert sorted(run.rglob("*")) == before
    assert not follower.output.exists()
    monkeypatch.setenv("RANK", "0")
    with open_stage("pretrain", make_config(name="x", processes=2), run) as stage:
        assert stage.is_leader
        assert stage.seed == follower.seed
        assert stage.identity.key == follower.identity.key
    assert verify(run / "base") is None


def test_checkpoints_go_when_the_stage_has_published_and_stay_when_it_failed(run: Path) -> None:
    write_stage(run)
    with suppress(RuntimeError), open_stage("pretrain", CONFIG, run) as stage:
        stage.checkpoints.save(3, {"a": torch.zeros(1)}, {})
        raise RuntimeError
    assert stage.checkpoints_folder.exists()
    with open_stage("pretrain", make_config(name="x", seed=1), run) as stage:
        assert stage.checkpoints.latest() is None
        stage.checkpoints.save(4, {"a": torch.zeros(1)}, {})
    assert not stage.checkpoints_folder.exists()


def test_the_time_of_resumed_work_goes_on(run: Path) -> None:
    write_stage(run)
    with open_stage("pretrain", CONFIG, run) as stage:
        (stage.output / "metrics.jsonl").write_text('{"step": 1, "seconds": 100.0}\n')
        stage.log(2, loss=1.0)
        assert 100 <= stage.elapsed_seconds < 200
    rows = (run / "base" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2]
    assert 100 <= json.loads(rows[1])["seconds"] < 200


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux counts by process")
def test_the_peak_of_memory_is_the_stages_own(run: Path) -> None:
    def peak(config: RunConfig) -> int:
        write_stage(run, config=config)
        manifest = read_manifest(run / "data")
        assert manifest is not None
        return manifest.peak_memory_bytes

    before = peak(CONFIG)
    with open_stage("data", make_config(seed=1), run):
        large = np.ones(300_000_000, dtype=np.uint8)
        del large
    manifest = read_manifest(run / "data")
    assert manifest is not None
    assert manifest.peak_memory_bytes > before + 200_000_000
    assert peak(make_config(seed=2)) < before + 200_000_000


def test_every_stage_starts_from_random_numbers_of_its_own(run: Path) -> None:
    def draws(config: RunConfig, name: str = "data") -> tuple[float, float, float]:
        with open_stage(name, config, run):
            return random.random(), float(np.random.rand()), float(torch.rand(()))

    first = draws(CONFIG)
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    assert draws(CONFIG) == first
    assert not set(first) & set(draws(make_config(seed=1)))
    assert not set(first) & set(draws(CONFIG, "pretrain"))
    seeds = {derive_seed(seed, name) for seed in range(50) for name in ("sft", "ppo")}
    assert len(seeds) == 100
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_metrics_are_json_lines_even_when_a_number_is_none(run: Path) -> None:
    with open_stage("data", CONFIG, run) as stage:
        stage.log(0, loss=2.5)
        stage.log(1, loss=float("nan"), kl=float("inf"))
    lines = (run / "data" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in rows] == [
        {"step": 0, "loss": 2.5},
        {"step": 1, "loss": None, "kl": None},
    ]
    assert 0 <= rows[0]["seconds"] <= rows[1]["seconds"]


@pytest.mark.parametrize(
    ("precision", "native", "dtype"),
    [
        ("fp32", True, torch.float32),
        ("bf16", False, torch.bfloat16),
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
    ],
)
def test_autocast_follows_the_configured_precision(
    run: Path, monkeypatch: pytest.MonkeyPatch, precision: str, native: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(precision_module, "has_native_bf16", lambda device: native)
    with open_stage("data", make_config(precision=precision), run) as stage:
        ones = torch.ones(2, 2, device=stage.device)
        with stage.autocast():
            assert (ones @ ones).dtype == dtype
        assert (ones @ ones).dtype == torch.float32
    manifest = read_manifest(run / "data")
    assert manifest is not None
    assert manifest.environment["precision"] == ("bf16" if dtype == torch.bfloat16 else "fp32")


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="no /proc/cpuinfo on this system")
def test_native_bf16_on_a_cpu_is_what_the_kernel_says() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    expected = "avx512_bf16" in flags or "amx_bf16" in flags
    assert precision_module.has_native_bf16(torch.device("cpu")) == expected


def test_the_accelerator_is_on_the_device_and_leaves_precision_to_autocast(run: Path) -> None:
    forget_accelerate()
    Accelerator(cpu=True, mixed_precision="bf16")  # as an earlier stage's library may leave it
    with open_stage("data", make_config(precision="bf16"), run) as stage:
        assert stage.accelerator.mixed_precision == "no"
        assert stage.accelerator.device.type == stage.device.type
        assert stage.accelerator.step_scheduler_with_optimizer is False
    forget_accelerate()
    assert Accelerator(cpu=True, mixed_precision="bf16").mixed_precision == "bf16"
    forget_accelerate()


def test_only_a_config_that_names_a_hub_id_uses_the_hub() -> None:
    instructions = {"dataset": "a/b", "prompt_columns": ["p"], "response_column": "r"}
    base = {"pretrain": None}
    assert not names_hub(CONFIG)
    assert not names_hub(make_config(**base, import_base={"path": "gpt2"}))
    assert names_hub(make_config(**base, import_base={"hub_id": "gpt2"}))
    assert names_hub(
        make_config(**base, import_base={"path": "x"}, data={"instructions": instructions})
    )
