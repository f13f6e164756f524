"""Architectures of transformers behind our protocol, against their own forward and ``generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers

from pipeline.errors import UserError
from pipeline.hugging_face import (
    HuggingFaceLM,
    as_language_model,
    check_language_model,
    context_of,
    context_tokens_of,
    load_language_model,
    remove_dropout,
    save_language_model,
)
from pipeline.model import GPT
from pipeline.sampling import SamplingSettings, generate
from pipeline.tokenizer import train_tokenizer

TOKENIZER = train_tokenizer(["the fox and the owl walk home by the river"] * 3, 280)
NAMES: dict[str, Any] = {
    "vocab_size": TOKENIZER.vocab_size, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1
}  # fmt: skip
SIZES: dict[str, Any] = NAMES | {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64,
}  # fmt: skip
GROUPED: dict[str, Any] = SIZES | {"num_key_value_heads": 2}
BLOOM: dict[str, Any] = NAMES | {"seq_length": 64}
# What differs between them: rotary, learned and no positions, grouped heads, sliding and local
# windows, tied and untied outputs, biases, embeddings narrower than the rest.
CONFIGURATIONS: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**GROUPED),
    "qwen2": lambda: transformers.Qwen2Config(**GROUPED, tie_word_embeddings=True),
    "mistral": lambda: transformers.MistralConfig(**GROUPED, sliding_window=4),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**SIZES, attention_dropout=0.5),
    "phi": lambda: transformers.PhiConfig(**SIZES, resid_pdrop=0.5),
    "opt": lambda: transformers.OPTConfig(
        **NAMES, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, word_embed_proj_dim=16, do_layer_norm_before=False,
    ),
    "bloom": lambda: transformers.BloomConfig(
        **BLOOM, hidden_size=32, n_layer=2, n_head=4, hidden_dropout=0.5, attention_dropout=0.5
    ),
    "gpt2": lambda: transformers.GPT2Config(
        **NAMES, n_embd=32, n_layer=2, n_head=4, n_positions=64
    ),
    "gpt2 with relu": lambda: transformers.GPT2Config(
        **NAMES, n_embd=32, n_layer=2, n_head=4, n_positions=64, activation_function="relu"
    ),
}  # fmt: skip
PROMPTS = [TOKENIZER.encode_prompt(text) for text in ("the fox", "a", "the owl and the river")] * 3


def their_model(name: str) -> Any:
    """A model of random weights that are far from zero."""
    torch.manual_seed(3)
    model: Any = transformers.AutoModelForCausalLM.from_config(CONFIGURATIONS[name]())
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture(params=CONFIGURATIONS)
def theirs(request: pytest.FixtureRequest) -> Any:
    return their_model(request.param)


def test_logits_are_the_models_own_on_either_side_of_padding(theirs: Any) -> None:
    model = HuggingFaceLM(theirs).train()  # whatever its configuration says of dropout
    check_language_model(model, "here")
    ids = torch.randint(4, 260, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(ids[:1, :6]).logits
        right = ids.clone()
        right[0, 6:] = TOKENIZER.pad_id
        torch.testing.assert_close(model(right)[:1, :6], expected, atol=1e-4, rtol=1e-4)
        left = torch.cat([torch.full((2, 3), TOKENIZER.pad_id), ids[:, :6]], dim=1)
        mask = torch.ones_like(left, dtype=torch.bool)
        mask[:, :3] = False
        torch.testing.assert_close(model(left, mask)[:1, 3:], expected, atol=1e-4, rtol=1e-4)


def test_near_temperature_zero_sampling_is_greedy_search(theirs: Any) -> None:
    settings = SamplingSettings(16, temperature=1e-5)
    ours = generate(HuggingFaceLM(theirs), PROMPTS, range(len(PROMPTS)), settings, TOKENIZER)
    for row, prompt in enumerate(PROMPTS):
        expected = theirs.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False, max_new_tokens=16, eos_token_id=TOKENIZER.eos_id,
            pad_token_id=TOKENIZER.pad_id, suppress_tokens=list(TOKENIZER.never_sampled_ids),
        )[0, len(prompt) :]  # fmt: skip
        assert ours.ids[row, : len(expected)].tolist() == expected.tolist()


def test_rows_that_end_leave_the_batch_and_the_rest_goes_on() -> None:
    model = HuggingFaceLM(their_model("llama"))
    with torch.no_grad():  # an end token likely enough that rows end all along the way
        model.inner.get_output_embeddings().weight[TOKENIZER.eos_id] *= 4
    prompts, seeds = PROMPTS * 4, list(range(36))
    together = generate(model, prompts, seeds, SamplingSettings(24), TOKENIZER)
    assert together.finished.float().mean() > 0.5
    assert len(together.lengths.unique()) > 4
    alone = generate(model, prompts, seeds, SamplingSettings(24, batch_rows=1), TOKENIZER)
    assert torch.equal(together.ids, alone.ids)
    torch.testing.assert_close(together.logprobs, alone.logprobs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_a_folder_is_written_and_read_back(tmp_path: Path, name: str) -> None:
    model = HuggingFaceLM(their_model(name))
    save_language_model(model, tmp_path, TOKENIZER)
    assert context_tokens_of(tmp_path) == model.context_tokens == 64
    again = load_language_model(tmp_path)
    assert isinstance(again, HuggingFaceLM)
    ids = torch.tensor([[5, 6, 7, 8]])
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(ids), model(ids))
        torch.testing.assert_close(plain(ids).logits, model(ids), atol=1e-6, rtol=0)
    defaults = plain.generation_config
    assert defaults.eos_token_id == TOKENIZER.eos_id
    assert defaults.suppress_tokens == list(TOKENIZER.never_sampled_ids)


def test_gpt2s_own_shape_becomes_the_gpt() -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        **NAMES, n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0.0
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    model = as_language_model(theirs)
    assert isinstance(model, GPT)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-5, rtol=1e-5)


def test_scaled_logits_are_refused() -> None:
    config = transformers.GraniteConfig(**GROUPED, logits_scaling=8.0)
    model = HuggingFaceLM(transformers.AutoModelForCausalLM.from_config(config))
    with pytest.raises(UserError, match="does more to its logits"):
        check_language_model(model, "here")


def test_a_model_without_positions_of_a_stated_number_is_refused() -> None:
    config = transformers.MambaConfig(**NAMES, hidden_size=32, num_hidden_layers=2)
    with pytest.raises(UserError, match="states no context length"):
        HuggingFaceLM(transformers.AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json: is missing"),
        (lambda folder: (folder / "config.json").write_text("{}"), "not a model configuration"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "unheard"}'),
            "cannot be loaded as a causal language model.*unheard",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(
                (folder / "model.safetensors").read_bytes()[:-100]
            ),
            "cannot be loaded",
        ),
        (
            lambda folder: (folder / "config.json").write_text(
                (folder / "config.json").read_text().replace(
                    '"num_hidden_layers": 2', '"num_hidden_layers": 3'
                )
            ),
            "weights do not fit config.json at model.layers.2",
        ),
    ],
)  # fmt: skip
def test_broken_folders_are_one_line(tmp_path: Path, break_it: Any, message: str) -> None:
    save_language_model(HuggingFaceLM(their_model("llama")), tmp_path, TOKENIZER)
    break_it(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_language_model(tmp_path)
    assert "\n" not in str(caught.value)


# --- what a folder holds --------------------------------------------------------------------------


def save_theirs(folder: Path, name: str, **options: Any) -> Any:
    theirs = their_model(name)
    theirs.save_pretrained(folder, **options)
    return theirs


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_weights_that_no_module_takes_are_refused(tmp_path: Path, name: str) -> None:
    save_theirs(tmp_path, name)
    path = tmp_path / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    inside = next(key for key in weights if "0" in key)
    safetensors.torch.save_file(
        weights | {f"{inside}.lora_A": torch.ones(2)}, path, {"format": "pt"}
    )
    with pytest.raises(UserError, match="lora_A"):
        load_language_model(tmp_path)


def test_an_adapters_folder_and_a_classifiers_are_refused(tmp_path: Path) -> None:
    save_theirs(tmp_path / "a", "llama")
    (tmp_path / "a" / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="holds an adapter"):
        load_language_model(tmp_path / "a")
    config = CONFIGURATIONS["llama"]()
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(
        tmp_path / "b"
    )
    with pytest.raises(UserError, match="LlamaForSequenceClassification, which does not write"):
        load_language_model(tmp_path / "b")


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_pickled_weights_are_not_read(tmp_path: Path, name: str) -> None:
    theirs = save_theirs(tmp_path, name)
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load_language_model(tmp_path)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_weights_in_several_files_are_read(tmp_path: Path, name: str) -> None:
    theirs = save_theirs(tmp_path, name, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        ours = load_language_model(tmp_path)(ids)
        torch.testing.assert_close(ours, theirs(ids).logits, atol=1e-4, rtol=1e-4)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match=r"index|weight_map"):
        load_language_model(tmp_path)


def test_positions_that_change_for_long_texts_end_where_they_do() -> None:
    values = {"max_position_embeddings": 131072}
    assert context_of(values, "here") == 131072
    old = {"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4096}
    assert context_of(values | old, "here") == 4096
    rope = {"rope_type": "longrope", "original_max_position_embeddings": 2048}
    assert context_of(values | {"rope_parameters": rope}, "here") == 2048


@pytest.mark.parametrize("name", ["gpt_neox", "phi", "opt", "bloom"])
def test_dropout_is_removed_wherever_it_stands(name: str) -> None:
    theirs = their_model(name).train()
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])
    remove_dropout(theirs)
    with torch.no_grad():
        first, second = theirs(ids).logits, theirs(ids).logits
        assert torch.equal(first, second)
        torch.testing.assert_close(first, theirs.eval()(ids).logits)
