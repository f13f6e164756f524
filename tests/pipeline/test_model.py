"""The from-scratch GPT against Hugging Face's GPT-2, both ways."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from pipeline.errors import UserError
from pipeline.gpt2_format import from_gpt2_weights, load_gpt, save_gpt
from pipeline.model import GPT, GPTConfig, GPTDecoder, causal_attention
from pipeline.tokenizer import train_tokenizer

CONFIG = GPTConfig(vocab_size=300, context_tokens=24, layers=3, heads=4, width=32)


def spread_out(model: torch.nn.Module) -> None:
    """Weights far from their initialization, biases and norms included: all of them count."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)


@pytest.fixture
def tokenizer():
    return train_tokenizer(["the fox and the owl walk home by the river at night"] * 3, 300)


@pytest.fixture
def ids():
    return torch.randint(0, 260, (3, 24), generator=torch.Generator().manual_seed(2))


def test_saved_folder_gives_the_same_logits_in_transformers(tmp_path, tokenizer, ids):
    gpt = GPT(GPTConfig(tokenizer.vocab_size, 24, 3, 4, 32))
    spread_out(gpt)
    save_gpt(gpt, tmp_path, tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, gpt(ids), atol=1e-5, rtol=0)
    assert AutoTokenizer.from_pretrained(tmp_path)("the fox").input_ids == tokenizer.encode(
        "the fox"
    )


def test_transformers_model_gives_the_same_logits_and_gradients_here(ids):
    theirs = GPT2LMHeadModel(
        GPT2Config(vocab_size=300, n_positions=24, n_layer=3, n_head=4, n_embd=32, resid_pdrop=0)
    ).eval()
    spread_out(theirs)
    gpt = GPT(CONFIG)
    gpt.load_state_dict(from_gpt2_weights(theirs.state_dict()))
    logits = gpt(ids)
    expected = theirs(ids).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    weighting = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3))
    (logits * weighting).sum().backward()
    (expected * weighting).sum().backward()
    ours = {name: weight.grad for name, weight in gpt.named_parameters()}
    theirs_grads = {name: w.grad for name, w in theirs.named_parameters() if w.grad is not None}
    for name, expected_grad in from_gpt2_weights(theirs_grads).items():
        torch.testing.assert_close(ours[name], expected_grad, atol=1e-3, rtol=1e-4)


def test_left_padding_gives_the_logits_and_gradients_of_transformers(ids):
    theirs = GPT2LMHeadModel(
        GPT2Config(vocab_size=300, n_positions=24, n_layer=3, n_head=4, n_embd=32, resid_pdrop=0)
    ).eval()
    spread_out(theirs)
    gpt = GPT(CONFIG)
    gpt.load_state_dict(from_gpt2_weights(theirs.state_dict()))
    mask = torch.ones_like(ids)
    for row, padding in enumerate((0, 5, 23)):
        mask[row, :padding] = 0
    position_ids = (mask.cumsum(1) - 1).clamp(min=0)
    expected = theirs(ids, attention_mask=mask, position_ids=position_ids).logits[mask.bool()]
    logits = gpt(ids, attention_mask=mask.bool())[mask.bool()]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    logits.logsumexp(-1).sum().backward()
    expected.logsumexp(-1).sum().backward()
    ours = {name: weight.grad for name, weight in gpt.named_parameters()}
    theirs_grads = {name: w.grad for name, w in theirs.named_parameters() if w.grad is not None}
    for name, expected_grad in from_gpt2_weights(theirs_grads).items():
        torch.testing.assert_close(ours[name], expected_grad, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_row_padded_on_the_left_is_the_row_alone(ids, precision):
    gpt = GPT(CONFIG)
    spread_out(gpt)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, :9] = False
    tolerance = 1e-5 if precision == torch.float32 else 0.5
    with torch.no_grad(), torch.autocast("cpu", precision, enabled=precision != torch.float32):
        padded = gpt(ids, attention_mask=mask)[1, 9:].float()
        alone = gpt(ids[1:2, 9:])[0].float()
    assert padded.isfinite().all()
    torch.testing.assert_close(padded, alone, atol=tolerance, rtol=0)


