"""The reward model: one score per response, learned from K-wise rankings.

A prompt with all its responses is one element of a batch and each response is run once, whatever
the number of pairs it stands in: pairs of one prompt are correlated, and shuffled over a data set
they make the model overfit in a single pass (InstructGPT, arXiv:2203.02155, section 3.5).

Shapes: B sequences, T tokens, C width, N responses and P pairs of all prompts in a batch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.gpt2_format import gpt2_config, load_gpt, load_weights, to_gpt2_weights
from pipeline.model import GPT
from pipeline.preferences import Pair, PromptComparisons
from pipeline.tokenizer import Tokenizer

ARCHITECTURE = "GPT2ForSequenceClassification"


class RewardModel(nn.Module):
    """A GPT with a scalar head. The score of a response is read at its last real token.

    The head starts from N(0, 1/(C + 1)), so that scores have a variance near 1 before training
    (Stiennon et al., arXiv:2009.01325, appendix B). It has no bias, which the loss could not see
    and which Hugging Face's class does not load.

    Args:
        trunk: the model to start from; it is trained along and not copied.
        generator: draws the head; torch's global generator by default.
    """

    def __init__(self, trunk: GPT, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.trunk = trunk
        self.score = nn.Linear(trunk.config.width, 1, bias=False)
        std = 1 / math.sqrt(trunk.config.width + 1)
        nn.init.normal_(self.score.weight, std=std, generator=generator)

    def token_scores(self, input_ids: Tensor) -> Tensor:
        """The head at every position: (B, T) for ids (B, T). The critic's values are these."""
        return self._apply_head(self.trunk.hidden_states(input_ids))

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Scores (B,) of right-padded ids (B, T), read at index ``lengths - 1``.

        Lengths (B,) count real tokens, the end token included. They decide where to read, never
        the ids: a response may hold any id, and the end token must be scored.
        """
        hidden = self.trunk.hidden_states(input_ids)
        rows = torch.arange(len(input_ids), device=input_ids.device)
        return self._apply_head(hidden[rows, lengths - 1])

    def _apply_head(self, hidden: Tensor) -> Tensor:
        """(...) for hidden states (..., C), in the head's own precision (fp32) under autocast."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.score(hidden.to(self.score.weight.dtype)).squeeze(-1)


# --- batches --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodedComparisons:
    """One prompt as ids: ``rows`` are prompt + response, ``pairs`` (better, worse) index them."""

    rows: tuple[tuple[int, ...], ...]
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class RewardBatch:
    """Several prompts with all their responses.

    Attributes:
        input_ids: (N, T) int64, right-padded.
        lengths: (N,) real tokens of each row.
        pair_indices: (P, 2) rows of the better and the worse response.
        pair_weights: (P,) one over the number of pairs of the pair's prompt: they sum to
            ``prompt_count``.
        prompt_count: prompts that have at least one pair.
    """

    input_ids: Tensor
    lengths: Tensor
    pair_indices: Tensor
    pair_weights: Tensor
    prompt_count: int

    def to(self, device: torch.device | str) -> RewardBatch:
        """The same batch on another device."""
        return RewardBatch(
            self.input_ids.to(device),
            self.lengths.to(device),
            self.pair_indices.to(device),
            self.pair_weights.to(device),
            self.prompt_count,
        )


def encode_comparisons(
    comparisons: PromptComparisons, tokenizer: Tokenizer, context_tokens: int
) -> EncodedComparisons:
    """A prompt's responses as the ids that PPO will have to score: prompt, response, end token.

    A response that was cut off has no end token here, because it has none there.

    Raises:
        UserError: a prompt and response do not fit into ``context_tokens``.
    """
    prompt_ids = tokenizer.encode_prompt(comparisons.prompt)
    rows: list[tuple[int, ...]] = []
    for response in comparisons.responses:
        ids = (*prompt_ids, *tokenizer.encode_response(response.text, response.finished))
        if len(ids) > context_tokens:
            raise UserError(
                f"rankings: response {response.response_id}",
                f"has {len(ids)} tokens with its prompt, the model reads at most {context_tokens}.",
                "label shorter responses or prompts, or start from a base with a longer context.",
            )
        rows.append(ids)
    return EncodedComparisons(tuple(rows), comparisons.pairs)


