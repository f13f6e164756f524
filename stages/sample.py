"""Draws K responses per prompt for labeling.

    python -m stages.sample configs/quickstart.yaml
    accelerate launch -m stages.sample configs/quickstart.yaml

Reads sft and data (the prompts of split ``label``); writes samples/samples.jsonl.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pipeline.config import RunConfig, SampleSection
from pipeline.errors import UserError
from pipeline.model import GPT, load_gpt
from pipeline.records import Prompt, SampledResponse, SampleSet, read_rows, write_rows
from pipeline.sampling import SamplingSettings, generate, response_texts
from pipeline.stage_context import StageContext, derive_seed, open_stage
from pipeline.tokenizer import Tokenizer
from stages.cli import stage_main

VERSION = 1
POLICY = "sft"


def run(config: RunConfig, run_folder: Path) -> None:
    """Samples and publishes ``samples/``.

    Raises:
        UserError: no prompt is for labeling, or one leaves no room for a response.
    """
    section = config.sample
    with open_stage("sample", config, run_folder) as stage:
        policy = stage.input(POLICY)
        tokenizer = Tokenizer.load(policy)
        model = load_gpt(policy).to(stage.device).eval()
        path = stage.input("data") / "prompts.jsonl"
        prompts = [prompt for prompt in read_rows(path, Prompt) if prompt.split == "label"]
        if not prompts:
            raise UserError(path, "has no prompt of split label.", "supply some in the data.")
        prompts.sort(key=lambda prompt: prompt.prompt_id)
        # Response k of prompt i is row i·K + k of all lists.
        seeds = [
            response_seed(stage.seed, prompt.prompt_id, k)
            for prompt in prompts
            for k in range(section.responses_per_prompt)
        ]
        drawn = draw_responses(stage, section, model, tokenizer, prompts, seeds)
        write_rows(stage.output / "samples.jsonl", sample_sets(prompts, seeds, drawn, section))


def response_seed(seed: int, prompt_id: str, k: int) -> int:
    """The seed of a prompt's k-th response: independent of the other prompts and their order."""
    return derive_seed(seed, f"{prompt_id}:{k}")


def draw_responses(
    stage: StageContext,
    section: SampleSection,
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
) -> list[tuple[str, bool]]:
    """(text, finished) of each response, in the order of ``seeds``."""
    settings = SamplingSettings(
        section.max_response_tokens, section.temperature, section.top_p, section.batch_rows
    )
    encoded = [tokenizer.encode_prompt(prompt.prompt) for prompt in prompts]
    ids = [row for row in encoded for _ in range(section.responses_per_prompt)]
    with stage.progress(len(ids), "responses") as progress:
        generation = generate(model, ids, seeds, settings, tokenizer, progress.advance)
    texts = response_texts(generation, tokenizer)
    return list(zip(texts, generation.finished.tolist(), strict=True))


def sample_sets(
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    drawn: Sequence[tuple[str, bool]],
    section: SampleSection,
) -> list[SampleSet]:
    """The rows of ``samples.jsonl``, by prompt id; responses in the order they were numbered."""
    K = section.responses_per_prompt
    sets: list[SampleSet] = []
    for index, prompt in enumerate(prompts):
        responses = [
            SampledResponse(
                response_id=response_id(prompt.prompt_id, seed, text),
                text=text,
                policy=POLICY,
                seed=seed,
                temperature=section.temperature,
                top_p=section.top_p,
                finished=finished,
            )
            for seed, (text, finished) in zip(
                seeds[index * K : (index + 1) * K], drawn[index * K : (index + 1) * K], strict=True
            )
        ]
        sets.append(
            SampleSet(prompt_id=prompt.prompt_id, prompt=prompt.prompt, responses=responses)
        )
    return sets


def response_id(prompt_id: str, seed: int, text: str) -> str:
    """16 hex digits; the seed tells two responses with the same text apart."""
    return hashlib.sha256(f"{POLICY}\n{prompt_id}\n{seed}\n{text}".encode()).hexdigest()[:16]


if __name__ == "__main__":
    stage_main("sample")
