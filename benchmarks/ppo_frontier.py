"""What PPO gains for how far it moves: score at the same divergence, ours against TRL's last PPO.

    make .venv-trl/installed             once: TRL 1.12 in an environment of its own
    python -m benchmarks.ppo_frontier
    python -m benchmarks.ppo_frontier --quick

Every seed is a world of the quickstart, made up to its reward model. From the same fine-tuned
model and reward model, on the same prompts and with the same settings (four networks, fp32, no
pretraining text), TRL's trainer makes a policy with the quickstart's ``kl_coef``, ours one with
each of ``KL_COEFS``. All answer the held-out prompts with the same seeds: the mean score of the
reward model, the mean divergence from sft in nats per response, and the rubric's rating without
noise.

Ours has a learning rate of its own for the critic, the quickstart's; TRL's has one for both. The
figure is how much more ours scores at TRL's divergence, by a straight line between the two of its
policies (or sft, at 0) on either side of it. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import math
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.ppo import peer_of
from benchmarks.quickstart import CONFIG, FIRST_SEED, QUICK
from benchmarks.turns import ROOT
from pipeline.config import RunConfig
from pipeline.config_file import load_config
from pipeline.hugging_face import load_language_model
from pipeline.judges import RubricJudge
from pipeline.language_model import LanguageModel
from pipeline.measurement import Instruments, measure, sample_answers
from pipeline.ppo import PPOConfig, PPOTrainer
from pipeline.reward_files import load_reward_model
from pipeline.sampling import SamplingSettings
from pipeline.stage_context import derive_seed
from pipeline.tinyworld import build_world
from pipeline.tokenizer import Tokenizer
from stages.cli import run_folder_of
from stages.compare import heldout_prompts
from stages.ppo import ppo_prompts
from stages.run import run_chain

KL_COEFS = (0.05, 0.1, 0.3)


@dataclass(frozen=True)
class Point:
    """Means over the held-out prompts: nats from sft, the reward model's score, the rating."""

    kl: float
    score: float
    rating: float


def prepared(seed: int, quick: bool) -> tuple[RunConfig, Path]:
    """The quickstart of a seed up to its reward model, and its folder."""
    name = f"benchmark-quickstart-{'quick-' if quick else ''}{seed}"
    config = load_config(CONFIG, [f"seed={seed}", f"name={name}", *(QUICK if quick else ())])
    folder = run_folder_of(config)
    with redirect_stdout(io.StringIO()):
        run_chain(config, folder, last="reward")
    return config, folder


def section_of(config: RunConfig, kl_coef: float) -> PPOConfig:
    """The run's section ``ppo`` with another price of divergence, and without what TRL has not."""
    changes = {"kl_coef": kl_coef, "eval_prompts": 0, "ptx_coef": 0.0}
    return config.ppo.model_copy(update=changes)


def ours(config: RunConfig, folder: Path, prompts: list[str], kl_coef: float) -> LanguageModel:
    """The policy that our trainer makes."""
    trainer = PPOTrainer(
        section_of(config, kl_coef),
        Tokenizer.load(folder / "sft"),
        load_language_model(folder / "sft"),
        None,
        load_reward_model(folder / "reward"),
        prompts,
        seed=config.seed,
    )
    trainer.train()
    return trainer.policy


def theirs(config: RunConfig, folder: Path, prompts: list[str], peer: Path) -> LanguageModel:
    """The policy that TRL's trainer makes, with the quickstart's price of divergence."""
    tokenizer, section = Tokenizer.load(folder / "sft"), section_of(config, config.ppo.kl_coef)
    ids = [tokenizer.encode_prompt(prompt) for prompt in prompts]
    work = {
        "ppo": section.model_dump(mode="json"),
        # Of fewer prompts than a batch holds TRL makes no batch, and waits for one for ever.
        "prompt_ids": ids * math.ceil(section.batch_size / len(ids)),
        "seed": config.seed,
    }
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        shutil.copytree(folder / "sft", scratch / "policy")
        shutil.copytree(folder / "reward", scratch / "reward")
        (scratch / "work.json").write_text(json.dumps(work), encoding="utf-8")
        subprocess.run(
            [peer, "-P", "-m", "benchmarks.ppo_trl_policy", name],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
        )
        return load_language_model(scratch / "trained")


def point_of(model: LanguageModel, config: RunConfig, folder: Path) -> Point:
    """What the held-out prompts say of a policy."""
    section, sft = config.compare, load_language_model(folder / "sft")
    prompts = heldout_prompts(folder / "data" / "prompts.jsonl", section.max_prompts)
    seeds = [derive_seed(config.seed, prompt.prompt_id) for prompt in prompts]
    sampling = SamplingSettings(section.max_response_tokens)
    tokenizer = Tokenizer.load(folder / "sft")
    judge = RubricJudge(build_world(config.seed))
    instruments = Instruments(sft, sft, load_reward_model(folder / "reward"), judge)
    answers = sample_answers(model.eval(), tokenizer, prompts, seeds, sampling, sft)
    judged = measure(answers, tokenizer, prompts, sampling, instruments)
    return Point(
        kl=statistics.mean(one.kl_to_sft for one in judged),
        score=statistics.mean(one.reward for one in judged),
        rating=statistics.mean(one.rating or 0.0 for one in judged),
    )


def at_divergence(points: Sequence[Point], kl: float) -> Point | None:
    """The straight line through the points on either side of a divergence; None beyond them all."""
    ordered = sorted(points, key=lambda point: point.kl)
    for low, high in itertools.pairwise(ordered):
        if low.kl <= kl <= high.kl:
            share = (kl - low.kl) / (high.kl - low.kl) if high.kl > low.kl else 0.0
            score = low.score + share * (high.score - low.score)
            return Point(kl, score, low.rating + share * (high.rating - low.rating))
    return None


def main() -> None:
    """Trains all policies of all seeds; the figures are JSON in the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny: does it run?")
    parser.add_argument("--trl", type=Path, help="the Python that has TRL 1.12")
    options = parser.parse_args()
    peer = peer_of(options.trl, options.quick)
    result: dict[str, dict[str, dict[str, float]]] = {}
    gains: list[Point] = []
    for seed in range(FIRST_SEED, FIRST_SEED + (1 if options.quick else options.seeds)):
        config, folder = prepared(seed, options.quick)
        prompts, _ = ppo_prompts(folder / "data" / "prompts.jsonl", 0)
        points = {"sft": point_of(load_language_model(folder / "sft"), config, folder)}
        for kl_coef in KL_COEFS[: 1 if options.quick else None]:
            policy = ours(config, folder, prompts, kl_coef)
            points[f"ours {kl_coef:g}"] = point_of(policy, config, folder)
        if peer is not None:
            points["trl"] = trl = point_of(theirs(config, folder, prompts, peer), config, folder)
            same = at_divergence([points[name] for name in points if name != "trl"], trl.kl)
            if same is not None:
                gains.append(Point(trl.kl, same.score - trl.score, same.rating - trl.rating))
        for name, point in points.items():
            figures = "  ".join(f"{key} {value:.3f}" for key, value in vars(point).items())
            print(f"seed {seed}  {name:<10}{figures}", flush=True)
        result[str(seed)] = {name: vars(point) for name, point in points.items()}
    for gain in gains:
        print(f"at {gain.kl:.2f} nats ours scores {gain.score:+.3f}, is rated {gain.rating:+.2f}")
    found = {"seeds": result, "gains": [vars(gain) for gain in gains], "torch": torch.__version__}
    print(json.dumps(found | {"cpus": os.cpu_count()}))


if __name__ == "__main__":
    main()
