"""Fine-tunes the base on demonstrations: it learns to answer, and to stop.

    python -m stages.sft configs/quickstart.yaml
    accelerate launch -m stages.sft configs/quickstart.yaml

Reads base and data; writes sft/: the model, and the training and validation loss in
``metrics.jsonl``.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.config import RunConfig
from pipeline.model import read_gpt_config, save_gpt
from pipeline.records import Demonstration, read_rows
from pipeline.sft import encode_demonstrations, fine_tune, step_count, validation_prompts
from pipeline.stage_context import open_stage
from pipeline.tokenizer import Tokenizer
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
        context_tokens = read_gpt_config(base).context_tokens
        path = stage.input("data") / "demonstrations.jsonl"
        demonstrations = read_rows(path, Demonstration)
        rows = encode_demonstrations(demonstrations, tokenizer, context_tokens, str(path))
        prompts = [demonstration.prompt for demonstration in demonstrations]
        held_out = validation_prompts(prompts, section.validation_fraction, stage.seed)
        pairs = list(zip(prompts, rows, strict=True))
        training = [row for prompt, row in pairs if prompt not in held_out]
        validation = [row for prompt, row in pairs if prompt in held_out]
        steps = step_count(len(training), section)
        tokens = sum(len(row["input_ids"]) for row in training) * section.epochs // steps
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
                seed=stage.seed,
                bf16=stage.precision == "bf16",
                on_metrics=on_metrics,
                on_step=lambda: progress.advance(tokens=tokens),
            )
        save_gpt(model, stage.output, tokenizer)


if __name__ == "__main__":
    stage_main("sft")
