"""Runs of Hugging Face's trainer: quiet, told to the stage, and resumed from whole checkpoints.

Its checkpoints are not whole until everything in them is written, and it would go on from one that
is not: here a checkpoint counts only after its files were hashed, and only for the same run.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from pipeline.chain import processes_of
from pipeline.checkpoints import LOG, keep_only, restore_log, seal_snapshot, whole_snapshots
from pipeline.errors import UserError
from pipeline.hugging_face import as_language_model, load_transformers_model, remove_dropout
from pipeline.language_model import LanguageModel
from pipeline.stage_context import StageContext

LOGGED_POINTS = 50
CHECKPOINTS = "checkpoint-*"  # the trainer's own name for them

Arguments = TypeVar("Arguments", bound=TrainingArguments)


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

    @classmethod
    def of(cls, stage: StageContext) -> Run:
        """That of a running stage."""
        return cls(
            stage.checkpoints_folder,
            stage.identity.key,
            stage.metrics_path,
            seed=stage.seed,
            bf16=stage.precision == "bf16",
            processes=processes_of(stage.links.stage, stage.config),
        )


class _Reporter(TrainerCallback):
    """Passes on the trainer's metrics and every finished step, with the number of steps done."""

    def __init__(
        self,
        names: Sequence[str],
        on_metrics: Callable[[int, dict[str, float]], None],
        on_step: Callable[[int], None],
    ) -> None:
        self.names = names
        self.on_metrics = on_metrics
        self.on_step = on_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        metrics = {name: float(logs[name]) for name in self.names if name in logs}
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


def common_arguments(
    run: Run, learning_rate: float, steps: int, epochs: int, save_steps: int
) -> dict[str, Any]:
    """What every trainer of TRL is told alike, for ``steps`` optimizer steps in ``epochs`` passes.

    It prints nothing, contacts nobody, evaluates after each pass and drops no column.
    """
    gpu = torch.cuda.is_available()
    return {
        "output_dir": str(run.checkpoints),
        "num_train_epochs": epochs,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "cosine",
        "seed": run.seed,
        "bf16": run.bf16,
        "use_cpu": not gpu,
        "dataloader_pin_memory": gpu,
        "gradient_checkpointing": False,  # TRL's default trades time for memory
        "ddp_find_unused_parameters": False,
        "remove_unused_columns": False,
        # By steps, also for epochs: what happens after a step precedes its checkpoint.
        "eval_strategy": "steps",
        "eval_steps": steps // epochs,
        "save_strategy": "steps",
        "save_steps": save_steps,
        "save_total_limit": 2,
        "logging_strategy": "steps",
        "logging_steps": max(1, steps // LOGGED_POINTS),
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
    }


def arguments_of(kind: type[Arguments], **values: Any) -> Arguments:
    """A trainer's settings; a process that sees several GPUs would spread over them, and may not.

    ``values`` are those of ``common_arguments`` and what else ``kind`` is to be told.
    """
    with warnings.catch_warnings():
        # The newest releases of transformers renamed gradient_checkpointing; TRL still sets it.
        warnings.simplefilter("ignore", FutureWarning)
        arguments = kind(**values)
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def model_to_train(folder: Path, bf16: bool) -> Any:
    """A folder's model for a trainer of TRL: no dropout, as everywhere else in the chain."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # In bf16 on a CPU, the backward pass of torch's fused attention is four times slower.
    slow_kernel = bf16 and not torch.cuda.is_available()
    options = {"attn_implementation": "eager"} if slow_kernel else {}
    model = load_transformers_model(folder, **options)
    remove_dropout(model)
    return model


def train_to_its_end(
    trainer: Trainer,
    run: Run,
    names: Sequence[str],
    *,
    on_metrics: Callable[[int, dict[str, float]], None],
    on_step: Callable[[int], None],
    lora: bool = False,
) -> Any:
    """The trainer's model, trained from the newest whole checkpoint of this run or from the start.

    It is what the trainer was given, without what several processes wrap it in. The result is the
    same, bit for bit on a CPU, whether or not the run was killed on its way.

    Args:
        names: of the trainer's metrics that ``on_metrics`` is told, with the number of steps done.
        on_step: told the number of steps done after each optimizer step.
        lora: the model has adapters, and embeddings of its own beside them.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Reporter(names, on_metrics, on_step))
    wait = trainer.accelerator.wait_for_everyone
    trainer.add_callback(_Sealer(run, wait, lora))
    whole = next(whole_snapshots(run.checkpoints, CHECKPOINTS, run.key), None)
    wait()
    if trainer.is_world_process_zero() and run.checkpoints.exists():
        keep_only(run.checkpoints, [whole] if whole else [])
    if whole:
        restore_log(whole, run.log)
        if lora:
            from pipeline.lora import load_embedding

            load_embedding(trainer.model, whole)  # pyright: ignore[reportArgumentType]
    # The first evaluation is left to train(): asked for before it, it would prepare the model in
    # its own way, and several processes would never exchange gradients.
    trainer.args.eval_on_start = not whole and trainer.eval_dataset is not None
    with warnings.catch_warnings():
        # The newest releases of transformers warn of their own names as they write a checkpoint.
        warnings.simplefilter("ignore", FutureWarning)
        trainer.train(resume_from_checkpoint=str(whole) if whole else None)
    return trainer.accelerator.unwrap_model(trainer.model)


def trained_model(model: Any, section: str, learning_rate: float) -> LanguageModel:
    """What a trainer trained, in fp32 on the CPU.

    Raises:
        UserError: training diverged; the message names ``section`` of the config.
    """
    trained = as_language_model(model.cpu())
    if not all(bool(weight.isfinite().all()) for weight in trained.parameters()):
        raise UserError(
            f"{section}.learning_rate",
            f"made training diverge (weights are not finite), got {learning_rate:g}.",
            "lower it.",
        )
    return trained
