"""The quickstart over several seeds, each a new world: does every stage do what it is for?

    python -m benchmarks.quickstart --seeds 5
    python -m benchmarks.quickstart --quick

Every seed writes another world (facts, splits, prompts, demonstrations, labelers), so the held-out
prompts of these seeds were never looked at while settings were chosen, which was done on seed 0.
The judge is the world's rubric without noise. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import read_manifest
from pipeline.config_file import load_config
from pipeline.evaluation import Leaf, paired_difference
from pipeline.verdict import interval, number, percent, percentage
from stages.cli import run_folder_of
from stages.run import run_chain

CONFIG = Path(__file__).parent.parent / "configs" / "quickstart.yaml"
FIRST_SEED = 1000
QUICK = (
    "data.tinyworld.documents=300",
    "data.tinyworld.demonstrations=40",
    "data.tinyworld.label_prompts=24",
    "data.tinyworld.ppo_prompts=40",
    "data.tinyworld.heldout_prompts=30",
    "pretrain.layers=2",
    "pretrain.width=64",
    "pretrain.steps=30",
    "pretrain.copy_probe_minimum=null",
    "sft.epochs=1",
    "reward.epochs=1",
    "ppo.total_episodes=128",
    "ppo.eval_prompts=8",
)


def run_seed(seed: int, quick: bool) -> Path:
    """The folder of a finished run; one that is finished already is taken as it is."""
    name = f"benchmark-quickstart-{'quick-' if quick else ''}{seed}"
    overrides = [f"seed={seed}", f"name={name}", *(QUICK if quick else ())]
    config = load_config(CONFIG, overrides)
    run_folder = run_folder_of(config)
    run_chain(config, run_folder, say=say_line)
    return run_folder


def say_line(message: str) -> None:
    """Prints what a stage says, but not the run's table: the benchmark prints one of its own."""
    if "\n" not in message:
        print(f"  {message}", flush=True)


def read_report(run_folder: Path) -> dict[str, Any]:
    """``compare/report.json`` of a run."""
    return json.loads((run_folder / "compare" / "report.json").read_text(encoding="utf-8"))


def environment(run_folder: Path) -> dict[str, Any]:
    """Device and versions that the comparison of a run was made with."""
    manifest = read_manifest(run_folder / "compare")
    assert manifest is not None, "the run is not finished"
    return dict(manifest.environment)


def pair(report: dict[str, Any], a: str, b: str) -> dict[str, Any]:
    """The report's entry on checkpoint ``a`` against ``b``."""
    return next(entry for entry in report["pairs"] if (entry["a"], entry["b"]) == (a, b))


def pooled_flags(run_folders: Sequence[Path]) -> dict[str, Leaf]:
    """For each of the world's flags: its share in ppo less that in sft, over all runs' prompts."""
    answers: dict[str, dict[str, list[bool | None]]] = {"sft": {}, "ppo": {}}
    for folder in run_folders:
        with (folder / "compare" / "responses.jsonl").open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        for row in rows:
            if row["checkpoint"] in answers:
                for flag, value in row["answers"].items():
                    answers[row["checkpoint"]].setdefault(flag, []).append(value)
    return {
        flag: paired_difference(answers["ppo"][flag], answers["sft"][flag])
        for flag in answers["ppo"]
    }


def seed_figures(run_folder: Path) -> dict[str, Any]:
    """One seed's ratings, win rates and minutes (the sum of its stages')."""
    report = read_report(run_folder)
    checkpoints = report["checkpoints"]
    manifests = [read_manifest(path.parent) for path in run_folder.glob("*/manifest.json")]
    reward = json.loads((run_folder / "reward" / "report.json").read_text(encoding="utf-8"))
    return {
        "rating": {name: checkpoints[name]["rating"] for name in checkpoints},
        "distinct": {name: checkpoints[name]["distinct_answers"]["mean"] for name in checkpoints},
        "empty": {name: checkpoints[name]["empty"]["mean"] for name in checkpoints},
        "ppo_over_sft": {
            key: pair(report, "ppo", "sft")[key]
            for key in ("win_rate", "ci95", "n", "length_controlled_win_rate")
        },
        "reward_accuracy_on_labels": reward["validation"]["accuracy"]["mean"],
        "minutes": sum(manifest.seconds for manifest in manifests if manifest) / 60,
    }


