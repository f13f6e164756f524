"""The commands as a user starts them: quick where nothing runs, one line for every mistake."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import UserError
from stages.__main__ import main
from stages.cli import guarded

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "gradio", "trl", "datasets", "sqlalchemy", "matplotlib")
CONFIG = """
data:
  tinyworld:
    {documents: 60, demonstrations: 6, label_prompts: 6, ppo_prompts: 6, heldout_prompts: 6}
pretrain: {}
"""
FILES = """
data_root: root
data:
  corpus:
  - {name: a, path: a.jsonl, proportion: 1}
  instructions: {path: i.jsonl, prompt_columns: [q], response_column: a}
pretrain: {}
label: {judge: overlap}
compare: {judge: overlap}
"""


def command(*arguments: str, cwd: Path, module: str = "stages") -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        env=environment | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A working directory with two configs and good sources."""
    (tmp_path / "x.yaml").write_text(CONFIG)
    (tmp_path / "files.yaml").write_text(FILES)
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.jsonl").write_text('{"id": "1", "text": "x"}\n{"id": "2", "text": "y"}\n')
    rows = [json.dumps({"q": f"Q{i}", "a": f"A{i}"}) for i in range(120)]
    (root / "i.jsonl").write_text("\n".join(rows))
    return tmp_path


Command = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def here(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """``align`` in this process: the exit code, and the lines on stderr."""
    monkeypatch.chdir(work)

    def run(*arguments: str) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["align", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        sys.stdout.write(captured.out)  # for a test that wants it
        return int(end.value.code or 0), captured.err.splitlines()

    return run


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("arguments", [["--help"], ["validate", "x.yaml"], ["status", "x.yaml"]])
def test_quick_commands_load_nothing_heavy_and_write_nothing(
    work: Path, arguments: list[str]
) -> None:
    before = files_of(work)
    program = (
        "import sys; from stages.__main__ import main\n"
        "try: main()\nexcept SystemExit as end: assert end.code == 0, end.code\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.stdout.splitlines()[-1] == "HEAVY []", result.stdout + result.stderr
    assert len(result.stdout.splitlines()) > 1
    assert files_of(work) == before


def test_a_stage_alone_and_the_chain_agree_on_what_is_done(work: Path) -> None:
    alone = command("x.yaml", "seed=3", cwd=work, module="stages.data")
    assert (alone.returncode, alone.stderr) == (0, "")
    run = command("run", "x.yaml", "seed=3", "--until", "data", cwd=work)
    assert (run.returncode, run.stdout, run.stderr) == (0, "data        fresh\n", "")
    for name in ("x.yaml", "runs/x"):
        status = command("status", name, *(["seed=3"] if name == "x.yaml" else []), cwd=work)
        assert re.search(r"data +│ fresh", status.stdout), status.stdout
        assert re.search(r"ppo +│ missing", status.stdout)
    changed = command("run", "x.yaml", "seed=4", "--until", "data", cwd=work).stdout.splitlines()
    assert changed[0] == "data        stale: seed changed from 3 to 4, running …"
    assert re.fullmatch(r"data        ran in \d+ s", changed[-1])


def test_a_run_folder_s_config_can_be_named_instead(work: Path) -> None:
    command("run", "x.yaml", "seed=3", "--until", "data", cwd=work)
    again = command("run", "runs/x/config.json", "--until", "data", cwd=work)
    assert (again.returncode, again.stdout) == (0, "data        fresh\n"), again.stderr


def broken(root: Path, name: str, content: str | bytes | None) -> None:
    (root / name).unlink()
    if content is not None:
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", None, "root/a.jsonl: is missing"),
        ("a.jsonl", "", "root/a.jsonl: holds no documents"),
        ("a.jsonl", '{"text": "x"}\nnonsense\n', "a.jsonl:2: not valid JSON"),
        ("i.jsonl", '{"q": "Q", "a": "A"}\n{"q": "Q", "a": ""}\n', "i.jsonl:2: the response is"),
        ("i.jsonl", b"\xff\xfe", "root/i.jsonl: is not UTF-8"),
        ("i.jsonl", '{"question": "Q"}\n', "i.jsonl:1: there is no column 'q'"),
    ],
)
def test_a_bad_source_gives_one_line_and_nothing_half_written(
    work: Path, here: Command, name: str, content: str | bytes | None, words: str
) -> None:
    broken(work / "root", name, content)
    before = files_of(work)
    code, lines = here("run", "files.yaml")
    assert (code, len(lines)) == (2, 1), lines
    assert words in lines[0]
    assert " Fix: " in lines[0]
    assert files_of(work) == before


def test_a_stage_alone_refuses_a_bad_source_in_the_same_words(work: Path, here: Command) -> None:
    broken(work / "root", "a.jsonl", '{"text": "x"}\nnonsense\n')
    before = files_of(work)
    results = [
        command("files.yaml", cwd=work, module="stages.data"),
        command("run", "files.yaml", cwd=work),
    ]
    for result in results:
        assert (result.returncode, result.stderr) == (2, here("run", "files.yaml")[1][0] + "\n")
    assert files_of(work) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "none.yaml"], "none.yaml: cannot be read"),
        (["run", "x.yaml", "sft.learning_rat=1"], "x.yaml: sft.learning_rat: is no known key"),
        (["validate", "x.yaml", "ppo.batch_size=0"], "x.yaml: ppo.batch_size: should be greater"),
        (["validate", "files.yaml", "data_root=elsewhere"], "elsewhere/a.jsonl: is missing"),
        (["status", "."], ".: is no run folder"),
        (["run", "x.yaml", "--from", "nowhere"], "--from: nowhere is no stage"),
        (["run", "x.yaml", "--from", "sft"], "data: is missing, and --from sft starts after it"),
        (["run"], "command line: Missing argument 'CONFIG'"),
        (["run", "x.yaml", "--unknown"], "command line: No such option: --unknown"),
        (["fly"], "command line: No such command 'fly'"),
        (["chat", "nowhere"], "nowhere: is no model folder"),
    ],
)
def test_a_mistake_gives_one_line_and_exit_code_2(
    work: Path, here: Command, arguments: list[str], words: str
) -> None:
    before = files_of(work)
    code, lines = here(*arguments)
    assert (code, len(lines)) == (2, 1), lines
    assert words in lines[0]
    assert files_of(work) == before


