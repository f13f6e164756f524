"""The stage on tiny models: what it publishes, that it repeats itself, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from pipeline.artifacts import Identity, WorkRecord, publish, temporary_folder, verify
from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.gpt2_format import load_gpt
from pipeline.records import Prompt, write_rows
from pipeline.reward import RewardModel
from pipeline.reward_files import save_reward_model
from pipeline.tokenizer import Tokenizer, train_tokenizer
from stages import ppo


def make_config(**section: Any) -> RunConfig:
    values = {
        "learning_rate": 1e-3,
        "total_episodes": 24,
        "batch_size": 8,
        "num_ppo_epochs": 1,
        "num_mini_batches": 2,
        "response_length": 12,
    }
    return RunConfig.model_validate(
        {
            "seed": 3,
            "precision": "fp32",
            "data": {"tinyworld": {}},
            "pretrain": {},
            "ppo": values | section,
        }
    )


def make_run(
    run_folder: Path, model_folder: Path, split: str = "ppo", reward_tokenizer: Any = None
) -> Path:
    """A run folder with what the stage reads: sft, a reward model with a random head, prompts."""
    tokenizer = reward_tokenizer or Tokenizer.load(model_folder)
    for name in ("sft", "reward", "data"):
        temporary = temporary_folder(run_folder / name)
        if name == "sft":
            shutil.copytree(model_folder, temporary, dirs_exist_ok=True)
        if name == "reward":
            head = torch.Generator().manual_seed(4)
            save_reward_model(RewardModel(load_gpt(model_folder), head), temporary, tokenizer)
        if name == "data":
            texts = ("the fox", "the owl", "a kite", "plums")
            rows = [
                Prompt.model_validate({"prompt_id": f"p{i}", "prompt": text, "split": split})
                for i, text in enumerate(texts)
            ]
            heldout = {"prompt_id": "h", "prompt": "the mill", "split": "heldout"}
            write_rows(temporary / "prompts.jsonl", [*rows, Prompt.model_validate(heldout)])
        identity = Identity(name, {}, 0, {}, 1)
        publish(temporary, run_folder / name, identity, WorkRecord({}, "", "", 0.0, 0))
    return run_folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A run in which the stage has run. Read it only."""
    run_folder = make_run(tmp_path_factory.mktemp("trained"), tiny_model_folder)
    ppo.run(make_config(), run_folder)
    return run_folder


def test_publishes_a_policy_and_a_critic_that_plain_transformers_loads(trained: Path) -> None:
    assert verify(trained / "ppo") is None
    policy = AutoModelForCausalLM.from_pretrained(trained / "ppo").eval()
    ids = torch.tensor([Tokenizer.load(trained / "ppo").encode_prompt("the fox")])
    with torch.no_grad():
        logits, before = policy(ids).logits, load_gpt(trained / "sft")(ids)
    torch.testing.assert_close(logits, load_gpt(trained / "ppo")(ids).detach(), atol=1e-5, rtol=0)
    assert float((logits - before).abs().max()) > 1e-4  # it learned
    critic = AutoModelForSequenceClassification.from_pretrained(trained / "ppo" / "critic")
    assert critic.config.num_labels == 1


def test_metrics_have_one_row_per_update(trained: Path) -> None:
    lines = (trained / "ppo" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["episode"] for row in rows] == [8, 16, 24]
    assert all(row["objective/scores"] is not None for row in rows)
    assert rows[0]["objective/kl"] == pytest.approx(0, abs=1e-6)
    assert rows[2]["objective/kl"] != 0


def test_the_same_seed_publishes_the_same_weights(
    trained: Path, tmp_path: Path, tiny_model_folder: Path
) -> None:
    again = make_run(tmp_path, tiny_model_folder)
    ppo.run(make_config(), again)
    for name in ("model.safetensors", "critic/model.safetensors"):
        assert (again / "ppo" / name).read_bytes() == (trained / "ppo" / name).read_bytes()


def test_prompts_of_other_splits_are_not_trained_on(trained: Path) -> None:
    path = trained / "data" / "prompts.jsonl"
    assert ppo.ppo_prompts(path, 0) == (["the fox", "the owl", "a kite", "plums"], [])
    training, kept = ppo.ppo_prompts(path, 1)
    assert len(kept) == 1
    assert sorted(training + kept) == ["a kite", "plums", "the fox", "the owl"]


