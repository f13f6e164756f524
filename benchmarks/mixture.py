"""Does noise hurt? The same tokens with and without the noisy source of the embedded world.

    python -m benchmarks.mixture
    python -m benchmarks.mixture --quick

Every seed writes a world. One base sees all six sources in the world's proportions; another sees
the five without ``chat`` (rude lines, spam, and answers of which half are wrong), in proportions
that are raised evenly. Steps, rows and model are the same. Both are measured on the same held-out
documents of the clean sources, in bits a byte since their tokenizers differ, and by how often
they copy a name from a title. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from scipy import stats

from pipeline.artifacts import read_manifest
from pipeline.config import RunConfig
from pipeline.config_file import load_config
from pipeline.records import CopyProbe, read_rows
from pipeline.tinyworld import MIXTURE
from stages.cli import run_folder_of
from stages.run import run_chain

CONFIG = Path(__file__).parent.parent / "configs" / "quickstart.yaml"
FIRST_SEED = 2000
NOISY = "chat"
CLEAN = {name: share for name, share in MIXTURE.items() if name != NOISY}
ARMS = {"with": MIXTURE, "without": CLEAN}
QUICK = (
    "data.tinyworld.documents=300",
    "pretrain.layers=2",
    "pretrain.width=64",
    "pretrain.steps=15",
)


def world_config(seed: int, quick: bool) -> RunConfig:
    """A run that writes the world of a seed; its data is used, and its settings for the base."""
    name = f"benchmark-mixture-{'quick-' if quick else ''}{seed}"
    overrides = [f"seed={seed}", f"name={name}", *(QUICK if quick else ())]
    return load_config(CONFIG, [*overrides, "pretrain.copy_probe_minimum=null"])


def arm_config(world: RunConfig, data: Path, arm: str) -> RunConfig:
    """A run on the files of a world's ``data`` folder, in the proportions of an arm."""
    total = sum(ARMS[arm].values())
    corpus = [
        {
            "name": source,
            "path": f"corpus/{source}.jsonl",
            "proportion": share / total,
            "id_column": "document_id",
        }
        for source, share in ARMS[arm].items()
    ]
    instructions = {
        "path": "demonstrations.jsonl",
        "prompt_columns": ["prompt"],
        "response_column": "response",
    }
    values = world.model_dump(mode="json")
    values |= {
        "name": f"{world.name}-{arm}",
        "data_root": str(data),
        "data": {"corpus": corpus, "instructions": instructions},
    }
    for section in ("label", "compare"):
        values[section]["judge"] = "overlap"
    return RunConfig.model_validate(values)


def run_seed(world: RunConfig) -> dict[str, Any]:
    """What was measured on both bases of a world; finished runs are taken as they are."""
    data = run_folder_of(world) / "data"
    run_to(world, "data")
    arms: dict[str, Any] = {}
    heldout: list[set[int]] = []
    for arm in ARMS:
        config = arm_config(world, data, arm)
        run_to(config, "pretrain")
        folder = run_folder_of(config)
        arms[arm] = arm_figures(folder, data)
        heldout.append(heldout_texts(folder))
        print(f"  {arm:<8}{arms[arm]['bits_per_byte']:.4f} bits a byte", flush=True)
    assert heldout[1] < heldout[0], "the clean sources' held-out documents differ"
    return arms


def run_to(config: RunConfig, stage: str) -> None:
    """Brings a run up to date as far as a stage; its tables are not shown."""
    with redirect_stdout(io.StringIO()):
        run_chain(config, run_folder_of(config), last=stage)


