"""``align labels``: the labels of a run as files, and files as labels of a run.

Nothing heavy is imported: neither torch nor gradio.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from pipeline.config import RunConfig
from pipeline.config_file import load_config
from pipeline.errors import UserError
from stages.chain import STORE_FILE
from stages.cli import ConfigPath, Debug, Overrides, run_folder_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from labeling_ui.exports import Selection
    from labeling_ui.store import Store
    from pipeline.label_import import LabelFiles

T = TypeVar("T")
ExportForm = Literal["ours", "trl", "datasets"]
ImportForm = Literal["ours", "trl", "kwise"]

labels_app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Labels of a run as files, and files as labels of a run.",
)


# --- export -------------------------------------------------------------------------------------


@labels_app.command("export")
def export_command(
    config: ConfigPath,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder to be made.")],
    overrides: Overrides = None,
    form: Annotated[ExportForm, typer.Option("--format")] = "ours",
    labeler: Annotated[
        list[str] | None, typer.Option(help="A pseudonym: only theirs; may be repeated.")
    ] = None,
    chosen_round: Annotated[
        str, typer.Option("--round", help="current, all, or a number: tasks of that set of samples")
    ] = "current",
    min_agreement: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Only who agrees with the others on this share of pairs."),
    ] = None,
    notes: Annotated[
        bool, typer.Option("--notes", help="With notes and times, which may name people.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Write labels to files: rankings, skips, demonstrations, under pseudonyms."""
    from labeling_ui.exports import Selection, refuse_unknown
    from pipeline.label_export import new_folder, write_summary

    selection = Selection(None, _round(chosen_round), notes)
    with (
        labeled_store(config, overrides) as store,
        store.reading() as session,
        new_folder(folder) as new,
    ):
        if labeler:
            refuse_unknown(session, labeler)
            selection = replace(selection, labelers=frozenset(labeler))
        told: list[str] = []
        if min_agreement is not None:
            kept, told = _agreeing(session, selection, min_agreement)
            selection = replace(selection, labelers=kept)
        counts, more = _write(new, form, session, selection)
        filters = {
            "labelers": sorted(labeler) if labeler else None,
            "round": selection.round,
            "min_agreement": min_agreement,
            "notes": notes,
        }
        write_summary(new, form, counts, filters, **more, labelers_left_out=len(told))
    for line in told:
        typer.echo(f"left out: {line}")
    said = [f"{name} {count:,}" for name, count in counts.items()]
    said += [f"{count:,} {name.replace('_', ' ')}" for name, count in more.items()]
    typer.echo(f"{folder}: {', '.join(said)}")


def _write(
    folder: Path, form: ExportForm, session: Session, selection: Selection
) -> tuple[dict[str, int], dict[str, int]]:
    """Rows by file, and what else was counted.

    Raises:
        UserError: there is nothing to write.
    """
    from labeling_ui import exports
    from pipeline.label_export import write_datasets, write_ours, write_trl

    demonstrations = exports.demonstrations(session, selection)
    with _progress(exports.count(session, selection), "rankings") as count:
        rankings = count(exports.rankings(session, selection))
        if form == "trl":
            counts, ties = write_trl(folder, rankings, demonstrations)
            return counts, {"ties_left_out": ties}
        skips = exports.skips(session, selection, with_responses=True)
        if form == "ours":
            counts = write_ours(
                folder,
                rankings,
                skips,
                demonstrations,
                lambda versions: exports.guidelines(session, versions),
            )
        else:
            counts = write_datasets(
                folder, {"rankings": rankings, "skips": skips, "demonstrations": demonstrations}
            )
    if not any(counts.values()):
        problem = "There is nothing to write: there are no labels."
        raise UserError("labels", problem, "judge some tasks, or choose otherwise.")
    return counts, {}


def _agreeing(
    session: Session, selection: Selection, least: float
) -> tuple[frozenset[str], list[str]]:
    """Who of the selected labelers agrees with the others so often, and why the rest is left out.

    Raises:
        UserError: nobody's agreement reaches it, or can be measured.
    """
    from labeling_ui import exports
    from pipeline.label_export import agreeing, agreement_with_others

    everybody = replace(selection, labelers=None)
    with _progress(exports.count(session, everybody), "agreement") as count:
        found = agreement_with_others(count(exports.rankings(session, everybody)))
    return agreeing(found, least, selection.labelers)


def _round(text: str) -> Any:
    if text in ("current", "all"):
        return text
    if text.isdecimal() and text.isascii() and 0 < int(text) < 2**31:
        return int(text)
    raise UserError("--round", f"is current, all or a number, got {text!r:.40}.", "see --help.")


