"""The stage on tiny models: what it publishes, that it repeats itself, and what it refuses."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.artifacts import verify
from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.gpt2_format import load_gpt, save_gpt
from pipeline.model import GPT
from pipeline.records import Prompt, write_rows
from pipeline.reward import RewardModel
from pipeline.reward_files import save_reward_model
from pipeline.sampling import SamplingSettings, generate
from pipeline.stage_context import derive_seed
from pipeline.tokenizer import Tokenizer
from stages import compare

Publish = Callable[[Path, Callable[[Path], object]], None]
PROMPTS = ("the fox", "an owl", "a kite", "plums", "the old mill")


def make_config(judge: str = "overlap", **values: Any) -> RunConfig:
    section = {"judge": judge, "max_response_tokens": 12, "bootstrap_samples": 20, "examples": 3}
    instructions = {"path": "x.jsonl", "prompt_columns": ["p"], "response_column": "r"}
    return RunConfig.model_validate(
        {
            "name": "tiny",
            "precision": "fp32",
            "data": {"instructions": instructions},
            "import_base": {"path": "base"},
            "label": {"judge": "overlap"},
            "compare": section | values,
        }
    )


def make_run(
    run_folder: Path, model_folder: Path, publish_folder: Publish, split: str = "heldout"
) -> Path:
    """What the stage reads: three models (ppo moved away from sft), a reward model, prompts."""
    tokenizer = Tokenizer.load(model_folder)

    def write_data(folder: Path) -> None:
        rows = [
            {"prompt_id": f"p{i}", "prompt": words, "split": split, "meta": {"reference": words}}
            for i, words in enumerate(PROMPTS)
        ]
        rows.append({"prompt_id": "other", "prompt": "not for testing", "split": "ppo"})
        write_rows(folder / "prompts.jsonl", [Prompt.model_validate(row) for row in rows])

    def write_model(folder: Path) -> None:
        shutil.copytree(model_folder, folder, dirs_exist_ok=True)

    def write_base(folder: Path) -> None:
        write_model(folder)
        (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 5.0}\n{"step": 2, "loss": 4}\n')

    def write_ppo(folder: Path) -> None:
        gpt = load_gpt(model_folder)
        with torch.no_grad():
            noise = torch.randn(32, generator=torch.Generator().manual_seed(1))
            gpt.ln_f.bias.add_(0.2 * noise)
        save_gpt(gpt, folder, tokenizer)

    def write_reward(folder: Path) -> None:
        head = torch.Generator().manual_seed(4)
        save_reward_model(RewardModel(load_gpt(model_folder), head), folder, tokenizer)

    publish_folder(run_folder / "data", write_data)
    publish_folder(run_folder / "base", write_base)
    publish_folder(run_folder / "sft", write_model)
    publish_folder(run_folder / "ppo", write_ppo)
    publish_folder(run_folder / "reward", write_reward)
    return run_folder


@pytest.fixture(scope="module")
def compared(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path, publish_folder: Publish
) -> Path:
    """A run in which the stage has run. Read it only."""
    run_folder = make_run(tmp_path_factory.mktemp("run"), tiny_model_folder, publish_folder)
    compare.run(make_config(), run_folder)
    return run_folder


def read_report(run_folder: Path) -> dict[str, Any]:
    return json.loads((run_folder / "compare" / "report.json").read_text(encoding="utf-8"))


def read_responses(run_folder: Path) -> list[dict[str, Any]]:
    lines = (run_folder / "compare" / "responses.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_publishes_report_page_and_responses(compared: Path) -> None:
    assert verify(compared / "compare") is None
    report = read_report(compared)
    assert list(report["checkpoints"]) == ["base", "sft", "ppo"]
    assert all(values["rating"]["n"] == 5 for values in report["checkpoints"].values())
    assert report["settings"]["prompts"] == 5
    assert str(compared) not in json.dumps(report)
    page = (compared / "compare" / "report.html").read_text(encoding="utf-8")
    assert "Pretraining" in page
    rows = read_responses(compared)
    assert len(rows) == 15
    assert {row["prompt"] for row in rows} == set(PROMPTS)


def is_leaf(value: Any) -> bool:
    """{"mean", "ci95", "n"}, the interval around the mean, or null where n is too small."""
    if set(value) != {"mean", "ci95", "n"} or type(value["n"]) is not int:
        return False
    if value["ci95"] is None:
        return value["n"] < 2
    low, high = value["ci95"]
    return low <= value["mean"] <= high


def test_the_report_has_the_documented_structure(compared: Path) -> None:
    """Design: every key, every type; more keys are allowed."""
    report = read_report(compared)
    keys = ["judge", "checkpoints", "pairs", "ranking", "examples", "settings"]
    assert set(keys) <= set(report)
    assert report["judge"] == "overlap"
    for name, checkpoint in report["checkpoints"].items():
        assert checkpoint["path"] == name
        leaves = ["rating", "reward", "kl_to_sft", "length_tokens", "perplexity"]
        for key in [*leaves, "distinct_answers", "empty"]:
            assert is_leaf(checkpoint[key]), key
        assert checkpoint["answers"] == {}  # the overlap judge asks no questions
    for pair in report["pairs"]:
        assert (type(pair["a"]), type(pair["b"]), pair["judge"]) == (str, str, "overlap")
        counts = [pair[key] for key in ("wins", "ties", "losses")]
        assert all(type(count) is int for count in counts)
        assert sum(counts) == pair["n"] == 5
        assert pair["win_rate"] == pytest.approx((counts[0] + counts[1] / 2) / 5)
        assert pair["ci95"][0] <= pair["win_rate"] <= pair["ci95"][1]
        assert 0 <= pair["length_controlled_win_rate"] <= 1
    assert sorted(row["name"] for row in report["ranking"]) == ["base", "ppo", "sft"]
    for row in report["ranking"]:
        assert row["ci95"][0] <= row["strength"] <= row["ci95"][1]
    strengths = [row["strength"] for row in report["ranking"]]
    assert strengths == sorted(strengths, reverse=True)
    assert len(report["examples"]) == 3
    for example in report["examples"]:
        assert example["prompt"] in PROMPTS
        assert list(example["responses"]) == ["base", "sft", "ppo"]


def test_equal_models_give_equal_responses_and_tie(compared: Path) -> None:
    rows = read_responses(compared)
    by_name = {
        name: [r["text"] for r in rows if r["checkpoint"] == name] for name in ("base", "sft")
    }
    assert by_name["base"] == by_name["sft"]
    report = read_report(compared)
    pair = next(p for p in report["pairs"] if (p["a"], p["b"]) == ("sft", "base"))
    assert pair["ties"] == pair["n"] == 5
    for name in ("base", "sft"):
        assert report["checkpoints"][name]["kl_to_sft"]["mean"] == 0
    assert report["checkpoints"]["ppo"]["kl_to_sft"]["mean"] != 0


def test_kl_is_the_difference_of_two_plain_forward_passes(compared: Path) -> None:
    rows = [row for row in read_responses(compared) if row["checkpoint"] == "ppo"]
    sft, ppo = load_gpt(compared / "sft"), load_gpt(compared / "ppo")
    tokenizer = Tokenizer.load(compared / "sft")
    prompts = [tokenizer.encode_prompt(row["prompt"]) for row in rows]
    stage_seed = derive_seed(make_config().seed, "compare")
    seeds = [derive_seed(stage_seed, row["prompt_id"]) for row in rows]
    drawn = generate(ppo, prompts, seeds, SamplingSettings(12), tokenizer)

    def total(model: GPT, prompt: list[int], response: list[int]) -> float:
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response]))[0, len(prompt) - 1 : -1]
        logits[:, list(tokenizer.never_sampled_ids)] = -math.inf
        return float(logits.log_softmax(-1)[range(len(response)), response].sum())

    for index, row in enumerate(rows):
        response = drawn.ids[index, : drawn.lengths[index]].tolist()
        assert row["length_tokens"] == len(response)
        expected = total(ppo, prompts[index], response) - total(sft, prompts[index], response)
        assert row["kl_to_sft"] == pytest.approx(expected, abs=1e-4)


def test_perplexity_is_that_of_the_text_alone_under_the_base(compared: Path) -> None:
    base = load_gpt(compared / "base")
    tokenizer = Tokenizer.load(compared / "base")
    total, count = 0.0, 0
    for row in read_responses(compared):
        if row["checkpoint"] != "sft":
            continue
        ids = [tokenizer.eos_id, *tokenizer.encode(row["text"])][:64]
        with torch.no_grad():
            logprobs = base(torch.tensor([ids]))[0, :-1].log_softmax(-1)
        total -= float(logprobs[range(len(ids) - 1), ids[1:]].sum())
        count += len(ids) - 1
    perplexity = read_report(compared)["checkpoints"]["sft"]["perplexity"]["mean"]
    assert perplexity == pytest.approx(math.exp(total / count), rel=1e-4)


def test_the_same_seed_gives_the_same_bytes(
    compared: Path, tmp_path: Path, tiny_model_folder: Path, publish_folder: Publish
) -> None:
    again = make_run(tmp_path, tiny_model_folder, publish_folder)
    compare.run(make_config(batch_rows=2), again)
    first, second = (folder / "compare" / "responses.jsonl" for folder in (compared, again))
    texts = [
        [json.loads(line)["text"] for line in p.read_text().splitlines()] for p in (first, second)
    ]
    assert texts[0] == texts[1]
    shutil.rmtree(again / "compare")
    compare.run(make_config(), again)
    for name in ("report.json", "report.html", "responses.jsonl"):
        assert (again / "compare" / name).read_bytes() == (compared / "compare" / name).read_bytes()


def test_the_reward_model_can_judge_alone(
    tmp_path: Path, tiny_model_folder: Path, publish_folder: Publish
) -> None:
    run_folder = make_run(tmp_path, tiny_model_folder, publish_folder)
    compare.run(make_config("reward", max_prompts=3), run_folder)
    report = read_report(run_folder)
    assert report["judge"] == "reward"
    for values in report["checkpoints"].values():
        assert values["rating"] is None
        assert values["reward"]["n"] == 3
    assert {pair["judge"] for pair in report["pairs"]} == {"reward"}


def test_no_heldout_prompts_is_an_error(
    tmp_path: Path, tiny_model_folder: Path, publish_folder: Publish
) -> None:
    run_folder = make_run(tmp_path, tiny_model_folder, publish_folder, split="label")
    with pytest.raises(UserError, match="no prompt of split heldout"):
        compare.run(make_config(), run_folder)
    assert not (run_folder / "compare").exists()
