"""The figures: inline SVG whose bars, points and curves stand where the numbers say."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from pipeline.figures import answers_figure, curve_figure, rating_figure, win_rate_figure


def leaf(mean: float | None, low: float = 0.0, high: float = 1.0) -> dict[str, Any]:
    return {"mean": mean, "ci95": None if mean is None else [low, high], "n": 10}


def rated(counts: list[int], mean: float) -> dict[str, Any]:
    return {
        "rating": leaf(mean, mean - 0.5, mean + 0.5),
        "rating_counts": {str(rating): count for rating, count in enumerate(counts, start=1)},
        "answers": {"off_topic": leaf(0.25, 0.2, 0.3), "rude": leaf(None)},
    }


CHECKPOINTS = {"sft": rated([4, 0, 0, 0, 0, 0, 4], 4.0), "ppo": rated([0, 0, 0, 0, 1, 1, 8], 6.7)}
PAIR = {
    "a": "ppo",
    "b": "sft",
    "win_rate": 0.75,
    "ci95": [0.6, 0.9],
    "length_controlled_win_rate": 0.5,
    "length_controlled_ci95": None,
}
ROWS = [{"step": step, "objective/kl": step / 2, "loss": None} for step in range(1, 5)]


DRAWN = {
    "ratings": rating_figure(CHECKPOINTS),
    "wins": win_rate_figure([PAIR]),
    "answers": answers_figure(CHECKPOINTS),
    "curve": curve_figure(ROWS, {"objective/kl": "KL", "loss": "loss"}, "update", "ppo", "PPO"),
}


def words(svg: str) -> list[str]:
    """The figure's texts; ElementTree raises where the SVG is not well-formed."""
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    return ["".join(element.itertext()) for element in root.iter() if element.tag == "text"]


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_inline_accessible_and_takes_its_colors_from_the_page(name: str) -> None:
    svg = DRAWN[name]
    assert svg.startswith('<svg role="img" aria-label="')
    assert words(svg)
    assert not re.search(r"https?:|<style|<script|font-family|<metadata|<image", svg)
    assert not re.search(r"#[0-9a-fA-F]{6}\b", svg)
    assert "var(--series-" in svg


def test_ids_of_different_figures_do_not_meet() -> None:
    ids = [found for svg in DRAWN.values() for found in set(re.findall(r'id="([^"]+)"', svg))]
    assert len(ids) == len(set(ids))


def test_the_same_numbers_give_the_same_bytes() -> None:
    assert win_rate_figure([PAIR]) == DRAWN["wins"]


def test_rating_shares_and_means_are_written() -> None:
    texts = words(DRAWN["ratings"])
    assert [text for text in texts if text.startswith("mean")] == [
        "mean 4.00 [3.50, 4.50]",
        "mean 6.70 [6.20, 7.20]",
    ]
    assert texts.count("50") == 2  # sft: half are 1, half are 7
    assert texts.count("80") == 1
    assert texts.count("10") == 2


def bars(svg: str, color: str) -> list[float]:
    """Heights of the closed rectangles that are filled with a color."""
    heights = []
    for path, style in re.findall(r'<path d="([^"]+)"[^>]*style="([^"]*)"', svg):
        if f"fill: var({color})" in style:
            ys = [float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)", path)]
            heights.append(max(ys) - min(ys))
    return heights


def test_bars_are_as_high_as_the_shares() -> None:
    svg = DRAWN["ratings"]
    sft, ppo = bars(svg, "--series-0"), bars(svg, "--series-1")
    assert len(sft) == len(ppo) == 7
    assert sft[0] == pytest.approx(sft[6], abs=0.01)
    assert sft[1:6] == pytest.approx([0] * 5, abs=0.01)
    assert ppo[6] / ppo[5] == pytest.approx(8, rel=0.01)
    assert ppo[6] / sft[6] == pytest.approx(80 / 50, rel=0.01)  # one scale for all


def test_win_rates_lie_on_the_axis_with_their_intervals() -> None:
    svg = DRAWN["wins"]
    lines = re.findall(r'<path d="M ([\d.]+) ([\d.]+) \nL ([\d.]+) ([\d.]+) \n"([^>]*)>', svg)
    [interval] = [line for line in lines if "stroke: var(--series-2)" in line[4]]
    dashed = [line for line in lines if "stroke-dasharray" in line[4]]
    half, low, high = float(dashed[0][0]), float(interval[0]), float(interval[2])
    # On one linear axis 0.6 and 0.9 lie 10 and 40 points to the right of one half.
    assert (high - half) / (low - half) == pytest.approx(4, rel=0.01)
    assert "ppo over sft" in words(svg)


def test_what_is_missing_is_not_drawn() -> None:
    single = curve_figure([{"step": 3, "loss": 1.5}], {"loss": "loss"}, "step", "base", "Loss")
    assert "loss" in words(single)
    texts = words(answers_figure({"sft": {"answers": {"rude": leaf(None)}}}))
    assert {"sft", "rude"} <= set(texts)


def test_names_are_neither_markup_nor_formulas() -> None:
    checkpoint = {"answers": {"<b>$\\frac{x$": leaf(0.5)}}
    svg = answers_figure({"<script>$x$": checkpoint})
    assert "<script" not in svg
    texts = words(svg)
    assert "<script>$x$" in texts
    assert "<b>$\\frac{x$" in texts