# --- import -------------------------------------------------------------------------------------


@labels_app.command("import")
def import_command(
    config: ConfigPath,
    place: Annotated[
        Path, typer.Argument(metavar="FILE_OR_FOLDER", help="An export's folder, or a file.")
    ],
    overrides: Overrides = None,
    form: Annotated[ImportForm, typer.Option("--format")] = "ours",
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY:COLUMN",
            help="For kwise: prompt_columns (several with commas), responses_column and "
            "ranks_column, or chosen_column and rejected_column; labeler_column; may be repeated.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Take labels from files: all rows or none. What is here already is passed over."""
    if columns and form != "kwise":
        raise UserError("--columns", f"go with --format kwise, not {form}.", "leave them out.")
    values = load_config(config, overrides or [])
    if values.label.source == "file":
        problem = "is file: labels that are imported would not be used."
        raise UserError("label.source", problem, "set label.source=browser, or scripted.")
    from pipeline.label_import import read_kwise, read_ours, read_trl

    readers = {"ours": read_ours, "trl": read_trl}
    files = read_kwise(place, columns or []) if form == "kwise" else readers[form](place)
    files, is_empty = _checked(files)
    if is_empty:
        raise UserError(place, f"holds no labels{_reasons(files.left_out)}.", "name another one.")
    with _opened(values) as store, _progress(_lines(place), "rows") as count:
        done = store.import_labels(
            rankings=count(files.rankings),
            skips=count(files.skips),
            demonstrations=count(files.demonstrations),
            guidelines=files.guidelines,
        )
    typer.echo(
        f"{place}: {done.rankings:,} rankings, {done.skips:,} skips, "
        f"{done.demonstrations:,} demonstrations; {done.duplicates:,} were here already"
    )
    if done.unknown_tasks:
        typer.echo(
            f"{done.unknown_tasks:,} tasks are not of this run's samples: they are used, and shown "
            "to nobody"
        )
    for reason, count in files.left_out.items():
        typer.echo(f"left out: {count:,} {reason}")


def _checked(files: LabelFiles) -> tuple[LabelFiles, bool]:
    """The same, and whether there is no row in it: nothing is to be opened for that."""
    parts: dict[str, Iterable[Any]] = {}
    is_empty = True
    for name in ("rankings", "skips", "demonstrations"):
        rows = iter(getattr(files, name))
        first = next(rows, None)
        is_empty = is_empty and first is None
        parts[name] = rows if first is None else chain([first], rows)
    return replace(files, **parts), is_empty


def _reasons(left_out: Counter[str]) -> str:
    said = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
    return f" ({said} left out)" if said else ""


def _lines(place: Path) -> int | None:
    """About how many rows there are; None where lines do not tell."""
    files = sorted(place.glob("*.jsonl")) if place.is_dir() else [place]
    if any(path.suffix != ".jsonl" for path in files):
        return None
    count = 0
    for path in files:
        with path.open("rb") as file:
            while block := file.read(2**20):
                count += block.count(b"\n")
    return count


# --- both ---------------------------------------------------------------------------------------


@contextmanager
def labeled_store(config: Path, overrides: list[str] | None) -> Generator[Store]:
    """The store of a run that has labels.

    Raises:
        UserError: there is none.
    """
    values = load_config(config, overrides or [])
    database = values.label.database or str(run_folder_of(values) / STORE_FILE)
    if "://" not in database and not Path(database).exists():
        fix = "label its tasks first: align run CONFIG, align label CONFIG."
        raise UserError(database, "is missing: there are no labels yet.", fix)
    with _opened(values) as store:
        yield store


@contextmanager
def _opened(values: RunConfig) -> Generator[Store]:
    from labeling_ui.store import open_store

    folder = run_folder_of(values)
    if values.label.database is None and not folder.is_dir():
        fix = "run the chain up to the samples first: align run CONFIG --until sample."
        raise UserError(folder, "is missing: there is no run to label.", fix)
    with closing(open_store(values.label.database or folder / STORE_FILE)) as store:
        yield store


@contextmanager
def _progress(total: int | None, label: str) -> Generator[Callable[[Iterable[Any]], Iterator[Any]]]:
    """Gives what counts rows as they pass; nothing is shown of a total that is not known."""
    from pipeline.progress import Progress

    if total is None:
        yield iter
        return
    with Progress(total, label, sys.stderr) as progress:

        def count(rows: Iterable[T]) -> Iterator[T]:
            for row in rows:
                yield row
                progress.advance()

        yield count
