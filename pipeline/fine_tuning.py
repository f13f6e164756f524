"""Fine-tuning with ``trl.SFTTrainer``, on rows that are finished and checked.

TRL would truncate or drop what is too long and would train on the prompt of rows already tokenized:
it is given ids and labels, and the labels of every batch are checked before its step. Its
checkpoints are not whole until everything in them is written, and it would go on from one that is
not: here a checkpoint counts only after its files were hashed, and only for the same run.
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from pipeline.checkpoints import LOG, keep_only, restore_log, seal_snapshot, whole_snapshots
from pipeline.config import SftSection
from pipeline.errors import UserError
from pipeline.hugging_face import as_language_model, load_transformers_model, remove_dropout
from pipeline.language_model import LanguageModel
from pipeline.sft import SftRow, check_labels, collate
from pipeline.tokenizer import Tokenizer

LOGGED_METRICS = ("loss", "learning_rate", "grad_norm", "mean_token_accuracy", "eval_loss")
LOGGED_POINTS = 50
CHECKPOINTS = "checkpoint-*"  # the trainer's own name for them


@dataclass(frozen=True)
class Run:
    """Where a run of the trainer keeps what it needs to go on, and what makes it the same run.

    ``log`` is the metrics file, which a resumed run finds as it was at its checkpoint.
    """

    checkpoints: Path
    key: str
    log: Path
    seed: int
    bf16: bool
    processes: int = 1


class _Reporter(TrainerCallback):
    """Passes on the trainer's metrics and every finished step, with the number of steps done."""

    def __init__(
        self, on_metrics: Callable[[int, dict[str, float]], None], on_step: Callable[[int], None]
    ) -> None:
        self.on_metrics = on_metrics
        self.on_step = on_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        metrics = {name: float(logs[name]) for name in LOGGED_METRICS if name in logs}
        if metrics:
            self.on_metrics(state.global_step, metrics)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.on_step(state.global_step)


class _Sealer(TrainerCallback):
    """Makes each checkpoint whole once every process has written its part."""

    def __init__(self, run: Run, wait: Callable[[], None], lora: bool) -> None:
        self.run = run
        self.wait = wait
        self.lora = lora

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.wait()
        if state.is_world_process_zero:
            folder = self.run.checkpoints / f"checkpoint-{state.global_step}"
            if self.run.log.exists():
                shutil.copyfile(self.run.log, folder / LOG)
            if self.lora:
                from pipeline.lora import save_embedding

                save_embedding(kwargs["model"], folder)
            seal_snapshot(folder, self.run.key, state.global_step, {})
        self.wait()


def step_count(rows: int, section: SftSection) -> int:
    """Optimizer steps of a run; the last batch of an epoch may be smaller."""
    return math.ceil(rows / section.batch_rows) * section.epochs


def trainer_arguments(section: SftSection, steps: int, run: Run) -> SFTConfig:
    """TRL's settings for ``steps`` optimizer steps of ``batch_rows`` rows in all processes."""
    gpu = torch.cuda.is_available()
    device_rows = section.per_device_batch_rows or section.batch_rows // run.processes
    with warnings.catch_warnings():
        # The newest releases of transformers renamed gradient_checkpointing; TRL still sets it.
        warnings.simplefilter("ignore", FutureWarning)
        arguments = SFTConfig(
            output_dir=str(run.checkpoints),
            num_train_epochs=section.epochs,
            per_device_train_batch_size=device_rows,
            per_device_eval_batch_size=device_rows,
            gradient_accumulation_steps=section.batch_rows // (device_rows * run.processes),
            learning_rate=section.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=round(section.warmup_fraction * steps),
            weight_decay=section.weight_decay,
            seed=run.seed,
            bf16=run.bf16,
            use_cpu=not gpu,
            dataloader_pin_memory=gpu,
            gradient_checkpointing=False,  # TRL's default trades time for memory
            ddp_find_unused_parameters=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            # By steps, also for epochs: what happens after a step precedes its checkpoint.
            eval_strategy="steps",
            eval_steps=steps // section.epochs,
            save_strategy="steps",
            save_steps=section.checkpoint_every_steps,
            save_total_limit=2,
            logging_strategy="steps",
            logging_steps=max(1, steps // LOGGED_POINTS),
            logging_nan_inf_filter=False,
            report_to="none",
            disable_tqdm=True,
        )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # else one process would spread over all GPUs, which TRL refuses
    return arguments


def make_trainer(
    base_folder: Path,
    training: Sequence[SftRow],
    validation: Sequence[SftRow],
    tokenizer: Tokenizer,
    section: SftSection,
    arguments: SFTConfig,
) -> SFTTrainer:
    """The trainer of a base, ready to go; it prints nothing and contacts nobody."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    def collate_and_check(rows: Sequence[SftRow]) -> dict[str, Tensor]:
        batch = collate(rows, tokenizer.pad_id)
        check_labels(batch, tokenizer)
        return batch

    # In bf16 on a CPU, the backward pass of torch's fused attention is four times slower.
    slow_kernel = arguments.bf16 and not torch.cuda.is_available()
    options = {"attn_implementation": "eager"} if slow_kernel else {}
    model = load_transformers_model(base_folder, **options)
    remove_dropout(model)  # as everywhere else in the chain
    optimizer = None
    if section.lora:
        from pipeline.lora import adapter_optimizer, add_adapters  # PEFT loads for seconds

        model = add_adapters(model, tokenizer, section.lora, arguments.seed)
        optimizer = adapter_optimizer(
            model, learning_rate=section.learning_rate, weight_decay=section.weight_decay
        )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        data_collator=collate_and_check,
        train_dataset=datasets.Dataset.from_list([dict(row) for row in training]),
        eval_dataset=datasets.Dataset.from_list([dict(row) for row in validation]),
        processing_class=tokenizer.hf,
        optimizers=(optimizer, None),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


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
    trainer.add_callback(_Reporter(on_metrics, on_step))
    wait = trainer.accelerator.wait_for_everyone
    trainer.add_callback(_Sealer(run, wait, lora=section.lora is not None))
    whole = next(whole_snapshots(run.checkpoints, CHECKPOINTS, run.key), None)
    wait()
    if trainer.is_world_process_zero() and run.checkpoints.exists():
        keep_only(run.checkpoints, [whole] if whole else [])
    if whole:
        restore_log(whole, run.log)
        if section.lora:
            from pipeline.lora import load_embedding

            load_embedding(trainer.model, whole)  # pyright: ignore[reportArgumentType]
    # The first evaluation is left to train(): asked for before it, it would prepare the model in
    # its own way, and several processes would never exchange gradients.
    trainer.args.eval_on_start = not whole
    trainer.train(resume_from_checkpoint=str(whole) if whole else None)
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    if section.lora:
        from pipeline.lora import merge_adapters

        model = merge_adapters(model, adapter_folder)
    model = as_language_model(model.cpu())
    if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
        raise UserError(
            "sft.learning_rate",
            f"made training diverge (weights are not finite), got {section.learning_rate:g}.",
            "lower it.",
        )
    return model
