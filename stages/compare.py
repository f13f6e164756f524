"""Compares the checkpoints of a run on prompts that none of them has seen.

    python -m stages.compare configs/quickstart.yaml
    accelerate launch -m stages.compare configs/quickstart.yaml

Reads base, sft, ppo and what else was optimized (dpo, rloo, best_of_n), reward and data; writes
compare/: ``report.json``, ``report.html`` for who must decide, and ``responses.jsonl`` with every
response. Each checkpoint answers each held-out prompt once, with the same seed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.best_of_n import divergence_bound
from pipeline.chain import checkpoints_of
from pipeline.comparison import CheckpointResult, build_report
from pipeline.config import RunConfig
from pipeline.data import TOKENS_CACHE, Cache, heldout_sample, load_sources, tokenize_sources
from pipeline.errors import UserError
from pipeline.hugging_face import load_language_model
from pipeline.judges import Judge, OverlapJudge, RubricJudge
from pipeline.measurement import Answer, Instruments, measure, row_losses, sample_answers
from pipeline.pretraining import as_tensor
from pipeline.records import ChosenResponse, Prompt, read_rows
from pipeline.report import render_html
from pipeline.reward_files import load_reward_model
from pipeline.sampling import SamplingSettings
from pipeline.stage_context import METRICS_FILE, StageContext, derive_seed, open_stage
from pipeline.tinyworld import build_world, world_constants
from pipeline.tokenizer import Tokenizer
from stages.cli import stage_main

VERSION = 4
PRETRAINING_ROWS = 500
BEST_OF_N = "best_of_n"  # responses that were chosen: it has no model


def run(config: RunConfig, run_folder: Path) -> None:
    """Samples, judges and publishes ``compare/``.

    Raises:
        UserError: there are no held-out prompts, or the judge cannot judge them.
    """
    section = config.compare
    with open_stage("compare", config, run_folder) as stage:
        prompts = heldout_prompts(stage.input("data") / "prompts.jsonl", section.max_prompts)
        seeds = [derive_seed(stage.seed, prompt.prompt_id) for prompt in prompts]
        sampling = SamplingSettings(
            section.max_response_tokens, section.temperature, section.top_p, section.batch_rows
        )
        instruments = Instruments(
            base=load_language_model(stage.input("base")).to(stage.device),
            sft=load_language_model(stage.input("sft")).to(stage.device),
            reward_model=load_reward_model(stage.input("reward")).to(stage.device),
            judge=make_judge(config),
        )
        loaded = {"base": instruments.base, "sft": instruments.sft}
        results: list[CheckpointResult] = []
        names, text = checkpoints_of(config), pretraining_text(stage)
        with stage.progress(len(names), "checkpoints") as progress:
            for name in names:
                folder = stage.input("sft" if name == BEST_OF_N else name)
                tokenizer = Tokenizer.load(folder)
                model = None
                if name == BEST_OF_N:
                    answers = chosen_answers(stage.input(name) / "responses.jsonl", prompts)
                else:
                    model = loaded.get(name) or load_language_model(folder).to(stage.device)
                    answers = sample_answers(
                        model, tokenizer, prompts, seeds, sampling, instruments.sft
                    )
                responses = measure(answers, tokenizer, prompts, sampling, instruments)
                losses = row_losses(model, text) if model and len(text) else []
                results.append(CheckpointResult(name, name, responses, losses))
                progress.advance()
        report = build_report(
            results,
            judge=section.judge,
            seed=stage.seed,
            bootstrap_samples=section.bootstrap_samples,
            examples=section.examples,
            settings=settings(config, instruments.judge, len(prompts)),
            training=read_json(stage.input("ppo") / "training.json"),
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


def chosen_answers(path: Path, prompts: Sequence[Prompt]) -> list[Answer]:
    """What the stage best_of_n chose for each prompt; its divergence is the known bound.

    Raises:
        UserError: it answered other prompts than these.
    """
    chosen = {row.prompt_id: row for row in read_rows(path, ChosenResponse)}
    if not chosen.keys() >= {prompt.prompt_id for prompt in prompts}:
        problem = "answers other prompts than are compared now."
        raise UserError(path, problem, "run the stage best_of_n again, or use align run.")
    return [
        Answer(row.ids, row.finished, divergence_bound(row.n))
        for row in (chosen[prompt.prompt_id] for prompt in prompts)
    ]


def pretraining_text(stage: StageContext) -> Tensor:
    """(N, T + 1) held-out rows of the text that the base learned from, in the mixture's shares.

    None of them where the base was not made in this run: what it read is not known.
    """
    pretrain = stage.config.pretrain
    if pretrain is None:
        return torch.empty(0, 0)
    sources = tokenize_sources(
        load_sources(stage.input("data"), stage.data_root),
        Tokenizer.load(stage.input("base")),
        pretrain.row_tokens,
        Cache(stage.run_folder / TOKENS_CACHE),
    )
    return as_tensor(heldout_sample(sources, PRETRAINING_ROWS))


def read_json(path: Path) -> dict[str, Any] | None:
    """What a file holds; None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def make_judge(config: RunConfig) -> Judge | None:
    """Who rates; None where the reward model decides alone."""
    if config.compare.judge == "reward":
        return None
    if config.compare.judge == "overlap":
        return OverlapJudge()
    return RubricJudge(build_world(config.seed))


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
        "base": "is shown the same prompts, with marks that it never saw in its own training",
    }
    if config.best_of_n is not None:
        values["best_of_n"] = config.best_of_n.model_dump(exclude={"batch_rows"})
        values["kl_to_sft"] = f"{values['kl_to_sft']}; of best_of_n the bound log n − (n − 1)/n"
    if judge is not None and judge.questions:
        values["questions"] = judge.questions
    if config.data.tinyworld is not None:
        values["world"] = world_constants()
    return values


def write_results(
    stage: StageContext, results: Sequence[CheckpointResult], report: dict[str, object]
) -> None:
    """Writes the report as JSON and as a page, and every response."""
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (stage.output / "report.json").write_text(text, encoding="utf-8")
    metrics = {
        name: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for name in ("base", "ppo")
        if (path := stage.input(name) / METRICS_FILE).exists()
    }
    reward = read_json(stage.input("reward") / "report.json")
    page = render_html(report, metrics, reward)
    (stage.output / "report.html").write_text(page, encoding="utf-8")
    with (stage.output / "responses.jsonl").open("w", encoding="utf-8") as file:
        for result in results:
            for response in result.responses:
                row = {"checkpoint": result.name, **asdict(response)}
                del row["token_losses"]
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    stage_main("compare")
