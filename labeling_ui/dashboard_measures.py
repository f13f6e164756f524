"""The dashboard's sections on agreement, ratings and drift."""

from __future__ import annotations

from datetime import UTC, datetime

from labeling_ui.dashboard_charts import bars, interval
from labeling_ui.dashboard_quality import Quality
from labeling_ui.dashboard_task import verbatim
from labeling_ui.dashboard_words import (
    card,
    cell,
    details,
    estimate,
    plural,
    row,
    section,
    sentence,
    spoken,
    table,
    why,
)
from pipeline.label_drift import Drift
from pipeline.label_intervals import Estimate
from pipeline.label_quality import INSTRUCTGPT_AGREEMENT

QUESTION = "Can these labels be trusted?"
PAIRS = (0.5, 1.0)  # from chance to certain
ALPHAS = (-0.2, 1.0)
ALPHA_WORDS = (
    "Krippendorff's alpha: 1 is perfect, 0 what chance gives. He calls 0.8 reliable and 0.667 the "
    "least to draw conclusions from."
)


def references() -> list[tuple[float, float]]:
    """InstructGPT's agreement among labelers, from and to, as shares."""
    return [((m - e) / 100, (m + e) / 100) for m, e in INSTRUCTGPT_AGREEMENT.values()]


# --- agreement ------------------------------------------------------------------------------------


def glance_trust(quality: Quality) -> str:
    """Whether these labels can be trusted, as far as agreement says it."""
    report = quality.report
    shared = f"{plural(report.shared_tasks, 'task')} of {report.tasks:,} judged by two or more."
    agreement = report.agreement
    if agreement is None or agreement.ci95 is None:
        reason = report.why_not.get("agreement", "a single task was ordered by two labelers")
        told = f"<p>It cannot be measured: {sentence(reason).lower()}</p><p>{shared}</p>"
        return card("trust", QUESTION, "open", "Not known yet", told)
    reached, _ = references()[0]
    if agreement.ci95[0] >= reached:
        kind, answer = "good", "Yes: labelers agree as far as InstructGPT's did"
    elif agreement.ci95[1] < reached:
        kind, answer = "bad", "Not yet: labelers agree less than InstructGPT's did"
    else:
        kind, answer = "open", "Not clear yet: more shared tasks will tell"
    told = [f"{mean} ± {error}% ({name})" for name, (mean, error) in INSTRUCTGPT_AGREEMENT.items()]
    chart = interval(agreement.value, agreement.ci95, PAIRS, spoken(agreement), references())
    body = f"""{chart}<p>Two labelers order {estimate(agreement)} of pairs alike;
InstructGPT's {" and ".join(told)}.</p><p>{shared}</p>"""
    return card("trust", QUESTION, kind, answer, body)


def agreement_section(quality: Quality) -> str:
    """Agreement on pairs, and Krippendorff's alpha of ratings and questions."""
    report = quality.report
    pairs = [_row(quality, "Two labelers", report.agreement, PAIRS, "agreement")]
    for name, (mean, error) in INSTRUCTGPT_AGREEMENT.items():
        ends = ((mean - error) / 100, (mean + error) / 100)
        chart = interval(mean / 100, ends, PAIRS, f"{mean} ± {error}%")
        value = f'<b>{mean}%</b> <span class="n">± {error}</span>'
        pairs.append(_cells(f"InstructGPT's {name} labelers", value, chart))
    gold = report.gold_agreement
    pairs.append(
        _row(quality, "With the known answers of gold tasks", gold, PAIRS, "gold_agreement")
    )
    alphas = [_row(quality, "Ratings", report.rating_alpha, ALPHAS, "rating_alpha")]
    for key, value in report.question_alphas.items():
        question = quality.questions.get(key, key)
        alphas.append(_row(quality, question, value, ALPHAS, f"question:{key}"))
    ties = f"{plural(report.ties, 'comparison')} left out, since one of the two labelers tied."
    caption = f"How often the same two responses are ordered alike. {ties}"
    head = ["Who", "Ordered alike", "From 50 to 100%"]
    first = table(caption, head, "".join(pairs))
    second = table(ALPHA_WORDS, ["Of", "Alpha", "From −0.2 to 1"], "".join(alphas))
    return section("agreement", "Agreement", first + second)


