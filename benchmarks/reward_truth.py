"""What the reward model learns where the truth is known: in the embedded world.

    python -m benchmarks.reward_truth
    python -m benchmarks.reward_truth --quick

The quickstart is made up to its labels. Scripted labelers, with their noise, rank five responses to
each prompt; the rubric, without noise, says of held-out responses which is truly better. Questions:

- how much do more labels bring (1, 2, 4 and 8 times), and how close is that to the ceilings?
- what do the stage's settings bring, at the quickstart's labels?
- do the same pairs, shuffled as independent examples, overfit in one pass (InstructGPT, note 5)?
- does a model agree less with labelers that it did not learn from?
- what does its trunk not see: what do the responses' likelihoods under sft add to its score?

All but the settings are trained from several seeds: their mean, least and most. The last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from benchmarks.labeled_world import (
    Figures,
    World,
    ceilings,
    decided,
    make_world,
    measure,
    with_likelihoods,
)
from pipeline.config import RunConfig
from pipeline.config_file import load_config
from pipeline.hugging_face import load_language_model
from pipeline.precision import autocast_of, forget_accelerate, precision_of
from pipeline.preferences import comparisons_by_prompt
from pipeline.records import Ranking
from pipeline.reward import RewardModel, score_and_ask
from pipeline.reward_batches import EncodedComparisons, batch_schedule, collate
from pipeline.reward_data import Side, questions_of
from pipeline.reward_evaluation import accuracy, log_losses
from pipeline.reward_files import load_reward_model
from pipeline.reward_loss import kwise_loss_sum, question_loss_sum
from pipeline.training import Schedule, fit
from stages.cli import run_folder_of
from stages.run import run_chain

CONFIG = Path(__file__).parent.parent / "configs" / "quickstart.yaml"
SEEDS = 3
TIMES = {False: (1, 2, 4, 8), True: (1, 2)}  # by --quick
SETTINGS = {
    "as the quickstart": (),
    "without questions": ("reward.question_weight=0",),
    "surprisal before": ("reward.surprisal.responses_per_prompt=6",),
    "surprisal 4×, 2 epochs": ("reward.surprisal.responses_per_prompt=24", "reward.epochs=2"),
}
QUICK = (
    "data.tinyworld.label_prompts=12",
    "data.tinyworld.ppo_prompts=4",
    "data.tinyworld.documents=300",
    "data.tinyworld.demonstrations=40",
    "data.tinyworld.heldout_prompts=10",
    "pretrain.layers=1",
    "pretrain.width=32",
    "pretrain.heads=2",
    "pretrain.steps=5",
)


# --- training -------------------------------------------------------------------------------------


def train(
    world: World, elements: Sequence[EncodedComparisons], names: Sequence[str], seed: int,
    batch_size: int | None = None,
) -> RewardModel:  # fmt: skip
    """A reward model from sft, by the quickstart's settings; ``batch_size`` counts elements."""
    section, device = world.section, torch.device("cpu")
    generator = torch.Generator().manual_seed(seed)
    model = RewardModel(load_language_model(world.folder / "sft"), generator, names)
    size = batch_size or section.batch_prompts
    batches = batch_schedule(len(elements), size, section.epochs, seed)

    def loss_at(step: int, part: int) -> tuple[torch.Tensor, dict[str, float]]:
        batch = collate([elements[i] for i in batches[step]], world.tokenizer.pad_id)
        scores, logits = model.scores_and_answers(batch.input_ids, batch.lengths)
        loss = kwise_loss_sum(scores, batch.pair_indices, batch.pair_weights)
        if names:
            asked = question_loss_sum(logits, batch.answers, batch.row_weights)
            loss = loss + section.question_weight * asked
        return loss / batch.prompt_count, {}

    forget_accelerate()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=section.learning_rate, betas=(0.9, 0.95),
        weight_decay=section.weight_decay, fused=True,
    )  # fmt: skip
    fit(
        Accelerator(cpu=True),
        model,
        [optimizer],
        loss_at,
        schedule=Schedule(len(batches), round(section.warmup_fraction * len(batches)), 0.1),
        max_grad_norm=section.max_grad_norm,
        autocast=autocast_of(device, precision_of(world.config, device)),
        on_step=lambda step, metrics: None,
    )
    return model.eval()


def learn(world: World, sets: Sequence[Sequence[Ranking]], seed: int) -> RewardModel:
    """A reward model from these rankings; a prompt is an element in each set."""
    side = world.side([one for rankings in sets for one in decided(rankings)])
    names = questions_of(side.comparisons) if world.section.question_weight else []
    encoded = side.encoded if names else [replace(one, answers=()) for one in side.encoded]
    return train(world, encoded, names, seed)


def independent_pairs(side: Side) -> list[EncodedComparisons]:
    """Each pair as an element of its own: what a data set of chosen and rejected texts holds."""
    return [
        EncodedComparisons((one.rows[better], one.rows[worse]), ((0, 1),))
        for one in side.encoded
        for better, worse in one.pairs
    ]


# --- the four questions ---------------------------------------------------------------------------


def over_seeds(count: int, one: Callable[[int], Figures]) -> dict[str, dict[str, float]]:
    """Each figure's mean over seeds, its least and its largest value."""
    found = [one(seed) for seed in range(count)]
    return {
        name: {
            "mean": statistics.mean(values := [figures[name] for figures in found]),
            "least": min(values),
            "most": max(values),
        }
        for name in found[0]
    }


