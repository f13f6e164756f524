"""Direct preference optimization with ``trl.DPOTrainer``, on pairs that are finished ids.

TRL would write its own end token after a response that was cut off, and would tokenize text anew:
it is given ids, and the ids of every batch are checked before its step.

    loss = −log σ(beta · ((log π/π_ref)(chosen) − (log π/π_ref)(rejected)))

Rafailov et al. 2023, equation 7. π starts as sft, and π_ref stays it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import datasets
from torch import Tensor
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

from pipeline.alternatives_config import DpoSection
from pipeline.language_model import LanguageModel
from pipeline.reward_data import Side
from pipeline.tokenizer import Tokenizer
from pipeline.trainer_run import (
    Run,
    arguments_of,
    common_arguments,
    model_to_train,
    train_to_its_end,
    trained_model,
)

REWARDS = ("rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected")
LOGGED_METRICS = (
    *("loss", "learning_rate", "grad_norm", "eval_loss"),
    *(f"{side}{name}" for side in ("", "eval_") for name in REWARDS),
)


class Pair(TypedDict):
    """A prompt with its marks, and two responses; the end token only where the model wrote it."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


def preference_pairs(side: Side, tokenizer: Tokenizer) -> list[Pair]:
    """Every pair of every prompt; ties are none. A prompt counts as often as it has pairs."""
    pairs: list[Pair] = []
    for comparisons, encoded in zip(side.comparisons, side.encoded, strict=True):
        prompt_ids = tokenizer.encode_prompt(comparisons.prompt)
        responses = [list(row[len(prompt_ids) :]) for row in encoded.rows]
        for better, worse in comparisons.pairs:
            pairs.append(
                {
                    "prompt_ids": prompt_ids,
                    "chosen_ids": responses[better],
                    "rejected_ids": responses[worse],
                }
            )
    return pairs


def token_count(pairs: Sequence[Pair]) -> int:
    """Tokens that one pass reads; a prompt counts with each of its two responses."""
    return sum(
        2 * len(pair["prompt_ids"]) + len(pair["chosen_ids"]) + len(pair["rejected_ids"])
        for pair in pairs
    )


def step_count(pairs: int, section: DpoSection) -> int:
    """Optimizer steps of a run; the last batch of an epoch may be smaller."""
    return math.ceil(pairs / section.batch_pairs) * section.epochs


def make_trainer(
    sft_folder: Path,
    training: Sequence[Pair],
    validation: Sequence[Pair],
    tokenizer: Tokenizer,
    section: DpoSection,
    run: Run,
) -> DPOTrainer:
    """The trainer of policy and reference, both of ``sft_folder``, ready to go."""
    steps = step_count(len(training), section)
    device_pairs = section.per_device_batch_pairs or section.batch_pairs // run.processes
    common = common_arguments(
        run, section.learning_rate, steps, section.epochs, section.checkpoint_every_steps
    )
    arguments = arguments_of(
        DPOConfig,
        beta=section.beta,
        per_device_train_batch_size=device_pairs,
        per_device_eval_batch_size=device_pairs,
        gradient_accumulation_steps=section.batch_pairs // (device_pairs * run.processes),
        warmup_steps=round(section.warmup_fraction * steps),
        weight_decay=section.weight_decay,
        max_length=None,  # nothing is cut: what does not fit the context was refused
        **common,
    )
    # It prepares texts when it is made: these stand in for the pairs, which it would not take.
    stand_in = datasets.Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    trainer = DPOTrainer(
        model=model_to_train(sft_folder, run.bf16),
        ref_model=model_to_train(sft_folder, run.bf16),
        args=arguments,
        data_collator=_Checked(tokenizer),
        train_dataset=stand_in,
        eval_dataset=stand_in,
        processing_class=tokenizer.hf,
    )
    trainer.train_dataset = datasets.Dataset.from_list([dict(pair) for pair in training])
    trainer.eval_dataset = datasets.Dataset.from_list([dict(pair) for pair in validation])
    return trainer


class _Checked:
    """TRL's batches of pairs; each is checked to be the ids that were given, and no others."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.collate = DataCollatorForPreference(pad_token_id=tokenizer.pad_id)

    def __call__(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        batch = self.collate(list(pairs))
        responses = [pair["chosen_ids"] for pair in pairs]
        responses += [pair["rejected_ids"] for pair in pairs]
        prompts = [pair["prompt_ids"] for pair in pairs] * 2
        check_batch(batch, prompts, responses)
        return batch


def check_batch(
    batch: dict[str, Tensor], prompts: Sequence[list[int]], responses: Sequence[list[int]]
) -> None:
    """Checks that row i reads prompt i and response i, and that its loss counts the response alone.

    Raises:
        RuntimeError: it does not; the message names the row.
    """
    names = ("input_ids", "attention_mask", "completion_mask")
    for index, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        ids, real, counted = (batch[name][index].bool() if "mask" in name else batch[name][index]
                              for name in names)  # fmt: skip
        if ids[real].tolist() != [*prompt, *response] or ids[counted].tolist() != response:
            raise RuntimeError(f"row {index} of a batch is not the pair that was given")


def optimize_preferences(
    sft_folder: Path,
    training: Sequence[Pair],
    validation: Sequence[Pair],
    tokenizer: Tokenizer,
    section: DpoSection,
    run: Run,
    *,
    on_metrics: Callable[[int, dict[str, float]], None],
    on_step: Callable[[int], None],
) -> LanguageModel:
    """The model of ``sft_folder`` after DPO on ``training``, in fp32 on the CPU.

    Loss and accuracy on ``validation`` are reported before the first step and after each epoch.
    A pair is right where the policy has raised the chosen response more than the rejected one,
    against sft. Killed and started again, it ends in the same weights, bit for bit on a CPU.

    Args:
        on_metrics: told the number of steps done and the metrics (``LOGGED_METRICS``) there.
        on_step: told the number of steps done after each optimizer step.

    Raises:
        UserError: training diverged.
    """
    trainer = make_trainer(sft_folder, training, validation, tokenizer, section, run)
    model = train_to_its_end(trainer, run, LOGGED_METRICS, on_metrics=on_metrics, on_step=on_step)
    return trained_model(model, "dpo", section.learning_rate)
