"""``align labels stats``: how far a run's labels can be trusted, as the dashboard shows it.

Labelers go by their pseudonyms. Nothing heavy is imported: neither torch nor gradio.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stages.cli import ConfigPath, Debug, Overrides
from stages.labels import labeled_store

if TYPE_CHECKING:
    from labeling_ui.store import Progress
    from pipeline.label_intervals import Estimate
    from pipeline.label_quality import QualityReport

LISTED = 5  # tasks of the most disagreement


def stats_command(
    config: ConfigPath,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="All of it as one JSON object.")] = False,
    debug: Debug = False,
) -> None:
    """Show agreement, what stands out of each labeler, drift, and where labelers disagree."""
    report, progress = _report(config, overrides)
    if as_json:
        typer.echo(json.dumps({"progress": asdict(progress), **asdict(report)}))
        return
    typer.echo(
        f"{progress.done:,} tasks judged, {progress.open:,} open, {progress.skipped:,} skipped; "
        f"{report.submissions:,} judgments, {report.shared_tasks:,} tasks judged by two or more."
    )
    _print_agreement(report)
    _print_labelers(report)
    _print_findings(report)
    _print_places(report)


def _report(config: Path, overrides: list[str] | None) -> tuple[QualityReport, Progress]:
    with labeled_store(config, overrides) as store:
        from labeling_ui.judgments import read_judgments
        from pipeline.label_quality import quality_report

        with store.reading() as session:
            judgments = read_judgments(session, gold=True)
        return quality_report(judgments), store.progress(people_only=False)


def _print_agreement(report: QualityReport) -> None:
    from pipeline.label_quality import INSTRUCTGPT_AGREEMENT

    rows = [
        ("pairs that two labelers order alike", _figure(report, report.agreement, "agreement")),
        *(
            (f"  InstructGPT's {name} labelers", f"{mean}% ± {error}")
            for name, (mean, error) in INSTRUCTGPT_AGREEMENT.items()
        ),
        (
            "gold pairs ordered as is known",
            _figure(report, report.gold_agreement, "gold_agreement"),
        ),
        ("alpha of ratings", _figure(report, report.rating_alpha, "rating_alpha", share=False)),
        *(
            (f"alpha of {key}", _figure(report, alpha, f"question:{key}", share=False))
            for key, alpha in report.question_alphas.items()
        ),
    ]
    _print_table("Agreement", ("of", "figure (95% interval; n)"), rows)


def _print_labelers(report: QualityReport) -> None:
    rows = [
        (
            one.labeler,
            f"{one.submissions:,}",
            "" if one.median_seconds is None else f"{one.median_seconds:.0f} s",
            _estimate(one.agreement),
            _estimate(one.gold_agreement),
            _estimate(one.rating_bias, share=False),
            f"{one.tied:.0%}",
        )
        for one in report.labelers
    ]
    head = ("labeler", "tasks", "median", "with the others", "with gold", "points above", "ties")
    _print_table("Labelers", head, rows)


def _print_findings(report: QualityReport) -> None:
    if not report.findings:
        typer.echo("Nobody stands out beyond what chance explains.")
    for finding in report.findings:
        typer.echo(f"{finding.labeler or 'All labelers'}: {finding.text}.")


def _print_places(report: QualityReport) -> None:
    flags = [
        (key, f"{flagged.yes:,}", f"{flagged.answered:,}")
        for key, flagged in report.flagged.items()
        if flagged.answered
    ]
    _print_table("Flagged", ("question", "yes", "of"), flags)
    disputes = [
        (one.task[:12], f"{one.share:.0%}", f"{one.comparisons:,}", str(one.labelers))
        for one in report.disagreements[:LISTED]
    ]
    head = ("task", "ordered differently", "comparisons", "labelers")
    _print_table("Most disagreement (align label, Dashboard: open the task)", head, disputes)


# --- words --------------------------------------------------------------------------------------


def _figure(report: QualityReport, value: Estimate | None, name: str, *, share: bool = True) -> str:
    return report.why_not.get(name, "not measurable") if value is None else _estimate(value, share)


def _estimate(value: Estimate | None, share: bool = True) -> str:
    """``80.8% (78.9 to 82.5; n = 470)``; empty for None."""
    if value is None:
        return ""
    shown = (lambda number: f"{100 * number:.1f}") if share else (lambda number: f"{number:.2f}")
    span = "no interval"
    if value.ci95 is not None:
        span = " to ".join(map(shown, value.ci95))
    return f"{shown(value.value)}{'%' if share else ''} ({span}; n = {value.n:,})"


def _print_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """The table, or nothing where it has no rows."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for name in head:
        table.add_column(name)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    if table.row_count:
        Console().print(table)