def test_save_and_load_are_exact(tmp_path, tokenizer, ids):
    gpt = GPT(GPTConfig(tokenizer.vocab_size, 24, 3, 4, 32))
    save_gpt(gpt, tmp_path, tokenizer)
    again = load_gpt(tmp_path)
    assert again.config == gpt.config
    for name, weight in gpt.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


@pytest.mark.parametrize("at_a_time", [1, 2, 16])
def test_decoder_gives_the_logits_of_the_whole_sequence_on_ragged_rows(monkeypatch, at_a_time):
    monkeypatch.setattr(GPTDecoder, "PROMPTS_AT_A_TIME", at_a_time)
    gpt = GPT(CONFIG)
    spread_out(gpt)
    generator = torch.Generator().manual_seed(4)
    lengths = [3, 7, 5]
    rows = [torch.randint(0, 300, (length + 6,), generator=generator) for length in lengths]
    with torch.no_grad():
        prompts = [ids[:length].tolist() for ids, length in zip(rows, lengths, strict=True)]
        decoder = gpt.decoder(prompts, 6)
        for step in range(7):
            for row, (ids, length) in enumerate(zip(rows, lengths, strict=True)):
                whole = gpt(ids[None, : length + step])[0, -1]
                torch.testing.assert_close(decoder.logits[row], whole, atol=1e-5, rtol=1e-5)
            if step == 6:
                break
            if step == 3:  # a row leaves the batch in between
                decoder.keep(torch.tensor([0, 2]))
                rows, lengths = [rows[0], rows[2]], [3, 5]
            decoder.append(
                torch.stack([ids[length + step] for ids, length in zip(rows, lengths, strict=True)])
            )


def test_what_memory_held_in_masked_slots_changes_nothing():
    gpt = GPT(CONFIG)
    prompts = [[1, 2], [3, 4, 5, 6, 7]]
    with torch.no_grad():
        expected = gpt(torch.tensor([[1, 2, 9]]))[0, -1]
        decoder = gpt.decoder(prompts, 2)
        for keys, values in zip(decoder.cache.keys, decoder.cache.values, strict=True):
            keys[..., 5:], values[:, :, 5:] = float("nan"), float("nan")
        decoder.append(torch.tensor([9, 9]))
    torch.testing.assert_close(decoder.logits[0], expected, atol=1e-5, rtol=1e-5)


def test_later_tokens_do_not_reach_earlier_ones(ids):
    gpt = GPT(CONFIG)
    changed = ids.clone()
    changed[:, 12:] = 7
    with torch.no_grad():
        torch.testing.assert_close(gpt(ids)[:, :12], gpt(changed)[:, :12], atol=1e-6, rtol=0)


def test_bf16_attention_on_the_cpu_is_the_fused_kernels_function():
    q, k, v = torch.randn(3, 2, 4, 9, 8, generator=torch.Generator().manual_seed(5)).bfloat16()
    fused = torch.nn.functional.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), is_causal=True
    )
    torch.testing.assert_close(causal_attention(q, k, v).double(), fused, atol=0.03, rtol=0.03)


def test_parameter_count_is_gpt2s():
    # 124,439,808 is the published size of GPT-2 small with its tied embedding counted once.
    with torch.device("meta"):
        gpt = GPT(GPTConfig(vocab_size=50257, context_tokens=1024, layers=12, heads=12, width=768))
    assert gpt.parameter_count() == 124_439_808


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "not of GPT-2's shape"),
        ({"n_embd": 16}, "does not fit config.json"),
        ({"n_head": 5}, "not divisible"),
    ],
)
def test_wrong_configuration_is_one_line(tmp_path, tokenizer, change, message):
    save_gpt(GPT(GPTConfig(tokenizer.vocab_size, 24, 2, 4, 32)), tmp_path, tokenizer)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=message):
        load_gpt(tmp_path)


def test_truncated_and_missing_weights_are_one_line(tmp_path, tokenizer):
    save_gpt(GPT(GPTConfig(tokenizer.vocab_size, 24, 2, 4, 32)), tmp_path, tokenizer)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be read"):
        load_gpt(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match="is missing"):
        load_gpt(tmp_path)
