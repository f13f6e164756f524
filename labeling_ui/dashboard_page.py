"""The dashboard as HTML: three answers first, then what they rest on.

All text from outside goes through ``escape`` or ``verbatim``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape

from labeling_ui import pages
from labeling_ui.dashboard_charts import bars, meter
from labeling_ui.dashboard_labelers import glance_help, labelers_section
from labeling_ui.dashboard_measures import (
    agreement_section,
    drift_section,
    glance_trust,
    ratings_section,
)
from labeling_ui.dashboard_places import disagreement_section, flagged_section, skips_section
from labeling_ui.dashboard_progress import HOURS_SHOWN, Overview, Pace, Person
from labeling_ui.dashboard_quality import Quality
from labeling_ui.dashboard_task import HEAD, verbatim
from labeling_ui.dashboard_words import card, cell, details, plural, row, section, table, why

SCRIPT = '<script src="/dashboard/dashboard.js" defer></script>'
CONTENTS = (
    ("agreement", "Agreement"),
    ("labelers", "Labelers"),
    ("disagreement", "Where they disagree"),
    ("flagged", "Flagged"),
    ("ratings", "Ratings"),
    ("drift", "Drift"),
    ("pace", "Pace"),
    ("skips", "Skips"),
    ("practice", "Practice"),
)


def dashboard_page(
    overview: Overview, quality: Quality, run_name: str, role: str, now: float
) -> str:
    """The whole page.

    Args:
        role: of the reader.
        now: seconds since the epoch.
    """
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title in CONTENTS)
    body = f"""<p class="live" role="status"></p>
<div id="board"><p class="soft asof">Run {escape(run_name)}, as of {_clock(now)}.
<span class="reload"><a href="/dashboard">Reload</a></span></p>
<div class="glance">{glance_trust(quality)}{_glance_progress(overview)}{glance_help(quality)}</div>
<nav class="contents" aria-label="On this page">{links}</nav>
{agreement_section(quality)}{labelers_section(quality, overview, now)}
{disagreement_section(quality)}{flagged_section(quality)}{ratings_section(quality)}
{drift_section(quality)}{_pace_section(overview.pace)}{skips_section(overview)}
{_practice_section(overview)}</div>"""
    return pages.page("Dashboard", body, HEAD + SCRIPT, "full", pages.nav(role, "/dashboard"))


def _clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


# --- how far ------------------------------------------------------------------------------------


def _glance_progress(overview: Overview) -> str:
    progress = overview.progress
    total = progress.done + progress.open + progress.skipped
    if not total:
        answer, kind, chart = "There are no tasks.", "open", ""
    else:
        ended = progress.done + progress.skipped
        share, kind = ended / total, "good" if ended == total else "open"
        answer = f"{progress.done:,} of {plural(total, 'task')} judged"
        answer = "All tasks are done" if ended == total else f"{answer}, {100 * share:.0f}%"
        title = f"{100 * share:.0f}% of the tasks are done"
        chart = meter(share, overview.before_somebody / total, title)
    details = f"{progress.open:,} open, {overview.before_somebody:,} of them before somebody now; "
    details += f"{progress.skipped:,} skipped by all who had them."
    body = f"{chart}<p>{details}</p><p>{_pace_words(overview)}</p>"
    return card("far", "How far are we?", kind, answer, body)


def _pace_words(overview: Overview) -> str:
    pace = overview.pace
    if not overview.ends_left:
        return "Nothing is left to judge."
    left = f"{plural(overview.ends_left, 'judgment')} to go"
    if pace.per_hour is None or pace.ci95 is None:
        return f"{left}. Nobody has ended a task in the last hour, so there is no pace to go by."
    low, high = pace.ci95
    hours = overview.ends_left / pace.per_hour
    longest = overview.ends_left / low
    span = f"{_hours(overview.ends_left / high)} to {_hours(longest)}"
    return (
        f"{left}, at {pace.per_hour:.0f} an hour (95%: {low:.0f} to {high:.0f}; n = {pace.ended} "
        f"in the last {_hours(pace.hours)}): done in about {_hours(hours)} of such work ({span})."
    )


def _hours(hours: float) -> str:
    if hours < 1.5:
        return f"{max(1, round(60 * hours))} min"
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"


def _pace_section(pace: Pace) -> str:
    if not any(pace.hourly):
        chart = why(f"nobody has ended a task in the last {HOURS_SHOWN} hours")
    else:
        ago = [HOURS_SHOWN - 1 - place for place in range(HOURS_SHOWN)]
        labels = ["now" if not a else f"−{a} h" if a % 6 == 0 else "" for a in ago]
        said = [
            f"{count} {a} hours ago" for count, a in zip(pace.hourly, ago, strict=True) if count
        ]
        title = f"Tasks ended in each of the last {HOURS_SHOWN} hours: {', '.join(said)}"
        shown = [str(count or "") for count in pace.hourly]
        caption = f"Tasks that people judged or skipped, in each of the last {HOURS_SHOWN} hours."
        chart = f"""<figure>{bars(pace.hourly, labels, title, shown)}
<figcaption>{caption}</figcaption></figure>"""
    return section("pace", "Pace", chart)


# --- practice ----------------------------------------------------------------------------------


def _practice_section(overview: Overview) -> str:
    title, tasks = "Practice", overview.practice_tasks
    if not tasks:
        return section("practice", title, why("this run has no practice"))
    people = [one for one in overview.people if not one.disabled]
    passed = sum(one.practiced for one in people)
    rows = "".join(
        row(
            f"{verbatim(one.name)}<small>{escape(one.pseudonym)}</small>",
            cell(_practice_state(one, tasks)),
            cell(str(one.practice_repeats), "number"),
            key=f"practice-{one.pseudonym}",
        )
        for one in people
    )
    told = f"<p>{passed} of {plural(len(people), 'account')} have passed.</p>"
    listed = table(
        f"The practice has {plural(tasks, 'task')}", ["Labeler", "State", "#Began again"], rows
    )
    return section("practice", title, told + details("practice-list", "Who has passed", listed))


def _practice_state(person: Person, tasks: int) -> str:
    if person.practiced:
        return '<span class="tag good">passed</span>'
    if person.practice_done:
        return f"{person.practice_done} of {plural(tasks, 'task')} done"
    return "not passed" if person.practice_repeats else "not begun"
