"""``align labelers`` as it is typed: the link it prints leads in, a mistake is one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from labeling_ui.accounts import Accounts
from labeling_ui.store import open_store

PASSWORD = "correct horse battery"
ROOT = Path(__file__).parents[2]
CONFIG = "data: {tinyworld: {}}\npretrain: {}\nlabel: {source: browser}\n"
HEAVY = ("torch", "transformers", "gradio", "fastapi", "datasets")
PROGRAM = (
    "import sys; from stages.__main__ import main\n"
    "try: main()\n"
    f"finally: print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A directory with a config, whose run has begun."""
    (tmp_path / "demo.yaml").write_text(CONFIG)
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    return tmp_path


def align(work: Path, *arguments: str) -> tuple[int, str, list[str]]:
    """Exit code, what was printed, and the lines on stderr; nothing heavy may be loaded."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, "labelers", *arguments],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    printed, heavy = result.stdout.rsplit("HEAVY ", 1)
    assert heavy == "[]\n"
    return result.returncode, printed, result.stderr.splitlines()


def token_of(printed: str, address: str = "http://127.0.0.1:7860") -> str:
    found = re.search(rf"^ +{re.escape(address)}/invite\?token=([\w-]+)$", printed, re.MULTILINE)
    assert found is not None, printed
    return found[1]


def row_of(printed: str, name: str) -> list[str]:
    """The cells of a labeler's row, without the date and the random pseudonym."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines()]
    row = next(row for row in rows if row[:1] == [name])
    return [row[2], row[3]]


def test_an_account_from_its_invitation_to_its_end(work: Path) -> None:
    code, printed, errors = align(work, "add", "demo.yaml", "ann", "--role", "lead")
    assert (code, errors) == (0, [])
    first = token_of(printed)
    assert row_of(align(work, "list", "demo.yaml")[1], "ann") == ["lead", "no password yet"]
    with closing(open_store(work / "runs" / "demo" / "labels.db")) as store:
        accounts = Accounts(store)
        sid = accounts.choose_password(first, PASSWORD) or ""
        assert accounts.labeler_of(sid) is not None
        assert row_of(align(work, "list", "demo.yaml")[1], "ann") == ["lead", "active"]
        code, printed, _ = align(
            work, "reset", "demo.yaml", "ann", "--url", "https://Labels.example.org/"
        )
        assert code == 0
        assert accounts.labeler_of(sid) is None
        token = token_of(printed, "https://labels.example.org")
        sid = accounts.choose_password(token, PASSWORD) or ""
        assert align(work, "disable", "demo.yaml", "ann")[0] == 0
        assert accounts.labeler_of(sid) is None
        assert row_of(align(work, "list", "demo.yaml")[1], "ann") == ["lead", "disabled"]
        assert accounts.sign_in("ann", PASSWORD, "127.0.0.1") is None
        assert align(work, "enable", "demo.yaml", "ann")[0] == 0
        assert accounts.sign_in("ann", PASSWORD, "127.0.0.1") is not None


def test_names_are_taken_and_shown_as_they_are(work: Path) -> None:
    for name in ("o'Neill", '"; DROP TABLE labeler; --', "[bold]Zoë[/bold]", "名前"):
        assert align(work, "add", "demo.yaml", "--", name)[0] == 0
        code, printed, _ = align(work, "list", "demo.yaml")
        assert code == 0
        assert name in printed


def test_another_database_is_used_where_one_is_given(work: Path) -> None:
    other = "label.database=other.db"
    assert align(work, "add", "demo.yaml", "ann", other)[0] == 0
    assert (work / "other.db").is_file()
    assert not (work / "runs" / "demo" / "labels.db").exists()
    assert "ann" in align(work, "list", "demo.yaml", other)[1]
    assert "ann" not in align(work, "list", "demo.yaml")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "demo.yaml", "ann"], "labeler ann: is there already."),
        (["add", "demo.yaml", "ANN"], "labeler ANN: is there already."),
        (["add", "demo.yaml", "file: ann"], "labeler file: ann: is there already."),
        (["add", "demo.yaml", " "], "labeler: has no name."),
        (["add", "demo.yaml", "x" * 101], "has a name of more than 100 characters"),
        (["add", "demo.yaml", "a\x1b[31m"], "invisible characters"),
        (["add", "demo.yaml", "bob", "--role", "root"], "role: is no role, got 'root'"),
        (["add", "demo.yaml", "bob", "--url", "labels"], "--url: is no address, got 'labels'"),
        (["add", "demo.yaml"], "Missing argument 'NAME'"),
        (["add", "missing.yaml", "bob"], "missing.yaml"),
        (["disable", "demo.yaml", "bob"], "labeler bob: is unknown."),
        (["enable", "demo.yaml", "bob"], "labeler bob: is unknown."),
        (["reset", "demo.yaml", "bob"], "labeler bob: is unknown."),
        (["disable", "demo.yaml", "ida"], "labeler ida: is the last admin."),
        (["list", "demo.yaml", "name=other"], "is missing: there is nothing to label yet."),
        (["list", "demo.yaml", "label.database=mysql://x/y"], "label"),
        (["list", "demo.yaml", "label.nothing=1"], "nothing"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(
    work: Path, arguments: list[str], said: str
) -> None:
    with closing(open_store(work / "runs" / "demo" / "labels.db")) as store:
        accounts = Accounts(store)
        accounts.add("ann")
        accounts.add("ida", "admin")
        before = accounts.list()
        code, printed, errors = align(work, *arguments)
        assert (code, printed) == (2, "")
        assert len(errors) == 1
        assert said in errors[0]
        assert "Fix:" in errors[0]
        assert accounts.list() == before
