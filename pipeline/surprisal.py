"""How unlikely each token of a response is, learned by the trunk that will read it for a reward.

A language model knows how unlikely a token was before it came, and has no use for that afterwards:
a reward model that starts from it cannot see that the wrong name was said, or that a fact is odd.
So the trunk first learns to predict, at each token, −log p of that very token under the policy that
wrote it. Its own samples teach it, without a label, and the log-probabilities come with them.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.language_model import LanguageModel
from pipeline.reward import apply_head
from pipeline.reward_batches import pad_rows
from pipeline.sampling import SamplingSettings, generate
from pipeline.tokenizer import Tokenizer

MOST_NATS = 8.0  # what is unlikelier is as surprising as that


@dataclass(frozen=True)
class SurprisalRow:
    """A prompt with a response, and −log p in nats of each of the response's tokens."""

    ids: tuple[int, ...]
    surprisals: tuple[float, ...]


class SurprisalModel(nn.Module):
    """A trunk with a linear head at every position; the head is thrown away afterwards."""

    def __init__(self, trunk: LanguageModel, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(trunk.width, 1)
        nn.init.normal_(self.head.weight, std=trunk.width**-0.5, generator=generator)
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Predicted surprisals (B, T) of the tokens at these positions."""
        return apply_head(self.head, self.trunk.hidden_states(input_ids)).squeeze(-1)


def sample_surprisals(
    policy: LanguageModel,
    prompts: Sequence[str],
    responses_per_prompt: int,
    max_response_tokens: int,
    tokenizer: Tokenizer,
    seed: int,
) -> list[SurprisalRow]:
    """The policy's responses with what their tokens surprised it by, prompt after prompt.

    Raises:
        UserError: a prompt does not fit into the context.
    """
    ids = [tokenizer.encode_prompt(one) for one in prompts for _ in range(responses_per_prompt)]
    seeds = torch.randint(2**62, (len(ids),), generator=torch.Generator().manual_seed(seed))
    settings = SamplingSettings(max_response_tokens)
    drawn = generate(policy, ids, seeds.tolist(), settings, tokenizer)
    return [
        SurprisalRow(
            (*prompt, *tokens[:length]), tuple(-value for value in logprobs[:length])
        )
        for prompt, tokens, logprobs, length in zip(
            ids, drawn.ids.tolist(), drawn.logprobs.tolist(), drawn.lengths.tolist(), strict=True
        )
    ]  # fmt: skip


def surprisal_targets(rows: Sequence[SurprisalRow], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids (B, T), targets (B, T) in nats, and a mask (B, T) that is True at response tokens."""
    input_ids, lengths = pad_rows([row.ids for row in rows], pad_id)
    targets = torch.zeros(input_ids.shape)
    mask = torch.zeros(input_ids.shape, dtype=torch.bool)
    for index, (row, length) in enumerate(zip(rows, lengths.tolist(), strict=True)):
        first = length - len(row.surprisals)
        targets[index, first:length] = torch.tensor(row.surprisals).clamp(max=MOST_NATS)
        mask[index, first:length] = True
    return input_ids, targets, mask


def squared_error_sum(predicted: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """The sum over response tokens of the squared error, in nats²."""
    return (predicted - targets)[mask].square().sum()


@torch.no_grad()
def explained_variance(
    model: SurprisalModel, rows: Sequence[SurprisalRow], pad_id: int, batch_rows: int = 256
) -> float:
    """1 − squared error / variance over all response tokens: 1 is perfect, 0 the mean's guess."""
    device = model.head.weight.device
    error, known = 0.0, []
    for start in range(0, len(rows), batch_rows):
        input_ids, targets, mask = surprisal_targets(rows[start : start + batch_rows], pad_id)
        predicted = model(input_ids.to(device)).cpu()
        error += float(squared_error_sum(predicted, targets, mask).double())
        known.append(targets[mask].double())
    values = torch.cat(known)
    total = float((values - values.mean()).square().sum())
    return 1 - error / total if total > 0 else 0.0
