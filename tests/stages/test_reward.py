"""The stage on a tiny model: what it publishes, that it repeats itself, and what it refuses."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForSequenceClassification

from pipeline.artifacts import Identity, WorkRecord, publish, temporary_folder, verify
from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.preferences import ranks_from_ratings
from pipeline.records import Prompt, RankedResponse, Ranking, read_rows, write_rows
from pipeline.tokenizer import Tokenizer
from stages import reward

PROMPTS = 120
WORDS = ("red", "owl", "kite", "mill", "small", "blue")


def make_config(**section: Any) -> RunConfig:
    values = {"learning_rate": 3e-3, "epochs": 3, "batch_prompts": 4, "validation_fraction": 0.25}
    return RunConfig.model_validate(
        {
            "seed": 3,
            "precision": "fp32",
            "data": {"tinyworld": {}},
            "pretrain": {},
            "reward": values | section,
        }
    )


def make_ranking(prompt: int, labeler: str, rng: random.Random, size: int = 4) -> Ranking:
    """Planted rule: the more often a response says "plums", the better; equal counts tie."""
    counts = [rng.randrange(4) for _ in range(size)]
    texts = []
    for count in counts:
        words = ["plums"] * count + rng.choices(WORDS, k=rng.randrange(1, 5))
        rng.shuffle(words)
        texts.append(" ".join(words))
    ratings = [1 + 2 * count for count in counts]
    return Ranking(
        submission_id=f"{prompt}-{labeler}",
        prompt_id=f"p{prompt}",
        prompt=f"Tell me about {prompt}",
        labeler=labeler,
        responses=[
            RankedResponse(response_id=f"r{prompt}.{i}", text=text, policy="sft", finished=i > 0)
            for i, text in enumerate(texts)
        ],
        ratings=ratings,
        ranks=ranks_from_ratings(ratings),
    )


def make_rankings(prompts: int = PROMPTS) -> list[Ranking]:
    """One ranking a prompt; the first prompt's is repeated by a second labeler."""
    rng = random.Random(0)
    rankings = [make_ranking(prompt, "ann", rng) for prompt in range(prompts)]
    return [*rankings, rankings[0].model_copy(update={"labeler": "bob", "submission_id": "again"})]


