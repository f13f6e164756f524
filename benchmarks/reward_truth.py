"""What the reward model learns where the truth is known: in the embedded world.

    python -m benchmarks.reward_truth
    python -m benchmarks.reward_truth --quick

A run of the quickstart is made up to sft, with more prompts to label. Scripted labelers, with their
noise, rank five responses to each; the rubric, without noise, says of held-out responses which is
truly better. Four questions:

- how much do more labels bring (1, 2, 4 and 8 times), and how close is that to the ceilings?
- do the same pairs, shuffled as independent examples, overfit in one pass (InstructGPT, note 5)?
- does a model agree less with labelers that it did not learn from?
- what does its trunk not see: what do the responses' likelihoods under sft add to its score?

Each is trained from three seeds; means of them, and the seeds' range. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import statistics
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from scipy.optimize import minimize

from pipeline.agreement import pairwise_agreement
from pipeline.calibration import calibration_slope
from pipeline.config import RewardSection, RunConfig
from pipeline.config_file import load_config
from pipeline.hugging_face import load_language_model
from pipeline.judges import RubricJudge, ScriptedLabeler, make_labelers
from pipeline.precision import autocast_of, forget_accelerate, precision_of
from pipeline.preferences import PromptComparisons, comparisons_by_prompt
from pipeline.records import Prompt, RankedResponse, Ranking, read_rows
from pipeline.reward import RewardModel, score_and_ask
from pipeline.reward_batches import EncodedComparisons, batch_schedule, collate, pad_rows
from pipeline.reward_data import Side, encode_side, questions_of
from pipeline.reward_evaluation import accuracy, log_losses
from pipeline.reward_loss import kwise_loss_sum, question_loss_sum
from pipeline.sampling import SamplingSettings, generate, response_texts
from pipeline.tinyworld import build_world
from pipeline.tinyworld.rubric import Verdict
from pipeline.tokenizer import Tokenizer
from pipeline.training import Schedule, fit
from stages.cli import run_folder_of
from stages.run import run_chain

CONFIG = Path(__file__).parent.parent / "configs" / "quickstart.yaml"
SEEDS = 3
RESPONSES = 5
LABELED = {False: 400, True: 6}  # prompts at 1×, by --quick
TIMES = (1, 2, 4, 8)
QUICK = (
    "data.tinyworld.documents=300",
    "data.tinyworld.demonstrations=40",
    "data.tinyworld.heldout_prompts=10",
    "pretrain.layers=1",
    "pretrain.width=32",
    "pretrain.heads=2",
    "pretrain.steps=5",
)


@dataclass(frozen=True)
class World:
    """The run's models and words, the labels to learn from, and what is known to be true."""

    config: RunConfig
    folder: Path
    tokenizer: Tokenizer
    rankings: list[Ranking]  # prompt after prompt, the labelers in turn
    second_rankings: list[Ranking]  # of held-out prompts by two labelers each
    verdicts: dict[tuple[str, str], Verdict]  # of held-out (prompt, response id)

    @property
    def section(self) -> RewardSection:
        """What the quickstart trains its reward model with."""
        return self.config.reward

    def side(self, comparisons: list[PromptComparisons]) -> Side:
        """The comparisons with their ids."""
        names = questions_of(comparisons)
        return encode_side(comparisons, self.tokenizer, 10**6, self.section, names)


def make_world(config: RunConfig) -> World:
    """Samples and labels on a finished run's prompts."""
    folder = run_folder_of(config)
    tokenizer = Tokenizer.load(folder / "sft")
    prompts = read_rows(folder / "data" / "prompts.jsonl", Prompt)
    judge = RubricJudge(build_world(config.seed))
    labelers = make_labelers(config.label.labelers, judge, config.seed)
    rankings: dict[str, list[Ranking]] = {"label": [], "heldout": []}
    verdicts: dict[tuple[str, str], Verdict] = {}
    for split, mine in rankings.items():
        chosen = [prompt for prompt in prompts if prompt.split == split]
        for number, (prompt, responses) in enumerate(
            zip(chosen, sample(config, folder, tokenizer, chosen), strict=True)
        ):
            turns = 1 if split == "label" else 2
            for turn in range(turns):
                labeler = labelers[(number + turn) % len(labelers)]
                mine.append(ranking_of(prompt, responses, labeler))
            if split == "heldout":
                for one in responses:
                    key = (prompt.prompt, one.response_id)
                    verdicts[key] = judge.judge(prompt, one.text, one.finished)
    return World(config, folder, tokenizer, rankings["label"], rankings["heldout"], verdicts)