def arm_figures(folder: Path, data: Path) -> dict[str, Any]:
    """Bits a byte on the clean sources, each and weighted as in the mixture; copy accuracy."""
    from pipeline.gpt2_format import load_gpt
    from pipeline.pretraining import copy_accuracy
    from pipeline.tokenizer import Tokenizer

    base = folder / "base"
    results = json.loads((base / "pretraining.json").read_text(encoding="utf-8"))
    mixture = json.loads((base / "mixture.json").read_text(encoding="utf-8"))
    bits = {source: results["heldout_bits_per_byte"][source] for source in CLEAN}
    probes = read_rows(data / "copy_probes.jsonl", CopyProbe)
    total = sum(CLEAN.values())
    return {
        "bits_per_byte": sum(bits[source] * share for source, share in CLEAN.items()) / total,
        "bits_per_byte_by_source": bits,
        "copy_accuracy": copy_accuracy(load_gpt(base).eval(), probes, Tokenizer.load(base)),
        "epochs": {row["source"]: row["epochs"] for row in mixture},
    }


def heldout_texts(folder: Path) -> set[int]:
    """The hashes of a run's held-out texts."""
    import numpy as np

    return set(np.load(folder / "data" / "corpus" / "heldout.npy").tolist())


def difference(seeds: Sequence[dict[str, Any]], figure: str) -> dict[str, Any]:
    """With the noisy source less without, over seeds: mean and 95% t-interval of the mean."""
    values = [seed["with"][figure] - seed["without"][figure] for seed in seeds]
    mean, ci95 = statistics.mean(values), None
    if len(values) > 1:
        margin = statistics.stdev(values) / len(values) ** 0.5
        margin *= float(stats.t.ppf(0.975, len(values) - 1))
        ci95 = [mean - margin, mean + margin]
    return {"mean": mean, "ci95": ci95, "n": len(values)}


def training_tokens(world: RunConfig) -> int:
    """How many tokens each base was trained on."""
    section = world.pretrain
    assert section is not None, "the quickstart pretrains its base"
    return section.steps * section.batch_rows * section.row_tokens


def environment_of(folder: Path) -> dict[str, Any]:
    """Device and versions that a base was trained with."""
    manifest = read_manifest(folder / "base")
    assert manifest is not None, "the run is not finished"
    return dict(manifest.environment)


def print_table(numbers: Sequence[int], seeds: Sequence[dict[str, Any]]) -> None:
    """The table of the benchmarks' README."""
    print(f"\n| seed | bits a byte, with {NOISY} | without | copies, with {NOISY} | without |")
    print("|---|---|---|---|---|")
    for number, seed in zip(numbers, seeds, strict=True):
        bits = [f"{seed[arm]['bits_per_byte']:.4f}" for arm in ARMS]
        copies = [f"{seed[arm]['copy_accuracy']:.1%}" for arm in ARMS]
        print(f"| {number} | {' | '.join([*bits, *copies])} |")


def main() -> None:
    """Runs the seeds, prints the table and the figures as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many worlds")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--quick", action="store_true", help="one tiny seed: does it run?")
    arguments = parser.parse_args()
    count = 1 if arguments.quick else arguments.seeds
    numbers = range(arguments.first_seed, arguments.first_seed + count)
    worlds = [world_config(number, arguments.quick) for number in numbers]
    seeds: list[dict[str, Any]] = []
    for world in worlds:
        print(f"seed {world.seed}", flush=True)
        seeds.append(run_seed(world))
    print_table(numbers, seeds)
    differences = {name: difference(seeds, name) for name in ("bits_per_byte", "copy_accuracy")}
    print(f"\nwith {NOISY} less without, mean over {len(seeds)} seeds and its 95% interval:")
    for name, leaf in differences.items():
        ends = ", ".join(f"{end:+.4f}" for end in leaf["ci95"] or ())
        print(f"  {name:<15}{leaf['mean']:+.4f} [{ends}]")
    figures = {
        "seeds": dict(zip(map(str, numbers), seeds, strict=True)),
        "with_less_without": differences,
        "n_seeds": len(seeds),
        "training_tokens": training_tokens(worlds[0]),
        "cpus": os.cpu_count(),
        "environment": environment_of(run_folder_of(arm_config(worlds[0], Path(), "with"))),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
