"""Importing a base: the tokens that were there keep their logits, in any architecture."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    LlamaConfig,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.gpt2_format import load_gpt
from pipeline.hugging_face import load_language_model
from pipeline.tokenizer import Tokenizer
from stages import import_base

TEXTS = ["the owl and the fox met at the mill", "a kite, a red kite!"] * 10
END = "<|endoftext|>"
MARKS = ["<|pad|>", "<|prompt|>", "<|response|>"]


def plain_tokenizer() -> tokenizers.Tokenizer:
    """As GPT-2's: byte-level BPE whose only special token, the last id, is the end."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    backend.decoder = decoders.ByteLevel()  # pyright: ignore
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=279, initial_alphabet=alphabet, show_progress=False)
    )
    backend.add_special_tokens([END])
    return backend


def write_gpt2(folder: Path, rows: int | None = None, **settings: Any) -> GPT2LMHeadModel:
    """A GPT-2 of random weights as transformers writes it, with dropout as the real one has."""
    backend = plain_tokenizer()
    torch.manual_seed(5)
    config = GPT2Config(
        vocab_size=rows or backend.get_vocab_size(),
        n_positions=48,
        n_layer=2,
        n_head=2,
        n_embd=16,
        initializer_range=0.3,
        **settings,
    )
    model = GPT2LMHeadModel(config).eval()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=END, eos_token=END, unk_token=END
    ).save_pretrained(folder)
    return model


@pytest.fixture
def run_stage(tmp_path: Path) -> Callable[[str], Path]:
    def run(path: str) -> Path:
        config = {
            "data": {"tinyworld": {}},
            "import_base": {"path": path},
            "data_root": str(tmp_path),
        }
        import_base.run(RunConfig.model_validate(config), tmp_path / "run")
        return tmp_path / "run" / "base"

    return run


RunStage = Callable[[str], Path]


def test_old_tokens_keep_their_logits_and_new_ones_start_at_the_mean(
    tmp_path: Path, run_stage: RunStage
) -> None:
    theirs = write_gpt2(tmp_path / "gpt2")
    folder = run_stage("gpt2")
    old = theirs.config.vocab_size
    ids = torch.tensor([[5, 200, old - 1, 7]])
    with torch.no_grad():
        before = theirs(ids).logits
        after = load_gpt(folder)(ids)
        reloaded = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    assert after.shape == (1, 4, old + 3)
    torch.testing.assert_close(after[..., :old], before, atol=1e-4, rtol=1e-4)
    # Logits are linear in the embedding: the mean embedding has the mean logit.
    mean = before.mean(-1, keepdim=True).expand(-1, -1, 3)
    torch.testing.assert_close(after[..., old:], mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after, reloaded, atol=1e-4, rtol=1e-4)

    record = json.loads((folder / "imported.json").read_text())
    assert record["added_tokens"] == MARKS
    assert record["path"] == "gpt2"


def test_the_tokenizer_reads_old_text_as_before(tmp_path: Path, run_stage: RunStage) -> None:
    write_gpt2(tmp_path / "gpt2")
    text = "the owl flew a kite, über\n\n  alles"
    folder = run_stage("gpt2")
    ours, before = Tokenizer.load(folder), plain_tokenizer()
    assert ours.encode(text) == before.encode(text).ids
    assert AutoTokenizer.from_pretrained(folder)(text).input_ids == before.encode(text).ids
    assert ours.eos_id == before.token_to_id(END)
    assert ours.decode(ours.encode_prompt(text)) == text
    assert len({ours.eos_id, ours.pad_id, ours.prompt_mark_id, ours.response_mark_id}) == 4


def test_padding_rows_of_the_embedding_are_dropped(tmp_path: Path, run_stage: RunStage) -> None:
    theirs = write_gpt2(tmp_path / "gpt2", rows=320)
    folder = run_stage("gpt2")
    gpt, known = load_gpt(folder), plain_tokenizer().get_vocab_size()
    assert gpt.config.vocab_size == Tokenizer.load(folder).vocab_size == known + 3
    torch.testing.assert_close(gpt.wte.weight[:known], theirs.transformer.wte.weight[:known])