def test_a_mistake_gives_one_line_in_a_process_of_its_own(work: Path) -> None:
    result = command("run", "x.yaml", "sft.learning_rat=1", cwd=work)
    assert (result.returncode, result.stdout) == (2, "")
    expected = "x.yaml: sft.learning_rat: is no known key. Fix: did you mean sft.learning_rate?\n"
    assert result.stderr == expected


def test_a_corrupt_folder_stops_a_run_and_from_rebuilds_it(
    work: Path, here: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    here("run", "x.yaml", "--until", "data")
    path = work / "runs" / "x" / "data" / "prompts.jsonl"
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    code, lines = here("run", "x.yaml")
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith("runs/x/data: is corrupt: prompts.jsonl differs from what was")
    here("status", "x.yaml")
    assert re.search(r"data +│ corrupt +│ prompts.jsonl", capsys.readouterr().out)
    assert here("run", "x.yaml", "--from", "data", "--until", "data") == (0, [])
    assert path.read_bytes() == whole


def test_debug_shows_the_traceback(here: Command) -> None:
    code, lines = here("run", "none.yaml", "--debug")
    assert code == 2
    assert "Traceback (most recent call last):" in lines


def test_a_defect_is_not_passed_off_as_a_mistake_of_the_user() -> None:
    def defect() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        guarded(defect, [])


def test_errors_of_the_machine_and_of_the_user_are_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device", "runs/x")

    def wrong() -> None:
        raise UserError("a", "b\nc.", "d.")

    def stopped() -> None:
        raise KeyboardInterrupt

    assert [guarded(full, []), guarded(wrong, []), guarded(stopped, [])] == [2, 2, 130]
    assert capsys.readouterr().err.splitlines() == [
        "runs/x: No space left on device. Fix: free some space or check the permissions.",
        "a: b c. Fix: d.",
        "stopped",
    ]


def test_the_hub_is_closed_unless_the_config_names_a_hub_id(work: Path) -> None:
    (work / "hub.yaml").write_text("data: {tinyworld: {}}\nimport_base: {hub_id: gpt2}\n")
    program = (
        "import os, sys; from pathlib import Path; from stages.cli import read_config\n"
        "read_config(Path(sys.argv[1]), [])\n"
        "print(*(os.environ.get(n) for n in ('HF_HUB_OFFLINE', 'HF_HUB_DISABLE_TELEMETRY')))"
    )
    environment = {name: text for name, text in os.environ.items() if not name.startswith("HF_")}
    for config, preset, expected in (
        ("x.yaml", {}, "1 1"),
        ("hub.yaml", {}, "None 1"),
        ("hub.yaml", {"HF_HUB_OFFLINE": "1"}, "1 1"),
    ):
        result = subprocess.run(
            [sys.executable, "-c", program, config],
            cwd=work,
            env=environment | {"PYTHONPATH": str(ROOT)} | preset,
            capture_output=True,
            text=True,
        )
        assert result.stdout.strip() == expected, result.stderr


@pytest.mark.parametrize(("processes", "tears_down"), [(1, True), (2, False)])
def test_one_of_several_processes_leaves_without_tearing_down(
    tmp_path: Path, processes: int, tears_down: bool
) -> None:
    code = (
        "import atexit; atexit.register(print, 'torn down'); "
        "from stages.cli import stage_main; stage_main('sft')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "missing.yaml"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "WORLD_SIZE": str(processes)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert "missing.yaml" in result.stderr
    assert ("torn down" in result.stdout) == tears_down
