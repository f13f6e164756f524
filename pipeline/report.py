"""``report.html``: one self-contained page for who must decide which checkpoint to ship.

No script, no outside reference; a content security policy forbids both. Everything that a model
or a person wrote is escaped. Every number stands with its 95% interval and its n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.figures import answers_figure, curve_figure, rating_figure, win_rate_figure
from pipeline.report_examples import examples_section
from pipeline.report_markup import cell, cells, definitions, figure, row, swatch, table, text
from pipeline.report_reward import reward_section
from pipeline.report_style import STYLE
from pipeline.verdict import decide

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
JUDGES = {
    "tinyworld": "the embedded world's rubric, without noise; labelers' ratings play no part",
    "overlap": "overlap with the reference response, mapped to 1–7: a rough measure of quality",
    "reward": "the reward model alone: there are no ratings",
}
# key in report.json, label, which way is better (0: neither), decimals, what it is
MEASURES = (
    ("rating", "Rating", 1, 2, "1 to 7, by the judge"),
    ("reward", "Reward", 1, 2, "the reward model's score; what PPO was trained to raise"),
    ("kl_to_sft", "KL to SFT", 0, 2, "nats per response: how far it moved from sft"),
    ("length_tokens", "Length", 0, 1, "tokens per response, end token included"),
    ("perplexity", "Perplexity", 0, 1, "of the text under the base; low is predictable text"),
    (
        "pretraining_perplexity",
        "Perplexity of pretraining text",
        -1,
        2,
        "of held-out text under the checkpoint, per token: what it cost to align it",
    ),
)
SHARES = (
    ("distinct_answers", "Distinct responses", 1, "different texts, as a share of all"),
    ("empty", "Empty responses", -1, "without any text"),
)
ARROWS = {1: " ↑", 0: "", -1: " ↓"}


def render_html(
    report: Mapping[str, Any],
    metrics: Mapping[str, Sequence[Mapping[str, Any]]],
    reward: Mapping[str, Any] | None = None,
) -> str:
    """The page.

    Args:
        report: the content of ``report.json``.
        metrics: rows of ``metrics.jsonl`` by the folder they are in, of which ``base`` (loss) and
            ``ppo`` (objective/scores and objective/kl) are drawn, where present.
        reward: the content of the reward model's ``report.json``.
    """
    sections = [
        _verdict(report),
        _numbers(report),
        _win_rates(report),
        _figures(report, metrics),
        reward_section(reward) if reward else "",
        examples_section(report),
        _method(report),
    ]
    name = str(report["settings"].get("run", ""))
    title = f"Which checkpoint to ship: {name}" if name else "Which checkpoint to ship"
    names = ", ".join(report["checkpoints"])
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{text(title)}</title><style>{STYLE}</style></head>",
            f"<body><header><h1>{text(title)}</h1>",
            f"<p>{text(names)} on held-out prompts · judged by {text(_judge(report))}</p></header>",
            f"<main>{''.join(sections)}</main><footer></footer></body></html>\n",
        ]
    )


def _judge(report: Mapping[str, Any]) -> str:
    judge = str(report["judge"])
    return JUDGES.get(judge, judge)


# --- verdict and table ----------------------------------------------------------------------------


def _verdict(report: Mapping[str, Any]) -> str:
    verdict = decide(report)
    evidence = "".join(f"<li>{text(line)}</li>" for line in verdict.evidence)
    warnings = ""
    if verdict.warnings:
        lines = "".join(f"<li>{text(line)}</li>" for line in verdict.warnings)
        warnings = f'<div class="warnings"><strong>Look at first</strong><ul>{lines}</ul></div>'
    kind = "winner" if verdict.name else "open"
    return (
        f'<section class="card verdict {kind}" aria-label="Verdict">'
        f'<p class="headline">{text(verdict.headline)}</p><ul>{evidence}</ul>{warnings}</section>'
    )


def _numbers(report: Mapping[str, Any]) -> str:
    checkpoints, wording = report["checkpoints"], report["settings"].get("questions", {})
    every = list(checkpoints.values())
    rows = [
        row(label + ARROWS[better], note, [c.get(key) for c in every], digits=digits)
        for key, label, better, digits, note in MEASURES
        if any(c.get(key) is not None for c in every)
    ]
    rows += [
        row(label + ARROWS[better], note, [c[key] for c in every], share=True)
        for key, label, better, note in SHARES
    ]
    rows += [
        row(
            question.replace("_", " ").capitalize() + ARROWS[-1],
            wording.get(question, "responses with this flaw"),
            [c["answers"].get(question) for c in every],
            share=True,
        )
        for question in _questions(report)
    ]
    rows.append(_strength_row(report))
    heads = [f"{swatch(index)}{text(name)}" for index, name in enumerate(checkpoints)]
    caption = "Mean with its 95% interval and n. ↑ higher is better, ↓ lower is better."
    return table("numbers", "The numbers", caption, heads, rows)


def _win_rates(report: Mapping[str, Any]) -> str:
    """Each pair in a row; the same as the figure, in digits."""
    if not report["pairs"]:
        return ""
    rows: list[str] = []
    for pair in report["pairs"]:
        plain = {"mean": pair["win_rate"], "ci95": pair["ci95"], "n": pair["n"]}
        controlled = {
            "mean": pair["length_controlled_win_rate"],
            "ci95": pair["length_controlled_ci95"],
            "n": pair["n"],
        }
        values = [cell(plain, 1, share=True), cell(controlled, 1, share=True)]
        values.append(f"{pair['wins']} / {pair['ties']} / {pair['losses']}")
        values.append(cell(pair["score_difference"], 2))
        rows.append(cells(f"{pair['a']} over {pair['b']}", "", values))
    measure = "rating" if _is_rated(report) else "reward"
    heads = ["Win rate", "At equal length", "Won / tied / lost", f"Gain in {measure}"]
    caption = (
        "Prompt by prompt; a tie counts half. Above 50%, the first of the two is better. At equal "
        "length: what logistic regression leaves of it if both responses were equally long."
    )
    return table("wins", "Who wins", caption, heads, rows)


def _is_rated(report: Mapping[str, Any]) -> bool:
    """False where rewards decide who wins."""
    return all(c["rating"] is not None for c in report["checkpoints"].values())


def _questions(report: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(q for c in report["checkpoints"].values() for q in c["answers"]))


def _strength_row(report: Mapping[str, Any]) -> str:
    n = max((pair["n"] for pair in report["pairs"]), default=0)
    strengths = {
        row["name"]: {"mean": row["strength"], "ci95": row["ci95"], "n": n}
        for row in report["ranking"]
    }
    leaves = [strengths[name] for name in report["checkpoints"]]
    return row("Strength ↑", "Bradley-Terry over all pairs, log odds around 0", leaves, 2)


# --- figures --------------------------------------------------------------------------------------


def _figures(report: Mapping[str, Any], metrics: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    checkpoints, figures = report["checkpoints"], []
    if _is_rated(report):
        caption = f"How often each rating was given; {_counts(report)} per checkpoint."
        figures.append(figure("Ratings", rating_figure(checkpoints), caption))
    if report["pairs"]:
        caption = (
            f"Each prompt compares the two responses; {_counts(report)}. Hollow: by logistic "
            "regression, if both responses were of equal length."
        )
        figures.append(figure("Win rates", win_rate_figure(report["pairs"]), caption))
    if _questions(report):
        caption = f"The judge's yes/no questions; {_counts(report)} per checkpoint."
        figures.append(figure("Flaws", answers_figure(checkpoints), caption))
    scores = {
        "objective/scores": "reward model's score, batch mean",
        "objective/kl": "KL to sft, nats per response",
    }
    rows = [
        row for row in metrics.get("ppo", []) if any(row.get(key) is not None for key in scores)
    ]
    if rows:
        svg = curve_figure(rows, scores, "PPO update", "ppo", "Score and KL through PPO")
        caption = (
            f"{len(rows)} updates; a score that rises while ratings fall is over-optimization."
        )
        figures.append(figure("Reward and KL through PPO", svg, caption + _alarms(report)))
    rows = [row for row in metrics.get("base", []) if row.get("loss") is not None]
    if rows:
        keys = {"loss": "training loss, nats per token"}
        svg = curve_figure(rows, keys, "step", "pretraining", "Pretraining loss")
        caption = f"Pretraining from scratch, {len(rows)} logged steps, one batch each."
        figures.append(figure("Pretraining", svg, caption))
    return f'<h2 id="figures">Figures</h2><div class="grid">{"".join(figures)}</div>'


def _alarms(report: Mapping[str, Any]) -> str:
    """What PPO warned of, and how it ended, where it did not just end."""
    training = report.get("ppo") or {}
    said = [
        f" Alarm in update {alarm['update']}: {alarm['message']}; {alarm['advice']}"
        for alarm in training.get("alarms", [])
    ]
    return "".join(said) + (f" {training['stopped']}" if training.get("stopped") else "")


def _counts(report: Mapping[str, Any]) -> str:
    sizes = sorted({c["reward"]["n"] for c in report["checkpoints"].values()})
    return f"n = {' to '.join(str(size) for size in sizes)} prompts"


# --- method -------------------------------------------------------------------------------------


def _method(report: Mapping[str, Any]) -> str:
    intervals = (
        "Intervals are 95%: Student’s t for means, Wilson’s for shares, Tango’s for win rates, a "
        "sandwich estimate for win rates at equal length, a Bayesian bootstrap over prompts for "
        "strengths, a jackknife for distinct responses. Checkpoints answered the same prompts "
        "with the same seeds and are compared prompt by prompt."
    )
    return (
        '<h2 id="method">How this was measured</h2><div class="card">'
        f"<p>{text(intervals)}</p><p>Judge: {text(_judge(report))}.</p>"
        f"{definitions(report['settings'])}</div>"
    )
