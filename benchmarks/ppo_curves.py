"""What a healthy PPO run looks like: curves of several runs, their median and their range.

    python -m benchmarks.quickstart --seeds 5
    python -m benchmarks.ppo_curves
    python -m benchmarks.ppo_curves RUN_FOLDER RUN_FOLDER …

Reads ``ppo/metrics.jsonl`` of finished runs (those of ``benchmarks.quickstart`` unless others are
named), and draws each metric over the updates: a line for the median, a band from the least to the
largest. Writes ``docs/images/ppo_curves.svg``; the last line is one JSON object with the figures at
a few updates.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "ppo_curves.svg"
PANELS = {
    "objective/scores": "score of a response",
    "objective/kl": "divergence from sft, nats a response",
    "policy/entropy_avg": "entropy, nats a token",
    "rollout/response_tokens": "tokens of a response",
    "rollout/eos_rate": "responses that end by themselves",
    "rollout/distinct": "distinct responses of a batch",
    "val/explained_var": "returns' variance that the critic explains",
    "policy/approxkl_avg": "distance from the policy that acted",
}


def curves(folders: Sequence[Path]) -> dict[str, list[list[float]]]:
    """By metric, for each update the runs' values; as many updates as the shortest run has."""
    runs: list[list[dict[str, Any]]] = []
    for folder in folders:
        lines = (folder / "ppo" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        runs.append([json.loads(line) for line in lines])
    updates = min(map(len, runs))
    return {name: [[run[i][name] for run in runs] for i in range(updates)] for name in PANELS}


def draw(found: dict[str, list[list[float]]], path: Path) -> None:
    """Writes the picture."""
    style: Any = {"svg.hashsalt": "curves", "font.size": 9, "axes.titlesize": 9}
    with mpl.rc_context(style):
        figure = Figure(figsize=(8.4, 8.4), layout="constrained")
        panels = figure.subplots(len(PANELS) // 2, 2, sharex=True).flat
        for ax, (name, values) in zip(panels, found.items(), strict=True):
            updates = range(1, len(values) + 1)
            least, most = [min(v) for v in values], [max(v) for v in values]
            ax.fill_between(updates, least, most, color="#0072b2", alpha=0.2, linewidth=0)
            ax.plot(updates, [statistics.median(v) for v in values], color="#0072b2", linewidth=1.6)
            ax.set_title(f"{PANELS[name]}  ({name})", loc="left")
            ax.grid(alpha=0.3)
            ax.spines[["top", "right"]].set_visible(False)
        for ax in list(figure.axes)[-2:]:
            ax.set_xlabel("update")
        path.parent.mkdir(parents=True, exist_ok=True)
        FigureCanvasSVG(figure).print_svg(str(path), metadata={"Date": None})


def main() -> None:
    """Draws the curves and prints some of their values."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    named = options.folders or sorted(Path("runs").glob("benchmark-quickstart-[0-9]*"))
    folders = [folder for folder in named if (folder / "ppo" / "metrics.jsonl").exists()]
    if not folders:
        parser.exit(2, "no finished run: run python -m benchmarks.quickstart first\n")
    found = curves(folders)
    draw(found, options.picture)
    updates = len(found["objective/kl"])
    at = sorted({0, updates // 6, updates // 2, updates - 1})
    result = {
        name: {f"update {i + 1}": [min(v := values[i]), statistics.median(v), max(v)] for i in at}
        for name, values in found.items()
    }
    print(json.dumps({"n": len(folders), "least, median, most": result}))


if __name__ == "__main__":
    main()
