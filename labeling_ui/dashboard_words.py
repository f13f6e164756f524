"""Numbers, tables and sections of the dashboard as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from pipeline.label_intervals import Estimate


def plural(count: int, one: str) -> str:
    """``3 tasks``, ``1 task``."""
    return f"{count:,} {one}{'' if count == 1 else 's'}"


def number(value: float, share: bool) -> str:
    """A share as percent, anything else with two decimals, with a real minus sign."""
    shown = f"{100 * value:.1f}%" if share else f"{value:.2f}"
    return shown.replace("-", "−") if float(shown.rstrip("%")) else shown.lstrip("-")


def estimate(value: Estimate, share: bool = True) -> str:
    """A figure with its 95 % interval and what it is of."""
    span = "no interval yet"
    if value.ci95 is not None:
        low, high = (number(end, share).removesuffix("%") for end in value.ci95)
        span = f"{low} to {high}"
    figure = f"<b>{number(value.value, share)}</b>"
    return f'{figure} <span class="n">({span}; n = {value.n:,})</span>'


def stacked(value: Estimate, share: bool = True) -> str:
    """The same in lines of its own, for a narrow column."""
    span = "no interval yet"
    if value.ci95 is not None:
        span = " to ".join(number(end, share).removesuffix("%") for end in value.ci95)
    return f"<b>{number(value.value, share)}</b><small>{span}</small><small>n = {value.n:,}</small>"


def spoken(value: Estimate, share: bool = True) -> str:
    """The same in words, for who hears a chart."""
    figure = number(value.value, share)
    if value.ci95 is None:
        return f"{figure}, no interval, n {value.n}"
    low, high = (number(end, share) for end in value.ci95)
    return f"{figure}, 95% interval {low} to {high}, n {value.n}"


def card(key: str, question: str, kind: str, answer: str, body: str) -> str:
    """One of the answers of the first screen; ``kind`` is good, open or bad."""
    return f"""<section class="{kind}" data-key="{key}"><h2>{question}</h2>
<p class="answer">{answer}</p>{body}</section>"""


def section(name: str, title: str, body: str) -> str:
    """A part of the page that the contents lead to."""
    heading = f'<h2 id="{name}-title">{title}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">{heading}{body}</section>'


def row(first: str, *cells: str, key: str = "") -> str:
    """A row of a table: what it is about, and its cells. By ``key`` the page knows it again."""
    known = f' data-key="{escape(key)}"' if key else ""
    return f'<tr{known}><th scope="row">{first}</th>{"".join(cells)}</tr>'


def cell(content: str, kind: str = "") -> str:
    """A cell; ``kind``: number, chart, hist, words or why."""
    return f'<td class="{kind}">{content}</td>' if kind else f"<td>{content}</td>"


def sentence(text: str) -> str:
    """A text of the report as a sentence of its own, escaped."""
    return escape(f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}")


def why(text: str) -> str:
    """What stands where a figure cannot be."""
    return f'<p class="why">{sentence(text)}</p>'


def details(key: str, summary: str, body: str, opened: bool = False) -> str:
    """What is unfolded; by ``key`` the page knows it again."""
    first = " open" if opened else ""
    return f"""<details data-key="{escape(key)}"{first}><summary>{summary}</summary>
{body}</details>"""


def table(caption: str, head: Sequence[str], rows: str) -> str:
    """A table that scrolls by itself where it is too wide; columns of numbers begin with #."""
    kinds = ["number" if name.startswith("#") else "" for name in head]
    cells = "".join(
        f'<th scope="col" class="{kind}">{name.lstrip("#")}</th>'
        for kind, name in zip(kinds, head, strict=True)
    )
    told = escape(caption)
    return f"""<p class="caption">{told}</p>
<div class="scroll" tabindex="0" role="region" aria-label="{told}"><table>
<thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>"""
