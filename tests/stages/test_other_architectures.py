"""A base that is not GPT-2's shape goes through fine-tuning, sampling and chat like any other."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from pipeline.config import RunConfig
from pipeline.hugging_face import HuggingFaceLM, load_language_model, save_language_model
from pipeline.records import Demonstration, Prompt, SampleSet, read_rows, write_rows
from pipeline.tokenizer import Tokenizer
from stages import best_of_n, chat, compare, dpo, ppo, rloo, sample, sft
from tests.stages.conftest import alternatives_config, make_alternatives_run

Publish = Callable[[Path, Callable[[Path], object]], None]
ANSWER = "The fox is in the mill."


def make_llama(tokenizer: Tokenizer) -> HuggingFaceLM:
    torch.manual_seed(0)
    theirs: Any = AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=64,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=96, initializer_range=0.1,
        )
    )  # fmt: skip
    return HuggingFaceLM(theirs)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, {"rank": 8}])
def test_llama_learns_an_answer_and_gives_it(
    tmp_path: Path,
    tiny_tokenizer: Tokenizer,
    publish_folder: Publish,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lora: dict[str, Any] | None,
) -> None:
    run = tmp_path / "run"
    base = make_llama(tiny_tokenizer)
    publish_folder(run / "base", lambda to: save_language_model(base, to, tiny_tokenizer))
    rows = [Demonstration(prompt=f"Where is fox {i}?", response=ANSWER) for i in range(12)]
    prompts = [Prompt(prompt_id="p0", prompt="Where is fox 3?", split="label")]

    def write_data(to: Path) -> None:
        write_rows(to / "demonstrations.jsonl", rows)
        write_rows(to / "prompts.jsonl", prompts)

    publish_folder(run / "data", write_data)
    config = RunConfig.model_validate(
        {
            "data": {"tinyworld": {}},
            "pretrain": {},
            "precision": "fp32",
            "sft": {"learning_rate": 1e-2, "epochs": 20, "batch_rows": 4, "lora": lora},
            "sample": {"responses_per_prompt": 2, "max_response_tokens": 30, "temperature": 0.1},
        }
    )
    sft.run(config, run)
    tuned = load_language_model(run / "sft")
    assert isinstance(tuned, HuggingFaceLM)
    ids = torch.tensor([tiny_tokenizer.encode_prompt("Where is fox 3?")])
    plain = AutoModelForCausalLM.from_pretrained(run / "sft")
    with torch.no_grad():
        torch.testing.assert_close(tuned(ids), plain(ids).logits, atol=1e-5, rtol=0)
    sample.run(config, run)
    (answers,) = read_rows(run / "samples" / "samples.jsonl", SampleSet)
    assert [response.text for response in answers.responses] == [ANSWER, ANSWER]
    monkeypatch.setattr("sys.stdin", io.StringIO("Where is fox 3?\n"))
    chat.chat(run / "sft", temperature=0.1, max_response_tokens=30)
    assert capsys.readouterr().out.strip() == ANSWER


@pytest.mark.slow
def test_llama_is_optimized_in_every_way_and_compared(
    tmp_path: Path, tiny_tokenizer: Tokenizer, publish_folder: Publish
) -> None:
    folder = tmp_path / "llama"
    save_language_model(make_llama(tiny_tokenizer), folder, tiny_tokenizer)
    run = make_alternatives_run(tmp_path / "run", folder, publish_folder)
    config = alternatives_config()
    for stage in (dpo, rloo, best_of_n, ppo, compare):
        stage.run(config, run)
    report = json.loads((run / "compare" / "report.json").read_text(encoding="utf-8"))
    assert list(report["checkpoints"]) == ["base", "sft", "dpo", "rloo", "best_of_n", "ppo"]
    ids = torch.tensor([tiny_tokenizer.encode_prompt("the fox")])
    with torch.no_grad():
        before = load_language_model(run / "sft")(ids)
        for name in ("dpo", "rloo", "ppo"):
            tuned = load_language_model(run / name)
            assert isinstance(tuned, HuggingFaceLM)
            assert float((tuned(ids) - before).abs().max()) > 1e-4, name
