"""Fine-tunes a model to classify texts: spam or ham, or any other labels.

    python -m stages.classify configs/spam.yaml
    accelerate launch -m stages.classify configs/spam.yaml

Reads base (or sft) and the labeled texts that the config names; writes classifier/: the model,
which plain ``transformers`` loads, ``metrics.jsonl`` and ``report.json`` (accuracy on texts that
were held out, beside that of the most frequent label; precision, recall and F1 by label). Killed
and started again, it goes on from its newest checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from pipeline.classifier import Classifier, classify_rows, encode_text, save_classifier
from pipeline.config import ClassifySection, RunConfig
from pipeline.errors import UserError
from pipeline.hugging_face import context_tokens_of, load_language_model
from pipeline.labeled_texts import (
    LabeledText,
    classification_report,
    divide_texts,
    label_names,
    name_of,
    read_labeled_texts,
    require_all_labels,
)
from pipeline.reward_batches import batch_schedule, pad_rows
from pipeline.reward_files import require_classifier
from pipeline.stage_context import StageContext, open_stage
from pipeline.tokenizer import Tokenizer
from pipeline.training import Metrics, PartMetrics, Schedule, fit
from stages.cli import stage_main

VERSION = 2
FINAL_LEARNING_RATE_FRACTION = 0.1

Example = tuple[list[int], int]  # the ids of a text, the index of its label


def run(config: RunConfig, run_folder: Path) -> None:
    """Trains and publishes ``classifier/``.

    Raises:
        UserError: the texts or labels are unusable, too many texts do not fit into the context, or
            training diverged.
    """
    with open_stage("classify", config, run_folder) as stage:
        section: ClassifySection = stage.section
        rows, revision = read_labeled_texts(section.source, stage.data_root)
        where = name_of(section.source)
        start = stage.input(section.start)
        tokenizer = Tokenizer.load(start)
        kept, left_out = fitting(rows, tokenizer, context_tokens_of(start), section)
        if left_out and stage.is_leader:
            print(f"{where}: {left_out} of {len(rows)} texts are too long and left out")
        labels = label_names(kept, where)
        sides = divide_texts(kept, section.validation_fraction, stage.seed)
        require_all_labels(sides[0], labels, where)
        training, validation = (
            [(encode_text(tokenizer, row.text), labels.index(row.label)) for row in side]
            for side in sides
        )
        generator = torch.Generator().manual_seed(stage.seed)
        model = Classifier(load_language_model(start), labels, generator).to(stage.device)
        require_classifier(model.trunk, labels, tokenizer)
        train(stage, section, model, tokenizer.pad_id, training, validation)
        if not stage.is_leader:
            return
        report = measure(model.eval(), tokenizer.pad_id, validation)
        counts = {"training": len(training), "validation": len(validation), "left_out": left_out}
        report |= {"texts": counts, "source": where, "revision": revision}
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        (stage.output / "report.json").write_text(text, encoding="utf-8")
        save_classifier(model, stage.output, tokenizer)


def fitting(
    rows: Sequence[LabeledText], tokenizer: Tokenizer, context_tokens: int, section: ClassifySection
) -> tuple[list[LabeledText], int]:
    """The texts that the model can read whole, and how many it cannot.

    Raises:
        UserError: more than ``max_left_out_fraction`` are too long.
    """
    lengths = map(len, tokenizer.encode_many([row.text for row in rows]))
    fits = [length < context_tokens for length in lengths]  # one more is the end token
    long = [row for row, whole in zip(rows, fits, strict=True) if not whole]
    if len(long) > section.max_left_out_fraction * len(rows):
        raise UserError(
            long[0].where,
            f"{len(long)} of {len(rows)} texts have more than {context_tokens} tokens.",
            "raise classify.max_left_out_fraction, or use a base with a longer context.",
        )
    return [row for row, whole in zip(rows, fits, strict=True) if whole], len(long)


def train(
    stage: StageContext,
    section: ClassifySection,
    model: Classifier,
    pad_id: int,
    training: Sequence[Example],
    validation: Sequence[Example],
) -> None:
    """The training steps; after each epoch the held-out texts are measured and logged.

    Step i trains on the i-th batch. Each part of a step on each process takes every n-th text of
    the batch, and its losses count n-fold, so that their mean is the batch's.

    Raises:
        UserError: training diverged.
    """
    accelerator = stage.accelerator
    batches = batch_schedule(len(training), section.batch_rows, section.epochs, stage.seed)
    steps, epoch_steps = len(batches), len(batches) // section.epochs
    device_rows = section.per_device_batch_rows or section.batch_rows // accelerator.num_processes
    parts = section.batch_rows // (device_rows * accelerator.num_processes)
    shares = parts * accelerator.num_processes
    shared = accelerator.prepare_model(model)  # processes share their gradients

    def loss_at(step: int, part: int) -> tuple[torch.Tensor, PartMetrics]:
        examples = [training[i] for i in batches[step]]
        own = examples[part * accelerator.num_processes + accelerator.process_index :: shares]
        input_ids, lengths = pad_rows([ids for ids, _ in own or examples[:1]], pad_id)
        labels = torch.tensor([label for _, label in own or examples[:1]], device=stage.device)
        logits = shared(input_ids.to(stage.device), lengths.to(stage.device))
        weight = shares / len(examples) if own else 0.0
        right = (logits.argmax(-1) == labels).sum() * weight
        return F.cross_entropy(logits, labels, reduction="sum") * weight, {"accuracy": right}

    with stage.progress(steps, "classifier") as progress:

        def on_step(step: int, metrics: Metrics) -> None:
            tokens = sum(len(training[i][0]) for i in batches[step - 1])
            progress.advance_to(step, tokens=tokens, loss=metrics["loss"])
            if step % epoch_steps == 0 and stage.is_leader:
                measured = measure(model.eval(), pad_id, validation)
                model.train()
                metrics = {**metrics, "validation_accuracy": measured["accuracy"]["mean"]}
                metrics["validation_log_loss"] = measured["log_loss"]
            stage.log(step, **metrics)

        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=section.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=section.weight_decay,
            fused=True,
        )
        fit(
            accelerator,
            shared,
            [optimizer],
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


def measure(model: Classifier, pad_id: int, examples: Sequence[Example]) -> dict[str, Any]:
    """The report's numbers on these texts, in fp32."""
    logprobs = classify_rows(model, [ids for ids, _ in examples], pad_id)
    truth = [label for _, label in examples]
    return classification_report(logprobs.double().numpy(), truth, model.labels)


if __name__ == "__main__":
    stage_main("classify")
