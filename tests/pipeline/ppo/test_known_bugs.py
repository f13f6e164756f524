"""Bugs that other PPO trainers had, as what must hold in ours.

The docstrings say what the wrong code did; comments name the public project and its report. What
the self-check refuses is in ``test_check.py``, single functions are in ``test_losses.py``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from pipeline.errors import UserError
from pipeline.hugging_face import HuggingFaceLM, load_language_model, save_language_model
from pipeline.language_model import LanguageModel
from pipeline.model import GPT
from pipeline.ppo import PPOConfig, PPOTrainer
from pipeline.ppo.experience import Experience
from pipeline.ppo.rollout import InProcessEngine
from pipeline.reward import RewardModel, normalize
from pipeline.reward_files import load_reward_model, save_reward_model
from pipeline.sampling import Generation, SamplingSettings, generate
from pipeline.tokenizer import Tokenizer

MakeTrainer = Callable[..., PPOTrainer]
STILL: dict[str, Any] = {"learning_rate": 0.0, "critic_learning_rate": 0.0}
ONE_STEP: dict[str, Any] = {"num_ppo_epochs": 1, "num_mini_batches": 1}


def train(
    trainer: PPOTrainer, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[tuple[int, Experience]], list[dict[str, Tensor]]]:
    """Each optimizer step's update with its minibatch, and each step's metrics."""
    minibatches: list[tuple[int, Experience]] = []
    metrics: list[dict[str, Tensor]] = []
    step = trainer.step

    def recording(minibatch: Experience, update: int) -> dict[str, Tensor]:
        minibatches.append((update, minibatch))
        metrics.append(step(minibatch, update))
        return metrics[-1]

    monkeypatch.setattr(trainer, "step", recording)
    trainer.train()
    return minibatches, metrics


@torch.no_grad()
def row_logprobs(
    policy: LanguageModel, batch: Experience, row: int, never: Sequence[int]
) -> list[float]:
    """Log-probabilities of one row's response, run alone, from all of its logits."""
    Q, end = int(batch.prompt_lengths[row]), int(batch.lengths[row])
    ids = batch.input_ids[row, :end]
    logits = policy(ids[None])[0].double()
    logits[:, list(never)] = -torch.inf
    everything = logits.log_softmax(-1)
    return [float(everything[index - 1, ids[index]]) for index in range(Q, end)]


# --- the policy that acts is the policy that is trained -------------------------------------------


def test_the_policy_explores(make_trainer: MakeTrainer, config: PPOConfig) -> None:
    """Responses were the likeliest ones, so that nothing was ever tried."""  # DeepSpeed-Chat
    responses: list[list[list[int]]] = []
    for seed in (1, 2):
        trainer = make_trainer(config, seed=seed, train_dataset=["fox"])
        ids = [trainer.prompt_ids[i] for i in trainer.sample_prompts(0)]
        responses.append(trainer.respond(ids, trainer.episode_seeds(0)).response_ids())
    assert responses[0] != responses[1]
    for batch in responses:
        assert len({tuple(row) for row in batch}) >= 6  # of eight


def folder_of(kind: str, folder: Path, gpt_folder: Path, tokenizer: Tokenizer) -> Path:
    """A model folder of GPT-2's shape, or of one that transformers' own code runs."""
    if kind == "gpt2":
        shutil.copytree(gpt_folder, folder)
        return folder
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "vocab_size": tokenizer.vocab_size}
    torch.manual_seed(0)
    inner: Any = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**sizes, max_position_embeddings=64)
    )
    for parameter in inner.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    save_language_model(HuggingFaceLM(inner), folder, tokenizer)
    return folder


