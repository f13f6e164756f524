"""Samples are a function of (seed, prompt, k): K per labeling prompt, whatever the batches."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.gpt2_format import load_gpt, save_gpt
from pipeline.records import Prompt, SampleSet, read_rows, write_rows
from pipeline.sampling import SamplingSettings, generate, response_texts
from pipeline.tokenizer import Tokenizer
from stages import sample

Publish = Callable[[Path, Callable[[Path], object]], None]
RunStage = Callable[..., list[SampleSet]]

PROMPTS = [
    Prompt(prompt_id="p3", prompt="Who eats plums in the old mill?", split="label"),
    Prompt(prompt_id="p1", prompt="Where?", split="label"),
    Prompt(prompt_id="p2", prompt="Not this one", split="ppo"),
    Prompt(prompt_id="p4", prompt="Nor this one", split="heldout"),
    Prompt(prompt_id="p0", prompt="Thank the small owl.", split="label"),
]


@pytest.fixture
def run_stage(tmp_path: Path, tiny_model_folder: Path, publish_folder: Publish) -> RunStage:
    def run(
        name: str,
        prompts: list[Prompt] = PROMPTS,
        seed: int = 7,
        precision: str = "fp32",
        data_root: str = ".",
        **section: Any,
    ) -> Any:
        folder = tmp_path / name
        publish_folder(
            folder / "sft", lambda to: shutil.copytree(tiny_model_folder, to, dirs_exist_ok=True)
        )
        publish_folder(folder / "data", lambda to: write_rows(to / "prompts.jsonl", prompts))
        values = {"responses_per_prompt": 3, "max_response_tokens": 12, "temperature": 0.9}
        config = {"data": {"tinyworld": {}}, "pretrain": {}, "seed": seed, "precision": precision}
        config["data_root"] = data_root
        sample.run(RunConfig.model_validate(config | {"sample": values | section}), folder)
        return read_rows(folder / "samples" / "samples.jsonl", SampleSet)

    return run


def test_every_labeling_prompt_gets_k_responses_in_canonical_order(
    run_stage: RunStage, tiny_model_folder: Path, tiny_tokenizer: Tokenizer
) -> None:
    sets = run_stage("run")
    assert [row.prompt_id for row in sets] == ["p0", "p1", "p3"]
    assert {row.prompt_id: row.prompt for row in sets}["p1"] == "Where?"
    assert all(len(row.responses) == 3 for row in sets)
    responses = [response for row in sets for response in row.responses]
    assert len({response.response_id for response in responses}) == 9
    assert len({response.seed for response in responses}) == 9
    assert {(r.policy, r.temperature, r.top_p) for r in responses} == {("sft", 0.9, 1.0)}

    # The row says how it was made: one response drawn alone from its seed is the same.
    chosen = sets[2].responses[1]
    generation = generate(
        load_gpt(tiny_model_folder),
        [tiny_tokenizer.encode_prompt(sets[2].prompt)],
        [chosen.seed],
        SamplingSettings(12, temperature=0.9),
        tiny_tokenizer,
    )
    assert response_texts(generation, tiny_tokenizer) == [chosen.text]
    assert generation.finished.tolist() == [chosen.finished]


def test_other_prompts_their_order_and_the_batch_size_change_nothing(run_stage: RunStage) -> None:
    whole = {row.prompt_id: row for row in run_stage("whole")}
    assert list(whole.values()) == run_stage("batches", batch_rows=2)
    assert list(whole.values()) == run_stage("order", prompts=PROMPTS[::-1])
    assert run_stage("fewer", prompts=PROMPTS[:1]) == [whole["p3"]]
    assert list(whole.values()) != run_stage("seed", seed=8)


def test_more_responses_keep_the_first_ones(run_stage: RunStage) -> None:
    three, five = run_stage("three"), run_stage("five", responses_per_prompt=5)
    assert [row.responses for row in three] == [row.responses[:3] for row in five]


def test_several_policies_answer_and_each_response_keeps_its_own(
    run_stage: RunStage, tmp_path: Path, tiny_model_folder: Path, tiny_tokenizer: Tokenizer
) -> None:
    other = load_gpt(tiny_model_folder)
    with torch.no_grad():
        other.wte.weight.mul_(3.0)
    save_gpt(other, tmp_path / "models" / "round-1", tiny_tokenizer)
    source = {"name": "ppo-1", "path": "models/round-1", "responses_per_prompt": 2}
    alone = run_stage("alone")
    sets = run_stage("both", data_root=str(tmp_path), policies=[source])
    for one, both in zip(alone, sets, strict=True):
        assert [r.policy for r in both.responses] == ["sft"] * 3 + ["ppo-1"] * 2
        assert both.responses[:3] == one.responses  # another policy changes nothing of ours
        assert len({r.response_id for r in both.responses}) == 5
    chosen = sets[0].responses[3]
    generation = generate(
        other,
        [tiny_tokenizer.encode_prompt(sets[0].prompt)],
        [chosen.seed],
        SamplingSettings(12, temperature=0.9),
        tiny_tokenizer,
    )
    assert response_texts(generation, tiny_tokenizer) == [chosen.text]
    only = run_stage("only", data_root=str(tmp_path), policies=[source], responses_per_prompt=0)
    assert [r for row in only for r in row.responses] == [
        r for row in sets for r in row.responses[3:]
    ]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"responses_per_prompt": 1}, "gets 1 responses"),
        ({"policies": [{"name": "a", "path": "a", "responses_per_prompt": 7}]}, "gets 10"),
        ({"policies": [{"name": "sft", "path": "a", "responses_per_prompt": 1}]}, "share a name"),
    ],
)
def test_impossible_sets_are_refused(section: dict[str, Any], message: str) -> None:
    values = {"responses_per_prompt": 3} | section
    with pytest.raises(ValueError, match=message):
        RunConfig.model_validate({"data": {"tinyworld": {}}, "pretrain": {}, "sample": values})


def test_a_policy_that_is_not_there_is_one_line(run_stage: RunStage) -> None:
    source = {"name": "gone", "path": "models/gone", "responses_per_prompt": 1}
    with pytest.raises(UserError, match=r"sample\.policies\.0\.path: .*is no folder"):
        run_stage("run", policies=[source])


def test_equal_texts_have_ids_of_their_own(run_stage: RunStage) -> None:
    """At a temperature near zero all responses of a prompt are the likeliest one."""
    sets = run_stage("cold", temperature=1e-4)
    assert all(len({response.text for response in row.responses}) == 1 for row in sets)
    assert all(len({response.response_id for response in row.responses}) == 3 for row in sets)


def test_the_precision_of_training_changes_no_sample(run_stage: RunStage) -> None:
    assert run_stage("exact") == run_stage("half", precision="bf16")


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([PROMPTS[2]], "no prompt of split label"),
        ([PROMPTS[0].model_copy(update={"prompt": "the mill " * 60})], "context of 64"),
    ],
)
def test_unusable_prompts_are_refused(
    run_stage: RunStage, tmp_path: Path, prompts: list[Prompt], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run_stage("run", prompts=prompts)
    assert not (tmp_path / "run" / "samples").exists()
