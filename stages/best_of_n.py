"""Draws n responses of the fine-tuned policy and keeps the one that the reward model likes best.

    python -m stages.best_of_n configs/quickstart.yaml best_of_n={}
    accelerate launch -m stages.best_of_n configs/quickstart.yaml best_of_n={}

Reads sft, reward and the held-out prompts; writes best_of_n/: ``responses.jsonl``, one a prompt,
which compare judges beside what the trained policies answer.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.best_of_n import best_of_n
from pipeline.config import RunConfig
from pipeline.hugging_face import load_language_model
from pipeline.records import ChosenResponse, write_rows
from pipeline.reward_files import load_reward_model
from pipeline.sampling import SamplingSettings
from pipeline.stage_context import derive_seed, open_stage
from stages.cli import stage_main
from stages.compare import heldout_prompts
from stages.ppo import shared_tokenizer

VERSION = 1


def run(config: RunConfig, run_folder: Path) -> None:
    """Draws, chooses and publishes ``best_of_n/``.

    Raises:
        UserError: there are no held-out prompts, the tokenizers differ, or a score is not finite.
    """
    with open_stage("best_of_n", config, run_folder) as stage:
        section, drawn = stage.section, config.compare
        sft, reward = stage.input("sft"), stage.input("reward")
        tokenizer = shared_tokenizer(sft, reward)
        prompts = heldout_prompts(stage.input("data") / "prompts.jsonl", drawn.max_prompts)
        seeds = [
            [derive_seed(stage.seed, f"{prompt.prompt_id}:{k}") for k in range(section.n)]
            for prompt in prompts
        ]
        sampling = SamplingSettings(
            drawn.max_response_tokens, drawn.temperature, drawn.top_p, section.batch_rows
        )
        with stage.progress(len(prompts) * section.n, "candidates") as progress:
            chosen = best_of_n(
                load_language_model(sft).to(stage.device).eval(),
                load_reward_model(reward).to(stage.device).eval(),
                [prompt.prompt for prompt in prompts],
                seeds,
                sampling,
                tokenizer,
                progress.advance,
            )
        rows = [
            ChosenResponse(
                prompt_id=prompt.prompt_id,
                prompt=prompt.prompt,
                text=tokenizer.decode(one.ids),
                ids=one.ids,
                finished=one.finished,
                reward=one.reward,
                n=section.n,
            )
            for prompt, one in zip(prompts, chosen, strict=True)
        ]
        write_rows(stage.output / "responses.jsonl", rows)


if __name__ == "__main__":
    stage_main("best_of_n")