def make_run(run_folder: Path, model_folder: Path, rankings: list[Ranking]) -> Path:
    """A run folder with what the stage reads: sft (the tiny model), labels and data."""
    for name in ("sft", "labels", "data"):
        temporary = temporary_folder(run_folder / name)
        if name == "sft":
            shutil.copytree(model_folder, temporary, dirs_exist_ok=True)
        if name == "labels":
            write_rows(temporary / "rankings.jsonl", rankings)
        if name == "data":
            prompt = Prompt(prompt_id="h", prompt="What is held out?", split="heldout")
            write_rows(temporary / "prompts.jsonl", [prompt])
        identity = Identity(name, {}, 0, {}, 1)
        publish(temporary, run_folder / name, identity, WorkRecord({}, "", "", 0.0, 0))
    return run_folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A run in which the stage has run. Read it only."""
    run_folder = tmp_path_factory.mktemp("trained")
    make_run(run_folder, tiny_model_folder, make_rankings())
    reward.run(make_config(), run_folder)
    return run_folder


def test_learns_the_rule_and_reports_it(trained: Path) -> None:
    assert verify(trained / "reward") is None
    report = json.loads((trained / "reward" / "report.json").read_text())
    rankings = read_rows(trained / "labels" / "rankings.jsonl", Ranking)
    counts = report["counts"]
    own = counts["own_labels"]
    assert (own["rankings"], own["prompts"]) == (PROMPTS + 1, PROMPTS)
    assert own["pairs"] + own["ties"] == (PROMPTS + 1) * 6
    assert own["pairs"] == counts["training_pairs"] + counts["validation_pairs"]
    untied = len({r.prompt for r in rankings if len(set(r.ranks)) > 1})
    assert counts["validation_prompts"] == round(untied / 4)
    assert counts["training_prompts"] == untied - counts["validation_prompts"]
    assert (own["contradictions"], own["unfinished_responses"]) == (0, PROMPTS)

    accuracy = report["validation"]["accuracy"]
    assert accuracy["n"] == counts["validation_pairs"]
    assert accuracy["mean"] > 0.9
    assert accuracy["ci95"][0] < accuracy["mean"] <= accuracy["ci95"][1]
    assert report["validation"]["log_loss"]["mean"] < 0.4
    assert set(report["validation"]["accuracy_by_rating_gap"]) == {"2", "4", "6"}
    baseline = report["length_baseline"]
    assert baseline["prefers"] == "longer"
    assert 0.5 < baseline["accuracy"]["mean"] < accuracy["mean"]
    assert report["labeler_agreement"]["agreement"] == 1.0


def test_scores_of_the_published_model_are_normalized_in_plain_transformers(trained: Path) -> None:
    tokenizer = Tokenizer.load(trained / "reward")
    model = AutoModelForSequenceClassification.from_pretrained(trained / "reward")
    rows = [
        # What PPO sees: prompt, response, and the end token unless the response was cut off.
        [
            *tokenizer.encode_prompt(ranking.prompt),
            *tokenizer.encode(response.text),
            *([tokenizer.eos_id] if response.finished else []),
        ]
        for ranking in make_rankings()[:-1]
        for response in ranking.responses
    ]
    with torch.no_grad():
        scores = torch.cat([model(torch.tensor([row])).logits[:, 0] for row in rows])
    assert len(scores) == PROMPTS * 4
    assert scores.mean().item() == pytest.approx(0, abs=1e-5)
    assert scores.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_metrics_of_every_step_and_epoch(trained: Path) -> None:
    lines = (trained / "reward" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    training_prompts = json.loads((trained / "reward" / "report.json").read_text())["counts"][
        "training_prompts"
    ]
    epoch_steps = -(-training_prompts // 4)
    assert [row["step"] for row in rows] == list(range(1, 3 * epoch_steps + 1))
    # Warm-up over round(0.05 · 66) = 3 steps, then a cosine down to a tenth.
    assert 3 * epoch_steps == 66
    assert [row["lr_factor"] for row in rows[:3]] == pytest.approx([1 / 3, 2 / 3, 1])
    assert rows[-1]["lr_factor"] == pytest.approx(0.1, abs=1e-3)
    validated = [row["step"] for row in rows if "validation_accuracy" in row]
    assert validated == [epoch_steps, 2 * epoch_steps, 3 * epoch_steps]
    assert rows[-1]["validation_log_loss"] < rows[validated[0] - 1]["validation_log_loss"]


def test_the_same_seed_gives_the_same_weights(
    trained: Path, tmp_path: Path, tiny_model_folder: Path
) -> None:
    first = safetensors.torch.load_file(trained / "reward" / "model.safetensors")
    run_folder = make_run(tmp_path / "again", tiny_model_folder, make_rankings())
    torch.manual_seed(99)
    reward.run(make_config(), run_folder)
    second = safetensors.torch.load_file(run_folder / "reward" / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_bf16_trains_fp32_weights(tmp_path: Path, tiny_model_folder: Path) -> None:
    run_folder = make_run(tmp_path / "run", tiny_model_folder, make_rankings(12))
    config = make_config(epochs=1).model_copy(update={"precision": "bf16"})
    reward.run(config, run_folder)
    weights = safetensors.torch.load_file(run_folder / "reward" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    before = safetensors.torch.load_file(tiny_model_folder / "model.safetensors")
    name = "transformer.h.0.mlp.c_fc.weight"
    assert not torch.equal(weights[name], before[name])
    assert all(bool(weight.isfinite().all()) for weight in weights.values())


def tie_all(ranking: Ranking) -> Ranking:
    return ranking.model_copy(update={"ranks": [1] * 4, "ratings": [4] * 4})


def lengthen(ranking: Ranking) -> Ranking:
    responses = [
        response.model_copy(update={"text": "plums " * 100}) for response in ranking.responses
    ]
    return ranking.model_copy(update={"responses": responses})


@pytest.mark.parametrize(
    ("rankings", "section", "problem"),
    [
        ([tie_all(r) for r in make_rankings(5)], {}, "0 of 5 prompts have responses"),
        ([make_rankings(5)[0], make_rankings(5)[-1]], {}, "1 of 1 prompts have responses"),
        ([*make_rankings(4)[:3], tie_all(lengthen(make_rankings(4)[3]))], {}, "at most 64"),
        (make_rankings(20), {"learning_rate": 1e30, "warmup_fraction": 0.0}, "diverge"),
    ],
    ids=["all tied", "one prompt", "too long", "diverges"],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    tiny_model_folder: Path,
    rankings: list[Ranking],
    section: dict[str, Any],
    problem: str,
) -> None:
    run_folder = make_run(tmp_path / "run", tiny_model_folder, rankings)
    with pytest.raises(UserError, match=problem) as raised:
        reward.run(make_config(**section), run_folder)
    assert "\n" not in str(raised.value)
    assert not [path.name for path in run_folder.iterdir() if "reward" in path.name]


# --- other labels, early stopping -----------------------------------------------------------------


def contrary(ranking: Ranking) -> Ranking:
    """What somebody says who likes plums as little as ann likes them much."""
    worst = max(ranking.ranks) + 1
    ratings = [8 - rating for rating in ranking.ratings]
    changes = {"ranks": [worst - rank for rank in ranking.ranks], "ratings": ratings}
    return ranking.model_copy(update=changes | {"labeler": "bob", "submission_id": "b"})


def test_labelers_held_out_are_not_learned_from_and_measured(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    rng = random.Random(0)
    rankings = [make_ranking(prompt, "ann", rng) for prompt in range(PROMPTS)]
    others = [contrary(make_ranking(prompt, "bob", rng)) for prompt in range(PROMPTS, 2 * PROMPTS)]
    run_folder = make_run(tmp_path, tiny_model_folder, rankings + others)
    reward.run(make_config(held_out_labelers=["bob"]), run_folder)
    report = json.loads((run_folder / "reward" / "report.json").read_text())
    assert report["validation"]["accuracy"]["mean"] > 0.9
    assert set(report["validation"]["accuracy_by_labeler"]) == {"ann"}
    strangers = report["held_out_labelers"]
    assert strangers["names"] == ["bob"]
    assert strangers["accuracy_by_prompt"]["mean"] < 0.1
    assert strangers["accuracy_by_prompt"]["n"] == sum(len(set(r.ranks)) > 1 for r in others)
    low, high = strangers["less_than_of_the_others"]["ci95"]
    assert 0.7 < low < high <= 1
    with pytest.raises(UserError, match="names 'eve', but the rankings are by ann, bob"):
        reward.run(make_config(held_out_labelers=["eve"]), run_folder)


def test_early_stopping_keeps_the_best_epoch(tmp_path: Path, tiny_model_folder: Path) -> None:
    """Labels at random: what is learned by heart makes held-out prompts worse."""
    rng = random.Random(0)
    rankings = []
    for prompt in range(30):
        ranking = make_ranking(prompt, "ann", rng)
        ratings = rng.sample([1, 3, 5, 7], 4)
        changes = {"ratings": ratings, "ranks": ranks_from_ratings(ratings)}
        rankings.append(ranking.model_copy(update=changes))
    make_run(tmp_path, tiny_model_folder, rankings)
    reward.run(make_config(epochs=12, early_stopping=True), tmp_path)
    report = json.loads((tmp_path / "reward" / "report.json").read_text())
    losses = [row["validation_log_loss"] for row in report["epochs"]]
    assert 2 <= len(losses) < 12
    assert losses[-1] > min(losses)
    assert losses[:-1] == sorted(losses[:-1], reverse=True)
    assert report["validation"]["log_loss"]["mean"] == pytest.approx(min(losses), abs=1e-5)
    for row in report["epochs"]:
        gap = row["validation_log_loss"] - row["training_log_loss"]
        assert row["log_loss_gap"] == pytest.approx(gap)
    assert not list((tmp_path / ".checkpoints").glob("reward*"))


def test_preferences_of_others_alone_are_learned(tmp_path: Path, tiny_model_folder: Path) -> None:
    rows = []
    for ranking in make_rankings():
        texts = [response.text for response in ranking.responses]
        rows.append({"q": ranking.prompt, "texts": texts, "ranks": ranking.ranks})
    path = tmp_path / "ranked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": "ranked.jsonl", "prompt_columns": ["q"]}
    source |= {"responses_column": "texts", "ranks_column": "ranks"}
    run_folder = make_run(tmp_path / "run", tiny_model_folder, [])
    shutil.rmtree(run_folder / "labels")
    config = make_config(own_labels=False, preferences=[source])
    reward.run(config.model_copy(update={"data_root": str(tmp_path)}), run_folder)
    report = json.loads((run_folder / "reward" / "report.json").read_text())
    assert report["validation"]["accuracy"]["mean"] > 0.9
    assert report["validation"]["accuracy_by_rating_gap"] == {}
    assert report["labeler_agreement"] is None
    (summary,) = report["sources"]
    assert (summary["source"], summary["rows"]) == ("ranked.jsonl", PROMPTS + 1)
    assert summary["prompts"] == PROMPTS


def test_members_disagree_and_their_mean_is_published(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    make_run(tmp_path, tiny_model_folder, make_rankings())
    reward.run(make_config(members=4), tmp_path)
    report = json.loads((tmp_path / "reward" / "report.json").read_text())
    assert report["validation"]["accuracy"]["mean"] > 0.9
    ensemble = report["ensemble"]
    assert ensemble["members"] == 4
    assert 0 < ensemble["spread_of_scores"] < 1
    thirds = ensemble["accuracy_by_disagreement"]
    assert set(thirds) == {"least", "middle", "most"}
    assert sum(leaf["n"] for leaf in thirds.values()) == report["counts"]["validation_pairs"]
    heads = safetensors.torch.load_file(tmp_path / "reward" / "members.safetensors")["weight"]
    head = safetensors.torch.load_file(tmp_path / "reward" / "model.safetensors")["score.weight"]
    torch.testing.assert_close(heads.mean(0, keepdim=True), head, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(heads[0], heads[1], atol=1e-3)
