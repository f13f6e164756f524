"""The dashboard's sections that lead to single tasks: disagreements, flagged content, skips."""

from __future__ import annotations

from html import escape

from labeling_ui.dashboard_progress import Overview
from labeling_ui.dashboard_quality import Quality
from labeling_ui.dashboard_task import letter, verbatim
from labeling_ui.dashboard_words import cell, details, estimate, plural, row, section, table, why
from pipeline.label_quality import Flagged

LISTED = 12


def _link(task: str, prompt: str) -> str:
    shown = verbatim(prompt) or "(an empty prompt)"
    return f'<a class="excerpt" href="/dashboard/task/{escape(task)}">{shown}</a>'


def disagreement_section(quality: Quality) -> str:
    """The tasks on which labelers order pairs most differently."""
    title, report = "Where labelers disagree most", quality.report
    if not report.disagreements:
        reason = "nobody orders two responses the other way round"
        return section("disagreement", title, why(report.why_not.get("agreement", reason)))
    rows = "".join(
        row(
            _link(one.task, quality.prompts.get(one.task, "")),
            cell(f"{100 * one.share:.0f}%", "number"),
            cell(f"{one.comparisons:,}", "number"),
            cell(str(one.labelers), "number"),
            key=f"dispute-{one.task}",
        )
        for one in report.disagreements[:LISTED]
    )
    head = ["Task", "#Ordered differently", "#Comparisons", "#Labelers"]
    return section("disagreement", title, table("Open a task to see all sides.", head, rows))


def flagged_section(quality: Quality) -> str:
    """By question, how often it was answered with yes, and where."""
    title, flagged = "Flagged content", quality.report.flagged
    if not any(one.answered for one in flagged.values()):
        return section("flagged", title, why("no question is answered yet"))
    by_count = sorted(flagged.items(), key=lambda item: -item[1].yes)
    return section("flagged", title, "".join(_flagged(quality, *item) for item in by_count))


def _flagged(quality: Quality, key: str, flagged: Flagged) -> str:
    question, share = verbatim(quality.questions.get(key, key)), quality.spread.yes.get(key)
    known = f"flag-{escape(key)}"
    if share is None or not flagged.responses:
        told = "nobody answered" if share is None else f"never, of {plural(share.n, 'answer')}"
        return f'<p data-key="{known}">{question} <span class="why">{told}</span></p>'
    rows = "".join(
        row(
            _link(one.task, quality.prompts.get(one.task, "")),
            cell(letter(one.response)),
            cell(f"{one.yes} of {one.labelers}", "number"),
            key=f"{key}-{one.task}-{one.response}",
        )
        for one in flagged.responses[:LISTED]
    )
    body = table("What most labelers say it of", ["Task", "Response", "#Say so"], rows)
    return details(f"flag-{key}", f"{question} {estimate(share)}", body)


def skips_section(overview: Overview) -> str:
    """How many skips there are, why, and the latest."""
    if not overview.reasons:
        return section("skips", "Skips", why("nobody has skipped a task"))
    total = sum(count for _, count in overview.reasons)
    reasons = "".join(
        row(verbatim(reason), cell(f"{count:,}", "number")) for reason, count in overview.reasons
    )
    latest = "".join(
        row(
            _link(skip.task, skip.prompt),
            cell(verbatim(skip.name)),
            cell(verbatim(skip.reason) + _note(skip.note)),
            key=f"skip-{skip.task}-{skip.name}",
        )
        for skip in overview.latest_skips
    )
    latest = table("The latest first", ["Task", "By", "Reason"], latest)
    return section(
        "skips",
        "Skips",
        table(f"{plural(total, 'skip')} of tasks in use", ["Reason", "#Skips"], reasons)
        + details("latest-skips", "Which tasks", latest),
    )


def _note(note: str | None) -> str:
    return f"<small>{verbatim(note)}</small>" if note else ""
