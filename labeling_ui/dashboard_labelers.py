"""The dashboard's part on labelers: who needs help, and a row for each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from labeling_ui.dashboard_charts import small_bars
from labeling_ui.dashboard_progress import HOUR, Overview, Person
from labeling_ui.dashboard_quality import Quality
from labeling_ui.dashboard_task import verbatim
from labeling_ui.dashboard_words import (
    card,
    cell,
    details,
    number,
    plural,
    row,
    section,
    sentence,
    stacked,
    table,
    why,
)
from pipeline.label_intervals import Estimate
from pipeline.labeler_report import LabelerReport
from pipeline.preferences import wilson_interval

SHOWN = 3  # findings on the first screen
HEAD = (
    "Labeler",
    "#Tasks",
    "#Seconds a task",
    "#For 9 of 10",
    "#Like the others",
    "#As is known",
    "#Points above the others",
    "Ratings 1 to 7",
    "What stands out",
)
HABITS = (
    "Labeler",
    "#Points for each place further down",
    "#Ranks for each place further down",
    "#Pairs tied",
    "#Ranked against own ratings",
    "#All rated alike",
)
CAPTION = (
    "Median seconds, and what suffices for 9 of 10 tasks; pairs ordered like the others and as "
    "is known of gold tasks; ratings against the others' of the same responses. Below each figure "
    "its 95% interval and how many observations it is of."
)


def glance_help(quality: Quality) -> str:
    """Who needs help: the gravest findings."""
    question, report = "Who needs help?", quality.report
    findings = report.findings
    if findings:
        people = list(dict.fromkeys(_name(quality, finding.labeler) for finding in findings))
        names = ", ".join(people[:SHOWN])
        names += f" and {len(people) - SHOWN} more" if people[SHOWN:] else ""
        items = "".join(
            f"<li><b>{_name(quality, one.labeler)}</b> {escape(one.text)}.</li>"
            for one in findings[:SHOWN]
        )
        rest = f'<p><a href="#labelers">All {len(findings)} findings</a></p>'
        body = f"<ul>{items}</ul>{rest if findings[SHOWN:] else ''}"
        return card("help", question, "bad", names, body)
    if not report.submissions:
        return card("help", question, "open", "Nobody has judged anything yet", "")
    if len(report.labelers) < 2:
        told = "<p>One labeler alone cannot be compared with others.</p>"
        return card("help", question, "open", "Not known yet", told)
    told = f"<p>Of {plural(len(report.labelers), 'labeler')}, beyond what chance explains.</p>"
    return card("help", question, "good", "Nobody stands out", told)


def _name(quality: Quality, pseudonym: str | None) -> str:
    return "Everybody" if pseudonym is None else verbatim(quality.names.get(pseudonym, pseudonym))


def labelers_section(quality: Quality, overview: Overview, now: float) -> str:
    """A row for each labeler who has judged or skipped something, or has a task before them."""
    people = {person.pseudonym: person for person in overview.people}
    reports = {report.labeler: report for report in quality.report.labelers}
    begun = {p for p, person in people.items() if person.working or person.skipped}

    def place(pseudonym: str) -> tuple[int, list[tuple[int, str]]]:
        """Who stands out comes first, then by name, 2 before 10."""
        found = len(reports[pseudonym].findings) if pseudonym in reports else 0
        parts = re.split(r"(\d+)", quality.names.get(pseudonym, pseudonym).casefold())
        return -found, [(int(one), "") if one.isdecimal() else (0, one) for one in parts]

    named = sorted(reports.keys() | begun, key=place)
    if not named:
        return section("labelers", "Labelers", why("nobody has begun yet"))
    rows = "".join(_row(quality, p, reports.get(p), people.get(p), now) for p in named)
    idle = len(people.keys() - set(named))
    told = f'<p class="soft">{plural(idle, "more account")} without any task.</p>' if idle else ""
    habits = "".join(_habits(quality, reports[p]) for p in named if p in reports)
    habits = table("Where responses stand is drawn by lot, so no place should gain", HABITS, habits)
    unfolded = details("habits", "Habits: order, ties, contradictions", habits)
    return section("labelers", "Labelers", table(CAPTION, HEAD, rows) + told + unfolded)


def _row(
    quality: Quality, name: str, report: LabelerReport | None, person: Person | None, now: float
) -> str:
    shown = verbatim(quality.names.get(name, person.name if person else name))
    cells = [cell(_tasks(report, person), "number"), *_times(quality, name)]
    if report is None:
        cells.append(f'<td colspan="{len(HEAD) - 4}" class="why">Has not judged a task yet.</td>')
    else:
        cells += [
            cell(_figure(report, "agreement"), "number"),
            cell(_figure(report, "gold_agreement"), "number"),
            cell(_figure(report, "rating_bias", share=False), "number"),
            cell(_histogram(quality.spread.counts.get(name, ())), "hist"),
            cell(_findings(report), "words"),
        ]
    first = f"{shown}<small>{escape(name)}</small><small>{_state(person, now)}</small>"
    return row(first, *cells, key=f"labeler-{name}")


def _habits(quality: Quality, report: LabelerReport) -> str:
    count = report.submissions
    return row(
        _name(quality, report.labeler),
        cell(_figure(report, "order_bias", share=False), "number"),
        cell(_figure(report, "rank_order_bias", share=False), "number"),
        cell(f"{number(report.tied, True)}<small>of {plural(count, 'task')}</small>", "number"),
        *(
            cell(_of_tasks(share, count), "number")
            for share in (report.confirmed, report.one_rating)
        ),
        key=f"habits-{report.labeler}",
    )


def _of_tasks(share: float, tasks: int) -> str:
    """The share of a labeler's tasks, which tell of them independently."""
    if not tasks:
        return '<span class="why">no task</span>'
    return stacked(Estimate(share, wilson_interval(share * tasks, tasks), tasks))


