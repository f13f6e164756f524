"""Small charts as SVG: no script, no style of their own, colors from the page's style sheet.

Each is an image with a text that says what it shows; places are in percent of its width.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

HEIGHT = 110  # of a chart with labels, in pixels
LABEL = 18
SMALL = 26


def bars(values: Sequence[float], labels: Sequence[str], title: str, shown: Sequence[str]) -> str:
    """Vertical bars with a label under and a text over each, where those are not empty.

    Args:
        values: heights, none below 0.
        labels: what stands under each bar.
        title: what the chart shows, in words and numbers.
        shown: what stands over each bar.
    """
    width, most = 100 / max(1, len(values)), max(values, default=0) or 1.0
    parts = []
    for place, value in enumerate(values):
        middle, height = width * (place + 0.5), (HEIGHT - 2 * LABEL) * value / most
        top = HEIGHT - LABEL - height
        parts.append(_bar(width * place + 0.1 * width, 0.8 * width, top, height))
        parts.append(_text(middle, HEIGHT - 4, labels[place], "soft"))
        parts.append(_text(middle, top - 4, shown[place]))
    return _image(HEIGHT, title, "bars", parts)


def small_bars(values: Sequence[float], title: str) -> str:
    """Bars without text, to stand in a row of a table."""
    width, most = 100 / max(1, len(values)), max(values, default=0) or 1.0
    parts = [
        _bar(width * place + 0.08 * width, 0.84 * width, SMALL - height, height)
        for place, height in enumerate(max(1.0, SMALL * value / most) for value in values)
    ]
    return _image(SMALL, title, "small", parts)


def interval(
    value: float,
    ci95: tuple[float, float] | None,
    span: tuple[float, float],
    title: str,
    references: Sequence[tuple[float, float]] = (),
) -> str:
    """A value as a point with its interval as a line, over reference values as bands.

    Args:
        span: the values at the left and the right end.
        references: from, to.
    """
    middle = SMALL / 2

    def place(x: float) -> float:
        return 2 + 96 * min(1.0, max(0.0, (x - span[0]) / (span[1] - span[0])))

    parts = [f'<line class="axis" x1="2%" x2="98%" y1="{middle}" y2="{middle}"/>']
    for low, high in references:
        left, width = place(low), max(0.5, place(high) - place(low))
        parts.append(f'<rect class="band" x="{left:.2f}%" width="{width:.2f}%" y="2" height="22"/>')
    if ci95 is not None:
        low, high = place(ci95[0]), place(ci95[1])
        ends = f'x1="{low:.2f}%" x2="{high:.2f}%" y1="{middle}" y2="{middle}"'
        parts.append(f'<line class="ci" {ends}/>')
    parts.append(f'<circle class="value" cx="{place(value):.2f}%" cy="{middle}" r="4.5"/>')
    return _image(SMALL, title, "interval", parts)


def meter(done: float, begun: float, title: str) -> str:
    """A bar that is full when everything is done; what is begun is shown more lightly.

    Args:
        done: as a share of all.
        begun: as a share of all.
    """
    parts = [
        '<rect class="axis" width="100%" height="10" rx="5"/>',
        f'<rect class="begun" width="{100 * min(1.0, done + begun):.2f}%" height="10" rx="5"/>',
        f'<rect class="bar" width="{100 * min(1.0, done):.2f}%" height="10" rx="5"/>',
    ]
    return _image(10, title, "meter", parts)


def _bar(x: float, width: float, y: float, height: float) -> str:
    sizes = f'x="{x:.2f}%" width="{width:.2f}%" y="{y:.1f}" height="{height:.1f}"'
    return f'<rect class="bar" {sizes} rx="2"/>'


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    if not text:
        return ""
    return (
        f'<text class="{kind}" x="{x:.2f}%" y="{y:.1f}" text-anchor="middle">{escape(text)}</text>'
    )


def _image(height: int, title: str, kind: str, parts: Sequence[str]) -> str:
    size = f'width="100%" height="{height}"'
    return (
        f'<svg class="{kind}" role="img" aria-label="{escape(title)}" {size}>{"".join(parts)}</svg>'
    )
