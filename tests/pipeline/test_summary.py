"""The table that a run ends with."""

from __future__ import annotations

from typing import Any

from pipeline.summary import console_table


def leaf(mean: float, low: float, high: float, n: int = 300) -> dict[str, Any]:
    return {"mean": mean, "ci95": [low, high], "n": n}


def make_report(rated: bool = True) -> dict[str, Any]:
    def checkpoint(mean: float) -> dict[str, Any]:
        return {
            "rating": leaf(mean, mean - 0.1, mean + 0.1) if rated else None,
            "reward": leaf(mean - 4, mean - 4.1, mean - 3.9),
            "kl_to_sft": leaf(1.25, 1.0, 1.5),
            "answers": {},
            "distinct_answers": leaf(1.0, 0.99, 1.0),
            "empty": leaf(0.0, 0.0, 0.01),
        }

    pair = {
        "a": "ppo",
        "b": "sft",
        "n": 300,
        "win_rate": 0.7123,
        "ci95": [0.66, 0.76],
        "length_controlled_win_rate": 0.695,
        "length_controlled_ci95": [0.64, 0.74],
        "answer_differences": {},
    }
    return {
        "checkpoints": {"sft": checkpoint(4.0), "ppo": checkpoint(5.5)},
        "pairs": [pair],
        "ranking": [{"name": "ppo"}, {"name": "sft"}],
    }


def test_numbers_stand_with_interval_and_n() -> None:
    lines = console_table(make_report(), {"sft": 90.0, "ppo": 30.0}, "r/report.html").splitlines()
    assert lines[0].split()[0] == "checkpoint"
    assert lines[3].split() == ["ppo", "5.50", "[5.40,", "5.60]", "300"]
    assert " ".join(lines[7].split()) == "ppo over sft 71.2% [66.0, 76.0] 69.5% [64.0, 74.0] 300"
    assert any(line.split() == ["sft", "1.50"] for line in lines)
    assert any(line.split() == ["total", "2.00"] for line in lines)
    assert "Ship ppo: it beats every other checkpoint compared here." in lines
    assert lines[-1] == "report: r/report.html"


def test_lines_fit_a_terminal_and_the_path_is_whole() -> None:
    report = make_report()
    report["checkpoints"] = {f"{name}-{'x' * 80}": v for name, v in report["checkpoints"].items()}
    report["ranking"] = [{"name": name} for name in reversed(report["checkpoints"])]
    report["pairs"][0]["a"], report["pairs"][0]["b"] = (row["name"] for row in report["ranking"])
    path = "runs/" + "y" * 200 + "/report.html"
    lines = console_table(report, {}, path).splitlines()
    assert all(len(line) <= 100 for line in lines[:-1])
    assert lines[-1] == f"report: {path}"


def test_without_ratings_the_reward_stands_in() -> None:
    table = console_table(make_report(rated=False), {}, "report.html")
    assert "reward, mean [95% interval]" in table
    assert "1.50 [1.40, 1.60]" in table
    assert "minutes" not in table