def test_adapters_are_published_merged_and_kept(tmp_path: Path, tiny_model_folder: Path) -> None:
    run_folder = make_run(tmp_path, tiny_model_folder)
    ppo.run(make_config(lora={"rank": 4, "alpha": 8}), run_folder)
    assert (run_folder / "ppo" / "adapter" / "adapter.safetensors").exists()
    policy = AutoModelForCausalLM.from_pretrained(run_folder / "ppo").state_dict()
    before = AutoModelForCausalLM.from_pretrained(run_folder / "sft").state_dict()
    moved = {name for name in before if not torch.equal(policy[name], before[name])}
    assert moved
    assert all(name.endswith(".weight") and ".h." in name and "ln" not in name for name in moved)
    critic = AutoModelForSequenceClassification.from_pretrained(run_folder / "ppo" / "critic")
    assert critic.config.num_labels == 1


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8}])
def test_a_head_on_the_policy_is_published_as_a_critic(
    tmp_path: Path, tiny_model_folder: Path, lora: dict[str, int] | None
) -> None:
    run_folder = make_run(tmp_path, tiny_model_folder)
    ppo.run(make_config(critic_trunk="policy", lora=lora), run_folder)
    assert (run_folder / "ppo" / "adapter").exists() == (lora is not None)
    policy: Any = AutoModelForCausalLM.from_pretrained(run_folder / "ppo")
    auto = AutoModelForSequenceClassification
    critic: Any = auto.from_pretrained(run_folder / "ppo" / "critic")
    assert critic.score.weight.abs().max() > 0
    trunks = policy.transformer.state_dict(), critic.transformer.state_dict()
    for name, weight in trunks[0].items():
        assert torch.equal(weight, trunks[1][name]), name
    before = AutoModelForCausalLM.from_pretrained(run_folder / "sft").state_dict()
    assert any(not torch.equal(w, before[name]) for name, w in policy.state_dict().items())


def test_how_a_run_went_is_written_down(tmp_path: Path, tiny_model_folder: Path) -> None:
    run_folder = make_run(tmp_path, tiny_model_folder)
    (tmp_path / "mine.py").write_text(
        "def brief(completion_ids, **_):\n    return [-len(ids) for ids in completion_ids]\n"
    )
    section: dict[str, Any] = {"eval_prompts": 2, "eval_every_updates": 2, "stop_kl": 1e9}
    section |= {"reward_funcs": [{"file": "mine.py", "function": "brief", "weight": 0.5}]}
    alarms = {"patience": 1, "kl": 1e-9, "eos_rate_share": 0, "length_factor": 100}
    section |= {"alarms": alarms, "learning_rate": 1e-2, "kl_coef": 0}
    config = make_config(**section).model_copy(update={"data_root": str(tmp_path)})
    ppo.run(config, run_folder)
    record = json.loads((run_folder / "ppo" / "training.json").read_text())
    assert [row["update"] for row in record["evaluations"]] == [0, 2, 3]
    assert all("eval/scores" in row for row in record["evaluations"])
    assert record["updates"] == 3
    assert record["stopped"] is None
    assert record["old_logprobs"] == "of the sampler"
    assert "kl" in {alarm["name"] for alarm in record["alarms"]}
    lines = (run_folder / "ppo" / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["rewards/brief"] < 0 for line in lines)


def test_a_killed_run_whose_config_changed_says_that_it_starts_over(
    tmp_path: Path,
    tiny_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_folder = make_run(tmp_path, tiny_model_folder)
    config = make_config(checkpoint_every_updates=1)
    monkeypatch.setattr(ppo, "write_training", lambda stage, trainer: exit(7))
    for _ in range(2):  # killed at its end; then again, and it goes on in silence
        with pytest.raises(SystemExit):
            ppo.run(config, run_folder)
        assert "starts over" not in capsys.readouterr().out
    monkeypatch.undo()
    ppo.run(make_config(checkpoint_every_updates=1, kl_coef=0.3), run_folder)
    assert "ppo: starts over: what a killed run left was of another" in capsys.readouterr().out
    lines = (run_folder / "ppo" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_a_collapsed_run_publishes_the_best_weights(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    run_folder = make_run(tmp_path, tiny_model_folder)
    alarms = {"patience": 1, "length_factor": 1.001}  # any other length is a collapse
    config = make_config(alarms=alarms, learning_rate=1e-2, eval_every_updates=1)
    ppo.run(config, run_folder)
    record = json.loads((run_folder / "ppo" / "training.json").read_text())
    assert "collapsed at update 2" in record["stopped"]
    assert [alarm["name"] for alarm in record["alarms"]] == ["length"]
    assert record["updates"] in (0, 1)  # the best of the two that were evaluated
    assert not (run_folder / ".checkpoints" / "ppo-best").exists()


def test_no_prompts_of_its_split_are_refused(tmp_path: Path, tiny_model_folder: Path) -> None:
    run_folder = make_run(tmp_path, tiny_model_folder, split="label")
    with pytest.raises(UserError, match="holds 0 prompts of split ppo"):
        ppo.run(make_config(), run_folder)
    assert not (run_folder / "ppo").exists()


def test_another_tokenizer_is_refused(tmp_path: Path, tiny_model_folder: Path) -> None:
    other = train_tokenizer(["quite other words in here, zebra zebra"] * 5, vocab_size=300)
    run_folder = make_run(tmp_path, tiny_model_folder, reward_tokenizer=other)
    with pytest.raises(UserError, match="another tokenizer"):
        ppo.run(make_config(), run_folder)


def test_a_prompt_without_room_for_a_response_is_refused(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    run_folder = make_run(tmp_path, tiny_model_folder)
    with pytest.raises(UserError, match="context"):
        ppo.run(make_config(response_length=60), run_folder)
    assert not (run_folder / "ppo").exists()
