"""The report's parts: escaped text, color swatches, definition lists, tables, figures."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.verdict import decimal, interval, percent

# Control characters, and the marks that turn the direction of what follows.
INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
COLORS = 6


def text(value: object) -> str:
    """Escaped text; invisible characters that could hide or reorder others are shown as �."""
    clean = str(value).encode("utf-8", "replace").decode("utf-8")
    return html.escape(INVISIBLE.sub("\ufffd", clean), quote=True)


def color(index: int) -> str:
    """The color of the checkpoint at ``index``, as a CSS variable."""
    return f"var(--series-{index % COLORS})"


def swatch(index: int) -> str:
    """A small square in a checkpoint's color."""
    style = f"background: {color(index)}"
    return f'<span class="swatch" style="{style}" aria-hidden="true"></span>'


def definitions(values: Mapping[str, Any]) -> str:
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
        return definitions(value)
    return text(" · ".join(f"{_words(name)}: {_scalar(inner)}" for name, inner in value.items()))


def _words(name: object) -> str:
    return str(name).replace("_", " ").lower()


def _scalar(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_scalar(item) for item in value)
    return "–" if value is None else str(value)


# --- tables and figures ---------------------------------------------------------------------------


def table(name: str, title: str, caption: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    """A card with a titled table; ``heads`` and ``rows`` are markup."""
    columns = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return (
        f'<h2 id="{name}">{text(title)}</h2><div class="card scroll"><table>'
        f"<caption>{text(caption)}</caption><thead><tr><td></td>{columns}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def row(
    label: str,
    note: str,
    leaves: Sequence[Mapping[str, Any] | None],
    digits: int = 1,
    share: bool = False,
) -> str:
    """A table's row of numbers, each with its interval and n."""
    return cells(label, note, [cell(leaf, digits, share) for leaf in leaves])


def cells(label: str, note: str, values: Sequence[str]) -> str:
    """A table's row; ``values`` are markup, ``note`` stands small below the label."""
    small = f"<small>{text(note)}</small>" if note else ""
    body = "".join(f"<td>{value}</td>" for value in values)
    return f'<tr><th scope="row">{text(label)}{small}</th>{body}</tr>'


def cell(leaf: Mapping[str, Any] | None, digits: int, share: bool = False) -> str:
    """Mean, interval and n; a share in percent."""
    if leaf is None or leaf["mean"] is None:
        return "–"
    scale = 100 if share else 1
    mean = percent(leaf["mean"], digits) if share else decimal(leaf["mean"], digits)
    return (
        f"<b>{mean}</b> "
        f'<span class="interval">{interval(leaf["ci95"], scale, digits)}</span>'
        f"<small>n = {leaf['n']}</small>"
    )


def figure(title: str, svg: str, caption: str) -> str:
    """A card with a figure, its title and caption."""
    return (
        f'<figure class="card"><h3>{text(title)}</h3>{svg}'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )
