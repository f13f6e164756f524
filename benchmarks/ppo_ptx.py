"""What PPO forgets, and what PPO-ptx keeps of it: loss on held-out pretraining text and rating.

    python -m benchmarks.ppo_ptx --seeds 3
    python -m benchmarks.ppo_ptx --quick

Every seed is a world and a run of the quickstart, which trains with PPO-ptx (those of
``benchmarks.quickstart`` are taken where they are finished). From the same fine-tuned model and
reward model it is then optimized without, and both ways once more at no price of divergence
(*free*), where a policy may forget what it likes. Measured are the bits a byte of the corpus'
held-out documents, over the sources in the mixture's proportions, and the judge's rating on
held-out prompts. Of what plain PPO adds to the loss of sft, PPO-ptx recovers a share; of what it
adds to the rating, PPO-ptx may lose a share. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from benchmarks.quickstart import CONFIG, FIRST_SEED, QUICK
from pipeline.config import RunConfig
from pipeline.config_file import load_config
from stages.cli import run_folder_of
from stages.run import run_chain

# By name: what is set otherwise than in the quickstart, and the plain PPO that it is held against.
ARMS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "ptx": ((), "ppo"),
    "ppo": (("ppo.ptx_coef=0",), None),
    "ppo free": (("ppo.ptx_coef=0", "ppo.kl_coef=0"), None),
    "ptx free": (("ppo.kl_coef=0",), "ppo free"),
}
WITH_PTX = tuple(arm for arm, (_, plain) in ARMS.items() if plain)
SHARED = ("data", "base", "sft", "samples", "labels", "reward", "labels.db", "config.json")


def arm_config(seed: int, arm: str, quick: bool) -> RunConfig:
    """The quickstart of a seed with what the arm sets; ``ptx`` is the quickstart itself."""
    name = f"benchmark-quickstart-{'quick-' if quick else ''}{seed}"
    if arm != "ptx":
        name = name.replace("quickstart", "ptx") + f"-{arm.replace(' ', '-')}"
    overrides = [f"seed={seed}", f"name={name}", *(QUICK if quick else ())]
    return load_config(CONFIG, [*overrides, *ARMS[arm][0]])


def run_arm(config: RunConfig, from_run: Path | None) -> Path:
    """The folder of a finished run; what comes before ppo is copied from ``from_run``."""
    folder = run_folder_of(config)
    if from_run is not None and not folder.exists():
        folder.mkdir(parents=True)
        for name in SHARED:
            source = from_run / name
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, folder / name)
    with redirect_stdout(io.StringIO()):
        run_chain(config, folder)
    return folder


def measure(folder: Path, config: RunConfig, checkpoint: str) -> dict[str, float]:
    """A checkpoint's bits a byte on the held-out corpus, and its rating."""
    from pipeline.data import TOKENS_CACHE, Cache, load_sources, tokenize_sources
    from pipeline.hugging_face import load_language_model
    from pipeline.pretraining import measure_heldout, token_byte_counts
    from pipeline.tokenizer import Tokenizer

    assert config.pretrain is not None
    tokenizer = Tokenizer.load(folder / "base")
    sources = tokenize_sources(
        load_sources(folder / "data", Path(config.data_root)),
        tokenizer,
        config.pretrain.row_tokens,
        Cache(folder / TOKENS_CACHE),
    )
    model, counts = load_language_model(folder / checkpoint).eval(), token_byte_counts(tokenizer)
    bits = sum(
        source.proportion * measure_heldout(model, source.heldout.rows, counts).bits_per_byte
        for source in sources
        if source.heldout.documents
    )
    total = sum(source.proportion for source in sources if source.heldout.documents)
    report = json.loads((folder / "compare" / "report.json").read_text(encoding="utf-8"))
    values = report["checkpoints"][checkpoint]
    return {
        "bits_per_byte": bits / total,
        "rating": values["rating"]["mean"],
        "kl_to_sft": values["kl_to_sft"]["mean"],
    }


def shares(seed: dict[str, dict[str, float]], arm: str) -> dict[str, float | None]:
    """Of plain PPO's added loss, the share that an arm recovers; of its gain, what it loses.

    None where plain PPO added nothing.
    """
    plain_arm = ARMS[arm][1]
    assert plain_arm is not None
    sft, ppo, ptx = seed["sft"], seed[plain_arm], seed[arm]
    added = ppo["bits_per_byte"] - sft["bits_per_byte"]
    gained = ppo["rating"] - sft["rating"]
    return {
        "recovered": (ppo["bits_per_byte"] - ptx["bits_per_byte"]) / added if added > 0 else None,
        "rating_lost": (ppo["rating"] - ptx["rating"]) / gained if gained > 0 else None,
    }


def mean_share(seeds: Sequence[dict[str, dict[str, float]]], arm: str, name: str) -> str:
    """The mean over the seeds that have one, in percent."""
    values = [value for seed in seeds if (value := shares(seed, arm)[name]) is not None]
    return f"{statistics.mean(values):.0%}" if values else "–"


def table(seeds: Sequence[dict[str, dict[str, float]]]) -> list[str]:
    """The figures of all arms as a Markdown table: means over the seeds."""
    lines = ["| | bits a byte | rating | KL to sft | loss recovered | gain in rating lost |"]
    lines.append("|---|---|---|---|---|---|")
    for arm in seeds[0]:
        cells = [
            statistics.mean(seed[arm][figure] for seed in seeds)
            for figure in ("bits_per_byte", "rating", "kl_to_sft")
        ]
        line = f"| {arm} | {cells[0]:.3f} | {cells[1]:.2f} | {cells[2]:.1f} |"
        if arm in WITH_PTX:
            recovered = mean_share(seeds, arm, "recovered")
            lines.append(f"{line} {recovered} | {mean_share(seeds, arm, 'rating_lost')} |")
        else:
            lines.append(f"{line} | |")
    return lines


def main() -> None:
    """Runs all seeds and arms; the figures are JSON in the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny: does it run?")
    options = parser.parse_args()
    seeds: list[dict[str, dict[str, float]]] = []
    for seed in range(FIRST_SEED, FIRST_SEED + (1 if options.quick else options.seeds)):
        quickstart = arm_config(seed, "ptx", options.quick)
        folder = run_arm(quickstart, None)
        arms = {name: measure(folder, quickstart, name) for name in ("base", "sft")}
        for arm in ARMS:
            config = arm_config(seed, arm, options.quick)
            arms[arm] = measure(run_arm(config, folder), config, "ppo")
        seeds.append(arms)
        for name, figures in arms.items():
            print(f"seed {seed}  {name:<9}" + "  ".join(f"{k} {v:.3f}" for k, v in figures.items()))
    print("\n".join(table(seeds)))
    result: dict[str, Any] = {"n": len(seeds), "seeds": seeds, "cpus": os.cpu_count()}
    for arm in WITH_PTX:
        result[arm] = [shares(seed, arm) for seed in seeds]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