def plant(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_sampling_settings_in_the_model_folder_change_nothing(
    kind: str, tmp_path: Path, tiny_model_folder: Path, tokenizer: Tokenizer
) -> None:
    """The folder's top_k was merged into the sampler's settings; divergences became negative."""
    # trl #235, #351, #1005
    folder = folder_of(kind, tmp_path / "model", tiny_model_folder, tokenizer)
    prompts = [tokenizer.encode_prompt("the fox")] * 20
    drawn: list[Generation] = []
    for planted in ({}, {"top_k": 5, "temperature": 0.1, "repetition_penalty": 3.0}):
        plant(folder / "generation_config.json", planted)
        model = load_language_model(folder)
        drawn.append(generate(model, prompts, range(20), SamplingSettings(8), tokenizer))
    assert torch.equal(drawn[0].ids, drawn[1].ids)
    assert torch.equal(drawn[0].logprobs, drawn[1].logprobs)
    assert len(set(drawn[1].ids[:, 0].tolist())) > 5


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_dropout_in_the_models_configuration_changes_nothing(
    kind: str,
    tmp_path: Path,
    tiny_model_folder: Path,
    tokenizer: Tokenizer,
    make_trainer: MakeTrainer,
    config: PPOConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Old and new log-probabilities saw other dropout, so that the ratio was not 1."""
    # trl #744, #1540; DeepSpeed-Chat calls train() before its old log-probabilities
    folder = folder_of(kind, tmp_path / "model", tiny_model_folder, tokenizer)
    plain = load_language_model(folder)
    chances = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout", "dropout")
    plant(folder / "config.json", dict.fromkeys(chances, 0.5))
    policy, reference, trunk = (load_language_model(folder).train() for _ in range(3))
    trainer = make_trainer(
        config.model_copy(update=STILL),
        model=policy,
        ref_model=reference,
        reward_model=RewardModel(trunk, torch.Generator().manual_seed(1)),
    )
    minibatches, metrics = train(trainer, monkeypatch)
    for step in metrics:
        assert float(step["val/ratio"]) == pytest.approx(1, abs=1e-5)
        assert float(step["policy/approxkl_avg"]) == pytest.approx(0, abs=1e-9)
    _, batch = minibatches[0]
    for row, length in enumerate(batch.response_lengths.tolist()):
        expected = row_logprobs(plain, batch, row, tokenizer.never_sampled_ids)
        assert batch.logprobs[row, :length].tolist() == pytest.approx(expected, abs=1e-4)
        again = row_logprobs(trainer.policy.train(), batch, row, tokenizer.never_sampled_ids)
        assert again == pytest.approx(expected, abs=1e-5)


def test_every_update_begins_with_a_ratio_of_one_though_the_weights_move(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Responses, or old log-probabilities, came from the weights of an earlier update."""
    # trlx #107, trl #454, NeMo-Aligner #68
    minibatches, metrics = train(make_trainer(), monkeypatch)
    updates = [update for update, _ in minibatches]
    for update in range(3):
        first = metrics[updates.index(update)]
        assert float(first["val/ratio"]) == pytest.approx(1, abs=1e-5)
        assert float(first["policy/approxkl_avg"]) == pytest.approx(0, abs=1e-9)
    assert float(metrics[-1]["policy/approxkl_avg"]) > 1e-6


class WithoutTemperature:
    """Samples at the temperature that it is told, and reports log-probabilities at 1."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def sync_weights(self, policy: LanguageModel) -> None:
        self.policy = policy

    @torch.no_grad()
    def generate(
        self, prompt_ids: Sequence[Sequence[int]], seeds: Sequence[int], settings: SamplingSettings
    ) -> Generation:
        drawn = generate(self.policy, prompt_ids, seeds, settings, self.tokenizer)
        reported = torch.zeros_like(drawn.logprobs)
        for row, prompt in enumerate(prompt_ids):
            response = drawn.ids[row, : int(drawn.lengths[row])]
            logits = self.policy(torch.cat([torch.tensor(prompt), response])[None])[0]
            logits[:, list(self.tokenizer.never_sampled_ids)] = -torch.inf
            everything = logits.log_softmax(-1)[len(prompt) - 1 : -1]
            reported[row, : len(response)] = everything.gather(1, response[:, None])[:, 0]
        return replace(drawn, logprobs=reported)


def test_log_probabilities_that_a_sampler_reports_without_its_temperature_are_not_used(
    make_trainer: MakeTrainer,
    config: PPOConfig,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sampler's were taken for the old ones as they came, and the ratio was 2."""
    # trl #4159 with vLLM
    at = {t: config.model_copy(update=ONE_STEP | {"temperature": t}) for t in (0.97, 0.4)}
    trainer = make_trainer(at[0.97], rollout_engine=WithoutTemperature(tokenizer))
    minibatches, metrics = train(trainer, monkeypatch)
    _, batch = minibatches[0]
    assert float((batch.sampler_logprobs - batch.logprobs).abs().max()) > 1e-3
    for step in metrics:
        assert float(step["val/ratio"]) == pytest.approx(1, abs=1e-5)
    with pytest.raises(UserError, match="sampler and trainer differ"):
        make_trainer(at[0.4], rollout_engine=WithoutTemperature(tokenizer)).train()


class Remembering(InProcessEngine):
    """Remembers the ids that it drew, a batch of responses each time."""

    def generate(
        self, prompt_ids: Sequence[Sequence[int]], seeds: Sequence[int], settings: SamplingSettings
    ) -> Generation:
        drawn = super().generate(prompt_ids, seeds, settings)
        rows = zip(drawn.ids.tolist(), drawn.lengths.tolist(), strict=True)
        self.batches = [*getattr(self, "batches", []), [ids[:length] for ids, length in rows]]
        return drawn


def test_the_loss_sees_the_ids_that_were_sampled_and_not_their_text_encoded_again(
    make_trainer: MakeTrainer,
    make_policy: Callable[..., GPT],
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Responses were decoded and encoded again, so that other ids were trained than had acted."""
    policy = make_policy()  # trlx's make_experience, trl #1702
    engine = Remembering(policy, tokenizer)
    minibatches, _ = train(make_trainer(model=policy, rollout_engine=engine), monkeypatch)
    for update, drawn in enumerate(engine.batches):
        batches = [batch for at, batch in minibatches if at == update]
        seen = [ids for batch in batches for ids in batch.response_ids()]
        assert sorted(seen) == sorted(2 * drawn)  # each response once an epoch
        texts = [tokenizer.decode(ids) for ids in drawn]
        ends = [ids[-1] == tokenizer.eos_id for ids in drawn]
        again = map(tokenizer.encode_response, texts, ends)
        assert sum(a != b for a, b in zip(again, drawn, strict=True)) > 2  # it would be seen


def test_the_reference_is_the_policy_of_the_start(
    make_trainer: MakeTrainer, make_policy: Callable[..., GPT], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was the base without the fine-tuning, or the policy itself, whose divergence is 0."""
    trainer = make_trainer(ref_model=None)  # trl #495, #1340, #3196
    minibatches, _ = train(trainer, monkeypatch)
    update, batch = minibatches[-1]
    assert update == 2
    never = trainer.tokenizer.never_sampled_ids
    for row, length in enumerate(batch.response_lengths.tolist()):
        expected = row_logprobs(make_policy(), batch, row, never)
        assert batch.ref_logprobs[row, :length].tolist() == pytest.approx(expected, abs=1e-4)
    assert float((batch.logprobs - batch.ref_logprobs).abs().max()) > 1e-3


# --- where things stand ---------------------------------------------------------------------------


@torch.no_grad()
def test_the_value_of_a_token_is_that_of_the_state_before_it(
    make_trainer: MakeTrainer,
    make_reward_model: Callable[..., RewardModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Values were read one token late: at the token itself, which the state does not know."""
    critic = make_reward_model()  # trl #44, verl #1758
    with torch.enable_grad():
        minibatches, _ = train(make_trainer(value_model=make_reward_model()), monkeypatch)
    for _, batch in minibatches[:2]:  # of the first epoch: no step is in them
        for row, (Q, L) in enumerate(
            zip(batch.prompt_lengths.tolist(), batch.response_lengths.tolist(), strict=True)
        ):
            for t in range(L):  # what stands after the state is not even there
                state = critic.trunk.hidden_states(batch.input_ids[row : row + 1, : Q + t])[0, -1]
                expected = float(state @ critic.score.weight[0])
                assert float(batch.values[row, t]) == pytest.approx(expected, abs=1e-4)
            assert not batch.values[row, L:].any()


def test_the_last_token_carries_the_score_whether_it_is_an_end_or_not(
    make_trainer: MakeTrainer, config: PPOConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The score stood one slot after the end token where there was room and on the last token where
    there was none; or the last token was left out of the episode."""
    # trl #1893, #3750; DeepSpeed-Chat #672
    minibatches, _ = train(make_trainer(config), monkeypatch)
    ends: set[bool] = set()
    for _, batch in minibatches[-2:]:
        for row, length in enumerate(batch.response_lengths.tolist()):
            ends.add(bool(batch.finished[row]))
            last = length - 1
            price = config.kl_coef * float(
                batch.logprobs[row, last] - batch.ref_logprobs[row, last]
            )
            expected = float(batch.scores[row]) - price
            assert float(batch.rewards[row, last]) == pytest.approx(expected, abs=1e-5)
            assert float(batch.returns[row, last]) == pytest.approx(expected, abs=1e-5)
            assert not batch.rewards[row, length:].any()
            assert not batch.returns[row, length:].any()
    assert ends == {True, False}


def test_only_a_response_without_an_end_pays_for_it(
    make_trainer: MakeTrainer, config: PPOConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An end token in the last slot was taken for none, or the wrong token was looked for."""
    # trl #3750
    args = config.model_copy(update={"response_length": 1, "missing_eos_penalty": 50.0})
    trainer = make_trainer(args)
    minibatches, _ = train(trainer, monkeypatch)
    kinds: set[bool] = set()
    for _, batch in minibatches:
        plain = trainer.reward_model(batch.input_ids, batch.lengths)
        for row, ids in enumerate(batch.response_ids()):
            ended = ids == [trainer.tokenizer.eos_id]
            kinds.add(ended)
            expected = float(plain[row]) - (0 if ended else 50)
            assert float(batch.scores[row]) == pytest.approx(expected, abs=1e-4)
    assert kinds == {True, False}


def test_parts_of_a_minibatch_keep_together_what_belongs_to_a_row(
    make_trainer: MakeTrainer, config: PPOConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows were put into another order for little padding, but not all of their tensors."""
    # verl #1440
    trainer = make_trainer(config.model_copy(update=STILL))
    minibatches, _ = train(trainer, monkeypatch)
    for _, batch in minibatches:
        parts = batch.micro_batches(rows=3, tokens=40)
        assert len(parts) > 1
        for part in parts:
            assert part.response_mask.sum(1).tolist() == part.response_lengths.tolist()
            for row, length in enumerate(part.response_lengths.tolist()):
                expected = row_logprobs(
                    trainer.policy, part, row, trainer.tokenizer.never_sampled_ids
                )
                assert part.logprobs[row, :length].tolist() == pytest.approx(expected, abs=1e-4)


# --- what is written ------------------------------------------------------------------------------


@torch.no_grad()
def test_a_normalized_critic_gives_the_same_values_after_save_and_load(
    make_trainer: MakeTrainer,
    make_reward_model: Callable[..., RewardModel],
    tokenizer: Tokenizer,
    tmp_path: Path,
) -> None:
    """The mean was taken off by a bias of the head, which loading drops without a word."""
    reward_model = make_reward_model()  # trl #1783
    normalize(reward_model, mean=3.0, std=2.0)
    with torch.enable_grad():
        trainer = make_trainer(reward_model=reward_model)
        trainer.train()
    ids = torch.tensor([tokenizer.encode_prompt("the river") + tokenizer.encode_response("a fox")])
    expected = trainer.critic.token_scores(ids)
    save_reward_model(trainer.critic, tmp_path, tokenizer)
    torch.testing.assert_close(load_reward_model(tmp_path).token_scores(ids), expected)
    theirs: Any = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert float(theirs(ids).logits) == pytest.approx(float(expected[0, -1]), abs=1e-4)
