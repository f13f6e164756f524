"""Fine-tunes the base on demonstrations: it learns to answer, and to stop.

    python -m stages.sft configs/quickstart.yaml
    accelerate launch -m stages.sft configs/quickstart.yaml

Reads base and data; writes sft/: the model, the training and validation loss in
``metrics.jsonl``, and with ``sft.lora`` the adapters in ``adapter/`` (the model has them merged).
Killed and started again, it goes on from its newest checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.config import RunConfig, SftSection
from pipeline.fine_tuning import fine_tune, step_count
from pipeline.hugging_face import context_tokens_of, save_language_model
from pipeline.precision import forget_accelerate
from pipeline.records import Demonstration, read_rows
from pipeline.sft import SftRow, encode_demonstrations, validation_prompts
from pipeline.stage_context import StageContext, open_stage
from pipeline.tokenizer import Tokenizer
from pipeline.trainer_run import Run
from stages.cli import stage_main

VERSION = 2
SHOWN = ("loss", "eval_loss")


def run(config: RunConfig, run_folder: Path) -> None:
    """Trains and publishes ``sft/``.

    Raises:
        UserError: the demonstrations are unusable or one does not fit into the base's context.
    """
    section = config.sft
    with open_stage("sft", config, run_folder) as stage:
        base = stage.input("base")
        tokenizer = Tokenizer.load(base)
        training, validation = read_rows_to_train_on(stage, section, tokenizer)
        steps = step_count(len(training), section)
        tokens = sum(len(row["input_ids"]) for row in training) * section.epochs // steps
        forget_accelerate()
        with stage.progress(steps, "fine-tuning") as progress:

            def on_metrics(step: int, metrics: dict[str, float]) -> None:
                stage.log(step, **metrics)
                progress.show(**{name: metrics[name] for name in SHOWN if name in metrics})

            model = fine_tune(
                base,
                training,
                validation,
                tokenizer,
                section,
                Run.of(stage),
                on_metrics=on_metrics,
                on_step=lambda step: progress.advance_to(step, tokens=tokens),
                adapter_folder=stage.output / "adapter",
            )
        if stage.is_leader:
            save_language_model(model, stage.output, tokenizer)


def read_rows_to_train_on(
    stage: StageContext, section: SftSection, tokenizer: Tokenizer
) -> tuple[list[SftRow], list[SftRow]]:
    """The demonstrations in tokens: those to train on, and those of held-out prompts."""
    path = stage.input("data") / "demonstrations.jsonl"
    demonstrations = read_rows(path, Demonstration)
    context_tokens = context_tokens_of(stage.input("base"))
    encoded, left_out = encode_demonstrations(
        demonstrations, tokenizer, context_tokens, str(path), section.max_left_out_fraction
    )
    if stage.is_leader:
        for line in left_out:
            print(line)
    pairs = [
        (demonstration.prompt, row)
        for demonstration, row in zip(demonstrations, encoded, strict=True)
        if row is not None
    ]
    held_out = validation_prompts(
        [prompt for prompt, _ in pairs], section.validation_fraction, stage.seed
    )
    training = [row for prompt, row in pairs if prompt not in held_out]
    return training, [row for prompt, row in pairs if prompt in held_out]


if __name__ == "__main__":
    stage_main("sft")
