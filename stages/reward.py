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
from collections.abc import Sequence
from pathlib import Path

import torch

from pipeline.config import RewardSection, RunConfig
from pipeline.errors import UserError
from pipeline.hugging_face import load_language_model
from pipeline.preferences import PromptComparisons, comparisons_by_prompt, split_comparisons
from pipeline.records import Ranking, read_rows
from pipeline.reward import ForTraining, RewardModel, score_rows
from pipeline.reward_batches import EncodedComparisons, batch_schedule, collate, encode_comparisons
from pipeline.reward_evaluation import accuracy, log_losses
from pipeline.reward_files import save_reward_model
from pipeline.reward_loss import centering_sum, kwise_loss_sum, pair_margins, question_loss_sum
from pipeline.reward_report import Side, label_report, normalize_and_measure
from pipeline.stage_context import StageContext, open_stage
from pipeline.tokenizer import Tokenizer
from pipeline.training import Metrics, PartMetrics, Schedule, fit
from stages.cli import stage_main

VERSION = 2
FINAL_LEARNING_RATE_FRACTION = 0.1  # cosine to 10% (InstructGPT, appendix C.2)
ADAM_BETAS = (0.9, 0.95)


def run(config: RunConfig, run_folder: Path) -> None:
    """Trains and publishes ``reward/``.

    Raises:
        UserError: the rankings hold no two prompts with pairs, a response does not fit into the
            model's context, or training diverged.
    """
    section = config.reward
    with open_stage("reward", config, run_folder) as stage:
        path = stage.input("labels") / "rankings.jsonl"
        rankings = read_rows(path, Ranking)
        tokenizer = Tokenizer.load(stage.input("sft"))
        base = load_language_model(stage.input("sft"))
        comparisons = comparisons_by_prompt(rankings)
        questions = questions_of(comparisons) if section.question_weight else []
        training, validation, tied = (
            encode(side, tokenizer, base.context_tokens, section, questions)
            for side in divide(comparisons, section, stage.seed, path)
        )
        generator = torch.Generator().manual_seed(stage.seed)
        model = RewardModel(base, generator, questions).to(stage.device)
        train(stage, section, model, tokenizer.pad_id, training, validation)
        if not stage.is_leader:
            return
        report = normalize_and_measure(model, tokenizer.pad_id, training, validation, tied)
        report |= label_report(rankings, training, validation)
        text = json.dumps(report, indent=2) + "\n"
        (stage.output / "report.json").write_text(text, encoding="utf-8")
        save_reward_model(model, stage.output, tokenizer)


def questions_of(comparisons: Sequence[PromptComparisons]) -> list[str]:
    """The yes/no questions that somebody answered, in alphabetical order."""
    return sorted({name for one in comparisons for answers in one.answers for name in answers})


def divide(
    comparisons: Sequence[PromptComparisons], section: RewardSection, seed: int, path: Path
) -> tuple[list[PromptComparisons], list[PromptComparisons], list[PromptComparisons]]:
    """``(training, validation, tied)``: prompts to learn from, to measure on, and without pairs.

    Raises:
        UserError: fewer than two prompts have a pair.
    """
    usable = [one for one in comparisons if one.pairs]
    if len({one.group for one in usable}) < 2:
        raise UserError(
            path,
            f"{len(usable)} of {len(comparisons)} prompts have responses that are not tied.",
            "rank the responses of at least 2 prompts, one to train on and one to validate on.",
        )
    training, validation = split_comparisons(usable, section.validation_fraction, seed)
    return training, validation, [one for one in comparisons if not one.pairs]


def encode(
    comparisons: list[PromptComparisons],
    tokenizer: Tokenizer,
    context_tokens: int,
    section: RewardSection,
    questions: Sequence[str],
) -> Side:
    """One side of the split with its ids."""

    def encoded(one: PromptComparisons) -> EncodedComparisons:
        return encode_comparisons(
            one, tokenizer, context_tokens,
            questions=questions, with_ties=section.ties == "soft", margin=section.margin,
        )  # fmt: skip

    return Side(comparisons, [encoded(one) for one in comparisons])


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
    parts = max(1, section.batch_prompts // (device_prompts * accelerator.num_processes))
    shares = parts * accelerator.num_processes
    if section.lora:
        from pipeline.reward_lora import add_reward_adapters  # PEFT loads for seconds

        add_reward_adapters(model, section.lora, stage.seed)
    shared = accelerator.prepare_model(ForTraining(model))  # processes share their gradients

    def loss_at(step: int, part: int) -> tuple[torch.Tensor, PartMetrics]:
        share = part * accelerator.num_processes + accelerator.process_index
        prompts = [training.encoded[i] for i in batches[step]]
        batch = collate(prompts[share::shares] or prompts[:1], pad_id).to(stage.device)
        weight = shares / len(prompts) if prompts[share::shares] else 0.0
        scores, logits = shared(batch.input_ids, batch.lengths)
        ranking = kwise_loss_sum(
            scores, batch.pair_indices, batch.pair_weights, batch.pair_targets, batch.pair_margins
        )
        loss = ranking + section.centering * centering_sum(scores, batch.row_weights)
        metrics = {"ranking_loss": ranking.detach() * weight}
        if logits.shape[1]:
            asked = question_loss_sum(logits, batch.answers, batch.row_weights)
            loss = loss + section.question_weight * asked
            metrics["question_loss"] = asked.detach() * weight
        right = pair_margins(scores, batch.pair_indices)[batch.pair_targets == 1] > 0
        return loss * weight, metrics | {"accuracy": right.float().mean()}

    with stage.progress(steps, "reward model") as progress:

        def on_step(step: int, metrics: Metrics) -> None:
            rows = [row for i in batches[step - 1] for row in training.encoded[i].rows]
            progress.advance_to(step, tokens=sum(map(len, rows)), loss=metrics["loss"])
            if step % epoch_steps == 0 and stage.is_leader:
                metrics = {**metrics, **validate(stage, model, pad_id, validation)}
            stage.log(step, **metrics)

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
    if section.lora:
        from pipeline.reward_lora import merge_reward_adapters

        merge_reward_adapters(model)


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
    stage: StageContext, model: RewardModel, pad_id: int, validation: Side
) -> dict[str, float]:
    """Accuracy and log-loss on the held-out prompts, in the precision of training."""
    model.eval()
    with stage.autocast():
        scores = score_rows(model, validation.rows, pad_id)
    model.train()
    margins = validation.scored(scores.tolist()).margins
    return {
        "validation_accuracy": accuracy(margins)["mean"] or 0.0,
        "validation_log_loss": float(log_losses(margins).mean()),
        "validation_pairs": margins.size,
    }


if __name__ == "__main__":
    stage_main("reward")