def _state(person: Person | None, now: float) -> str:
    if person is None:
        return "a script"
    if person.disabled:
        return "disabled"
    if person.working:
        return "has a task now"
    if person.last_at is None:
        return ""
    if now - person.last_at < HOUR:
        return "last: this hour"
    return f"last: {datetime.fromtimestamp(person.last_at, UTC):%d %b %H:%M}"


def _tasks(report: LabelerReport | None, person: Person | None) -> str:
    count = f"{report.submissions:,}" if report else "0"
    skipped = f"<small>{person.skipped:,} skipped</small>" if person and person.skipped else ""
    return f"<b>{count}</b>{skipped}"


def _times(quality: Quality, name: str) -> list[str]:
    """Two cells: the median, the 90th percentile."""
    times = quality.spread.times.get(name)
    if times is None:
        return ['<td colspan="2" class="number"><span class="why">times are not known</span></td>']
    return [cell(_seconds(value), "number") for value in (times.median, times.p90)]


def _seconds(value: Estimate) -> str:
    span = "no interval yet"
    if value.ci95 is not None:
        span = f"{value.ci95[0]:.0f} to {value.ci95[1]:.0f}"
    return f"<b>{value.value:.0f}</b><small>{span}</small><small>n = {value.n:,}</small>"


def _figure(report: LabelerReport, name: str, share: bool = True) -> str:
    """A figure of the report, or why there is none."""
    value: Estimate | None = getattr(report, name)
    if value is None:
        reason = report.why_not.get(name, "cannot be measured")
        return f'<span class="why">{escape(reason)}</span>'
    return stacked(value, share)


def _histogram(counts: Sequence[int]) -> str:
    if not sum(counts):
        return ""
    said = ", ".join(f"{rating}: {count}" for rating, count in enumerate(counts, start=1))
    return f"{small_bars(counts, f'Ratings given, {said}')}<small>n = {sum(counts):,}</small>"


def _findings(report: LabelerReport) -> str:
    if not report.findings:
        return '<span class="why">nothing</span>'
    items = "".join(f"<li>{sentence(finding.text)}</li>" for finding in report.findings)
    return f'<ul class="findings">{items}</ul>'
