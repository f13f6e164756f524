"""``report.html``: one self-contained page for who must decide which checkpoint to ship.

No script, no outside reference; a content security policy forbids both. Everything that a model
or a person wrote is escaped. Every number stands with its 95 % interval and its n.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.figures import answers_figure, curve_figure, rating_figure, win_rate_figure
from pipeline.report_style import STYLE
from pipeline.verdict import decide, interval

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
OPEN_EXAMPLES = 4
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
    ("perplexity", "Perplexity", -1, 1, "of the responses' text under the base: fluency"),
)
SHARES = (
    ("distinct_answers", "Distinct responses", 1, "% of responses that differ from each other"),
    ("empty", "Empty responses", -1, "% of responses without text"),
)
ARROWS = {1: " ↑", 0: "", -1: " ↓"}


def render_html(
    report: Mapping[str, Any], metrics: Mapping[str, Sequence[Mapping[str, Any]]]
) -> str:
    """The page.

    Args:
        report: the content of ``report.json``.
        metrics: rows of ``metrics.jsonl`` by the folder they are in, of which ``base`` (loss) and
            ``ppo`` (objective/scores and objective/kl) are drawn, where present.
    """
    sections = [
        _verdict(report),
        _table(report),
        _figures(report, metrics),
        _examples(report),
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


def text(value: object) -> str:
    """Escaped text; control characters, which could hide or reorder others, become visible."""
    clean = str(value).encode("utf-8", "replace").decode("utf-8")
    return html.escape(CONTROL.sub("\ufffd", clean), quote=True)


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


def _table(report: Mapping[str, Any]) -> str:
    checkpoints, wording = report["checkpoints"], report["settings"].get("questions", {})
    heads = "".join(
        f'<th scope="col">{_swatch(index)}{text(name)}</th>'
        for index, name in enumerate(checkpoints)
    )
    rows = [
        _row(label + ARROWS[better], note, [c[key] for c in checkpoints.values()], 1, digits)
        for key, label, better, digits, note in MEASURES
        if any(c[key] is not None for c in checkpoints.values())
    ]
    rows += [
        _row(label + ARROWS[better], note, [c[key] for c in checkpoints.values()], 100, 1)
        for key, label, better, note in SHARES
    ]
    rows += [
        _row(
            question.replace("_", " ") + ARROWS[-1],
            f"% yes: {wording.get(question, 'has this flaw')}",
            [c["answers"].get(question) for c in checkpoints.values()],
            100,
            1,
        )
        for question in _questions(report)
    ]
    rows.append(_strength_row(report))
    return (
        '<h2 id="numbers">The numbers</h2><div class="card scroll"><table>'
        "<caption>Mean with its 95 % interval and n. ↑ higher is better, ↓ lower is better."
        f"</caption><thead><tr><td></td>{heads}</tr></thead><tbody>{''.join(rows)}</tbody>"
        "</table></div>"
    )


def _questions(report: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(q for c in report["checkpoints"].values() for q in c["answers"]))


def _row(
    label: str, note: str, leaves: Sequence[Mapping[str, Any] | None], scale: float, digits: int
) -> str:
    cells = "".join(f"<td>{_cell(leaf, scale, digits)}</td>" for leaf in leaves)
    return f'<tr><th scope="row">{text(label)}<small>{text(note)}</small></th>{cells}</tr>'


def _cell(leaf: Mapping[str, Any] | None, scale: float, digits: int) -> str:
    if leaf is None or leaf["mean"] is None:
        return "–"
    return (
        f"<b>{scale * leaf['mean']:.{digits}f}</b> "
        f'<span class="interval">{interval(leaf["ci95"], scale, digits)}</span>'
        f"<small>n = {leaf['n']}</small>"
    )


def _strength_row(report: Mapping[str, Any]) -> str:
    n = max((pair["n"] for pair in report["pairs"]), default=0)
    strengths = {
        row["name"]: {"mean": row["strength"], "ci95": row["ci95"], "n": n}
        for row in report["ranking"]
    }
    leaves = [strengths[name] for name in report["checkpoints"]]
    return _row("Strength ↑", "Bradley-Terry over all pairs, log odds around 0", leaves, 1, 2)


def _swatch(index: int) -> str:
    style = f"background: var(--series-{index % 6})"
    return f'<span class="swatch" style="{style}" aria-hidden="true"></span>'


# --- figures --------------------------------------------------------------------------------------


def _figures(report: Mapping[str, Any], metrics: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    checkpoints, figures = report["checkpoints"], []
    if all(c["rating"] is not None for c in checkpoints.values()):
        caption = f"How often each rating was given; {_counts(report)} per checkpoint."
        figures.append(_figure("Ratings", rating_figure(checkpoints), caption))
    if report["pairs"]:
        caption = (
            f"Each prompt compares the two responses; {_counts(report)}. Hollow: by logistic "
            "regression, if both responses were of equal length."
        )
        figures.append(_figure("Who wins", win_rate_figure(report["pairs"]), caption))
    if _questions(report):
        caption = f"The judge's yes/no questions; {_counts(report)} per checkpoint."
        figures.append(_figure("Flaws", answers_figure(checkpoints), caption))
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
        figures.append(_figure("Reward and KL through PPO", svg, caption))
    rows = [row for row in metrics.get("base", []) if row.get("loss") is not None]
    if rows:
        keys = {"loss": "training loss, nats per token"}
        svg = curve_figure(rows, keys, "step", "pretraining", "Pretraining loss")
        caption = f"Pretraining from scratch, {len(rows)} logged steps, one batch each."
        figures.append(_figure("Pretraining", svg, caption))
    return f'<h2 id="figures">Figures</h2><div class="grid">{"".join(figures)}</div>'


def _figure(title: str, svg: str, caption: str) -> str:
    return (
        f'<figure class="card"><h3>{text(title)}</h3>{svg}'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def _counts(report: Mapping[str, Any]) -> str:
    sizes = sorted({c["reward"]["n"] for c in report["checkpoints"].values()})
    return f"n = {' to '.join(str(size) for size in sizes)} prompts"


# --- examples and method --------------------------------------------------------------------------


def _examples(report: Mapping[str, Any]) -> str:
    examples = report["examples"]
    names = list(report["checkpoints"])
    articles = [_example(example, names, report["judge"]) for example in examples]
    drawn = sum(example["chosen"] == "drawn at random" for example in examples)
    note = f"{drawn} prompts drawn at random"
    if drawn < len(examples):
        note += f", and the {len(examples) - drawn} where the first of the ranking lost most"
    shown, hidden = articles[:OPEN_EXAMPLES], articles[OPEN_EXAMPLES:]
    more = ""
    if hidden:
        more = f"<details><summary>{len(hidden)} more examples</summary>{''.join(hidden)}</details>"
    return (
        f'<h2 id="examples">Side by side</h2><p class="note">{text(note)}; nothing was picked by '
        f"hand. All responses are in responses.jsonl.</p>{''.join(shown)}{more}"
    )


def _example(example: Mapping[str, Any], names: Sequence[str], judge: str) -> str:
    answers = "".join(
        _answer(name, index, example["responses"][name], judge)
        for index, name in enumerate(names)
        if name in example["responses"]
    )
    return (
        f'<article class="card example"><p class="prompt">{text(example["prompt"])}</p>'
        f'<p class="note">{text(example["chosen"])}</p>'
        f'<div class="answers">{answers}</div></article>'
    )


def _answer(name: str, index: int, response: Mapping[str, Any], judge: str) -> str:
    body = f'<p class="text">{text(response["text"])}</p>'
    if not response["text"].strip():
        body = '<p class="text empty">(empty response)</p>'
    rating = "" if response["rating"] is None else f"rated <b>{response['rating']:g}</b> of 7 · "
    flags = [question.replace("_", " ") for question, yes in response["answers"].items() if yes]
    if not response["finished"] and "unfinished" not in flags:
        flags.append("cut off")
    marks = "".join(f"<li>{text(flag)}</li>" for flag in flags)
    return (
        f'<div class="answer" style="border-color: var(--series-{index % 6})">'
        f"<h3>{text(name)}</h3>{body}"
        f'<p class="score">{rating}reward {response["reward"]:.2f} · '
        f"{response['length_tokens']} tokens</p>"
        + (f'<ul class="flags" aria-label="flaws">{marks}</ul>' if marks else "")
        + "</div>"
    )


def _method(report: Mapping[str, Any]) -> str:
    intervals = (
        "Intervals are 95 %: Student’s t for means, Wilson’s for shares, Tango’s for win rates, a "
        "bootstrap over prompts for strengths, a jackknife for distinct responses. Checkpoints "
        "answered the same prompts with the same seeds and are compared prompt by prompt."
    )
    return (
        '<h2 id="method">How this was measured</h2><div class="card">'
        f"<p>{text(intervals)}</p><p>Judge: {text(_judge(report))}.</p>"
        f"{_definitions(report['settings'])}</div>"
    )


def _definitions(values: Mapping[str, Any]) -> str:
    """A definition list; a mapping of plain values stands on one line."""
    rows = "".join(
        f"<dt>{text(_words(name))}</dt><dd>{_definition(value)}</dd>"
        for name, value in values.items()
    )
    return f"<dl>{rows}</dl>"


def _definition(value: object) -> str:
    if not isinstance(value, Mapping):
        return text(_scalar(value))
    if any(isinstance(inner, Mapping) for inner in value.values()):
        return _definitions(value)
    return text(" · ".join(f"{_words(name)} {_scalar(inner)}" for name, inner in value.items()))


def _words(name: object) -> str:
    return str(name).replace("_", " ").lower()


def _scalar(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_scalar(item) for item in value)
    return "–" if value is None else str(value)
