"""The benchmark end to end on one tiny world; its arms and intervals by hand."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.tinyworld import MIXTURE

QuickRun = Callable[[str], list[str]]
ROOT = Path(__file__).parents[2]
# Benchmarks are run from the repository and not installed, so there is nothing to import.
BENCHMARK = runpy.run_path(str(ROOT / "benchmarks" / "mixture.py"))
arm_config, difference = BENCHMARK["arm_config"], BENCHMARK["difference"]


@pytest.mark.slow
def test_the_last_line_holds_the_figures(tmp_path: Path, quick_run: QuickRun) -> None:
    lines = quick_run("mixture")
    figures = json.loads(lines[-1])
    assert figures["n_seeds"] == 1
    [(number, arms)] = figures["seeds"].items()
    for arm, sources in (("with", set(MIXTURE)), ("without", set(MIXTURE) - {"chat"})):
        base = tmp_path / "runs" / f"benchmark-mixture-quick-{number}-{arm}" / "base"
        measured = json.loads((base / "pretraining.json").read_text())["heldout_bits_per_byte"]
        by_source = arms[arm]["bits_per_byte_by_source"]
        assert by_source == {name: measured[name] for name in by_source}
        assert set(by_source) == set(MIXTURE) - {"chat"}
        assert set(arms[arm]["epochs"]) == set(measured) == sources
        assert min(by_source.values()) < arms[arm]["bits_per_byte"] < max(by_source.values())
    gap = arms["with"]["bits_per_byte"] - arms["without"]["bits_per_byte"]
    assert figures["with_less_without"]["bits_per_byte"] == {"mean": gap, "ci95": None, "n": 1}
    table = [line for line in lines if line.startswith("| ")]
    assert len(table) == 2
    assert table[0].count("|") == table[1].count("|")
    assert f"{arms['without']['bits_per_byte']:.4f}" in table[1]


def test_the_arms_differ_by_the_noisy_source_alone(tmp_path: Path) -> None:
    world = BENCHMARK["world_config"](7, False)
    both = {arm: arm_config(world, tmp_path, arm) for arm in ("with", "without")}
    shares = {
        arm: {source.name: source.proportion for source in config.data.corpus}
        for arm, config in both.items()
    }
    assert shares["with"] == pytest.approx(MIXTURE)
    assert set(shares["without"]) == set(MIXTURE) - {"chat"}
    for name, share in shares["without"].items():
        assert share == pytest.approx(MIXTURE[name] / 0.93)
    assert both["with"].pretrain == both["without"].pretrain == world.pretrain
    assert both["with"].seed == both["without"].seed == 7
    assert both["with"].name != both["without"].name


def test_the_difference_has_a_t_interval() -> None:
    seeds = [
        {"with": {"x": value + gap}, "without": {"x": value}}
        for value, gap in ((1.0, 0.1), (2.0, 0.2), (3.0, 0.3))
    ]
    leaf = difference(seeds, "x")
    # mean 0.2, standard deviation 0.1, and 4.3027 is the 97.5% point of t with two degrees
    margin = 4.3027 * 0.1 / 3**0.5
    assert leaf["mean"] == pytest.approx(0.2)
    assert leaf["ci95"] == pytest.approx([0.2 - margin, 0.2 + margin], abs=1e-4)
    assert leaf["n"] == 3
