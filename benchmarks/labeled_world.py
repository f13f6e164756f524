"""The embedded world with labels, and measures that know what is true in it.

What ``benchmarks/reward_truth.py`` trains on, and how it measures what was learned.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize

from pipeline.agreement import pairwise_agreement
from pipeline.calibration import calibration_slope
from pipeline.config import RunConfig
from pipeline.hugging_face import load_language_model
from pipeline.judges import RubricJudge, ScriptedLabeler, make_labelers
from pipeline.preferences import PromptComparisons, comparisons_by_prompt
from pipeline.records import Prompt, RankedResponse, Ranking, read_rows
from pipeline.reward import RewardModel, score_and_ask
from pipeline.reward_batches import pad_rows
from pipeline.reward_config import RewardSection
from pipeline.reward_data import Side, encode_side, questions_of
from pipeline.reward_evaluation import accuracy, log_losses
from pipeline.sampling import SamplingSettings, generate, response_texts
from pipeline.tinyworld import build_world
from pipeline.tinyworld.rubric import Verdict
from pipeline.tokenizer import Tokenizer
from stages.cli import run_folder_of

RESPONSES = 5
Figures = dict[str, float]


@dataclass(frozen=True)
class World:
    """The run's models and words, the labels to learn from, and what is known to be true."""

    config: RunConfig
    folder: Path
    tokenizer: Tokenizer
    labeled: list[list[Ranking]]  # each time: a ranking of new responses to every prompt
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


def make_world(config: RunConfig, times: int) -> World:
    """Samples and labels on a finished run's prompts, the labelers in turn."""
    folder = run_folder_of(config)
    tokenizer = Tokenizer.load(folder / "sft")
    prompts = read_rows(folder / "data" / "prompts.jsonl", Prompt)
    judge = RubricJudge(build_world(config.seed))
    labelers = make_labelers(config.label.labelers, judge, config.seed)

    def labeled(split: str, seed: int, turns: int) -> Iterator[Ranking]:
        chosen = [prompt for prompt in prompts if prompt.split == split]
        drawn = sample(config, folder, tokenizer, chosen, seed)
        for number, (prompt, responses) in enumerate(zip(chosen, drawn, strict=True)):
            for turn in range(turns):
                labeler = labelers[(number + turn) % len(labelers)]
                yield ranking_of(prompt, responses, labeler)

    second = list(labeled("heldout", 0, turns=2))
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    verdicts = {
        (one.prompt, response.response_id): judge.judge(
            by_id[one.prompt_id], response.text, response.finished
        )
        for one in second[::2]
        for response in one.responses
    }
    sets = [list(labeled("label", 1 + time, turns=1)) for time in range(times)]
    return World(config, folder, tokenizer, sets, second, verdicts)


def sample(
    config: RunConfig, folder: Path, tokenizer: Tokenizer, prompts: Sequence[Prompt], seed: int
) -> list[list[RankedResponse]]:
    """``RESPONSES`` to each prompt from the run's sft model."""
    model = load_language_model(folder / "sft").eval()
    ids = [tokenizer.encode_prompt(one.prompt) for one in prompts for _ in range(RESPONSES)]
    settings = SamplingSettings(config.sample.max_response_tokens)
    seeds = range(seed * 10**6, seed * 10**6 + len(ids))
    drawn = generate(model, ids, seeds, settings, tokenizer)
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


def decided(rankings: Sequence[Ranking]) -> list[PromptComparisons]:
    """The comparisons of prompts that have pairs."""
    return [one for one in comparisons_by_prompt(rankings) if one.pairs]


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


def measure(
    world: World, model: RewardModel, heldout: Side, scale: float = 1.0
) -> dict[str, float]:
    """What a model knows: of the truth, and of the labels on held-out prompts.

    ``scale``: the standard deviation that scores had before they were normalized, so that log-loss
    and slope are those of the probabilities that were trained.
    """
    scores, logits = score_and_ask(model, heldout.rows, world.tokenizer.pad_id)
    scored = heldout.scored((scores * scale).tolist())
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
