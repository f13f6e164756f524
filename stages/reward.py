"""Trains the reward model on rankings: one score for any response, for PPO to raise.

    python -m stages.reward configs/quickstart.yaml
    accelerate launch -m stages.reward configs/quickstart.yaml

Reads sft, labels and data; writes reward/: the model, whose scores have mean 0 and standard
deviation 1 over the ranked responses, ``metrics.jsonl`` and ``report.json`` (accuracy on prompts
that were held out, by rating gap and against length alone, calibration, counts). The labelers'
agreement stands beside the accuracy, for no model can be measured to be much better than that.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch

from pipeline.config import RunConfig
from pipeline.early_stopping import is_best_yet, restore_best
from pipeline.errors import UserError
from pipeline.hugging_face import load_language_model
from pipeline.records import Prompt, Ranking, read_rows
from pipeline.reward import ForTraining, RewardModel, score_rows
from pipeline.reward_batches import batch_schedule, collate
from pipeline.reward_config import RewardSection, SurprisalSection
from pipeline.reward_data import Side, divide, encode_side, questions_of, read_sources
from pipeline.reward_evaluation import accuracy, log_losses
from pipeline.reward_files import require_classifier, save_reward_model
from pipeline.reward_loss import (
    centering_sum,
    members_loss_sum,
    pair_margins,
    question_loss_sum,
)
from pipeline.reward_report import (
    epoch_rows,
    label_report,
    members_report,
    normalize_and_measure,
    strangers_report,
)
from pipeline.stage_context import StageContext, open_stage
from pipeline.surprisal import (
    SurprisalModel,
    explained_variance,
    sample_surprisals,
    squared_error_sum,
    surprisal_targets,
)
from pipeline.tokenizer import Tokenizer
from pipeline.training import Metrics, PartMetrics, Schedule, fit
from stages.cli import stage_main

VERSION = 5
FINAL_LEARNING_RATE_FRACTION = 0.1  # cosine to 10% (InstructGPT, appendix C.2)
ADAM_BETAS = (0.9, 0.95)


def run(config: RunConfig, run_folder: Path) -> None:
    """Trains and publishes ``reward/``.

    Raises:
        UserError: no two prompts have pairs, a response does not fit into the model's context, or
            training diverged.
    """
    section = config.reward
    with open_stage("reward", config, run_folder) as stage:
        rankings, where = own_rankings(stage, section)
        others, sources = read_sources(
            section, stage.data_root, stage.input("data") / "prompts.jsonl"
        )
        division = divide(rankings, others, section, stage.seed, where)
        tokenizer = Tokenizer.load(stage.input("sft"))
        base = load_language_model(stage.input("sft"))
        questions = questions_of(division.training) if section.question_weight else []
        training, validation, tied, strangers = (
            encode_side(part, tokenizer, base.context_tokens, section, questions)
            for part in (division.training, division.validation, division.tied, division.strangers)
        )
        generator = torch.Generator().manual_seed(stage.seed)
        model = RewardModel(base, generator, questions, section.members).to(stage.device)
        require_classifier(model.trunk, ["score"], tokenizer)  # it could not be saved
        if section.lora:
            from pipeline.reward_lora import add_reward_adapters  # PEFT loads for seconds

            add_reward_adapters(model, section.lora, stage.seed)
        if section.surprisal and stage.checkpoints.latest() is None:
            held_out = {one.prompt for one in division.validation}
            prompts = [one for one in unlabeled_prompts(stage) if one not in held_out]
            learn_surprisal(stage, section.surprisal, model, tokenizer, prompts)
        train(stage, section, model, tokenizer.pad_id, training, validation)
        if not stage.is_leader:
            return
        report = normalize_and_measure(model, tokenizer.pad_id, training, validation, tied)
        report |= members_report(model, tokenizer.pad_id, training, validation)
        report |= strangers_report(model, tokenizer.pad_id, validation, strangers)
        report |= label_report(rankings, section.held_out_labelers, training, validation)
        report |= {"epochs": epoch_rows(stage.metrics_path), "sources": sources}
        text = json.dumps(report, indent=2) + "\n"
        (stage.output / "report.json").write_text(text, encoding="utf-8")
        save_reward_model(model, stage.output, tokenizer)


def own_rankings(stage: StageContext, section: RewardSection) -> tuple[list[Ranking], object]:
    """The run's own rankings, and where they stand; none where only others' are learned from."""
    if not section.own_labels:
        return [], "reward.preferences"
    path = stage.input("labels") / "rankings.jsonl"
    return read_rows(path, Ranking), path


def unlabeled_prompts(stage: StageContext) -> list[str]:
    """The prompts of the splits label and ppo: nothing that the comparison holds out."""
    rows = read_rows(stage.input("data") / "prompts.jsonl", Prompt)
    return [row.prompt for row in rows if row.split in ("label", "ppo")]


def learn_surprisal(
    stage: StageContext,
    section: SurprisalSection,
    model: RewardModel,
    tokenizer: Tokenizer,
    prompts: list[str],
) -> None:
    """Trains the trunk on samples of sft, before any label.

    Raises:
        UserError: there are too few prompts, one does not fit into the context, or training
            diverged.
    """
    if len(prompts) < 2:
        raise UserError(
            "reward.surprisal",
            f"needs 2 prompts (label, ppo) that are not held out, there are {len(prompts)}.",
            "give the data stage more of them, or remove it.",
        )
    accelerator, pad_id = stage.accelerator, tokenizer.pad_id
    policy = load_language_model(stage.input("sft")).to(stage.device).eval()
    tokens = stage.config.sample.max_response_tokens
    rows = sample_surprisals(
        policy, prompts, section.responses_per_prompt, tokens, tokenizer, stage.seed
    )
    held_out = rows[: max(1, len(prompts) // 20) * section.responses_per_prompt]
    known = rows[len(held_out) :]
    surprisal = SurprisalModel(model.trunk, torch.Generator().manual_seed(stage.seed))
    shared = accelerator.prepare_model(surprisal.to(stage.device))
    batches = batch_schedule(len(known), section.batch_rows, section.epochs, stage.seed)
    index, shares = accelerator.process_index, accelerator.num_processes

    def loss_at(step: int, part: int) -> tuple[torch.Tensor, PartMetrics]:
        chosen = [known[i] for i in batches[step]]
        own = chosen[index::shares] or chosen[:1]
        ids, targets, mask = (t.to(stage.device) for t in surprisal_targets(own, pad_id))
        error = squared_error_sum(shared(ids), targets, mask)
        count = sum(len(row.surprisals) for row in chosen)
        return error * (shares / count if chosen[index::shares] else 0.0), {}

    with stage.progress(len(batches), "surprisal") as progress:

        def on_step(step: int, metrics: Metrics) -> None:
            read = sum(len(known[i].ids) for i in batches[step - 1])
            progress.advance_to(step, tokens=read, loss=metrics["loss"])
            logged = {"surprisal_loss": metrics["loss"], "grad_norm": metrics["grad_norm"]}
            if step == len(batches) and stage.is_leader:
                surprisal.eval()
                logged["surprisal_explained"] = explained_variance(surprisal, held_out, pad_id)
            stage.log(step, **logged)

        steps = len(batches)
        trained = [weight for weight in surprisal.parameters() if weight.requires_grad]
        fit(
            accelerator,
            shared,
            [torch.optim.AdamW(trained, lr=section.learning_rate, betas=ADAM_BETAS,
                               weight_decay=0.0, fused=True)],
            loss_at,
            schedule=Schedule(steps, min(20, steps // 10), FINAL_LEARNING_RATE_FRACTION),
            max_grad_norm=1.0,
            autocast=stage.autocast,
            on_step=on_step,
            checkpoints=stage.more_checkpoints("surprisal", with_log=True),
            checkpoint_every_steps=stage.config.reward.checkpoint_every_steps,
        )  # fmt: skip


def train(
    stage: StageContext,
    section: RewardSection,
    model: RewardModel,
    pad_id: int,
    training: Side,
    validation: Side,
) -> None:
    """The training steps; after each epoch the validation prompts are measured and logged.

    Step i trains on the i-th batch of prompts. Each part of a step on each process takes every
    n-th prompt of the batch, and its losses count n-fold, so that their mean is the batch's.

    Raises:
        UserError: training diverged.
    """
    accelerator = stage.accelerator
    batches = batch_schedule(
        len(training.encoded), section.batch_prompts, section.epochs, stage.seed
    )
    steps, epoch_steps = len(batches), len(batches) // section.epochs
    device_prompts = section.per_device_batch_prompts or section.batch_prompts
    at_once = device_prompts * accelerator.num_processes
    parts = -(-section.batch_prompts // at_once)  # rounded up: a device takes no more
    shares = parts * accelerator.num_processes
    shared = accelerator.prepare_model(ForTraining(model))  # processes share their gradients
    best = stage.more_checkpoints("best", with_log=False)
    draws_of = np.random.default_rng([stage.seed, section.members])
    size = (section.members, len(training.encoded))
    prompt_draws = draws_of.poisson(1.0, size) if section.members > 1 else []

    def loss_at(step: int, part: int) -> tuple[torch.Tensor, PartMetrics]:
        share = part * accelerator.num_processes + accelerator.process_index
        prompts = [training.encoded[i] for i in batches[step]]
        batch = collate(prompts[share::shares] or prompts[:1], pad_id).to(stage.device)
        weight = shares / len(prompts) if prompts[share::shares] else 0.0
        heads, logits = shared(batch.input_ids, batch.lengths)
        draws = [draw[batches[step]][share::shares] for draw in prompt_draws]
        ranking = members_loss_sum(heads, batch, draws or [None])
        scores = heads.mean(1)
        loss = ranking + section.centering * centering_sum(scores, batch.row_weights)
        metrics = {"ranking_loss": ranking.detach() * weight}
        if logits.shape[1]:
            asked = question_loss_sum(logits, batch.answers, batch.row_weights)
            loss = loss + section.question_weight * asked
            metrics["question_loss"] = asked.detach() * weight
        right = pair_margins(scores, batch.pair_indices)[batch.pair_targets == 1] > 0
        pairs = sum(one.decided_pairs for one in prompts)
        # Of ties alone no pair is right or wrong: not a number, which is logged as null.
        per_pair = shares / pairs if pairs else math.nan
        right = right.sum() if prompts[share::shares] else right.sum() * 0
        return loss * weight, metrics | {"accuracy": right * per_pair}

    with stage.progress(steps, "reward model") as progress:

        def on_step(step: int, metrics: Metrics) -> bool:
            rows = [row for i in batches[step - 1] for row in training.encoded[i].rows]
            progress.advance_to(step, tokens=sum(map(len, rows)), loss=metrics["loss"])
            stop = False
            if step % epoch_steps == 0 and stage.is_leader:
                metrics = {**metrics, **validate(stage, model, pad_id, training, validation)}
                loss = metrics["validation_log_loss"]
                stop = section.early_stopping and not is_best_yet(best, step, loss, model)
            stage.log(step, **metrics)
            return section.early_stopping and stage.decided_by_leader(stop)

        fit(
            accelerator,
            shared,
            [make_optimizer(model, section)],
            loss_at,
            schedule=Schedule(
                steps, round(section.warmup_fraction * steps), FINAL_LEARNING_RATE_FRACTION
            ),
            max_grad_norm=section.max_grad_norm,
            autocast=stage.autocast,
            on_step=on_step,
            accumulation=parts,
            checkpoints=stage.checkpoints,
            checkpoint_every_steps=section.checkpoint_every_steps,
        )
    if section.early_stopping and stage.is_leader:
        restore_best(best, model)
    model.fold()
    if section.lora:
        from pipeline.reward_lora import merge_reward_adapters

        merge_reward_adapters(model, section.lora, stage.output / "adapter")


def make_optimizer(model: RewardModel, section: RewardSection) -> torch.optim.Optimizer:
    """AdamW on all weights that are trained."""
    return torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=section.learning_rate,
        betas=ADAM_BETAS,
        weight_decay=section.weight_decay,
        fused=True,
    )


def validate(
    stage: StageContext, model: RewardModel, pad_id: int, training: Side, validation: Side
) -> dict[str, float]:
    """Accuracy and log-loss on the held-out prompts, and on as many of those learned from.

    In the precision of training. How far apart the two log-losses are says how much was memorized.
    """
    size = len(validation.comparisons)
    seen = Side(training.comparisons[:size], training.encoded[:size])
    measured: dict[str, float] = {}
    model.fold()
    model.eval()
    for name, side in (("training", seen), ("validation", validation)):
        with stage.autocast():
            scores = score_rows(model, side.rows, pad_id)
        margins = side.scored(scores.tolist()).margins
        measured[f"{name}_accuracy"] = accuracy(margins)["mean"] or 0.0
        measured[f"{name}_log_loss"] = float(log_losses(margins).mean())
        measured[f"{name}_pairs"] = margins.size
    model.train()
    return measured


if __name__ == "__main__":
    stage_main("reward")