def grouping(world: World, labeled: Sequence[Ranking], heldout: Side, seed: int) -> Figures:
    """Held-out log-loss and accuracy of one pass over the same pairs, grouped and shuffled."""
    section = world.section.model_copy(update={"epochs": 1, "question_weight": 0.0})
    once = replace(world, config=world.config.model_copy(update={"reward": section}))
    side = once.side([one for one in comparisons_by_prompt(labeled) if one.pairs])
    grouped = [replace(one, answers=()) for one in side.encoded]
    pairs = independent_pairs(side)
    pairs_a_batch = round(once.section.batch_prompts * len(pairs) / len(grouped))
    figures: Figures = {}
    for name, model in (
        ("grouped", train(once, grouped, [], seed)),
        ("shuffled", train(once, pairs, [], seed, batch_size=pairs_a_batch)),
    ):
        measured = measure(once, model, heldout)
        seen = side.scored(score_and_ask(model, side.rows, once.tokenizer.pad_id)[0].tolist())
        figures |= {f"{name}_{key}": value for key, value in measured.items()}
        figures[f"{name}_training_log_loss"] = float(log_losses(seen.margins).mean())
    return figures


def labelers_left_out(world: World, labeled: Sequence[Ranking], seed: int) -> Figures:
    """Agreement with each labeler on held-out prompts, when learned from and when left out."""
    names = sorted({ranking.labeler for ranking in labeled})
    known: list[float] = []
    unknown: list[float] = []
    for left_out in names:
        model = learn(world, [[one for one in labeled if one.labeler != left_out]], seed)
        for name in names:
            said = [one for one in world.second_rankings if one.labeler == name]
            side = world.side(decided(said))
            scores = score_and_ask(model, side.rows, world.tokenizer.pad_id)[0]
            right = accuracy(side.scored(scores.tolist()).margins)["mean"] or 0.0
            (unknown if name == left_out else known).append(right)
    return {"learned_from": statistics.mean(known), "left_out": statistics.mean(unknown)}


def show(title: str, figures: dict[str, dict[str, float]]) -> None:
    """One line for each figure."""
    print(f"\n{title}")
    for name, leaf in figures.items():
        print(f"  {name:<28}{leaf['mean']:.3f}  [{leaf['least']:.3f}, {leaf['most']:.3f}]")


def settings_tried(world: World, heldout: Side) -> dict[str, Figures]:
    """What the stage reward gives with each of ``SETTINGS``, and how long it takes."""
    figures: dict[str, Figures] = {}
    for name, overrides in SETTINGS.items():
        began = time.perf_counter()
        changed = apply(world.config, overrides)
        with redirect_stdout(io.StringIO()):
            run_chain(changed, world.folder, last="reward")
        seconds = time.perf_counter() - began
        folder = world.folder / "reward"
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        scale = report["scores"]["before_normalization"]["std"]
        model = load_reward_model(folder).eval()
        figures[name] = measure(world, model, heldout, scale)
        figures[name]["seconds"] = seconds
        measured = figures[name]
        print(
            f"  {name:<28}{measured['true_pairs_right']:.3f}  labels {measured['labels_right']:.3f}"
            f"  log-loss {measured['log_loss']:.3f}  {seconds:.0f} s",
            flush=True,
        )
    return figures


def apply(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The config with some values replaced."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(json.dumps(config.model_dump(mode="json")), encoding="utf-8")
        return load_config(path, list(overrides))


def main() -> None:
    """Answers the questions, with the figures as JSON in the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--quick", action="store_true", help="tiny: does it run?")
    options = parser.parse_args()
    quick, seeds = options.quick, 1 if options.quick else options.seeds
    overrides = [f"name=benchmark-reward-truth{'-quick' if quick else ''}", *(QUICK * quick)]
    config = load_config(CONFIG, [*overrides, *["pretrain.copy_probe_minimum=null"] * quick])
    with redirect_stdout(io.StringIO()):
        run_chain(config, run_folder_of(config), last="label")
    world = make_world(config, TIMES[quick][-1])
    heldout = world.side(decided(world.second_rankings[::2]))
    result: dict[str, Any] = {"ceilings": ceilings(world, heldout)}
    for name, value in result["ceilings"].items():
        print(f"  {name:<28}{value:.3f}")
    print("\nsettings of the stage: true pairs right", flush=True)
    result["settings"] = settings_tried(world, heldout)
    for times in TIMES[quick]:

        def curve(seed: int, times: int = times) -> Figures:
            return measure(world, learn(world, world.labeled[:times], seed), heldout)

        result[f"labels_{times}x"] = over_seeds(seeds, curve)
        show(f"labels {times}×", result[f"labels_{times}x"])
    usual = world.labeled[0]

    def seen(seed: int) -> Figures:
        model = learn(world, [usual], seed)
        return {
            "true_pairs_right": with_likelihoods(world, model, world.side(decided(usual)), heldout)
        }

    result["with_likelihoods"] = over_seeds(seeds, seen)
    show("with likelihoods under sft beside the score", result["with_likelihoods"])
    result["grouping"] = over_seeds(seeds, lambda seed: grouping(world, usual, heldout, seed))
    show("one pass over the same pairs, grouped and shuffled", result["grouping"])
    result["labelers"] = over_seeds(seeds, lambda seed: labelers_left_out(world, usual, seed))
    show("agreement with labelers", result["labelers"])
    result |= {"n": seeds, "heldout_prompts": len(heldout.comparisons), "cpus": os.cpu_count()}
    result |= {"section": world.section.model_dump(mode="json"), "torch": torch.__version__}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
