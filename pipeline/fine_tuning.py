"""Fine-tuning with ``trl.SFTTrainer``, on rows that are finished and checked.

TRL would truncate or drop what is too long and would train on the prompt of rows already tokenized:
it is given ids and labels, and the labels of every batch are checked before its step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
from torch import Tensor
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from pipeline.config import SftSection
from pipeline.language_model import LanguageModel
from pipeline.sft import SftRow, check_labels, collate
from pipeline.tokenizer import Tokenizer
from pipeline.trainer_run import (
    Run,
    arguments_of,
    common_arguments,
    model_to_train,
    train_to_its_end,
    trained_model,
)

LOGGED_METRICS = ("loss", "learning_rate", "grad_norm", "mean_token_accuracy", "eval_loss")


def step_count(rows: int, section: SftSection) -> int:
    """Optimizer steps of a run; the last batch of an epoch may be smaller."""
    return math.ceil(rows / section.batch_rows) * section.epochs


def trainer_arguments(section: SftSection, steps: int, run: Run) -> SFTConfig:
    """TRL's settings for ``steps`` optimizer steps of ``batch_rows`` rows in all processes."""
    device_rows = section.per_device_batch_rows or section.batch_rows // run.processes
    common = common_arguments(
        run, section.learning_rate, steps, section.epochs, section.checkpoint_every_steps
    )
    return arguments_of(
        SFTConfig,
        per_device_train_batch_size=device_rows,
        per_device_eval_batch_size=device_rows,
        gradient_accumulation_steps=section.batch_rows // (device_rows * run.processes),
        warmup_steps=round(section.warmup_fraction * steps),
        weight_decay=section.weight_decay,
        dataset_kwargs={"skip_prepare_dataset": True},
        **common,
    )


def make_trainer(
    base_folder: Path,
    training: Sequence[SftRow],
    validation: Sequence[SftRow],
    tokenizer: Tokenizer,
    section: SftSection,
    arguments: SFTConfig,
) -> SFTTrainer:
    """The trainer of a base, ready to go; it prints nothing and contacts nobody."""

    def collate_and_check(rows: Sequence[SftRow]) -> dict[str, Tensor]:
        batch = collate(rows, tokenizer.pad_id)
        check_labels(batch, tokenizer)
        return batch

    model = model_to_train(base_folder, bool(arguments.bf16))
    optimizer = None
    if section.lora:
        from pipeline.lora import adapter_optimizer, add_adapters  # PEFT loads for seconds

        model = add_adapters(model, tokenizer, section.lora, arguments.seed)
        optimizer = adapter_optimizer(
            model, learning_rate=section.learning_rate, weight_decay=section.weight_decay
        )
    return SFTTrainer(
        model=model,
        args=arguments,
        data_collator=collate_and_check,
        train_dataset=datasets.Dataset.from_list([dict(row) for row in training]),
        eval_dataset=datasets.Dataset.from_list([dict(row) for row in validation]),
        processing_class=tokenizer.hf,
        optimizers=(optimizer, None),
    )


def fine_tune(
    base_folder: Path,
    training: Sequence[SftRow],
    validation: Sequence[SftRow],
    tokenizer: Tokenizer,
    section: SftSection,
    run: Run,
    *,
    on_metrics: Callable[[int, dict[str, float]], None],
    on_step: Callable[[int], None],
    adapter_folder: Path | None = None,
) -> LanguageModel:
    """The base of ``base_folder`` fine-tuned on ``training``, in fp32 on the CPU.

    The loss on ``validation`` is reported before the first step and after each epoch. The result
    is a function of the rows, the section and the seed, bit for bit on a CPU, whether or not the
    run was killed on its way and went on from a checkpoint. With ``section.lora``, adapters are
    trained, written to ``adapter_folder`` and merged.

    Args:
        on_metrics: told the number of steps done and the metrics (``LOGGED_METRICS``) there.
        on_step: told the number of steps done after each optimizer step.

    Raises:
        UserError: training diverged.
    """
    arguments = trainer_arguments(section, step_count(len(training), section), run)
    trainer = make_trainer(base_folder, training, validation, tokenizer, section, arguments)
    model = train_to_its_end(
        trainer,
        run,
        LOGGED_METRICS,
        on_metrics=on_metrics,
        on_step=on_step,
        lora=section.lora is not None,
    )
    if section.lora:
        from pipeline.lora import merge_adapters

        model = merge_adapters(model, adapter_folder)
    return trained_model(model, "sft", section.learning_rate)