def pad_rows(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Right-padded ids (N, T) and lengths (N,), both int64."""
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=pad_id), lengths


def collate(elements: Sequence[EncodedComparisons], pad_id: int) -> RewardBatch:
    """One batch from any number of prompts, each with any number of responses."""
    input_ids, lengths = pad_rows([row for element in elements for row in element.rows], pad_id)
    pairs: list[Pair] = []
    weights: list[float] = []
    first_row = 0
    for element in elements:
        pairs += [(first_row + better, first_row + worse) for better, worse in element.pairs]
        weights += [1 / len(element.pairs) for _ in element.pairs]
        first_row += len(element.rows)
    return RewardBatch(
        input_ids=input_ids,
        lengths=lengths,
        pair_indices=torch.tensor(pairs, dtype=torch.long).view(-1, 2),
        pair_weights=torch.tensor(weights),
        prompt_count=sum(bool(element.pairs) for element in elements),
    )


def batch_schedule(count: int, batch_prompts: int, epochs: int, seed: int) -> list[list[int]]:
    """The prompts (below ``count``) of every batch: each epoch has each of them exactly once.

    The order of an epoch is a function of the seed and its number. An epoch's last batch is
    smaller where ``batch_prompts`` does not divide ``count``.
    """
    orders = [np.random.default_rng([seed, epoch]).permutation(count) for epoch in range(epochs)]
    starts = range(0, count, batch_prompts)
    return [order[start : start + batch_prompts].tolist() for order in orders for start in starts]


# --- loss -----------------------------------------------------------------------------------------


def pair_margins(scores: Tensor, pair_indices: Tensor) -> Tensor:
    """(P,): by how much each better response outscores the worse one."""
    return scores[pair_indices[:, 0]] - scores[pair_indices[:, 1]]


def kwise_loss_sum(scores: Tensor, pair_indices: Tensor, pair_weights: Tensor) -> Tensor:
    """The sum over prompts of the mean over a prompt's pairs of −log σ(better − worse).

    Divided by the number of prompts that have pairs it is InstructGPT's equation 1. It is a sum so
    that the parts of a batch add up to the whole: divide by the count of the whole batch.

    Args:
        scores: (N,) of all responses.
        pair_indices: (P, 2) rows of the better and the worse response, ties left out.
        pair_weights: (P,) one over the number of pairs of the pair's prompt.
    """
    losses = F.softplus(-pair_margins(scores, pair_indices))
    return (losses * pair_weights.to(losses.dtype)).sum()


# --- scoring and normalization --------------------------------------------------------------------


@torch.no_grad()
def score_rows(
    model: RewardModel, rows: Sequence[Sequence[int]], pad_id: int, batch_rows: int = 256
) -> Tensor:
    """Scores (N,) of rows of ids, on the CPU and in the given order.

    Rows are run in order of length, so that a batch holds little padding.
    """
    device = model.score.weight.device
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    scores = torch.empty(len(rows), dtype=model.score.weight.dtype)
    for start in range(0, len(order), batch_rows):
        chosen = order[start : start + batch_rows]
        input_ids, lengths = pad_rows([rows[i] for i in chosen], pad_id)
        scores[chosen] = model(input_ids.to(device), lengths.to(device)).cpu()
    return scores


@torch.no_grad()
def normalize(model: RewardModel, mean: float, std: float) -> None:
    """Changes ``model`` in place so that every score s becomes (s − mean) / std.

    Without a bias in the head, the scale goes into the head's weights w, and the shift into the
    final layer norm's bias along w: w·(h − mean·w/|w|²)/std = (w·h − mean)/std. So the folder still
    loads with plain ``transformers``. The trunk's logits as a language model change with it.

    Raises:
        UserError: the scores do not differ, or are not finite, so that nothing can be scaled.
    """
    if not (math.isfinite(mean) and math.isfinite(std)):
        raise UserError(
            "reward.learning_rate", "made training diverge: scores are not finite.", "lower it."
        )
    weight = model.score.weight[0].double()
    squared_norm = weight.square().sum()
    if std <= 0 or squared_norm <= 0:
        raise UserError(
            "reward",
            "the model gives all responses the same score, so nothing was learned.",
            "look at the labels, or change reward.learning_rate.",
        )
    bias = model.trunk.ln_f.bias
    bias.copy_(bias.double() - mean * weight / squared_norm)
    model.score.weight[0] = weight / std


# --- files ----------------------------------------------------------------------------------------


def save_reward_model(model: RewardModel, folder: str | Path, tokenizer: Tokenizer) -> None:
    """Writes a folder that ``AutoModelForSequenceClassification`` loads, with the same scores.

    Hugging Face's class reads the rightmost token that is not the pad. That is the last real token
    because the pad is a token of its own, which no response contains.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    head = {"score.weight": model.score.weight.detach().cpu().contiguous()}
    weights = to_gpt2_weights(model.trunk) | head
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = gpt2_config(model.trunk.config, tokenizer) | {
        "architectures": [ARCHITECTURE],
        "num_labels": 1,
        "id2label": {"0": "score"},
        "label2id": {"score": 0},
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    tokenizer.save(folder, model.trunk.config.context_tokens)


def load_reward_model(folder: str | Path) -> RewardModel:
    """The reward model of a folder, in fp32 on the CPU.

    Raises:
        UserError: the folder is broken, or holds a model without a scalar head.
    """
    folder = Path(folder)
    trunk = load_gpt(folder)
    weight = load_weights(folder).get("score.weight")
    if weight is None or weight.shape != (1, trunk.config.width):
        raise UserError(
            folder,
            "holds no scalar head (score.weight).",
            "name a folder that the stage reward wrote.",
        )
    model = RewardModel(trunk)
    with torch.no_grad():
        model.score.weight.copy_(weight)
    return model
