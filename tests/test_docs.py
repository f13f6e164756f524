"""The documents against the code: what they name exists, and what exists is named.

Each check is a function from a text to its faults, so that the last test can hold it against a
text that is stale.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main
from pydantic import BaseModel

from pipeline import records
from pipeline.chain import TABLE
from pipeline.config import RunConfig
from pipeline.config_file import load_config
from pipeline.errors import UserError
from stages.__main__ import app

ROOT = Path(__file__).parents[1]
ARCHITECTURE = "pipeline/README.md"
DOCS = (
    "README.md",
    ARCHITECTURE,
    "docs/from_scratch.md",
    "docs/ppo.md",
    "docs/labeling.md",
    "docs/labeling_walkthrough.md",
)
PACKAGES = ("pipeline", "stages", "labeling_ui", "benchmarks")
FOLDERS = (*PACKAGES, "configs", "tests", "docs", ".ci")
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
LARGEST_IMAGE_BYTES = 400_000

# A command's placeholders: CONFIG, NAME, key=value, a.b=…, and [optional] brackets.
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*|key=value|section\.key=value|…|\.\.\.")
OVERRIDE = re.compile(r"[a-z_]+(\.\w+)*=\S+")
UNFINISHED = re.compile(r"\b(TODO|TBD|FIXME|[A-Z]+_BLOCK)\b")


def read(doc: str) -> str:
    path = ROOT / doc
    assert path.is_file(), f"{doc} is missing"
    return path.read_text(encoding="utf-8")


# --- parts of a document --------------------------------------------------------------------------


def fenced_blocks(text: str) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def without_blocks(text: str) -> str:
    return re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def code_spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", without_blocks(text))


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command in fenced blocks and code spans, its program's folder left out."""
    blocks = "\n".join(fenced_blocks(text)).replace("\\\n", " ")
    for line in [*blocks.splitlines(), *code_spans(text)]:
        for part in re.split(r"&&|;|\s\|\s", line.removeprefix("$ ")):
            try:
                words = shlex.split(part.translate(str.maketrans("[]", "  ")), comments=True)
            except ValueError:  # prose with an apostrophe
                continue
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words.pop(0)  # a variable of the environment
            if words:
                yield [words[0].rpartition("/")[2], *words[1:]]


def tree_paths(text: str) -> Iterator[str]:
    """The paths of the file trees: fenced lines of ``name  description``, nested by two spaces."""
    for block in fenced_blocks(text):
        entries = re.findall(r"^( *)([\w.][\w./-]*)(?: {2,}\S.*)?$", block, flags=re.MULTILINE)
        if not entries or entries[0][0] or entries[0][1].partition("/")[0] not in FOLDERS:
            continue
        parents: list[str] = []
        for indent, name in entries:
            parents = [*parents[: len(indent) // 2], name.rstrip("/")]
            yield "/".join(parents) + ("/" if name.endswith("/") else "")


def table_rows(text: str) -> Iterator[list[str]]:
    for line in without_blocks(text).splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in line.strip("| ").split(" | ")]


def in_code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# --- the faults of a document ---------------------------------------------------------------------


def align_faults(text: str) -> Iterator[str]:
    known: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
    for program, *words in commands(text):
        if program != "align" or not words or words[0] == "--help":
            continue
        subcommand, *arguments = words
        if subcommand not in known:
            yield f"align has no command {subcommand}"
            continue
        command = known[subcommand]
        below: dict[str, Any] = vars(command).get("commands", {})
        if below and arguments:
            subcommand = f"{subcommand} {arguments[0]}"
            for name in arguments.pop(0).split("|"):
                if name not in below:
                    yield f"align {subcommand} has no command {name}"
                    continue
                command = below[name]
        options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        for word in arguments:
            if word.startswith("--") and word not in {*options, "--help"}:
                yield f"align {subcommand} has no option {word}"
            if word.endswith(".yaml") and not (ROOT / word).is_file():
                yield f"{word} does not exist"


def make_faults(text: str) -> Iterator[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w./-]+):", makefile, flags=re.MULTILINE))
    variables = set(re.findall(r"^([A-Z_]+) \?=", makefile, flags=re.MULTILINE))
    for program, *words in commands(text):
        if program == "make":
            for word in words:
                name, equals, _ = word.partition("=")
                if name not in (variables if equals else targets):
                    yield f"the Makefile has no {name}"


