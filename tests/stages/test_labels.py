"""``align labels``: files out of a run and into it, and one line for what cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from labeling_ui.store import Store, open_store
from pipeline.agreement import pairwise_agreement
from pipeline.label_export import agreeing, agreement_with_others
from pipeline.records import Ranking, read_rows, write_dicts
from stages.__main__ import app
from stages.cli import guarded
from tests.labeling_ui.judging import filled
from tests.labeling_ui.test_exports import NAME, worked_on
from tests.labeling_ui.test_imports import located, ranking

ROOT = Path(__file__).parents[2]
CONFIG = "data: {tinyworld: {}}\npretrain: {}\nlabel: {source: browser}\n"
HEAVY = ("torch", "transformers", "gradio", "fastapi", "datasets", "pyarrow")

Align = Callable[..., tuple[int, str, str]]


@pytest.fixture
def align(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Align:
    """Runs ``align labels`` where ``demo.yaml`` lies: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo.yaml").write_text(CONFIG)
    (tmp_path / "runs" / "demo").mkdir(parents=True)

    def run(command: str, *arguments: str) -> tuple[int, str, str]:
        words = ["labels", command, "demo.yaml", *arguments]
        code = guarded(lambda: app(words, standalone_mode=False), words)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def store(tmp_path: Path, align: Align) -> Store:
    return open_store(tmp_path / "runs" / "demo" / "labels.db")


def opinions(store: Store, ranks_of: dict[str, Sequence[list[int]]]) -> None:
    """Everybody's ranks of the first tasks, three responses each."""
    rows = [
        ranking(f"t{task}", labeler, ranks=ranks)
        for labeler, each in ranks_of.items()
        for task, ranks in enumerate(each)
    ]
    store.import_labels(rankings=located(rows))


# --- out ------------------------------------------------------------------------------------------


def test_no_format_says_a_name_a_path_or_the_machine(align: Align, tmp_path: Path) -> None:
    with closing(worked_on(str(tmp_path / "runs" / "demo" / "labels.db"), tmp_path)):
        pass
    for form in ("ours", "trl", "datasets"):
        code, said, errors = align("export", f"out/{form}", "--format", form)
        assert (code, errors) == (0, "")
        assert said.startswith(f"out/{form}: ")
        files = list((tmp_path / "out" / form).iterdir())
        assert len(files) > 2
        for file in files:
            content = file.read_bytes()
            for name in (NAME, "Zoë", "Łódź", "NOTE", str(tmp_path), os.uname().nodename):
                assert name.encode() not in content
                assert json.dumps(name)[1:-1].encode() not in content
    assert not list((tmp_path / "out").glob(".*"))
    align("export", "noted", "--notes")
    assert "NOTE" in (tmp_path / "noted" / "rankings.jsonl").read_text()
    said = json.loads((tmp_path / "noted" / "export.json").read_text())
    lines = (tmp_path / "noted" / "rankings.jsonl").read_bytes().count(b"\n")
    assert said["rows"]["rankings.jsonl"] == lines
    assert said["filters"] == {
        "labelers": None, "round": "current", "min_agreement": None, "notes": True,
    }  # fmt: skip


def test_what_goes_out_comes_in(align: Align, tmp_path: Path) -> None:
    with closing(worked_on(str(tmp_path / "runs" / "demo" / "labels.db"), tmp_path)):
        pass
    for form, names in (
        ("ours", ("rankings", "skips", "demonstrations", "guidelines")),
        ("trl", ("pairs",)),
    ):
        again = f"label.database=again-{form}.db"
        assert align("export", f"first-{form}", "--format", form)[0] == 0
        code, said, errors = align("import", f"first-{form}", again, "--format", form)
        assert (code, errors) == (0, ""), errors
        assert "tasks are not of this run's samples" in said
        assert align("export", f"second-{form}", again, "--format", form)[0] == 0
        for name in (*(f"{name}.jsonl" for name in names), "export.json"):
            first, second = (tmp_path / f"{n}-{form}" / name for n in ("first", "second"))
            if form == "trl" and name == "export.json":
                continue  # ties and unranked demonstrations do not come back as such
            assert first.read_bytes() == second.read_bytes() != b""


