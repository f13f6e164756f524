"""SFT trains on the response and its end token only, exactly as cross-entropy by hand says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.config import SftSection
from pipeline.errors import UserError
from pipeline.model import load_gpt, save_gpt
from pipeline.records import Demonstration
from pipeline.sft import (
    SftRow,
    check_labels,
    collate,
    encode_demonstration,
    encode_demonstrations,
    fine_tune,
    make_trainer,
    step_count,
    trainer_arguments,
    validation_prompts,
)
from pipeline.tokenizer import Tokenizer

DEMONSTRATIONS = [
    Demonstration(prompt="Where does the fox live?", response="It lives in the old mill."),
    Demonstration(prompt="Who eats plums?", response="The red fox."),
    Demonstration(prompt="Thank the owl.", response="Thanks for the blue kite, small owl."),
    Demonstration(prompt="Who?", response="It"),
]


@pytest.fixture(scope="module")
def rows(tiny_tokenizer: Tokenizer) -> list[SftRow]:
    return encode_demonstrations(DEMONSTRATIONS, tiny_tokenizer, 64, "demonstrations.jsonl")


def test_labels_are_the_response_and_its_end_token(tiny_tokenizer: Tokenizer) -> None:
    row = encode_demonstration(DEMONSTRATIONS[0], tiny_tokenizer)
    trained = [label for label in row["labels"] if label != -100]
    untrained = [i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label < 0]

    assert trained[-1] == tiny_tokenizer.eos_id
    assert tiny_tokenizer.decode(trained[:-1]) == "It lives in the old mill."
    assert untrained[0] == tiny_tokenizer.prompt_mark_id
    assert untrained[-1] == tiny_tokenizer.response_mark_id
    assert tiny_tokenizer.decode(untrained[1:-1]) == "Where does the fox live?"
    assert row["input_ids"] == untrained + trained


def test_collate_pads_on_the_right_with_masked_labels() -> None:
    short: SftRow = {"input_ids": [7, 8], "labels": [-100, 8]}
    long: SftRow = {"input_ids": [4, 5, 6], "labels": [-100, 5, 6]}
    batch = collate([short, long], pad_id=99)

    assert batch["input_ids"].tolist() == [[7, 8, 99], [4, 5, 6]]
    assert batch["labels"].tolist() == [[-100, 8, -100], [-100, 5, 6]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("row", "position", "label"),
    [
        pytest.param(0, 1, 40, id="a prompt token is trained on"),
        pytest.param(0, "end", -100, id="the end token is not trained on"),
        pytest.param(1, -1, 1, id="padding is trained on"),
    ],
)
def test_check_labels_refuses_a_wrong_label(
    rows: list[SftRow], tiny_tokenizer: Tokenizer, row: int, position: int | str, label: int
) -> None:
    batch = collate(rows[:2], tiny_tokenizer.pad_id)
    check_labels(batch, tiny_tokenizer)
    index = len(rows[row]["labels"]) - 1 if position == "end" else int(position)
    batch["labels"][row, index] = label
    with pytest.raises(RuntimeError, match=f"row {row}"):
        check_labels(batch, tiny_tokenizer)


def test_too_long_demonstrations_are_named_and_counted(tiny_tokenizer: Tokenizer) -> None:
    lengths = [
        len(encode_demonstration(row, tiny_tokenizer)["input_ids"]) for row in DEMONSTRATIONS
    ]
    context = sorted(lengths)[1]  # two of four fit
    first = next(index for index, length in enumerate(lengths, start=1) if length > context)
    with pytest.raises(UserError) as error:
        encode_demonstrations(DEMONSTRATIONS, tiny_tokenizer, context, "demonstrations.jsonl")
    assert error.value.where == f"demonstrations.jsonl: demonstration {first}"
    assert f"takes {lengths[first - 1]} tokens" in error.value.problem
    assert f"context of {context} (2 of 4" in error.value.problem


def test_validation_prompts_do_not_depend_on_order_or_repetition() -> None:
    prompts = [f"prompt {index}" for index in range(40)]
    chosen = validation_prompts(prompts, 0.1, seed=3)
    assert len(chosen) == 4
    assert validation_prompts(prompts[::-1] + prompts, 0.1, seed=3) == chosen
    assert validation_prompts(prompts, 0.1, seed=4) != chosen
    assert len(validation_prompts(prompts[:2], 0.01, seed=3)) == 1
    assert len(validation_prompts(prompts[:2], 0.99, seed=3)) == 1
    with pytest.raises(UserError, match="one prompt"):
        validation_prompts(["same", "same"], 0.5, seed=3)


def test_the_trainers_loss_is_cross_entropy_over_response_tokens(
    rows: list[SftRow], tiny_tokenizer: Tokenizer, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """By hand: −log p of each response token given all before it, averaged over the batch."""
    arguments = trainer_arguments(
        SftSection(batch_rows=4), 4, seed=0, bf16=False, output_folder=str(tmp_path)
    )
    trainer = make_trainer(tiny_model_folder, rows, rows[:1], tiny_tokenizer, arguments)
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


def test_fine_tuning_learns_repeats_and_loads(
    rows: list[SftRow],
    tiny_tokenizer: Tokenizer,
    tiny_model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    section = SftSection(learning_rate=1e-2, epochs=10, batch_rows=3)

    def train(seed: int) -> tuple[dict[str, torch.Tensor], list[tuple[int, dict[str, float]]]]:
        metrics: list[tuple[int, dict[str, float]]] = []
        steps: list[None] = []
        gpt = fine_tune(
            tiny_model_folder, rows, rows[:2], tiny_tokenizer, section, seed=seed, bf16=False,
            on_metrics=lambda step, values: metrics.append((step, values)),
            on_step=lambda: steps.append(None),
        )  # fmt: skip
        assert len(steps) == step_count(len(rows), section) == 20
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
    rows: list[SftRow], tiny_tokenizer: Tokenizer, tiny_model_folder: Path
) -> None:
    with pytest.raises(UserError, match=r"sft\.learning_rate"):
        fine_tune(
            tiny_model_folder, rows, rows[:2], tiny_tokenizer,
            SftSection(learning_rate=1e30, epochs=3), seed=0, bf16=False,
            on_metrics=lambda step, values: None, on_step=lambda: None,
        )  # fmt: skip
