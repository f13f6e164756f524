"""Draws K responses per prompt for labeling.

    python -m stages.sample configs/quickstart.yaml
    accelerate launch -m stages.sample configs/quickstart.yaml

Reads sft, the folders of other configured policies, and data (the prompts of split ``label``);
writes samples/samples.jsonl.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import RunConfig, SampleSection
from pipeline.errors import UserError
from pipeline.hugging_face import load_language_model
from pipeline.records import Prompt, SampledResponse, SampleSet, read_rows, write_rows
from pipeline.sampling import SamplingSettings, generate, response_texts
from pipeline.stage_context import StageContext, derive_seed, open_stage
from pipeline.tokenizer import Tokenizer
from stages.cli import stage_main

VERSION = 2
OWN_POLICY = "sft"


@dataclass(frozen=True)
class Policy:
    """Who answers: its name in the samples, its model folder, how often it answers a prompt."""

    name: str
    folder: Path
    responses_per_prompt: int


def run(config: RunConfig, run_folder: Path) -> None:
    """Samples and publishes ``samples/``.

    Raises:
        UserError: no prompt is for labeling, or one leaves no room for a response; a policy's
            folder is no model that writes.
    """
    section = config.sample
    with open_stage("sample", config, run_folder) as stage:
        path = stage.input("data") / "prompts.jsonl"
        prompts = [prompt for prompt in read_rows(path, Prompt) if prompt.split == "label"]
        if not prompts:
            raise UserError(path, "has no prompt of split label.", "supply some in the data.")
        prompts.sort(key=lambda prompt: prompt.prompt_id)
        own = Policy(OWN_POLICY, stage.input(OWN_POLICY), section.responses_per_prompt)
        others = [
            Policy(one.name, stage.data_root / one.path, one.responses_per_prompt)
            for one in section.policies
        ]
        drawn = [draw_responses(stage, section, policy, prompts) for policy in (own, *others)]
        sets = [
            SampleSet(
                prompt_id=prompt.prompt_id,
                prompt=prompt.prompt,
                responses=[response for by_prompt in drawn for response in by_prompt[index]],
            )
            for index, prompt in enumerate(prompts)
        ]
        write_rows(stage.output / "samples.jsonl", sets)


def response_seed(seed: int, policy: str, prompt_id: str, k: int) -> int:
    """The seed of a policy's k-th response to a prompt: independent of all other responses."""
    return derive_seed(seed, f"{policy}:{prompt_id}:{k}")


def draw_responses(
    stage: StageContext, section: SampleSection, policy: Policy, prompts: Sequence[Prompt]
) -> list[list[SampledResponse]]:
    """The policy's responses to each prompt, in the order they are numbered."""
    K = policy.responses_per_prompt
    if K == 0:
        return [[] for _ in prompts]
    tokenizer = Tokenizer.load(policy.folder)
    model = load_language_model(policy.folder).to(stage.device).eval()
    settings = SamplingSettings(
        section.max_response_tokens, section.temperature, section.top_p, section.batch_rows
    )
    # Response k of prompt i is row i·K + k of all lists.
    owners = [(prompt, k) for prompt in prompts for k in range(K)]
    seeds = [response_seed(stage.seed, policy.name, prompt.prompt_id, k) for prompt, k in owners]
    encoded = [tokenizer.encode_prompt(prompt.prompt) for prompt in prompts]
    ids = [row for row in encoded for _ in range(K)]
    with stage.progress(len(ids), f"responses of {policy.name}") as progress:
        generation = generate(model, ids, seeds, settings, tokenizer, progress.advance)
    rows = zip(
        owners,
        seeds,
        response_texts(generation, tokenizer),
        generation.finished.tolist(),
        strict=True,
    )
    responses = [
        SampledResponse(
            response_id=response_id(policy.name, prompt.prompt_id, seed, text),
            text=text,
            policy=policy.name,
            seed=seed,
            temperature=section.temperature,
            top_p=section.top_p,
            finished=finished,
        )
        for (prompt, _), seed, text, finished in rows
    ]
    return [responses[index * K : (index + 1) * K] for index in range(len(prompts))]


def response_id(policy: str, prompt_id: str, seed: int, text: str) -> str:
    """16 hex digits; the seed tells two responses with the same text apart."""
    return hashlib.sha256(f"{policy}\n{prompt_id}\n{seed}\n{text}".encode()).hexdigest()[:16]


if __name__ == "__main__":
    stage_main("sample")
