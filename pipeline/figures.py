"""The report's figures, as SVG that takes its colors from the page.

Matplotlib draws with stand-in colors, which are then replaced by CSS variables: the same figure
is readable on a light and on a dark page. Data colors are those of Okabe and Ito (2008), told
apart by color-blind readers; position and label always say the same as color does.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.verdict import number

INK, MUTED, GRID = "#010203", "#040506", "#070809"
SERIES = ("#010a01", "#010b01", "#010c01", "#010d01", "#010e01", "#010f01")
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line"} | {
    color: f"--series-{index}" for index, color in enumerate(SERIES)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.labelsize": 10.5,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
WIDTH_INCHES = 5.4


def rating_figure(checkpoints: Mapping[str, Any]) -> str:
    """The share of each rating from 1 to 7, one row of bars per checkpoint, the mean marked."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 0.5 + 0.95 * len(checkpoints)))
        axes = figure.subplots(len(checkpoints), 1, sharex=True, sharey=True, squeeze=False)
        shares_of = {name: _shares(c["rating_counts"]) for name, c in checkpoints.items()}
        height = 1.45 * max(max(shares) for shares in shares_of.values())
        for index, (name, checkpoint) in enumerate(checkpoints.items()):
            ax: Axes = axes[index, 0]
            shares = shares_of[name]
            ax.bar(range(1, 8), shares, width=0.78, color=_series(index))
            for rating, value in enumerate(shares, start=1):
                ax.text(
                    rating,
                    value + 0.02 * height,
                    f"{value:.0f}",
                    ha="center",
                    color=MUTED,
                    fontsize=9,
                )
            leaf = checkpoint["rating"]
            ax.plot(leaf["mean"], 0.9 * height, "v", color=INK, markersize=6)
            side = -1 if leaf["mean"] > 4 else 1
            label = f"mean {number(leaf)}"
            align = "right" if side < 0 else "left"
            ax.text(leaf["mean"] + 0.15 * side, 0.85 * height, label, ha=align, fontsize=9.5)
            ax.set_ylabel(_plain(name), rotation=0, ha="right", va="center", color=INK)
            ax.set(ylim=(0, height), yticks=[])
            ax.spines["left"].set_visible(False)
        axes[-1, 0].set(xticks=range(1, 8), xlabel="rating (bars: % of prompts)")
        return _svg(figure, "ratings", "Distribution of ratings per checkpoint")


def win_rate_figure(pairs: Sequence[Mapping[str, Any]]) -> str:
    """Win rates with intervals against the line of one half; hollow: at equal length."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 1.25 + 0.62 * len(pairs)))
        ax = figure.subplots()
        ax.axvline(50, color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        for row, pair in enumerate(pairs):
            label = "win rate" if row == 0 else ""
            _point(ax, pair["win_rate"], pair["ci95"], row - 0.13, _series(2), label)
            controlled = pair["length_controlled_win_rate"], pair["length_controlled_ci95"]
            label = "at equal length" if row == 0 else ""
            _point(ax, *controlled, row + 0.17, MUTED, label, hollow=True)
        labels = [f"{_plain(pair['a'])} over {_plain(pair['b'])}" for pair in pairs]
        ax.set_yticks(range(len(pairs)), labels)
        ax.set(xlim=(0, 100), ylim=(len(pairs) - 0.5, -0.5))
        ax.set_xlabel("% of prompts won, ties half (bar: 95% interval)")
        ax.grid(axis="x")
        figure.legend(loc="upper right", ncols=2, frameon=False, handletextpad=0.3, fontsize=10)
        return _svg(figure, "wins", "Win rates between checkpoints with 95% intervals", legend=True)


def answers_figure(checkpoints: Mapping[str, Any]) -> str:
    """The share of responses with each flaw, per checkpoint, with intervals."""
    questions = list(dict.fromkeys(q for c in checkpoints.values() for q in c["answers"]))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 1.3 + 0.6 * len(questions)))
        ax = figure.subplots()
        step = 0.6 / max(1, len(checkpoints))
        for index, (name, checkpoint) in enumerate(checkpoints.items()):
            for row, question in enumerate(questions):
                leaf = checkpoint["answers"].get(question, {"mean": None, "ci95": None})
                offset = (index - (len(checkpoints) - 1) / 2) * step
                label = _plain(name) if row == 0 else ""
                _point(ax, leaf["mean"], leaf["ci95"], row + offset, _series(index), label, index)
        ax.set_yticks(range(len(questions)), [_plain(q.replace("_", " ")) for q in questions])
        ax.set_ylim(len(questions) - 0.5, -0.5)
        ax.set_xlim(left=-1)
        ax.set_xlabel("% of responses with the flaw (bar: 95% interval)")
        ax.grid(axis="x")
        figure.legend(loc="upper right", ncols=6, frameon=False, handletextpad=0.1, fontsize=10)
        return _svg(figure, "answers", "Flaws per checkpoint with 95% intervals", legend=True)


def curve_figure(
    rows: Sequence[Mapping[str, Any]], keys: Mapping[str, str], xlabel: str, name: str, title: str
) -> str:
    """One panel for each metric of ``keys`` (metric: axis label) over the rows' ``step``."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 0.7 + 1.7 * len(keys)))
        axes = figure.subplots(len(keys), 1, sharex=True, squeeze=False)
        for index, (key, label) in enumerate(keys.items()):
            ax: Axes = axes[index, 0]
            points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
            steps, values = [p[0] for p in points], [p[1] for p in points]
            ax.plot(steps, values, "o" if len(points) == 1 else "-", color=_series(2), lw=1.8)
            ax.set_title(_plain(label), loc="left", fontsize=10.5, color=INK)
            ax.grid(axis="y")
            ax.margins(x=0.02)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[-1, 0].set_xlabel(xlabel)
        return _svg(figure, name, title)