def test_our_own_base_comes_back_unchanged(
    tmp_path: Path, tiny_model_folder: Path, run_stage: RunStage
) -> None:
    shutil.copytree(tiny_model_folder, tmp_path / "ours")
    folder = run_stage("ours")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (folder / name).read_bytes() == (tiny_model_folder / name).read_bytes(), name
    assert json.loads((folder / "imported.json").read_text())["added_tokens"] == []


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
def test_vocabulary_and_merges_stand_in_for_tokenizer_json(
    tmp_path: Path, run_stage: RunStage, names: tuple[str, str]
) -> None:
    write_gpt2(tmp_path / "gpt2")
    backend = plain_tokenizer()
    values = json.loads(backend.to_str())["model"]
    vocabulary = values["vocab"] | {END: len(values["vocab"])}  # as OpenAI's file has it
    (tmp_path / "gpt2" / "tokenizer.json").unlink()
    (tmp_path / "gpt2" / names[0]).write_text(json.dumps(vocabulary))
    merges = "\n".join(" ".join(pair) for pair in values["merges"])
    (tmp_path / "gpt2" / names[1]).write_text(f"#version: 0.2\n{merges}\n")

    ours = Tokenizer.load(run_stage("gpt2"))
    assert ours.encode(TEXTS[0]) == backend.encode(TEXTS[0]).ids
    assert ours.eos_id == backend.token_to_id(END)
    assert ours.decode([*ours.encode(TEXTS[1]), ours.eos_id]) == TEXTS[1]


def test_a_stored_truncation_does_not_cut_prompts(tmp_path: Path, run_stage: RunStage) -> None:
    write_gpt2(tmp_path / "gpt2")
    backend = plain_tokenizer()
    backend.enable_truncation(4)
    backend.save(str(tmp_path / "gpt2" / "tokenizer.json"))
    ours = Tokenizer.load(run_stage("gpt2"))
    assert ours.decode(ours.encode(TEXTS[0])) == TEXTS[0]


GPT2_SIZES: dict[str, Any] = {"n_positions": 48, "n_layer": 2, "n_head": 2, "n_embd": 16}
LLAMA_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 48,
}
OTHERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "another activation": (GPT2Config, GPT2_SIZES | {"activation_function": "relu"}),
    "another norm": (GPT2Config, GPT2_SIZES | {"layer_norm_epsilon": 1e-6}),
    "an untied head": (GPT2Config, GPT2_SIZES | {"tie_word_embeddings": False}),
    "llama": (LlamaConfig, LLAMA_SIZES),
    "qwen, rows to spare": (
        Qwen2Config,
        LLAMA_SIZES | {"tie_word_embeddings": True, "vocab_size": 333},
    ),
    "phi, whose head has biases": (PhiConfig, LLAMA_SIZES | {"num_key_value_heads": 4}),
}


def write_other(folder: Path, name: str) -> Any:
    """A causal model of random weights in a folder, with the byte-level tokenizer."""
    backend = plain_tokenizer()
    kind, settings = OTHERS[name]
    config = kind(**({"vocab_size": backend.get_vocab_size()} | settings))
    config.bos_token_id = config.eos_token_id = backend.token_to_id(END)
    config.pad_token_id = None
    torch.manual_seed(5)
    model: Any = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.eval().save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END).save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", OTHERS)
def test_any_causal_model_keeps_its_logits(tmp_path: Path, run_stage: RunStage, name: str) -> None:
    theirs = write_other(tmp_path / "other", name)
    folder = run_stage("other")
    old = plain_tokenizer().get_vocab_size()
    ids = torch.tensor([[5, 200, old - 1, 7]])
    ours = load_language_model(folder)
    with torch.no_grad():
        before = theirs(ids).logits[..., :old]
        after = ours(ids)
        reloaded = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    assert ours.vocab_size == Tokenizer.load(folder).vocab_size == old + 3
    torch.testing.assert_close(after[..., :old], before, atol=1e-4, rtol=1e-4)
    mean = before.mean(-1, keepdim=True).expand(-1, -1, 3)
    torch.testing.assert_close(after[..., old:], mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after, reloaded, atol=1e-4, rtol=1e-4)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, run_stage: RunStage) -> None:
    write_gpt2(tmp_path / "gpt2", rows=100)
    with pytest.raises(UserError, match=r"280 tokens.*100 embeddings"):
        run_stage("gpt2")
    assert not (tmp_path / "run" / "base").exists()


def test_scaled_logits_are_refused(tmp_path: Path, run_stage: RunStage) -> None:
    backend = plain_tokenizer()
    sizes: dict[str, Any] = LLAMA_SIZES | {"vocab_size": backend.get_vocab_size()}
    config = GraniteConfig(**sizes, logits_scaling=8.0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "granite")
    with pytest.raises(UserError, match="does more to its logits"):
        run_stage("granite")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_and_broken_files_are_named(tmp_path: Path, run_stage: RunStage, name: str) -> None:
    write_gpt2(tmp_path / "gpt2")
    (tmp_path / "gpt2" / name).write_bytes(b"{\x00")
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        run_stage("gpt2")
    (tmp_path / "gpt2" / name).unlink()
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        run_stage("gpt2")


def test_a_hub_id_without_a_network_is_one_line(tmp_path: Path) -> None:
    config = {"data": {"tinyworld": {}}, "import_base": {"hub_id": "nobody/no-such-model"}}
    with pytest.raises(UserError, match=r"import_base\.hub_id: 'nobody/no-such-model'") as error:
        import_base.run(RunConfig.model_validate(config), tmp_path / "run")
    assert "\n" not in str(error.value)
