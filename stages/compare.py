"""Compares the checkpoints of a run on prompts that none of them has seen.

    python -m stages.compare configs/quickstart.yaml
    accelerate launch -m stages.compare configs/quickstart.yaml

Reads base, sft, ppo, reward and data; writes compare/: ``report.json``, ``report.html`` for who
must decide, and ``responses.jsonl`` with every response. Each checkpoint answers each held-out
prompt once, with the same seed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from pipeline.comparison import CheckpointResult, JudgedResponse, build_report
from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.judges import Judge, OverlapJudge, RubricJudge
from pipeline.measurement import continuation_logprobs
from pipeline.model import GPT, load_gpt
from pipeline.records import Prompt, read_rows
from pipeline.report import render_html
from pipeline.reward import RewardModel, load_reward_model, score_rows
from pipeline.sampling import SamplingSettings, generate, response_texts
from pipeline.stage_context import METRICS_FILE, StageContext, derive_seed, open_stage
from pipeline.tinyworld import build_world, world_constants
from pipeline.tokenizer import Tokenizer
from stages.cli import stage_main

VERSION = 1
CHECKPOINTS = ("base", "sft", "ppo")  # in the order of the chain


def run(config: RunConfig, run_folder: Path) -> None:
    """Samples, judges and publishes ``compare/``.

    Raises:
        UserError: there are no held-out prompts, or the judge cannot judge them.
    """
    section = config.compare
    with open_stage("compare", config, run_folder) as stage:
        prompts = heldout_prompts(stage.input("data") / "prompts.jsonl", section.max_prompts)
        judge = make_judge(config)
        base = load_gpt(stage.input("base")).to(stage.device)
        sft = load_gpt(stage.input("sft")).to(stage.device)
        reward_model = load_reward_model(stage.input("reward")).to(stage.device)
        results: list[CheckpointResult] = []
        with stage.progress(len(CHECKPOINTS), "checkpoints") as progress:
            for name in CHECKPOINTS:
                responses = measure(stage, name, prompts, judge, base, sft, reward_model)
                results.append(CheckpointResult(name, name, responses))
                progress.advance()
        report = build_report(
            results,
            judge=section.judge,
            seed=stage.seed,
            bootstrap_samples=section.bootstrap_samples,
            examples=section.examples,
            settings=settings(config, judge, len(prompts)),
        )
        write_results(stage, results, report)


def heldout_prompts(path: Path, limit: int) -> list[Prompt]:
    """The first ``limit`` held-out prompts by id.

    Raises:
        UserError: there are none.
    """
    prompts = [prompt for prompt in read_rows(path, Prompt) if prompt.split == "heldout"]
    if not prompts:
        raise UserError(path, "has no prompt of split heldout.", "supply some in the data.")
    return sorted(prompts, key=lambda prompt: prompt.prompt_id)[:limit]


def make_judge(config: RunConfig) -> Judge | None:
    """Who rates; None where the reward model decides alone.

    Raises:
        UserError: the world's rubric is asked for without the world.
    """
    if config.compare.judge == "reward":
        return None
    if config.compare.judge == "overlap":
        return OverlapJudge()
    if config.data.tinyworld is None:
        raise UserError(
            "compare.judge",
            "tinyworld can only judge the embedded world.",
            "use overlap or reward.",
        )
    return RubricJudge(build_world(config.seed))


def measure(
    stage: StageContext,
    name: str,
    prompts: Sequence[Prompt],
    judge: Judge | None,
    base: GPT,
    sft: GPT,
    reward_model: RewardModel,
) -> list[JudgedResponse]:
    """One response of a checkpoint to each prompt, with everything that the report needs."""
    section = stage.config.compare
    model = load_gpt(stage.input(name)).to(stage.device)
    tokenizer = Tokenizer.load(stage.input(name))
    prompt_ids = [tokenizer.encode_prompt(prompt.prompt) for prompt in prompts]
    seeds = [derive_seed(stage.seed, prompt.prompt_id) for prompt in prompts]
    sampling = SamplingSettings(
        section.max_response_tokens, section.temperature, section.top_p, section.batch_rows
    )
    generation = generate(model, prompt_ids, seeds, sampling, tokenizer)
    texts = response_texts(generation, tokenizer)
    lengths: list[int] = generation.lengths.tolist()
    response_ids = [
        row[:length] for row, length in zip(generation.ids.tolist(), lengths, strict=True)
    ]
    own, reference = (
        policy_logprobs(policy, prompt_ids, response_ids, sampling, tokenizer)
        for policy in (model, sft)
    )
    losses = text_losses(base, texts, tokenizer, section.batch_rows)
    rows = [[*prompt, *response] for prompt, response in zip(prompt_ids, response_ids, strict=True)]
    rewards = score_rows(reward_model, rows, tokenizer.pad_id, section.batch_rows).tolist()
    responses: list[JudgedResponse] = []
    for index, prompt in enumerate(prompts):
        finished = bool(generation.finished[index])
        verdict = judge.judge(prompt, texts[index], finished) if judge else None
        responses.append(
            JudgedResponse(
                prompt_id=prompt.prompt_id,
                prompt=prompt.prompt,
                text=texts[index],
                finished=finished,
                length_tokens=lengths[index],
                rating=verdict.rating if verdict else None,
                answers=verdict.flags if verdict else {},
                reward=rewards[index],
                kl_to_sft=own[index] - reference[index],
                token_losses=losses[index],
            )
        )
    return responses


def policy_logprobs(
    policy: GPT,
    prompt_ids: Sequence[Sequence[int]],
    response_ids: Sequence[Sequence[int]],
    sampling: SamplingSettings,
    tokenizer: Tokenizer,
) -> list[float]:
    """The log-probability of each whole response under a policy at the sampling temperature."""
    rows = continuation_logprobs(
        policy,
        prompt_ids,
        response_ids,
        tokenizer.pad_id,
        temperature=sampling.temperature,
        never_sampled_ids=tokenizer.never_sampled_ids,
        batch_rows=sampling.batch_rows,
    )
    return [sum(row) for row in rows]


def text_losses(
    base: GPT, texts: Sequence[str], tokenizer: Tokenizer, batch_rows: int
) -> list[list[float]]:
    """−log probability under the base of each token of each text alone, as of a new document's.

    The base never saw prompts, so none is shown to it; the end token is not counted. Text whose
    encoding exceeds the context (broken characters take more tokens than were sampled) is cut.
    """
    room = base.config.context_tokens - 1
    ids = [row[:room] for row in tokenizer.encode_many(texts)]
    starts = [[tokenizer.eos_id]] * len(texts)
    rows = continuation_logprobs(base, starts, ids, tokenizer.pad_id, batch_rows=batch_rows)
    return [[-value for value in row] for row in rows]


def settings(config: RunConfig, judge: Judge | None, prompt_count: int) -> dict[str, object]:
    """What is printed with the results: how they came about, the world's constants included."""
    values: dict[str, object] = {
        "run": config.name,
        "seed": config.seed,
        "torch": torch.__version__,
        "prompts": prompt_count,
        "compare": config.compare.model_dump(exclude={"judge"}),
        "kl_to_sft": "per response, the sum over its tokens of log pi − log pi_sft, own samples",
        "perplexity": "of the response's text alone under the base; prompt and end token left out",
    }
    if judge is not None and judge.questions:
        values["questions"] = judge.questions
    if config.data.tinyworld is not None:
        values["world"] = world_constants()
    return values


def write_results(
    stage: StageContext, results: Sequence[CheckpointResult], report: dict[str, object]
) -> None:
    """Writes the report as JSON and as a page, and every response."""
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    (stage.output / "report.json").write_text(text, encoding="utf-8")
    metrics = {
        name: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for name in ("base", "ppo")
        if (path := stage.input(name) / METRICS_FILE).exists()
    }
    page = render_html(report, metrics)
    (stage.output / "report.html").write_text(page, encoding="utf-8")
    with (stage.output / "responses.jsonl").open("w", encoding="utf-8") as file:
        for result in results:
            for response in result.responses:
                row = {"checkpoint": result.name, **asdict(response)}
                del row["token_losses"]
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    stage_main("compare")