def reliability_figure(bins: Sequence[Mapping[str, Any]]) -> str:
    """How often pairs come out right over how sure the scores are, with intervals, in percent."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 3.6))
        ax = figure.subplots()
        ax.plot([50, 100], [50, 100], color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        for one in bins:
            x = 100 * one["mean_confidence"]
            ax.plot([x, x], [100 * end for end in one["ci95"]], color=_series(2), linewidth=2.2)
            ax.plot(x, 100 * one["accuracy"], "o", color=_series(2), markersize=6)
        ax.set(xlim=(49, 101), ylim=(0, 102), ylabel="% of pairs that came out right")
        ax.set_xlabel("how sure the scores are, in % (bar: 95% interval)")
        ax.grid()
        return _svg(figure, "reliability", "Reliability diagram of the reward model")


def gap_figure(epochs: Sequence[Mapping[str, Any]]) -> str:
    """Log-loss on prompts learned from and on held-out ones, by epoch."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 2.6))
        ax = figure.subplots()
        numbers = [row["epoch"] for row in epochs]
        for index, (key, label) in enumerate(
            {"training_log_loss": "learned from", "validation_log_loss": "held out"}.items()
        ):
            losses = [row[key] for row in epochs]
            ax.plot(numbers, losses, "os"[index] + "-", color=_series(index), label=label)
        ax.set(xlabel="epoch", ylabel="nats per pair", xticks=numbers)
        ax.grid(axis="y")
        figure.legend(loc="upper right", ncols=2, frameon=False, fontsize=10)
        return _svg(figure, "epochs", "Log-loss by epoch", legend=True)


def _shares(counts: Mapping[str, int]) -> list[float]:
    """The percentages of the ratings 1 to 7."""
    total = sum(counts.values())
    return [100 * counts[str(rating)] / total for rating in range(1, 8)]


def _point(
    ax: Axes,
    mean: float | None,
    ends: Sequence[float] | None,
    y: float,
    color: str,
    label: str,
    marker_index: int = 0,
    hollow: bool = False,
) -> None:
    """A share drawn in percent, with its interval as a bar; without a mean, only the label."""
    if ends is not None:
        ax.plot(
            [100 * end for end in ends],
            [y, y],
            color=color,
            linewidth=2.2,
            alpha=0.75,
            clip_on=False,
        )
    marker = "D" if hollow else "osD^vP"[marker_index % 6]
    face = "none" if hollow else color
    style = {"color": color, "markerfacecolor": face, "markersize": 6, "clip_on": False}
    xs, ys = ([], []) if mean is None else ([100 * mean], [y])
    ax.plot(xs, ys, marker, label=label, **style)


def _series(index: int) -> str:
    return SERIES[index % len(SERIES)]


def _plain(text: str) -> str:
    """Text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")


def _svg(figure: Figure, name: str, title: str, legend: bool = False) -> str:
    """Inline SVG: no outside reference, ids of its own, scaled to the width it is given."""
    top = 1 - 0.32 / figure.get_figheight() if legend else 1.0  # inches, whatever the height
    figure.tight_layout(rect=(0, 0, 1, top), pad=0.4)
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'\b(id=")|(url\(#|href="#)', lambda m: f"{m[0]}{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    opening = f'<svg role="img" aria-label="{title}" viewBox='
    return re.sub(r"<svg [^>]*?viewBox=", opening, svg, count=1).strip()
