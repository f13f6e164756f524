"""What each setting of the reward model does: seen from outside, against the stage without it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.artifacts import Identity, WorkRecord, publish, temporary_folder
from pipeline.model import GPT
from pipeline.preferences import comparisons_by_prompt
from pipeline.records import Prompt, Ranking, write_rows
from pipeline.reward import RewardModel
from pipeline.reward_config import RewardSection
from pipeline.reward_data import encode_side
from pipeline.reward_report import members_report
from pipeline.tokenizer import Tokenizer
from stages import reward
from tests.stages.test_reward import contrary, make_config, make_ranking, make_run

COUNT = 40


def rankings_of(labelers: Sequence[str] = ("ann",), count: int = COUNT) -> list[Ranking]:
    """One ranking a prompt by labelers in turn, who also say whether a response has plums."""
    rng = random.Random(0)
    made: list[Ranking] = []
    for prompt in range(count):
        ranking = make_ranking(prompt, labelers[prompt % len(labelers)], rng)
        plums = ["plums" in response.text for response in ranking.responses]
        made.append(ranking.model_copy(update={"answers": {"has_plums": plums}}))
    return made


def run_stage(
    run_folder: Path, model_folder: Path, rankings: list[Ranking], **section: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The report and the metrics; every ranked prompt is one of the run's own, of split label."""
    make_run(run_folder, model_folder, rankings)
    texts = sorted({ranking.prompt for ranking in rankings})
    rows = [Prompt(prompt_id=text, prompt=text, split="label") for text in texts]
    rows.append(Prompt(prompt_id="h", prompt="What is held out?", split="heldout"))
    temporary = temporary_folder(run_folder / "data")
    write_rows(temporary / "prompts.jsonl", rows)
    identity = Identity("data", {}, 0, {}, 1)
    publish(temporary, run_folder / "data", identity, WorkRecord({}, "", "", 0.0, 0))
    reward.run(make_config(**section), run_folder)
    folder = run_folder / "reward"
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return report, [json.loads(line) for line in lines]


def test_centering_keeps_scores_near_zero(tmp_path: Path, tiny_model_folder: Path) -> None:
    squares: list[float] = []
    for centering in (0.0, 1.0):
        folder = tmp_path / str(centering)
        report, _ = run_stage(folder, tiny_model_folder, rankings_of(), centering=centering)
        before = report["scores"]["before_normalization"]
        squares.append(before["mean"] ** 2 + before["std"] ** 2)
    assert squares[1] < 0.5 * squares[0]


def test_questions_are_learned_by_their_weight(tmp_path: Path, tiny_model_folder: Path) -> None:
    learned: list[float] = []
    for weight in (0.0, 1e-9, 1.0):
        folder = tmp_path / str(weight)
        report, metrics = run_stage(
            folder, tiny_model_folder, rankings_of(count=80), question_weight=weight, epochs=6
        )
        if weight == 0:
            assert report["questions"] == {}
        else:
            assert set(report["questions"]) == {"has_plums"}
            learned.append(sum(row["question_loss"] for row in metrics[-10:]) / 10)
    assert learned[1] < 0.6 * learned[0]


