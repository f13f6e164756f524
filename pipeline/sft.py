"""Supervised fine-tuning on demonstrations with ``trl.SFTTrainer``, on rows that we encode.

A row is ``<|prompt|> prompt <|response|> response <|endoftext|>``; the loss is the mean negative
log-likelihood of the response's tokens and its end token, and of nothing else. TRL would truncate
or drop what is too long and would train on the prompt of rows already tokenized: it is given ids
and labels that are finished, and the labels of every batch are checked before its step.

Shapes: B sequences, T tokens.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import datasets
import torch
import transformers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from pipeline.config import SftSection
from pipeline.errors import UserError
from pipeline.model import GPT, from_gpt2_weights, load_gpt
from pipeline.records import Demonstration
from pipeline.tokenizer import Tokenizer

IGNORED = -100  # a label that cross-entropy leaves out
LOGGED_METRICS = ("loss", "learning_rate", "grad_norm", "mean_token_accuracy", "eval_loss")
LOGGED_POINTS = 50


class SftRow(TypedDict):
    """One demonstration in tokens; ``labels`` runs parallel to ``input_ids``, T of each."""

    input_ids: list[int]
    labels: list[int]


def encode_demonstration(demonstration: Demonstration, tokenizer: Tokenizer) -> SftRow:
    """Ids of prompt and response; labels are the response's ids and −100 on the prompt's."""
    prompt = tokenizer.encode_prompt(demonstration.prompt)
    response = tokenizer.encode_response(demonstration.response)
    return {"input_ids": prompt + response, "labels": [IGNORED] * len(prompt) + response}


def encode_demonstrations(
    demonstrations: Sequence[Demonstration], tokenizer: Tokenizer, context_tokens: int, source: str
) -> list[SftRow]:
    """One row per demonstration, in order; none is dropped or cut.

    Raises:
        UserError: a demonstration is longer than ``context_tokens``; the message names the first
            one by its number in ``source`` and says how many there are.
    """
    rows = [encode_demonstration(demonstration, tokenizer) for demonstration in demonstrations]
    too_long = [index for index, row in enumerate(rows) if len(row["input_ids"]) > context_tokens]
    if too_long:
        first = too_long[0]
        raise UserError(
            f"{source}: demonstration {first + 1}",
            f"takes {len(rows[first]['input_ids'])} tokens with its prompt, more than the model's "
            f"context of {context_tokens} ({len(too_long)} of {len(rows)} are too long).",
            "shorten or remove them, or use a base with a longer context.",
        )
    return rows


def validation_prompts(prompts: Iterable[str], fraction: float, seed: int) -> frozenset[str]:
    """The prompts to validate on: ``fraction`` of the different ones, by a hash of their text.

    The number is rounded to the nearest but leaves at least one on either side. Order and
    repetition of ``prompts`` do not matter, so equal prompts fall on one side.

    Raises:
        UserError: there are fewer than two different prompts.
    """
    ordered = sorted(set(prompts), key=lambda p: hashlib.sha256(f"{seed}\n{p}".encode()).digest())
    if len(ordered) < 2:
        raise UserError(
            "demonstrations",
            "are all of one prompt, which leaves none to validate on.",
            "supply demonstrations of at least two prompts.",
        )
    return frozenset(ordered[: min(max(round(fraction * len(ordered)), 1), len(ordered) - 1)])


def collate(rows: Sequence[SftRow], pad_id: int) -> dict[str, Tensor]:
    """A batch, padded on the right.

    Returns:
        ``input_ids`` (B, T), ``labels`` (B, T; −100 on prompt and padding) and ``attention_mask``
        (B, T; 1 = real token, from the rows' lengths).
    """
    input_ids = [torch.tensor(row["input_ids"], dtype=torch.long) for row in rows]
    labels = [torch.tensor(row["labels"], dtype=torch.long) for row in rows]
    lengths = torch.tensor([len(ids) for ids in input_ids])
    positions = torch.arange(int(lengths.max()))
    return {
        "input_ids": pad_sequence(input_ids, batch_first=True, padding_value=pad_id),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        "attention_mask": (positions < lengths[:, None]).long(),
    }


def check_labels(batch: Mapping[str, Tensor], tokenizer: Tokenizer) -> None:
    """Checks that a batch trains on each response and its end token, and on nothing else.

    Raises:
        RuntimeError: a label is not where it must be; the message names the row of the batch.
    """
    for index, row in enumerate(
        zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True)
    ):
        input_ids, labels, mask = (values.tolist() for values in row)
        length = sum(mask)
        start = input_ids.index(tokenizer.response_mark_id) + 1
        response = input_ids[start:length]
        expected = [IGNORED] * start + response + [IGNORED] * (len(input_ids) - length)
        if labels != expected or response[-1] != tokenizer.eos_id:
            raise RuntimeError(f"row {index} of a batch has wrong labels: {labels}")


class _Reporter(TrainerCallback):
    """Passes on the trainer's metrics, with the number of steps done, and every finished step."""

    def __init__(
        self, on_metrics: Callable[[int, dict[str, float]], None], on_step: Callable[[], None]
    ) -> None:
        self.on_metrics = on_metrics
        self.on_step = on_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        metrics = {name: float(logs[name]) for name in LOGGED_METRICS if name in logs}
        if metrics:
            self.on_metrics(state.global_step, metrics)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.on_step()


def step_count(rows: int, section: SftSection) -> int:
    """Optimizer steps of a run; the last batch of an epoch may be smaller."""
    return math.ceil(rows / section.batch_rows) * section.epochs


def trainer_arguments(
    section: SftSection, steps: int, *, seed: int, bf16: bool, output_folder: str
) -> SFTConfig:
    """TRL's settings for ``steps`` optimizer steps in one process on one device."""
    gpu = torch.cuda.is_available()
    with warnings.catch_warnings():
        # The newest releases of transformers renamed gradient_checkpointing; TRL still sets it.
        warnings.simplefilter("ignore", FutureWarning)
        arguments = SFTConfig(
            output_dir=output_folder,
            num_train_epochs=section.epochs,
            per_device_train_batch_size=section.batch_rows,
            per_device_eval_batch_size=section.batch_rows,
            learning_rate=section.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=round(section.warmup_fraction * steps),
            weight_decay=section.weight_decay,
            seed=seed,
            bf16=bf16,
            use_cpu=not gpu,
            dataloader_pin_memory=gpu,
            gradient_checkpointing=False,  # TRL's default trades time for memory
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            eval_strategy="epoch",
            save_strategy="no",
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
    model = transformers.AutoModelForCausalLM.from_pretrained(
        base_folder,
        dtype=torch.float32,
        attn_implementation="eager" if slow_kernel else "sdpa",
        trust_remote_code=False,
        local_files_only=True,
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        data_collator=collate_and_check,
        train_dataset=datasets.Dataset.from_list([dict(row) for row in training]),
        eval_dataset=datasets.Dataset.from_list([dict(row) for row in validation]),
        processing_class=tokenizer.hf,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def fine_tune(
    base_folder: Path,
    training: Sequence[SftRow],
    validation: Sequence[SftRow],
    tokenizer: Tokenizer,
    section: SftSection,
    *,
    seed: int,
    bf16: bool,
    on_metrics: Callable[[int, dict[str, float]], None],
    on_step: Callable[[], None],
) -> GPT:
    """The base of ``base_folder`` fine-tuned on ``training``, in fp32 on the CPU.

    The loss on ``validation`` is reported before the first step and after each epoch. The result
    is a function of the rows, the section and the seed: bit for bit on a CPU.

    Args:
        on_metrics: told the number of steps done and the metrics (``LOGGED_METRICS``) there.
        on_step: called after each optimizer step.

    Raises:
        UserError: training diverged.
    """
    steps = step_count(len(training), section)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = trainer_arguments(section, steps, seed=seed, bf16=bf16, output_folder=scratch)
        trainer = make_trainer(base_folder, training, validation, tokenizer, arguments)
        trainer.add_callback(_Reporter(on_metrics, on_step))
        trainer.evaluate()
        trainer.train()
    gpt = load_gpt(base_folder)
    model: Any = trainer.model
    gpt.load_state_dict(from_gpt2_weights(model.cpu().state_dict()))
    if not all(bool(weight.isfinite().all()) for weight in gpt.parameters()):
        raise UserError(
            "sft.learning_rate",
            f"made training diverge (weights are not finite), got {section.learning_rate:g}.",
            "lower it.",
        )
    return gpt