def test_trl_pairs_are_those_that_the_ranks_decide(
    align: Align, store: Store, tmp_path: Path
) -> None:
    opinions(store, {"ann": [[2, 1, 2]], "bob": [[1, 1, 1]]})
    code, said, _ = align("export", "out", "--format", "trl")
    assert (code, said) == (0, "out: pairs.jsonl 2, 4 ties left out\n")
    rows = [json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").open()]
    assert rows == [
        {"prompt": "Prompt t0", "chosen": "answer 1 to t0", "rejected": f"answer {worse} to t0"}
        for worse in (0, 2)
    ]


def listed(row: dict[str, Any]) -> dict[str, Any]:
    """A row as parquet has it: a column cannot be named for each question."""
    answers = [{"question": q, "answers": a} for q, a in row.get("answers", {}).items()]
    return row | {"answers": answers} if "answers" in row else row


def test_datasets_loads_what_was_exported(align: Align, tmp_path: Path) -> None:
    import datasets

    with closing(worked_on(str(tmp_path / "runs" / "demo" / "labels.db"), tmp_path)):
        pass
    align("export", "out", "--format", "datasets")
    align("export", "ours")
    for name in ("rankings", "skips", "demonstrations"):
        loaded: Any = datasets.load_dataset(
            str(tmp_path / "out"), name, split="train", cache_dir=str(tmp_path / "cache")
        )
        rows = [listed(json.loads(line)) for line in (tmp_path / "ours" / f"{name}.jsonl").open()]
        found = [{k: v for k, v in row.items() if v is not None} for row in loaded]
        assert found == rows != []


def test_only_labelers_who_agree_with_the_others(
    align: Align, store: Store, tmp_path: Path
) -> None:
    """ann and bob agree on all, eve turns everything round, zoe judges what nobody else does."""
    up, down = [1, 2, 3], [3, 2, 1]
    opinions(store, {"ann": [up, up], "bob": [up, up], "eve": [down, up]})
    store.import_labels(rankings=located([ranking("own", "zoe", ranks=up)]))
    code, said, errors = align("export", "out", "--min-agreement", "0.6")
    assert (code, errors) == (0, "")
    # eve: 6 of 12 comparisons alike; ann and bob: 6 with each other and 3 of 6 with her.
    assert said.splitlines()[:2] == [
        "left out: eve (50.0% of 12 pairs)",
        "left out: zoe (nobody else has ordered a pair that they did)",
    ]
    rows = read_rows(tmp_path / "out" / "rankings.jsonl", Ranking)
    assert {row.labeler for row in rows} == {"ann", "bob"}
    told = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (told["filters"]["min_agreement"], told["labelers_left_out"]) == (0.6, 2)
    code, said, _ = align("export", "two", "--min-agreement", "0.6", "--labeler", "ann")
    assert (
        said == "two: rankings.jsonl 2, skips.jsonl 0, demonstrations.jsonl 0, guidelines.jsonl 0\n"
    )
    assert align("export", "three", "--min-agreement", "0.9") == (
        2,
        "",
        "--min-agreement: is reached by nobody: ann (75.0% of 12 pairs), bob (75.0% of 12 pairs), "
        "eve (50.0% of 12 pairs), zoe (nobody else has ordered a pair that they did). "
        "Fix: lower it, or choose others.\n",
    )


def test_agreement_with_others_sums_up_to_the_agreement_of_all() -> None:
    rows = [
        ranking(f"t{task}", labeler, ranks=[1 + (task * k + place * k) % 3 for place in range(3)])
        for task in range(7)
        for k, labeler in enumerate(("ann", "bob", "eve"))
    ]
    found = agreement_with_others(row.model_dump() for row in rows)
    whole = pairwise_agreement(rows)
    assert whole is not None
    assert sum(decided for _, decided in found.values()) == 2 * whole.pair_count
    alike = sum(alike for alike, _ in found.values())
    assert alike / (2 * whole.pair_count) == pytest.approx(whole.agreement, abs=1e-12)
    for name in found:
        two = [row for row in rows if row.labeler in (name, "bob")]
        if name != "bob":
            between = pairwise_agreement(two)
            alone = agreement_with_others(row.model_dump() for row in two)[name]
            expected = (0, 0) if between is None else (between.agreement, between.pair_count)
            assert (alone[0] / alone[1] if alone[1] else 0, alone[1]) == pytest.approx(expected)
    assert agreeing(found, 0.0, {"eve"})[0] <= {"eve"}


# --- figures --------------------------------------------------------------------------------------


def test_stats_are_the_report_by_pseudonym(align: Align, store: Store) -> None:
    opinions(store, {"ann-1": [[1, 2, 3]] * 9, "bob-2": [[1, 2, 3]] * 6 + [[3, 2, 1]] * 3})
    code, said, _ = align("stats", "--json")
    found = json.loads(said)
    assert code == 0
    agreement = pairwise_agreement(store.rankings())
    assert agreement is not None
    assert found["agreement"]["value"] == pytest.approx(agreement.agreement)
    assert found["agreement"]["n"] == agreement.pair_count == 27
    assert [one["labeler"] for one in found["labelers"]] == ["ann-1", "bob-2"]
    assert found["progress"] == {"done": 9, "open": 0, "skipped": 0}
    code, said, _ = align("stats")
    assert code == 0
    assert "9 tasks judged" in said
    assert "66.7%" in said
    assert "ann-1" in said
    assert "file: ann-1" not in said  # a name


def test_stats_say_why_there_is_nothing_to_say(align: Align, store: Store) -> None:
    store.close()
    code, said, _ = align("stats")
    assert code == 0
    assert "nothing is judged yet" in said
    opinions(store, {"ann-1": [[1, 1, 1]] * 2})
    assert "one labeler only" in align("stats")[1]


# --- one line for what cannot be ------------------------------------------------------------------


PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
GOOD = ranking("a").model_dump(exclude_none=True)


@pytest.mark.parametrize(
    ("rows", "arguments", "line"),
    [
        (None, [], "in.jsonl: cannot be read (No such file or directory). Fix: check the path."),
        ([], [], "in.jsonl: holds no labels. Fix: name another one."),
        ([GOOD, {**GOOD, "ranks": [1]}], [], "in.jsonl:2: row: ranks has 1 entries for 3"),
        ([GOOD, {**GOOD, "confidence": "x"}], [], "in.jsonl:2: submission s-a-anna comes twice"),
        ([PAIR], [], "in.jsonl:1: submission_id: Field required"),
        ([PAIR, {"prompt": "a", "chosen": "b"}], ["--format", "trl"], "in.jsonl:2: there is no c"),
        ([PAIR | {"chosen": "b\ud800"}], ["--format", "trl"], "in.jsonl:1: column 'chosen' holds"),
        ([PAIR | {"prompt": " "}], ["--format", "trl"], "in.jsonl:1: prompt: String should match"),
        ([PAIR | {"chosen": "x" * 20_000_000}], ["--format", "trl"], "in.jsonl:1: text: 20,000,"),
        ([PAIR], ["--format", "kwise"], "--columns: name the prompt's prompt_columns, or its mes"),
        ([PAIR], ["--format", "kwise", "--columns", "x"], "--columns: is key:column, got 'x'."),
        ([PAIR], ["--format", "kwise", "--columns", "x:y"], "--columns: x: Extra inputs are not"),
        ([PAIR], ["--columns", "x:y"], "--columns: go with --format kwise, not ours."),
        ([PAIR], ["--format", "xml"], "command line: Invalid value for '--format'"),
        ([PAIR], ["label.source=file", "label.file=x"], "label.source: is file: labels that are"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_is_one_line(
    align: Align, tmp_path: Path, rows: list[Any] | None, arguments: list[str], line: str
) -> None:
    if rows is not None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "in.jsonl").write_text(text)
    code, said, errors = align("import", "in.jsonl", *arguments)
    assert (code, said) == (2, "")
    assert errors.startswith(line)
    assert errors.count("\n") == 1
    database = tmp_path / "runs" / "demo" / "labels.db"
    if database.exists():
        with closing(open_store(database)) as store:
            assert store.rankings() == []


@pytest.mark.parametrize(
    ("changes", "form", "line"),
    [
        ({"format": 2}, "ours", "is an export of format 2, and this version reads 1."),
        ({"form": "trl"}, "ours", "is an export of --format trl. Fix: import it with --format"),
        ({"form": "datasets"}, "trl", "is an export of --format datasets. Fix: export it anew"),
        ({"rows": {"rankings.jsonl": 2}}, "ours", "has 1 rows, not the 2 that export.json speaks"),
        ({"rows": None}, "ours", "does not say what it is an export of."),
    ],
)  # fmt: skip
def test_an_export_that_is_not_whole_or_of_this_format_is_refused(
    align: Align, store: Store, tmp_path: Path, changes: dict[str, Any], form: str, line: str
) -> None:
    opinions(store, {"ann": [[1, 2, 3]]})
    align("export", "out")
    said = json.loads((tmp_path / "out" / "export.json").read_text())
    (tmp_path / "out" / "export.json").write_text(json.dumps(said | changes))
    code, _, errors = align("import", "out", "label.database=new.db", "--format", form)
    assert code == 2
    assert line in errors


def test_what_cannot_be_exported_is_one_line(align: Align, store: Store, tmp_path: Path) -> None:
    filled(str(tmp_path / "empty.db")).close()
    opinions(store, {"ann": [[1, 1, 1], [2, 2, 2]]})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "made").mkdir()
    for arguments, line in (
        (["full"], "is there already, and is not empty."),
        (["full/x"], "is there already, and is not empty."),
        (["out", "label.database=absent.db"], "absent.db: is missing: there are no labels yet."),
        (["out", "label.database=empty.db"], "There is nothing to write: there are no labels."),
        (["out", "--labeler", "ann", "--labeler", "eve"], "labeler eve: is unknown."),
        (["out", "--min-agreement", "0.5"], "cannot be measured: no two labelers have ordered"),
        (["out", "--min-agreement", "7"], "Invalid value for '--min-agreement'"),
        (["out", "--format", "trl"], "There is nothing to write: all 6 pairs are ties."),
        (["out", "--round", "0"], "--round: is current, all or a number, got '0'."),
        (["out", "--round", "7"], "There is nothing to write: there are no labels."),
    ):
        code, said, errors = align("export", *arguments)
        assert (code, said) == (2, ""), arguments
        assert line in errors
        assert errors.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "empty.db-wal") == [
        "demo.yaml", "empty.db", "full", "made", "runs",
    ]  # fmt: skip
    assert align("export", "made")[0] == 0


def test_it_loads_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text(CONFIG)
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    write_dicts(tmp_path / "in.jsonl", [PAIR])
    program = (
        "import sys; from stages.cli import guarded; from stages.__main__ import app\n"
        "for words in (['import', 'demo.yaml', 'in.jsonl', '--format', 'trl'],"
        " ['export', 'demo.yaml', 'out'], ['stats', 'demo.yaml']):\n"
        "    assert guarded(lambda: app(['labels', *words], standalone_mode=False), words) == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert result.stderr == ""
    assert result.stdout.splitlines()[-1] == "[]"
