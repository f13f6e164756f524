"""Question heads, other architectures and adapters: what is saved is what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pipeline.config import LoraSection
from pipeline.errors import UserError
from pipeline.hugging_face import HuggingFaceLM, load_language_model
from pipeline.language_model import LanguageModel
from pipeline.model import GPT, GPTConfig
from pipeline.reward import RewardModel, normalize, score_and_ask, score_rows
from pipeline.reward_files import load_reward_model, save_reward_model
from pipeline.reward_lora import add_reward_adapters, merge_reward_adapters
from pipeline.tokenizer import Tokenizer

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
CONFIGURATIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (transformers.LlamaConfig, SIZES | {"num_key_value_heads": 2}),
    "qwen2": (transformers.Qwen2Config, SIZES | {"num_key_value_heads": 2}),
    "phi": (transformers.PhiConfig, SIZES),
    "gpt2 with relu": (
        transformers.GPT2Config,
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "activation_function": "relu"},
    ),
}


def language_model(name: str, tokenizer: Tokenizer) -> LanguageModel:
    torch.manual_seed(0)
    if name == "gpt":
        return GPT(GPTConfig(tokenizer.vocab_size, 64, 2, 2, 16))
    kind, sizes = CONFIGURATIONS[name]
    config = kind(vocab_size=tokenizer.vocab_size, **sizes)
    config.pad_token_id, config.eos_token_id = tokenizer.pad_id, tokenizer.eos_id
    return HuggingFaceLM(transformers.AutoModelForCausalLM.from_config(config))


def reward_model(name: str, tokenizer: Tokenizer, *questions: str) -> RewardModel:
    model = RewardModel(language_model(name, tokenizer), questions=questions)
    with torch.no_grad():  # away from the initialization, where biases and norms hide mistakes
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture
def rows(tiny_tokenizer: Tokenizer) -> list[list[int]]:
    answers = ("In the old mill.", "Mill", "It is the red kite of the owl, I think.")
    prompt = tiny_tokenizer.encode_prompt("Where is the fox?")
    return [prompt + tiny_tokenizer.encode_response(answer) for answer in answers]


@pytest.mark.parametrize("name", ["gpt", *CONFIGURATIONS])
def test_plain_transformers_gives_the_same_scores(
    name: str, tiny_tokenizer: Tokenizer, rows: list[list[int]], tmp_path: Path
) -> None:
    model = reward_model(name, tiny_tokenizer)
    before = score_rows(model, rows, tiny_tokenizer.pad_id)
    mean, std = float(before.mean()), float(before.std(correction=0))
    offset = normalize(model, mean, std)
    assert (offset == 0) == (name == "gpt")
    expected = (before - mean) / std + offset
    save_reward_model(model, tmp_path, tiny_tokenizer)
    again = load_reward_model(tmp_path)
    torch.testing.assert_close(score_rows(again, rows, 1), expected, atol=1e-4, rtol=1e-4)
    theirs, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"]
    batch = transformers.AutoTokenizer.from_pretrained(tmp_path).pad(
        {"input_ids": rows}, return_tensors="pt"
    )
    with torch.no_grad():
        scores = theirs.eval()(**batch).logits.squeeze(-1)
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)


def test_an_architecture_without_such_a_classifier_is_one_line(
    tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config = transformers.CohereConfig(
        vocab_size=tiny_tokenizer.vocab_size, logit_scale=1.0, **SIZES
    )
    model = RewardModel(HuggingFaceLM(transformers.AutoModelForCausalLM.from_config(config)))
    with pytest.raises(UserError, match="no classifier of 'cohere'"):
        save_reward_model(model, tmp_path, tiny_tokenizer)


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_questions_are_saved_and_normalization_does_not_touch_their_answers(
    name: str, tiny_tokenizer: Tokenizer, rows: list[list[int]], tmp_path: Path
) -> None:
    model = reward_model(name, tiny_tokenizer, "rude", "unfinished")
    scores, logits = score_and_ask(model, rows, tiny_tokenizer.pad_id)
    assert logits.shape == (3, 2)
    normalize(model, float(scores.mean()) + 3.0, 0.5)
    save_reward_model(model, tmp_path, tiny_tokenizer)
    again = load_reward_model(tmp_path)
    assert again.question_names == ("rude", "unfinished")
    _, reloaded = score_and_ask(again, rows, tiny_tokenizer.pad_id, batch_rows=1)
    torch.testing.assert_close(reloaded, logits, atol=1e-4, rtol=1e-4)

    (tmp_path / "questions.safetensors").write_bytes(b"not tensors")
    with pytest.raises(UserError, match=r"questions\.safetensors: cannot be read"):
        load_reward_model(tmp_path)


@pytest.mark.parametrize("name", ["gpt", "llama", "gpt2 with relu"])
def test_adapters_alone_are_trained_and_merged(
    name: str, tiny_tokenizer: Tokenizer, rows: list[list[int]]
) -> None:
    model = reward_model(name, tiny_tokenizer, "rude")
    names = set(model.state_dict())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first = score_rows(model, rows, tiny_tokenizer.pad_id)
    add_reward_adapters(model, LoraSection(rank=4), seed=0)
    torch.testing.assert_close(score_rows(model, rows, 1), first)  # they start as nothing
    trained = [key for key, value in model.named_parameters() if value.requires_grad]
    heads = {"score.weight", "questions.weight", "questions.bias"}
    assert {key for key in trained if "lora" not in key} == heads
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        scores, logits = model.scores_and_answers(
            torch.tensor([rows[0][:8], rows[1][:8]]), torch.tensor([8, 8])
        )
        (scores.square().sum() + logits.sum()).backward()
        optimizer.step()
    adapted = score_rows(model, rows, tiny_tokenizer.pad_id)
    assert not torch.allclose(adapted, first, atol=1e-3)
    merge_reward_adapters(model, LoraSection(), None)
    assert set(model.state_dict()) == names
    torch.testing.assert_close(score_rows(model, rows, 1), adapted, atol=1e-4, rtol=1e-4)
    moved = {
        key for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    }
    assert not any("norm" in key or "ln_" in key or "wte" in key for key in moved)
    assert any("attn" in key for key in moved)


def test_a_language_model_is_no_reward_model(
    tiny_model_folder: Path, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    assert load_language_model(tiny_model_folder)
    with pytest.raises(UserError, match="no scalar head"):
        load_reward_model(tiny_model_folder)