def verdicts(seeds: Sequence[dict[str, Any]], flags: dict[str, Leaf]) -> dict[str, bool]:
    """What the quickstart promises, and whether it holds here."""
    win_rates = [seed["ppo_over_sft"]["win_rate"] for seed in seeds]
    ratings = [seed["rating"] for seed in seeds]
    return {
        "base < sft < ppo, intervals apart, in every seed": all(
            r["base"]["ci95"][1] < r["sft"]["ci95"][0] and r["sft"]["ci95"][1] < r["ppo"]["ci95"][0]
            for r in ratings
        ),
        "sft >= 3.5 in every seed": all(r["sft"]["mean"] >= 3.5 for r in ratings),
        "ppo beats sft in >= 65% in every seed": min(win_rates) >= 0.65,
        "ppo beats sft in >= 72% on average": statistics.mean(win_rates) >= 0.72,
        "no flag above sft's, pooled": bool(flags)
        and all((leaf["ci95"] or [1.0])[0] <= 0 for leaf in flags.values()),
        "distinct answers >= 90% of sft's in every seed": all(
            s["distinct"]["ppo"] >= 0.9 * s["distinct"]["sft"] for s in seeds
        ),
        "empty answers < 1% in every seed": all(s["empty"]["ppo"] < 0.01 for s in seeds),
    }


def print_table(numbers: Sequence[int], seeds: Sequence[dict[str, Any]]) -> None:
    """The table of the README."""
    print("\n| seed | base | sft | ppo | ppo beats sft | distinct sft → ppo | minutes |")
    print("|---|---|---|---|---|---|---|")
    for world, seed in zip(numbers, seeds, strict=True):
        rating, win = seed["rating"], seed["ppo_over_sft"]
        cells = [
            str(world),
            *(number(rating[name]) for name in ("base", "sft", "ppo")),
            percentage(win["win_rate"], win["ci95"]),
            f"{percent(seed['distinct']['sft'], 1)} → {percent(seed['distinct']['ppo'], 1)}",
            f"{seed['minutes']:.1f}",
        ]
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    """Runs the seeds, prints table, flags and verdicts, and the figures as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many worlds")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--quick", action="store_true", help="one tiny seed: does it run?")
    arguments = parser.parse_args()
    count = 1 if arguments.quick else arguments.seeds
    numbers = range(arguments.first_seed, arguments.first_seed + count)
    folders: list[Path] = []
    for world in numbers:
        print(f"seed {world}", flush=True)
        folders.append(run_seed(world, arguments.quick))
    seeds = [seed_figures(folder) for folder in folders]
    flags = pooled_flags(folders)
    held = verdicts(seeds, flags)
    print_table(numbers, seeds)
    print("\nflags, ppo less sft, percentage points:")
    for flag, leaf in flags.items():
        difference = percent(leaf["mean"], 1).removesuffix("%")
        print(f"  {flag:<15}{difference} {interval(leaf['ci95'], 100, 1)}  n = {leaf['n']}")
    print()
    for promise, holds in held.items():
        print(f"  {'yes' if holds else 'NO ':<4}{promise}")
    win_rates = [seed["ppo_over_sft"]["win_rate"] for seed in seeds]
    figures = {
        "seeds": dict(zip(map(str, numbers), seeds, strict=True)),
        "mean_win_rate": statistics.mean(win_rates),
        "min_win_rate": min(win_rates),
        "flag_differences": flags,
        "promises": held,
        "n_seeds": len(seeds),
        "n_prompts_per_seed": seeds[0]["ppo_over_sft"]["n"],
        "machine": platform.processor() or platform.machine(),
        "environment": environment(folders[0]),
        "settings": read_report(folders[0])["settings"],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