def _row(
    quality: Quality, label: str, value: Estimate | None, span: tuple[float, float], key: str
) -> str:
    """A figure, or why there is none."""
    if value is None:
        reason = quality.report.why_not.get(key, "cannot be measured yet")
        return row(verbatim(label), f'<td colspan="2" class="why">{sentence(reason)}</td>')
    of_pairs = span == PAIRS
    bands = references() if of_pairs else ()
    chart = interval(value.value, value.ci95, span, spoken(value, share=of_pairs), bands)
    return _cells(label, estimate(value, share=of_pairs), chart)


def _cells(label: str, value: str, chart: str) -> str:
    return row(verbatim(label), cell(value), cell(chart, "chart"))


# --- ratings --------------------------------------------------------------------------------------


def ratings_section(quality: Quality) -> str:
    """How often each rating is given."""
    shares = quality.spread.ratings
    if not shares:
        return section("ratings", "Ratings", why("nothing is rated yet"))
    named = [(str(rating), share) for rating, share in enumerate(shares, start=1)]
    said = "; ".join(f"{rating}: {spoken(share)}" for rating, share in named)
    shown = [f"{100 * share.value:.0f}%" for share in shares]
    chart = bars([s.value for s in shares], [rating for rating, _ in named], said, shown)
    caption = f"The share of each rating, of {plural(shares[0].n, 'rated response')}."
    rows = "".join(row(rating, cell(estimate(share))) for rating, share in named)
    numbers = table("The share of each rating", ["Rating", "Share"], rows)
    return section(
        "ratings",
        "Ratings",
        f"<figure>{chart}<figcaption>{caption}</figcaption></figure>"
        + details("rating-numbers", "With their intervals", numbers),
    )


# --- drift ----------------------------------------------------------------------------------------


def drift_section(quality: Quality) -> str:
    """How judgments of tasks that stay the same change over time."""
    title = "Drift on fixed tasks"
    if not quality.report.drift:
        reason = quality.report.why_not.get("drift", "there are too few judgments of fixed tasks")
        return section("drift", title, why(reason))
    told = [one for one in quality.report.drift if one.labeler is None or one.finding]
    others = [one for one in quality.report.drift if one not in told]
    body = "".join(_drift(quality, one) for one in told)
    if others:
        steady = "".join(_drift(quality, one) for one in others)
        body += details("steady", f"{plural(len(others), 'labeler')} without a change", steady)
    return section("drift", title, body)


def _drift(quality: Quality, drift: Drift) -> str:
    name = "Everybody" if drift.labeler is None else quality.names.get(drift.labeler, drift.labeler)
    said = "no change beyond chance"
    if drift.finding is not None:
        said = f'<span class="tag bad">{sentence(drift.finding.text)}</span>'
    nothing = '<span class="why">none of these</span>'
    rows = "".join(
        row(
            f"{_day(one.first)} to {_day(one.last)}",
            cell(f"{one.submissions:,}", "number"),
            cell(estimate(one.gold_agreement) if one.gold_agreement else nothing),
            cell(estimate(one.level, share=False) if one.level else nothing),
        )
        for one in drift.periods
    )
    level = "Points above what is known" if drift.labeler is None else "Points above the others"
    head = ["When (UTC)", "#Judgments", "Ordered as is known", level]
    body = table(f"{name}, over time", head, rows)
    key = f"drift-{drift.labeler or ''}"
    return details(key, f"{verbatim(name)}: {said}", body, opened=drift.labeler is None)


def _day(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%d %b %H:%M}"
