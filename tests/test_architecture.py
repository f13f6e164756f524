"""The shape of the project: who may import whom, one word per stage, small files."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.chain import STAGES, stage_version
from pipeline.config import RunConfig

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "stages", "labeling_ui")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
FORBIDDEN_NAMES = {"utils.py", "common.py", "helpers.py", "util.py", "helper.py", "misc.py"}
MOST_LINES = 400
# What stages and the application may import from outside the library.
STAGES_MAY = {
    f"labeling_ui.{name}"
    for name in ("store", "desk", "tasks", "accounts", "content", "exports", "judgments", "serve")
}
APPLICATION_MAY = {"config", "label_config", "records", "artifacts", "preferences", "errors"}
APPLICATION_MAY |= {"judgments", "label_intervals", "label_agreement", "labeler_report"}
APPLICATION_MAY |= {"label_drift", "label_quality", "label_spread", "preference_sources"}
WITHOUT_TORCH = (
    "pipeline.config",
    "pipeline.config_file",
    "pipeline.records",
    "pipeline.artifacts",
    "pipeline.preferences",
    "pipeline.judges",
    "pipeline.tinyworld",
    "labeling_ui.store",
    "labeling_ui.desk",
    "labeling_ui.serve",
)
HUB_LIBRARIES = {"torch", "transformers", "datasets", "huggingface_hub", "trl", "accelerate"}


def imports(path: Path) -> set[str]:
    """The modules that a file imports anywhere in it; of ``from a import b`` both a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {str(node.module)} | {f"{node.module}.{name.name}" for name in node.names}
    return found


def top_level_imports(path: Path) -> set[str]:
    """The packages that a file imports as it is loaded."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    nodes = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [
        str(node.module) if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in nodes
    ]
    return {name.partition(".")[0] for name in names}


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=named)
def test_imports_point_in_one_direction(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    of_project = {name for name in imports(path) if name.partition(".")[0] in PACKAGES}
    if package == "pipeline":
        assert not {name for name in of_project if not name.startswith("pipeline")}
    elif package == "stages":
        outside = {name for name in of_project if name.startswith("labeling_ui.")}
        assert {".".join(name.split(".")[:2]) for name in outside} <= STAGES_MAY
    else:
        assert not {name for name in of_project if name.startswith("stages")}
        library = {name.split(".")[1] for name in of_project if name.startswith("pipeline.")}
        assert library <= APPLICATION_MAY


def test_what_needs_no_torch_loads_none() -> None:
    program = (
        "import importlib, sys\n"
        f"for name in {WITHOUT_TORCH!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert not {'torch', 'transformers'} & set(sys.modules), name\n"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_stage_is_one_word_in_four_places() -> None:
    for stage in STAGES:
        assert (ROOT / "stages" / f"{stage}.py").is_file()
        assert (ROOT / "tests" / "stages" / f"test_{stage}.py").is_file()
        assert stage in RunConfig.model_fields
        section = "PPOConfig" if stage == "ppo" else stage.title().replace("_", "") + "Section"
        assert section in repr(RunConfig.model_fields[stage].annotation)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_a_version_a_run_function_and_its_two_launch_lines(stage: str) -> None:
    tree = ast.parse((ROOT / "stages" / f"{stage}.py").read_text(encoding="utf-8"))
    assert stage_version(stage) >= 1
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    arguments = [(a.arg, ast.unparse(a.annotation or a)) for a in functions["run"].args.args]
    assert arguments == [("config", "RunConfig"), ("run_folder", "Path")]
    docstring = ast.get_docstring(tree) or ""
    assert f"python -m stages.{stage} " in docstring
    assert f"accelerate launch -m stages.{stage} " in docstring
    assert f"stage_main('{stage}')" in ast.unparse(tree.body[-1])


@pytest.mark.parametrize("stage", ["data", "import_base"])
def test_stages_that_may_use_the_hub_load_its_libraries_late(stage: str) -> None:
    """They are loaded before the config is read otherwise, and read their switches too early."""
    assert not top_level_imports(ROOT / "stages" / f"{stage}.py") & HUB_LIBRARIES


@pytest.mark.parametrize("path", FILES, ids=named)
def test_files_are_small_and_named_for_what_they_hold(path: Path) -> None:
    assert path.name not in FORBIDDEN_NAMES
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    assert not [
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Manager")
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "pipeline").rglob("*.py")), ids=named)
def test_the_library_neither_prints_nor_reads_the_command_line(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not imports(path) & {"argparse", "typer", "click"}
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert "print" not in called
    assert "sys.argv" not in {
        ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)
    }


def test_tests_have_no_packages() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))
