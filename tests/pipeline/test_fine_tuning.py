"""Fine-tuning: exactly cross-entropy by hand, repeatable, resumed to the same bits, or by LoRA."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from pipeline.config import LoraSection, SftSection
from pipeline.errors import UserError
from pipeline.fine_tuning import fine_tune, make_trainer, step_count, trainer_arguments
from pipeline.gpt2_format import load_gpt, save_gpt
from pipeline.language_model import LanguageModel
from pipeline.model import GPT
from pipeline.records import Demonstration
from pipeline.sft import SftRow, encode_demonstration
from pipeline.tokenizer import Tokenizer
from tests.pipeline.trainer_runs import make_run, same, train_until

DEMONSTRATIONS = [
    Demonstration(prompt="Where does the fox live?", response="It lives in the old mill."),
    Demonstration(prompt="Who eats plums?", response="The red fox."),
    Demonstration(prompt="Thank the owl.", response="Thanks for the blue kite, small owl."),
    Demonstration(prompt="Who?", response="It"),
]


@pytest.fixture(scope="module")
def rows(tiny_tokenizer: Tokenizer) -> list[SftRow]:
    return [encode_demonstration(one, tiny_tokenizer) for one in DEMONSTRATIONS]


def test_the_trainers_loss_is_cross_entropy_over_response_tokens(
    rows: list[SftRow], tiny_tokenizer: Tokenizer, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """By hand: −log p of each response token given all before it, averaged over the batch."""
    section = SftSection(batch_rows=4)
    arguments = trainer_arguments(section, 4, make_run(tmp_path))
    trainer = make_trainer(tiny_model_folder, rows, rows[:1], tiny_tokenizer, section, arguments)
    gpt = load_gpt(tiny_model_folder)
    logprobs: list[float] = []
    for demonstration in DEMONSTRATIONS:
        ids = tiny_tokenizer.encode_prompt(demonstration.prompt)
        for token in [*tiny_tokenizer.encode(demonstration.response), tiny_tokenizer.eos_id]:
            with torch.no_grad():
                logits = gpt(torch.tensor([ids]))[0, -1].tolist()
            logprobs.append(logits[token] - math.log(math.fsum(map(math.exp, logits))))
            ids.append(token)

    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(cast(torch.nn.Module, trainer.model), batch)
    assert float(loss.detach()) == pytest.approx(-math.fsum(logprobs) / len(logprobs), abs=1e-5)
    first = logprobs[: len(tiny_tokenizer.encode(DEMONSTRATIONS[0].response)) + 1]
    expected = -math.fsum(first) / len(first)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_fine_tuning_learns_repeats_and_loads(
    rows: list[SftRow],
    tiny_tokenizer: Tokenizer,
    tiny_model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    section = SftSection(learning_rate=1e-2, epochs=10, batch_rows=3)

    folders = (tmp_path / f"run-{number}" for number in range(3))

    def train(seed: int) -> tuple[dict[str, torch.Tensor], list[tuple[int, dict[str, float]]]]:
        metrics: list[tuple[int, dict[str, float]]] = []
        steps: list[int] = []
        gpt = fine_tune(
            tiny_model_folder, rows, rows[:2], tiny_tokenizer, section,
            make_run(next(folders), seed),
            on_metrics=lambda step, values: metrics.append((step, values)),
            on_step=steps.append,
        )  # fmt: skip
        assert steps == list(range(1, step_count(len(rows), section) + 1))
        assert len(steps) == 20
        assert isinstance(gpt, GPT)
        save_gpt(gpt, tmp_path / str(seed), tiny_tokenizer)
        return gpt.state_dict(), metrics

    first, metrics = train(1)
    again, _ = train(1)
    other, _ = train(2)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)

    losses = [values["loss"] for _, values in metrics if "loss" in values]
    validation = [(step, values["eval_loss"]) for step, values in metrics if "eval_loss" in values]
    assert [step for step, _ in validation] == [0, *range(2, 21, 2)]
    assert losses[-1] < 0.6 * losses[0]
    assert validation[-1][1] < 0.6 * validation[0][1]
    rates = [values["learning_rate"] for _, values in metrics if "learning_rate" in values]
    assert max(rates) == pytest.approx(1e-2)
    assert rates[-1] < 0.1 * max(rates)

    ids = torch.tensor([rows[0]["input_ids"]])
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "1")(ids).logits
        ours = load_gpt(tmp_path / "1")(ids)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(ours, load_gpt(tiny_model_folder)(ids), atol=1e-2)


def test_divergence_is_a_user_error(
    rows: list[SftRow], tiny_tokenizer: Tokenizer, tiny_model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"sft\.learning_rate"):
        fine_tune(
            tiny_model_folder, rows, rows[:2], tiny_tokenizer,
            SftSection(learning_rate=1e30, epochs=3), make_run(tmp_path),
            on_metrics=lambda step, values: None, on_step=lambda step: None,
        )  # fmt: skip


SECTION = SftSection(learning_rate=1e-2, epochs=4, batch_rows=2, checkpoint_every_steps=3)
STEPS = 8


def fine_tune_until(
    folder: Path,
    rows: list[SftRow],
    tokenizer: Tokenizer,
    base: Path,
    last_step: int | None = None,
    **changes: Any,
) -> tuple[LanguageModel | None, list[int], list[dict[str, Any]]]:
    """As ``train_until``."""
    run = make_run(folder, seed=1, key=changes.pop("key", "key"))
    section = SECTION.model_copy(update=changes)
    data = (base, rows, rows[:2], tokenizer)
    train = partial(fine_tune, *data, section, run, adapter_folder=folder / "adapter")
    return train_until(last_step, run, train)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LoraSection(rank=4)])
def test_a_killed_run_ends_with_the_same_bits(
    rows: list[SftRow],
    tiny_tokenizer: Tokenizer,
    tiny_model_folder: Path,
    tmp_path: Path,
    lora: LoraSection | None,
) -> None:
    common = (rows, tiny_tokenizer, tiny_model_folder)
    whole, steps, logged = fine_tune_until(tmp_path / "whole", *common, lora=lora)
    assert steps == list(range(1, STEPS + 1))
    folder = tmp_path / "killed"
    for last_step, first in ((5, 1), (7, 4), (None, 7)):
        resumed, steps, resumed_log = fine_tune_until(folder, *common, last_step, lora=lora)
        assert steps == list(range(first, (last_step or STEPS) + 1))
    assert same(resumed, whole)
    assert resumed_log == logged


@pytest.mark.slow
def test_a_checkpoint_that_is_not_whole_or_another_runs_is_passed_over(
    rows: list[SftRow], tiny_tokenizer: Tokenizer, tiny_model_folder: Path, tmp_path: Path
) -> None:
    common = (rows, tiny_tokenizer, tiny_model_folder)
    whole, _, _ = fine_tune_until(tmp_path / "whole", *common)
    folder = tmp_path / "killed"
    fine_tune_until(folder, *common, 7)
    (folder / "checkpoints" / "checkpoint-6" / "optimizer.pt").unlink()
    resumed, steps, _ = fine_tune_until(folder, *common)
    assert steps[0] == 4  # checkpoint-6 is broken, checkpoint-3 is not
    assert same(resumed, whole)
    _, steps, _ = fine_tune_until(folder, *common, 2, key="other")
    assert steps[0] == 1


@pytest.mark.slow
def test_adapters_are_kept_and_merged(
    rows: list[SftRow], tiny_tokenizer: Tokenizer, tiny_model_folder: Path, tmp_path: Path
) -> None:
    gpt, _, _ = fine_tune_until(
        tmp_path / "run", rows, tiny_tokenizer, tiny_model_folder,
        lora=LoraSection(rank=4), weight_decay=0.5,
    )  # fmt: skip
    assert isinstance(gpt, GPT)
    base = load_gpt(tiny_model_folder)
    special = {tiny_tokenizer.eos_id, tiny_tokenizer.pad_id, *tiny_tokenizer.never_sampled_ids}
    moved = (gpt.wte.weight != base.wte.weight).any(-1).nonzero().flatten().tolist()
    assert set(moved) <= special
    assert tiny_tokenizer.response_mark_id in moved
    assert torch.equal(gpt.ln_f.weight, base.ln_f.weight)
    assert not torch.equal(
        gpt.state_dict()["h.0.attn.c_attn.weight"], base.state_dict()["h.0.attn.c_attn.weight"]
    )
    adapter = tmp_path / "run" / "adapter"
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "../../base"
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_model_folder), str(adapter)
    )
    ids = torch.tensor([rows[0]["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(gpt(ids), theirs(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_parts_of_a_batch_train_as_the_whole(
    rows: list[SftRow], tiny_tokenizer: Tokenizer, tiny_model_folder: Path, tmp_path: Path
) -> None:
    common = (rows, tiny_tokenizer, tiny_model_folder)
    whole, _, _ = fine_tune_until(tmp_path / "whole", *common)
    parts, _, _ = fine_tune_until(tmp_path / "parts", *common, per_device_batch_rows=1)
    assert whole is not None
    assert parts is not None
    for ours, theirs in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