def module_faults(text: str) -> Iterator[str]:
    for program, *words in commands(text):
        if not (program.startswith(("python", "accelerate", "torchrun")) and "-m" in words[:-1]):
            continue
        module, *arguments = words[words.index("-m") + 1 :]
        if PLACEHOLDER.fullmatch(module.rpartition(".")[2]):
            continue
        if module.partition(".")[0] not in PACKAGES:
            if importlib.util.find_spec(module) is None:
                yield f"there is no module {module}"
            continue
        path = ROOT / module.replace(".", "/")
        file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        if not file.is_file():
            yield f"there is no module {module}"
            continue
        source = file.read_text(encoding="utf-8")
        yield from (
            f"{module} has no option {word}"
            for word in arguments
            if module.startswith("benchmarks.") and word.startswith("--") and word not in source
        )


def override_faults(text: str) -> Iterator[str]:
    """Overrides that no config of ours takes: all of a command's together, the others alone."""
    spans = [[span] for span in code_spans(text) if "." in span.partition("=")[0]]
    longer = [words for words in commands(text) if len(words) > 1]
    ours = [words for words in longer if words[0] == "align" or "stages." in " ".join(words)]
    for words in [*ours, *spans]:
        configs = [word for word in words if word.endswith(".yaml")]
        overrides = [w for w in words if OVERRIDE.fullmatch(w) and not PLACEHOLDER.fullmatch(w)]
        paths = [ROOT / config for config in configs if (ROOT / config).is_file()] or CONFIGS
        problems = [problem for path in paths if (problem := refusal(path, overrides))]
        if overrides and len(problems) == len(paths):
            yield problems[0]


def refusal(path: Path, overrides: list[str]) -> str | None:
    try:
        load_config(path, overrides)
    except UserError as error:
        return str(error)
    return None


def key_faults(text: str) -> Iterator[str]:
    """Config keys such as ``label.source`` that no section has."""
    files = (".py", ".yaml", ".json", ".jsonl", ".html", ".db")
    for span in code_spans(text):
        if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", span) and not span.endswith(files):
            first, *rest = span.split(".")
            if first in RunConfig.model_fields and not has_key(RunConfig, [first, *rest]):
                yield f"{span} is no config key"


def has_key(section: type[BaseModel], path: list[str]) -> bool:
    if path[0] not in section.model_fields:
        return False
    annotation = section.model_fields[path[0]].annotation
    candidates = [annotation, *get_args(annotation)]
    inner = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
    return len(path) == 1 or (bool(inner) and has_key(inner[0], path[1:]))


def path_faults(text: str) -> Iterator[str]:
    """Paths in trees and code spans that are not there; NAME stands for any name."""
    spans = [span for span in code_spans(text) if re.fullmatch(r"[\w.*-]+(/[\w.*-]*)+", span)]
    named = [span for span in spans if span.partition("/")[0] in FOLDERS]
    for path in [*tree_paths(text), *named]:
        pattern = re.sub(r"\bNAME\b|(?<=_)NAME\b", "*", path)
        if not any(ROOT.glob(pattern.rstrip("/"))) or (
            path.endswith("/") and not (ROOT / path).is_dir()
        ):
            yield f"{path} does not exist"


def function_faults(text: str) -> Iterator[str]:
    for span in code_spans(text):
        if re.fullmatch(r"[\w.]+\(\)", span) and span[:-2].rpartition(".")[2] not in definitions():
            yield f"{span} is defined nowhere"


@cache
def definitions() -> frozenset[str]:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    return frozenset(n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef))


def link_faults(text: str, folder: Path = ROOT) -> Iterator[str]:
    targets = re.findall(r"\]\(([^)\s]+)[^)]*\)", without_blocks(text))
    for target in [*targets, *re.findall(r'(?:src|srcset|href)="([^"]+)"', text)]:
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (folder / path).resolve() if path else None
        if file is not None and not (file.exists() and file.is_relative_to(ROOT)):
            yield f"{target} leads nowhere"
        elif anchor and anchor not in anchors(file.read_text(encoding="utf-8") if file else text):
            yield f"{target} leads to no heading"


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", without_blocks(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def unfinished_faults(text: str) -> Iterator[str]:
    yield from (f"{found} is to be filled in" for found in UNFINISHED.findall(text))


CHECKS: tuple[Callable[[str], Iterator[str]], ...] = (
    align_faults,
    make_faults,
    module_faults,
    override_faults,
    key_faults,
    path_faults,
    function_faults,
    unfinished_faults,
)


# --- tests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("doc", DOCS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_what_a_document_names_exists(doc: str, check: Callable[[str], Iterator[str]]) -> None:
    assert list(check(read(doc))) == []


@pytest.mark.parametrize("doc", DOCS)
def test_links_and_images_exist(doc: str) -> None:
    assert list(link_faults(read(doc), (ROOT / doc).parent)) == []


def test_images_are_small() -> None:
    suffixes = {".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp"}
    images = [path for path in (ROOT / "docs").rglob("*") if path.suffix in suffixes]
    assert {path.name for path in images if path.stat().st_size > LARGEST_IMAGE_BYTES} == set()