def sample(
    config: RunConfig, folder: Path, tokenizer: Tokenizer, prompts: Sequence[Prompt]
) -> list[list[RankedResponse]]:
    """``RESPONSES`` to each prompt from the run's sft model."""
    model = load_language_model(folder / "sft").eval()
    ids = [tokenizer.encode_prompt(one.prompt) for one in prompts for _ in range(RESPONSES)]
    settings = SamplingSettings(config.sample.max_response_tokens)
    drawn = generate(model, ids, range(len(ids)), settings, tokenizer)
    made = [
        RankedResponse(response_id=f"r{i}", text=text, policy="sft", finished=finished)
        for i, (text, finished) in enumerate(
            zip(response_texts(drawn, tokenizer), drawn.finished.tolist(), strict=True)
        )
    ]
    return [made[start : start + RESPONSES] for start in range(0, len(made), RESPONSES)]


def ranking_of(
    prompt: Prompt, responses: list[RankedResponse], labeler: ScriptedLabeler
) -> Ranking:
    """What a scripted labeler says of the responses."""
    said = labeler.label(prompt, [(one.text, one.finished) for one in responses])
    return Ranking(
        submission_id=f"{prompt.prompt_id}-{labeler.name}",
        prompt_id=prompt.prompt_id,
        prompt=prompt.prompt,
        labeler=labeler.name,
        responses=responses,
        ratings=said.ratings,
        ranks=said.ranks,
        answers={name: list(answers) for name, answers in said.answers.items()},
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


def learn(world: World, rankings: Sequence[Ranking], seed: int) -> RewardModel:
    """A reward model from these rankings, prompt by prompt."""
    side = world.side([one for one in comparisons_by_prompt(rankings) if one.pairs])
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


# --- measuring ------------------------------------------------------------------------------------


def true_pairs(world: World, side: Side) -> np.ndarray:
    """(P, 2) rows of the truly better and the worse response, wherever the rubric tells them
    apart."""
    pairs: list[tuple[int, int]] = []
    first = 0
    for one in side.comparisons:
        values = [world.verdicts[one.prompt, r.response_id].score for r in one.responses]
        pairs += [
            (first + a, first + b)
            for a, b in itertools.permutations(range(len(values)), 2)
            if values[a] > values[b]
        ]
        first += len(values)
    return np.array(pairs, dtype=int).reshape(-1, 2)


def share_right(scores: np.ndarray, pairs: np.ndarray) -> float:
    """The share of pairs whose first outscores the second; equal scores, and no pairs, are half."""
    if not len(pairs):
        return 0.5
    margins = scores[pairs[:, 0]] - scores[pairs[:, 1]]
    return float((np.sign(margins) + 1).mean() / 2)


def measure(world: World, model: RewardModel, heldout: Side) -> dict[str, float]:
    """What a model knows: of the truth, and of the labels on held-out prompts."""
    scores, logits = score_and_ask(model, heldout.rows, world.tokenizer.pad_id)
    scored = heldout.scored(scores.tolist())
    slope = calibration_slope(scored.margins, scored.prompts.tolist())["mean"]
    figures = {
        "true_pairs_right": share_right(scores.double().numpy(), true_pairs(world, heldout)),
        "labels_right": accuracy(scored.margins)["mean"] or 0.0,
        "log_loss": float(log_losses(scored.margins).mean()),
        "calibration_slope": slope or 0.0,
    }
    flags = [
        world.verdicts[one.prompt, r.response_id].flags
        for one in heldout.comparisons
        for r in one.responses
    ]
    for column, name in enumerate(model.question_names):
        truth = np.array([flag[name] for flag in flags])
        said = logits[:, column].numpy() > 0
        figures[f"recall_{name}"] = float(said[truth].mean()) if truth.any() else 0.0
    return figures


def ceilings(world: World, heldout: Side) -> dict[str, float]:
    """What no model can pass on these labels, and how far labels are true."""
    rubric = [
        world.verdicts[one.prompt, r.response_id].score
        for one in heldout.comparisons
        for r in one.responses
    ]
    agreement = pairwise_agreement(world.second_rankings)
    truth = {tuple(pair) for pair in true_pairs(world, heldout).tolist()}
    right = decided = first = 0
    for one in heldout.comparisons:
        for better, worse in one.pairs:
            pair = (first + better, first + worse)
            decided += pair in truth or pair[::-1] in truth
            right += pair in truth
        first += len(one.responses)
    return {
        "rubric_on_labels": accuracy(heldout.scored(rubric).margins)["mean"] or 0.0,
        "labeler_on_labeler": agreement.agreement if agreement else 0.0,
        "labeler_on_true_pairs": right / max(decided, 1),
    }


def likelihoods(world: World, side: Side) -> np.ndarray:
    """(N, 6) of each response under sft: log-likelihood, its mean over tokens, the four least
    likely tokens."""
    model = load_language_model(world.folder / "sft").eval()
    rows, features = side.rows, []
    prompts = [
        len(world.tokenizer.encode_prompt(one.prompt))
        for one in side.comparisons
        for _ in one.responses
    ]
    with torch.no_grad():
        for start in range(0, len(rows), 128):
            ids, lengths = pad_rows(rows[start : start + 128], world.tokenizer.pad_id)
            logits = model(ids[:, :-1]).log_softmax(-1)
            tokens = logits.gather(2, ids[:, 1:, None])[..., 0]
            for row, length, prompt in zip(tokens, lengths, prompts[start:], strict=False):
                own = row[prompt - 1 : length - 1]
                least = torch.cat([own, torch.zeros(4)]).sort().values[:4]
                features.append([own.sum(), own.mean(), *least])
    return np.array(features, dtype=np.float64)


def with_likelihoods(world: World, model: RewardModel, training: Side, heldout: Side) -> float:
    """True pairs right by a weighted sum of score and likelihoods, fitted to training labels."""
    columns = [
        np.column_stack(
            [score_and_ask(model, side.rows, world.tokenizer.pad_id)[0], likelihoods(world, side)]
        )
        for side in (training, heldout)
    ]
    mean, std = columns[0].mean(0), columns[0].std(0) + 1e-9
    known, new = ((one - mean) / std for one in columns)
    first = np.cumsum([0, *(len(one.responses) for one in training.comparisons)])
    pairs = np.array(
        [(a + at, b + at) for one, at in zip(training.comparisons, first, strict=False)
         for a, b in one.pairs]
    )  # fmt: skip
    differences = known[pairs[:, 0]] - known[pairs[:, 1]]

    def loss(weights: np.ndarray) -> float:
        return float(np.logaddexp(0, -differences @ weights).mean() + 1e-4 * weights @ weights)

    weights = minimize(loss, np.zeros(differences.shape[1])).x
    return share_right(new @ weights, true_pairs(world, heldout))


# --- the four questions ---------------------------------------------------------------------------

Figures = dict[str, float]


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
        model = learn(world, [one for one in labeled if one.labeler != left_out], seed)
        for name in names:
            said = [one for one in world.second_rankings if one.labeler == name]
            side = world.side([one for one in comparisons_by_prompt(said) if one.pairs])
            scores = score_and_ask(model, side.rows, world.tokenizer.pad_id)[0]
            right = accuracy(side.scored(scores.tolist()).margins)["mean"] or 0.0
            (unknown if name == left_out else known).append(right)
    return {"learned_from": statistics.mean(known), "left_out": statistics.mean(unknown)}


def show(title: str, figures: dict[str, dict[str, float]]) -> None:
    """One line for each figure."""
    print(f"\n{title}")
    for name, leaf in figures.items():
        print(f"  {name:<28}{leaf['mean']:.3f}  [{leaf['least']:.3f}, {leaf['most']:.3f}]")


def main() -> None:
    """Answers the four questions, with the figures as JSON in the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny: does it run?")
    quick = parser.parse_args().quick
    once, most = LABELED[quick], LABELED[quick] * TIMES[-1]
    overrides = [f"name=benchmark-reward-truth{'-quick' if quick else ''}", *(QUICK * quick)]
    overrides += [f"data.tinyworld.label_prompts={most}", "data.tinyworld.ppo_prompts=20"]
    config = load_config(CONFIG, [*overrides, *["pretrain.copy_probe_minimum=null"] * quick])
    with redirect_stdout(io.StringIO()):
        run_chain(config, run_folder_of(config), last="sft")
    world, seeds = make_world(config), 1 if quick else SEEDS
    first_of_two = world.second_rankings[::2]
    heldout = world.side([one for one in comparisons_by_prompt(first_of_two) if one.pairs])
    result: dict[str, Any] = {"ceilings": ceilings(world, heldout)}
    for name, value in result["ceilings"].items():
        print(f"  {name:<28}{value:.3f}")
    for times in TIMES:
        labeled = world.rankings[: once * times]

        def curve(seed: int, labeled: Sequence[Ranking] = labeled) -> Figures:
            return measure(world, learn(world, labeled, seed), heldout)

        result[f"labels_{times}x"] = over_seeds(seeds, curve)
        show(f"labels {times}×: {len(labeled)} prompts", result[f"labels_{times}x"])
    usual = world.rankings[: once * 3]

    def seen(seed: int) -> Figures:
        training = world.side([one for one in comparisons_by_prompt(usual) if one.pairs])
        model = learn(world, usual, seed)
        return {"true_pairs_right": with_likelihoods(world, model, training, heldout)}

    result["with_likelihoods"] = over_seeds(seeds, seen)
    show(f"with likelihoods under sft: {len(usual)} prompts", result["with_likelihoods"])
    result["grouping"] = over_seeds(seeds, lambda seed: grouping(world, usual, heldout, seed))
    show("one pass over the same pairs, grouped and shuffled", result["grouping"])
    result["labelers"] = over_seeds(seeds, lambda seed: labelers_left_out(world, usual, seed))
    show("agreement with labelers", result["labelers"])
    result |= {"seeds": seeds, "prompts": len(heldout.comparisons), "cpus": os.cpu_count()}
    result |= {"settings": world.section.model_dump(mode="json"), "torch": torch.__version__}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
