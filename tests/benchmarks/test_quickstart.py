"""The benchmark end to end on one tiny world, and its promises on made-up figures."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

QuickRun = Callable[[str], list[str]]
ROOT = Path(__file__).parents[2]
# Benchmarks are run from the repository and not installed, so there is nothing to import.
BENCHMARK = runpy.run_path(str(ROOT / "benchmarks" / "quickstart.py"))
pooled_flags, verdicts = BENCHMARK["pooled_flags"], BENCHMARK["verdicts"]


@pytest.mark.slow
def test_the_last_line_holds_the_figures(tmp_path: Path, quick_run: QuickRun) -> None:
    lines = quick_run("quickstart")
    figures = json.loads(lines[-1])
    assert figures["n_seeds"] == 1
    assert figures["n_prompts_per_seed"] == 30
    assert figures["environment"]["device"] == "cpu"
    assert figures["environment"]["packages"]["torch"]
    [(number, seed)] = figures["seeds"].items()
    report_path = tmp_path / f"runs/benchmark-quickstart-quick-{number}/compare/report.json"
    report = json.loads(report_path.read_text(encoding="utf-8"))
    for name in ("base", "sft", "ppo"):
        assert seed["rating"][name] == report["checkpoints"][name]["rating"]
    [pair] = [p for p in report["pairs"] if (p["a"], p["b"]) == ("ppo", "sft")]
    assert figures["mean_win_rate"] == figures["min_win_rate"] == pair["win_rate"]
    assert figures["flag_differences"] == pair["answer_differences"]  # one seed: nothing to pool
    table = [line for line in lines if line.startswith("| ")]
    assert len(table) == 2
    assert table[0].count("|") == table[1].count("|")
    assert f"{pair['win_rate']:.1%}" in table[1]
    assert set(figures["promises"].values()) <= {True, False}


def seed(sft: float, ppo: float, win_rate: float, **values: Any) -> dict[str, Any]:
    def leaf(mean: float) -> dict[str, Any]:
        return {"mean": mean, "ci95": [mean - 0.2, mean + 0.2], "n": 300}

    return {
        "rating": {"base": leaf(2.0), "sft": leaf(sft), "ppo": leaf(ppo)},
        "distinct": {"sft": 1.0, "ppo": 0.95},
        "empty": {"sft": 0.0, "ppo": 0.0},
        "ppo_over_sft": {"win_rate": win_rate},
    } | values


FLAG = {"mean": 0.01, "ci95": [-0.02, 0.04], "n": 1500}


def broken(seeds: list[dict[str, Any]], flags: dict[str, Any]) -> list[str]:
    return [promise for promise, holds in verdicts(seeds, flags).items() if not holds]


def test_promises_hold_where_every_figure_is_good() -> None:
    assert broken([seed(3.8, 5.5, 0.8), seed(3.5, 5.0, 0.65)], {"rude": FLAG}) == []


@pytest.mark.parametrize(
    ("bad", "flags", "promise"),
    [
        (seed(3.8, 4.1, 0.75), {"rude": FLAG}, "base < sft < ppo, intervals apart, in every seed"),
        (seed(3.4, 5.5, 0.75), {"rude": FLAG}, "sft >= 3.5 in every seed"),
        (seed(3.8, 5.5, 0.64), {"rude": FLAG}, "ppo beats sft in >= 65% in every seed"),
        (seed(3.8, 5.5, 0.66), {"rude": FLAG}, "ppo beats sft in >= 72% on average"),
        (
            seed(3.8, 5.5, 0.75),
            {"rude": FLAG | {"ci95": [0.01, 0.1]}},
            "no flag above sft's, pooled",
        ),
        (seed(3.8, 5.5, 0.75), {}, "no flag above sft's, pooled"),
        (
            seed(3.8, 5.5, 0.75, distinct={"sft": 1.0, "ppo": 0.89}),
            {"rude": FLAG},
            "distinct answers >= 90% of sft's in every seed",
        ),
        (
            seed(3.8, 5.5, 0.75, empty={"sft": 0.0, "ppo": 0.01}),
            {"rude": FLAG},
            "empty answers < 1% in every seed",
        ),
    ],
)
def test_one_bad_seed_breaks_its_promise(
    bad: dict[str, Any], flags: dict[str, Any], promise: str
) -> None:
    good = seed(3.8, 5.5, 0.75 if "average" in promise else 0.8)
    assert broken([good, bad], flags) == [promise]


def test_flags_are_pooled_over_runs_prompt_by_prompt(tmp_path: Path) -> None:
    """Over two runs ppo has the flag on 1 of 4 prompts and sft on 3, one of which is the same."""
    runs = [([True, False], [True, True]), ([False, False], [True, False])]
    for index, (ppo, sft) in enumerate(runs):
        folder = tmp_path / str(index) / "compare"
        folder.mkdir(parents=True)
        rows = [
            {"checkpoint": name, "text": "line\u2028break", "answers": {"rude": answer}}
            for name, answers in (("base", [True, True]), ("sft", sft), ("ppo", ppo))
            for answer in answers
        ]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / "responses.jsonl").write_text(lines, encoding="utf-8")
    pooled = pooled_flags([tmp_path / "0", tmp_path / "1"])
    assert pooled["rude"]["mean"] == pytest.approx(-0.5)
    assert pooled["rude"]["n"] == 4