def test_surprisal_is_learned_before_labels_and_not_from_what_is_held_out(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled: list[str] = []
    explained: list[Any] = []
    drawn: list[Any] = []
    sample, explain = reward.sample_surprisals, reward.explained_variance

    def spy_on_samples(policy: Any, prompts: Sequence[str], *rest: Any) -> Any:
        sampled.extend(prompts)
        drawn.extend(sample(policy, prompts, *rest))
        return drawn

    def spy_on_measure(model: Any, rows: Any, pad_id: int) -> float:
        explained.extend(rows)
        return explain(model, rows, pad_id)

    monkeypatch.setattr(reward, "sample_surprisals", spy_on_samples)
    monkeypatch.setattr(reward, "explained_variance", spy_on_measure)
    section = {"surprisal": {"responses_per_prompt": 3, "batch_rows": 8}}
    report, metrics = run_stage(tmp_path, tiny_model_folder, rankings_of(), **section)
    counts = report["counts"]
    # All are untied but a few: none of the validation prompts is sampled, every other one is.
    assert len(sampled) == COUNT - counts["validation_prompts"]
    assert "What is held out?" not in sampled
    # A twentieth of the prompts, with all their responses, is measured on and not trained on.
    assert explained == drawn[: 3 * max(1, len(sampled) // 20)]
    known = len(drawn) - len(explained)
    before = [row for row in metrics if "surprisal_loss" in row]
    assert len(before) == -(-known // 8)
    assert metrics[: len(before)] == before
    assert "surprisal_explained" in before[-1]


def test_each_head_draws_every_prompt_equally_often_in_each_epoch(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
    loss = reward.members_loss_sum

    def spy(scores: torch.Tensor, batch: Any, draws: Any) -> torch.Tensor:
        first_row = 0
        for prompt in range(batch.prompt_count):
            rows = batch.pair_indices[batch.pair_prompts == prompt]
            first_row = int(rows.min())
            ids = tuple(batch.input_ids[first_row, : int(batch.lengths[first_row])].tolist())
            drawn.setdefault(ids, set()).add(tuple(int(draw[prompt]) for draw in draws))
        return loss(scores, batch, draws)

    monkeypatch.setattr(reward, "members_loss_sum", spy)
    run_stage(tmp_path, tiny_model_folder, rankings_of(), members=3, epochs=3)
    assert all(len(different) == 1 for different in drawn.values())
    counts = np.array([next(iter(different)) for different in drawn.values()])
    assert counts.shape[1] == 3
    assert len({tuple(column) for column in counts.T.tolist()}) == 3  # each head its own
    assert abs(counts.mean() - 1) < 4 / np.sqrt(counts.size)


def test_what_is_logged_of_an_ensemble_is_its_mean(tmp_path: Path, tiny_model_folder: Path) -> None:
    """The last epoch's held-out loss is the report's, which reads the published head."""
    report, metrics = run_stage(tmp_path, tiny_model_folder, rankings_of(), members=4, epochs=2)
    expected = report["validation"]["log_loss"]["mean"]
    assert metrics[-1]["validation_log_loss"] == pytest.approx(expected, abs=1e-5)


def test_pairs_on_which_heads_disagree_by_hand(tiny_gpt: GPT, tiny_tokenizer: Tokenizer) -> None:
    """Three thirds by the spread of each pair's margin over the heads, the least first."""
    model = RewardModel(tiny_gpt, torch.Generator().manual_seed(0), members=3).eval()
    comparisons = [one for one in comparisons_by_prompt(rankings_of()) if one.pairs]
    section = RewardSection()
    training, validation = (
        encode_side(part, tiny_tokenizer, 64, section, [])
        for part in (comparisons[:25], comparisons[25:])
    )
    report = members_report(model, tiny_tokenizer.pad_id, training, validation)
    assert model.members is not None
    spreads: list[float] = []
    right: list[bool] = []
    for one in validation.encoded:
        with torch.no_grad():
            lasts = [model.trunk.hidden_states(torch.tensor([row]))[0, -1] for row in one.rows]
            scores = torch.stack(lasts) @ model.members.weight.T
        for better, worse in one.pairs:
            margins = (scores[better] - scores[worse]).tolist()
            spreads.append(float(np.std(np.array(margins) - np.mean(margins))))
            right.append(sum(margins) > 0)
    order = np.argsort(spreads)
    thirds = np.array_split(order, 3)
    measured: Any = report["ensemble"]
    for name, third in zip(("least", "middle", "most"), thirds, strict=True):
        leaf = measured["accuracy_by_disagreement"][name]
        assert leaf["n"] == len(third)
        assert leaf["mean"] == pytest.approx(np.mean([right[i] for i in third]))
    assert len({leaf["mean"] for leaf in measured["accuracy_by_disagreement"].values()}) == 3


def test_a_held_out_labeler_is_measured_where_nobody_was_learned_from(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    """bob judged every prompt that ann did: only ann's held-out prompts are new to the model."""
    by_ann = rankings_of(count=80)
    by_bob = [contrary(ranking) for ranking in by_ann]
    report, _ = run_stage(
        tmp_path, tiny_model_folder, [*by_ann, *by_bob], held_out_labelers=["bob"]
    )
    measured = report["held_out_labelers"]["accuracy_by_prompt"]
    tied = sum(len(set(ranking.ranks)) == 1 for ranking in by_ann)
    decided = report["counts"]["validation_prompts"]
    assert measured["n"] == decided
    assert decided < 80 - tied


def test_a_step_of_ties_alone_has_no_accuracy(tmp_path: Path, tiny_model_folder: Path) -> None:
    rankings = [
        ranking.model_copy(update={"ranks": [1] * 4, "ratings": [4] * 4}) if i % 2 else ranking
        for i, ranking in enumerate(rankings_of(count=24))
    ]
    _, metrics = run_stage(
        tmp_path, tiny_model_folder, rankings, ties="soft", batch_prompts=1, epochs=1
    )
    found = [row["accuracy"] for row in metrics]
    assert None in found
    assert all(value is None or 0 <= value <= 1 for value in found)
    assert sum(value is None for value in found) < len(found)


def test_prompts_that_the_run_holds_out_are_not_learned_from_others(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    rows = [
        {"q": f" {ranking.prompt}\n" if held else ranking.prompt,
         "texts": [one.text for one in ranking.responses], "ranks": ranking.ranks}
        for held, ranking in zip((True, *[False] * 39), rankings_of(), strict=True)
    ]  # fmt: skip
    path = tmp_path / "ranked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = {"path": "ranked.jsonl", "prompt_columns": ["q"]}
    source |= {"responses_column": "texts", "ranks_column": "ranks"}
    run_folder = make_run(tmp_path / "run", tiny_model_folder, [])
    temporary = temporary_folder(run_folder / "data")
    heldout = Prompt(prompt_id="h", prompt=rankings_of()[0].prompt, split="heldout")
    write_rows(temporary / "prompts.jsonl", [heldout])
    identity = Identity("data", {}, 0, {}, 1)
    publish(temporary, run_folder / "data", identity, WorkRecord({}, "", "", 0.0, 0))
    config = make_config(own_labels=False, preferences=[source])
    reward.run(config.model_copy(update={"data_root": str(tmp_path)}), run_folder)
    report = json.loads((run_folder / "reward" / "report.json").read_text(encoding="utf-8"))
    (summary,) = report["sources"]
    assert summary["left_out"]["prompts that the run holds out"] == 1
    assert summary["prompts"] == 39
    assert re.search("ranked", summary["source"])


@pytest.mark.parametrize("device_prompts", [1, 3, 5])
def test_a_device_takes_no_more_prompts_than_it_is_told(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, device_prompts: int
) -> None:
    """Batches of 8 in parts of at most so many; every prompt of the epoch is in one of them."""
    sizes: list[int] = []
    collate = reward.collate

    def spy(elements: Any, pad_id: int) -> Any:
        sizes.append(len(elements))
        return collate(elements, pad_id)

    monkeypatch.setattr(reward, "collate", spy)
    section = {"batch_prompts": 8, "per_device_batch_prompts": device_prompts, "epochs": 1}
    report, _ = run_stage(tmp_path, tiny_model_folder, rankings_of(), **section)
    assert max(sizes) <= device_prompts
    assert sum(sizes) >= report["counts"]["training_prompts"]
