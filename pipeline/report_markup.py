"""The report's smallest parts: escaped text, color swatches, definition lists."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

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
