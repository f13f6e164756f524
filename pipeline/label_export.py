"""Labels as files: this project's own rows, TRL's pairs, and parquet that ``datasets`` loads.

Rows pass one at a time. No file says a path, a machine or a name. No torch here.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations, groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.artifacts import fsync, temporary_folder
from pipeline.errors import UserError
from pipeline.preferences import pairs_from_ranks, tie_count
from pipeline.records import Demonstration, write_dicts

if TYPE_CHECKING:
    import pyarrow

Form = Literal["ours", "trl", "datasets"]
FileRow = Mapping[str, Any]  # the fields of a row of ``records``, without those that are None

FORMAT = 1  # raise it when a reader of the last format would go wrong
EXPORT_FILE = "export.json"
RANKINGS = "rankings.jsonl"
SKIPS = "skips.jsonl"
DEMONSTRATIONS = "demonstrations.jsonl"
GUIDELINES = "guidelines.jsonl"
PAIRS = "pairs.jsonl"
ROWS_AT_ONCE = 500


@contextmanager
def new_folder(final: Path) -> Generator[Path]:
    """A folder to write into that becomes ``final`` at the end, or goes if that is not reached.

    Raises:
        UserError: ``final`` is there and is not empty.
    """
    final = Path(os.path.abspath(final))
    _refuse_full(final)
    temporary = temporary_folder(final)
    try:
        yield temporary
        for path in temporary.iterdir():
            fsync(path)
        fsync(temporary)
        _refuse_full(final)
        temporary.rename(final)
        fsync(final.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _refuse_full(final: Path) -> None:
    if os.path.lexists(final) and not (
        final.is_dir() and not final.is_symlink() and not any(final.iterdir())
    ):
        fix = "name a folder that is not there yet, or an empty one."
        raise UserError(final, "is there already, and is not empty.", fix)


def write_summary(
    folder: Path, form: Form, counts: Mapping[str, int], filters: Mapping[str, Any], **more: int
) -> None:
    """Writes ``export.json``: the format's number, rows by file, and what was chosen."""
    said = {"format": FORMAT, "form": form, "rows": dict(counts), **more, "filters": dict(filters)}
    text = json.dumps(said, indent=1, ensure_ascii=False) + "\n"
    (folder / EXPORT_FILE).write_text(text, encoding="utf-8")


# --- our own ------------------------------------------------------------------------------------


def write_ours(
    folder: Path,
    rankings: Iterable[FileRow],
    skips: Iterable[FileRow],
    demonstrations: Iterable[FileRow],
    guidelines_of: Callable[[Iterable[str]], Iterable[FileRow]],
) -> dict[str, int]:
    """Rows by file; ``guidelines_of`` gives the instructions of the versions that rankings name."""
    versions: set[str] = set()
    return {
        RANKINGS: write_dicts(folder / RANKINGS, _noting_versions(rankings, versions)),
        SKIPS: write_dicts(folder / SKIPS, skips),
        DEMONSTRATIONS: write_dicts(folder / DEMONSTRATIONS, demonstrations),
        GUIDELINES: write_dicts(folder / GUIDELINES, guidelines_of(versions)),
    }


def _noting_versions(rankings: Iterable[FileRow], versions: set[str]) -> Iterator[FileRow]:
    for row in rankings:
        if "instructions_version" in row:
            versions.add(row["instructions_version"])
        yield row


# --- TRL ----------------------------------------------------------------------------------------


@dataclass
class Ties:
    """How many pairs were left out since their labeler tied them."""

    count: int = 0


def write_trl(
    folder: Path, rankings: Iterable[FileRow], demonstrations: Iterable[FileRow]
) -> tuple[dict[str, int], int]:
    """``(rows by file, ties left out)``: pairs as TRL's preference trainers take them, with the
    prompt apart, and demonstrations as prompt and completion. A file without rows is not there.

    Raises:
        UserError: there is nothing to write.
    """
    ties = Ties()
    completions = (
        {"prompt": row["prompt"], "completion": row["response"]} for row in demonstrations
    )
    counts = {
        PAIRS: write_dicts(folder / PAIRS, preference_pairs(rankings, ties)),
        DEMONSTRATIONS: write_dicts(folder / DEMONSTRATIONS, completions),
    }
    if not any(counts.values()):
        said = f"all {ties.count} pairs are ties" if ties.count else "there are no labels"
        problem = f"There is nothing to write: {said}."
        raise UserError("labels", problem, "judge more tasks, or choose otherwise.")
    for name in [name for name, count in counts.items() if not count]:
        (folder / name).unlink()  # which load_dataset would stumble over
        del counts[name]
    return counts, ties.count


def preference_pairs(rankings: Iterable[FileRow], ties: Ties) -> Iterator[FileRow]:
    """For each two responses that a ranking orders a row of prompt, chosen and rejected."""
    for row in rankings:
        ties.count += tie_count(row["ranks"])
        texts = [response["text"] for response in row["responses"]]
        for better, worse in pairs_from_ranks(row["ranks"]):
            yield {"prompt": row["prompt"], "chosen": texts[better], "rejected": texts[worse]}


# --- datasets -----------------------------------------------------------------------------------


CARD = """---
configs:
- config_name: rankings
  data_files: rankings.parquet
  default: true
- config_name: skips
  data_files: skips.parquet
- config_name: demonstrations
  data_files: demonstrations.parquet
---
"""


def write_datasets(folder: Path, rows_of: Mapping[str, Iterable[FileRow]]) -> dict[str, int]:
    """Rows by file: a parquet file for ``rankings``, ``skips`` and ``demonstrations`` each, and the
    card by which ``datasets.load_dataset(folder, name)`` knows them apart.

    The answers of a ranking are a list of ``{question, answers}``.
    """
    schemas = _schemas()
    counts: dict[str, int] = {}
    for name, rows in rows_of.items():
        counts[f"{name}.parquet"] = _write_parquet(folder / f"{name}.parquet", schemas[name], rows)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    return counts


def _write_parquet(path: Path, schema: pyarrow.Schema, rows: Iterable[FileRow]) -> int:
    import pyarrow
    import pyarrow.parquet

    count, iterator = 0, iter(rows)
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while some := [_listed(row) for row in islice(iterator, ROWS_AT_ONCE)]:
            writer.write_table(pyarrow.Table.from_pylist(some, schema))
            count += len(some)
    return count


def _listed(row: FileRow) -> dict[str, Any]:
    listed = dict(row)
    if "answers" in row:
        listed["answers"] = [
            {"question": question, "answers": given} for question, given in row["answers"].items()
        ]
    return listed


def _schemas() -> dict[str, pyarrow.Schema]:
    import pyarrow as pa

    text, whole, flag = pa.string(), pa.int64(), pa.bool_()
    response = pa.struct({"response_id": text, "text": text, "policy": text, "finished": flag})
    answers = pa.struct({"question": text, "answers": pa.list_(flag)})
    judged = {"submission_id": text, "prompt_id": text, "prompt": text, "labeler": text}
    about = {"note": text, "created_at": text, "responses": pa.list_(response)}
    return {
        "rankings": pa.schema(
            {
                **judged,
                "responses": pa.list_(response),
                "ratings": pa.list_(whole),
                "answers": pa.list_(answers),
                "ranks": pa.list_(whole),
                "confirmed_contradiction": flag,
                "confidence": text,
                "note": text,
                "seconds": pa.float64(),
                "display_order": pa.list_(whole),
                "instructions_version": text,
                "created_at": text,
            }
        ),
        "skips": pa.schema({**judged, "reason": text, **about}),
        "demonstrations": pa.schema(dict.fromkeys(Demonstration.model_fields, text)),
    }


# --- agreement ----------------------------------------------------------------------------------


def agreement_with_others(rankings: Iterable[FileRow]) -> dict[str, tuple[int, int]]:
    """By labeler ``(alike, decided)``: how many pairs they and another labeler both decided, and
    how many of these both ordered the same way. The rankings of a task follow each other.
    """
    found: dict[str, tuple[int, int]] = {}
    for _, group in groupby(rankings, key=_task):
        of_task = list(group)
        for row in of_task:
            found.setdefault(row["labeler"], (0, 0))
        for first, second in combinations(of_task, 2):
            ordered = set(pairs_from_ranks(first["ranks"]))
            other = set(pairs_from_ranks(second["ranks"]))
            alike = len(ordered & other)
            decided = alike + len(ordered & {(worse, better) for better, worse in other})
            for row in (first, second):
                before = found[row["labeler"]]
                found[row["labeler"]] = (before[0] + alike, before[1] + decided)
    return found


def _task(row: FileRow) -> tuple[str, str, tuple[str, ...]]:
    names = tuple(response["response_id"] for response in row["responses"])
    return row["prompt_id"], row["prompt"], names


def agreeing(
    agreement: Mapping[str, tuple[int, int]], least: float, among: Collection[str] | None
) -> tuple[frozenset[str], list[str]]:
    """Who, ``among`` these labelers or all, agrees with the others on the share ``least`` of the
    pairs; and a line on each of those who are left out.

    Args:
        agreement: as ``agreement_with_others`` gives it.

    Raises:
        UserError: nobody's agreement reaches ``least``, or can be measured.
    """
    if not any(decided for _, decided in agreement.values()):
        problem = "cannot be measured: no two labelers have ordered the same pair."
        fix = "let two people judge the same tasks (label.shared_fraction), or leave it out."
        raise UserError("--min-agreement", problem, fix)
    kept: set[str] = set()
    left_out: list[str] = []
    for name, (alike, decided) in sorted(agreement.items()):
        if among is not None and name not in among:
            continue
        if not decided:
            left_out.append(f"{name} (nobody else has ordered a pair that they did)")
        elif alike / decided < least:
            left_out.append(f"{name} ({alike / decided:.1%} of {decided:,} pairs)")
        else:
            kept.add(name)
    if not kept:
        problem = f"is reached by nobody: {', '.join(left_out[:5])}."
        raise UserError("--min-agreement", problem, "lower it, or choose others.")
    return frozenset(kept), left_out