def test_the_readme_names_every_command_target_and_config() -> None:
    text = read("README.md")
    named = {(words[0], words[1]) for words in commands(text) if len(words) > 1}
    assert {("align", name) for name in vars(typer.main.get_command(app))["commands"]} <= named
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.+)$", makefile, flags=re.MULTILINE)
    assert targets is not None
    assert {("make", target) for target in targets[1].split()} <= named
    assert {path.relative_to(ROOT).as_posix() for path in CONFIGS} <= set(code_spans(text))


def test_the_module_map_is_complete() -> None:
    listed = list(tree_paths(read(ARCHITECTURE)))
    assert len(listed) == len(set(listed))
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    modules = {path.relative_to(ROOT).as_posix() for path in files}
    modules = {path for path in modules if not re.search("/migrations/(env|versions/)", path)}
    # A package stands in the map as its folder.
    expected = {path.removesuffix("__init__.py") for path in modules}
    assert expected - set(listed) == set()


def test_the_table_of_stages_is_the_chain() -> None:
    documented = {
        in_code(row[0])[0]: (in_code(row[1]), in_code(row[2]))
        for row in table_rows(read(ARCHITECTURE))
        if len(row) == 4 and in_code(row[0])
    }
    chain = {links.stage: (sorted(links.reads), [f"{links.folder}/"]) for links in TABLE}
    assert {name: (sorted(reads), folder) for name, (reads, folder) in documented.items()} == chain


def test_the_table_of_formats_is_the_records() -> None:
    documented: dict[str, set[str]] = {}
    for row in table_rows(read(ARCHITECTURE)):
        model = in_code(row[1])[0] if len(row) == 3 and in_code(row[1]) else ""
        if isinstance(getattr(records, model, None), type):
            fields = re.findall(r"`(\w+)`(\??)", row[2])
            documented[model] = {name + optional for name, optional in fields}
    expected = {
        model.__name__: {
            name + ("" if field.is_required() else "?")
            for name, field in model.model_fields.items()
        }
        for model in records.Row.__subclasses__()
        if model.__module__ == records.__name__
    }
    assert documented == expected


STALE = (
    (align_faults, "```\n.venv/bin/align sing configs/quickstart.yaml\n```"),
    (align_faults, "```\n$ align run configs/absent.yaml  # a comment\n```"),
    (align_faults, "Use `align run CONFIG [--until S] [--after S]`."),
    (make_faults, "```\nmake lint && make coffee\n```"),
    (make_faults, "`make test PITHON=python3.12`"),
    (module_faults, "```\npython -m stages.absent CONFIG\n```"),
    (module_faults, "`accelerate launch -m stages.absent CONFIG`"),
    (module_faults, "`python -m benchmarks.quickstart --sedes 5`"),
    (module_faults, "`.venv/bin/python -m no_such_module`"),
    (override_faults, "```\nalign run configs/quickstart.yaml ppo.kl_koef=0.1\n```"),
    (override_faults, "```\nalign run configs/quickstart.yaml \\\n  seed=-1\n```"),
    (override_faults, "With `label.source=telepathy` nobody has to type."),
    (key_faults, "The URL in `label.databse` is used."),
    (path_faults, "Touch `pipeline/absent.py`."),
    (path_faults, "Touch `tests/stages/absent_NAME.py`."),
    (path_faults, "```\npipeline/      the library\n  ppo/\n    absent.py    nothing\n```"),
    (function_faults, "It calls `open_stages()`."),
    (link_faults, "See [this](absent.md)."),
    (link_faults, "# Here\n\nSee [this](#there)."),
    (link_faults, "![a picture](docs/images/absent.png)"),
    (unfinished_faults, "RESULT_BLOCK"),
)


@pytest.mark.parametrize(("check", "text"), STALE)
def test_a_stale_text_is_noticed(check: Callable[[str], Iterator[str]], text: str) -> None:
    assert len(list(check(text))) == 1


def test_a_true_text_has_no_faults() -> None:
    text = (
        "Run `make test`, or `align run CONFIG [--from S] [key=value …]`; see `label.source`,\n"
        "`pipeline/ppo/losses.py`, `stages/NAME.py`, `configs/*.yaml` and `open_stage()`.\n"
        "# A heading\n[here](#a-heading), [there](pipeline/README.md), [far](https://example.org)\n"
        "```\nHF_HUB_OFFLINE=1 .venv/bin/align run configs/books.yaml data_root=PATH seed=3\n"
        "python -m stages.sft configs/quickstart.yaml sft.epochs=2\n```\n"
        "```\nstages/      scripts\n  run.py     align run\nconfigs/     runs\n```\n"
    )
    assert [fault for check in (*CHECKS, link_faults) for fault in check(text)] == []
