"""The report's examples: what the checkpoints answered, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.comparison import DRAWN
from pipeline.report_markup import color, text

OPEN_EXAMPLES = 4
OPEN_LOSSES = 1


def examples_section(report: Mapping[str, Any]) -> str:
    """Prompts with every checkpoint's response; a few open, a loss of the best among them."""
    names = list(report["checkpoints"])
    drawn = [e for e in report["examples"] if e["chosen"] == DRAWN]
    losses = [e for e in report["examples"] if e["chosen"] != DRAWN]
    note = f"{len(drawn)} prompts drawn at random"
    if losses:
        note += f", and {len(losses)} where the first of the ranking lost most"
    open_losses = min(OPEN_LOSSES, len(losses))
    open_drawn = OPEN_EXAMPLES - open_losses
    shown = drawn[:open_drawn] + losses[:open_losses]
    hidden = drawn[open_drawn:] + losses[open_losses:]
    more = ""
    if hidden:
        articles = "".join(_example(example, names) for example in hidden)
        more = f"<details><summary>{len(hidden)} more examples</summary>{articles}</details>"
    return (
        f'<h2 id="examples">Side by side</h2><p class="note">{text(note)}; nothing was picked by '
        "hand. All responses are in responses.jsonl.</p>"
        f"{''.join(_example(example, names) for example in shown)}{more}"
    )


def _example(example: Mapping[str, Any], names: Sequence[str]) -> str:
    answers = "".join(
        _answer(name, index, example["responses"][name])
        for index, name in enumerate(names)
        if name in example["responses"]
    )
    return (
        f'<article class="card example"><p class="prompt">{text(example["prompt"])}</p>'
        f'<p class="note">{text(example["chosen"])}</p>'
        f'<div class="answers">{answers}</div></article>'
    )


def _answer(name: str, index: int, response: Mapping[str, Any]) -> str:
    body = f'<p class="text">{text(response["text"])}</p>'
    if not response["text"].strip():
        body = '<p class="text empty">(empty response)</p>'
    rating = "" if response["rating"] is None else f"rated <b>{response['rating']:g}</b> of 7 · "
    flags = [question.replace("_", " ") for question, yes in response["answers"].items() if yes]
    if not response["finished"] and "unfinished" not in flags:
        flags.append("cut off")
    marks = "".join(f"<li>{text(flag)}</li>" for flag in flags)
    return (
        f'<div class="answer" style="border-color: {color(index)}">'
        f"<h3>{text(name)}</h3>{body}"
        f'<p class="score">{rating}reward {response["reward"]:.2f} · '
        f"{response['length_tokens']} tokens</p>"
        + (f'<ul class="flags" aria-label="flaws">{marks}</ul>' if marks else "")
        + "</div>"
    )
