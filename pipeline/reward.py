"""The reward model: one score per response, learned from K-wise rankings.

A prompt with all its responses is one element of a batch and each response is run once, whatever
the number of pairs it stands in: pairs of one prompt are correlated, and shuffled over a data set
they make the model overfit in a single pass (InstructGPT, arXiv:2203.02155, section 3.5).

Shapes: B sequences, T tokens, C width, Q questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.hugging_face import trunk_of
from pipeline.language_model import LanguageModel
from pipeline.reward_batches import pad_rows


class RewardModel(nn.Module):
    """A language model's trunk with a scalar head, read at a response's last real token.

    The head starts from N(0, 1/(C + 1)), so that scores have a variance near 1 before training
    (Stiennon et al., arXiv:2009.01325, appendix B). It has no bias, which the loss could not see
    and which Hugging Face's classes do not load. Yes/no questions have a head each, with a bias.

    With several ``members`` the heads learn, and the scalar head is their mean: ``fold`` makes it
    so, and a mean of linear heads is a linear head, so what is published needs none of them.

    Args:
        model: what to start from; it is trained along and not copied.
        generator: draws the heads; torch's global generator by default.
        questions: names of the yes/no questions.
        members: how many heads learn; 1: the scalar head itself.
    """

    def __init__(
        self,
        model: LanguageModel,
        generator: torch.Generator | None = None,
        questions: Sequence[str] = (),
        members: int = 1,
    ) -> None:
        super().__init__()
        self.trunk = trunk_of(model)
        self.question_names = tuple(questions)
        self.score = nn.Linear(self.trunk.width, 1, bias=False)
        self.questions = nn.Linear(self.trunk.width, len(questions)) if questions else None
        std = 1 / math.sqrt(self.trunk.width + 1)
        nn.init.normal_(self.score.weight, std=std, generator=generator)
        if self.questions is not None:
            nn.init.normal_(self.questions.weight, std=std, generator=generator)
            nn.init.zeros_(self.questions.bias)
        self.members = nn.Linear(self.trunk.width, members, bias=False) if members > 1 else None
        self.member_means = torch.zeros(members)  # beyond the score, of the ranked responses
        if self.members is not None:
            nn.init.normal_(self.members.weight, std=std, generator=generator)
            self.score.requires_grad_(False)
            self.fold()

    @torch.no_grad()
    def fold(self) -> None:
        """Sets the scalar head to the mean of the members, if there are any."""
        if self.members is not None:
            self.score.weight.copy_(self.members.weight.mean(0, keepdim=True))

    def member_scores(self, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, M) of the heads that learn, and the logits (B, Q) of yes to each question."""
        last = self._last(input_ids, lengths)
        scores = apply_head(self.members or self.score, last)
        if self.questions is None:
            return scores, scores.new_empty(len(scores), 0)
        return scores, apply_head(self.questions, last)

    def token_scores(self, input_ids: Tensor) -> Tensor:
        """The head at every position: (B, T) for ids (B, T). The critic's values are these."""
        return apply_head(self.score, self.trunk.hidden_states(input_ids)).squeeze(-1)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Scores (B,) of right-padded ids (B, T), read at index ``lengths - 1``.

        Lengths (B,) count real tokens, the end token included. They decide where to read, never
        the ids: a response may hold any id, and the end token must be scored.
        """
        return apply_head(self.score, self._last(input_ids, lengths)).squeeze(-1)

    def scores_and_answers(self, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B,), and the logits (B, Q) of yes to each question."""
        last = self._last(input_ids, lengths)
        scores = apply_head(self.score, last).squeeze(-1)
        if self.questions is None:
            return scores, scores.new_empty(len(scores), 0)
        return scores, apply_head(self.questions, last)

    def _last(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """(B, C) hidden states of the rows' last real tokens."""
        rows = torch.arange(len(input_ids), device=input_ids.device)
        return self.trunk.hidden_states(input_ids)[rows, lengths - 1]


def apply_head(head: nn.Linear, hidden: Tensor) -> Tensor:
    """(..., outputs) for hidden states (..., C), in the head's own precision under autocast."""
    with torch.autocast(hidden.device.type, enabled=False):
        return head(hidden.to(head.weight.dtype))


class ForTraining(nn.Module):
    """A reward model whose call gives what its heads learn from: what several processes wrap."""

    def __init__(self, model: RewardModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As ``RewardModel.member_scores``."""
        return self.model.member_scores(input_ids, lengths)


# --- scoring and normalization --------------------------------------------------------------------


def score_rows(
    model: RewardModel, rows: Sequence[Sequence[int]], pad_id: int, batch_rows: int = 256
) -> Tensor:
    """Scores (N,) of rows of ids, on the CPU and in the given order."""
    return score_and_ask(model, rows, pad_id, batch_rows)[0]


@torch.no_grad()
def score_and_ask(
    model: RewardModel, rows: Sequence[Sequence[int]], pad_id: int, batch_rows: int = 256
) -> tuple[Tensor, Tensor]:
    """Scores (N,) and the logits (N, Q) of rows of ids, on the CPU and in the given order.

    Rows are run in order of length, so that a batch holds little padding.
    """
    device, dtype = model.score.weight.device, model.score.weight.dtype
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    scores = torch.empty(len(rows), dtype=dtype)
    logits = torch.empty(len(rows), len(model.question_names), dtype=dtype)
    for start in range(0, len(order), batch_rows):
        chosen = order[start : start + batch_rows]
        input_ids, lengths = pad_rows([rows[i] for i in chosen], pad_id)
        outputs = model.scores_and_answers(input_ids.to(device), lengths.to(device))
        scores[chosen], logits[chosen] = (output.cpu() for output in outputs)
    return scores, logits


@torch.no_grad()
def disagreement(
    model: RewardModel, rows: Sequence[Sequence[int]], pad_id: int, batch_rows: int = 256
) -> Tensor:
    """(N, M) what each member gives beyond the mean score, on the CPU and in the given order.

    Less what it gives to the ranked responses on average: a head that is kinder to all responses
    disagrees with none. Its standard deviation over M says how far a score can be trusted (Coste
    et al. 2024, arXiv:2310.02743).
    """
    device = model.score.weight.device
    parts: list[Tensor] = []
    for start in range(0, len(rows), batch_rows):
        input_ids, lengths = pad_rows(rows[start : start + batch_rows], pad_id)
        scores, _ = model.member_scores(input_ids.to(device), lengths.to(device))
        parts.append((scores - scores.mean(1, keepdim=True)).cpu())
    return torch.cat(parts) - model.member_means.cpu()


@torch.no_grad()
def normalize(model: RewardModel, mean: float, std: float) -> float:
    """The mean that scores have afterwards, in units of the new standard deviation, 1.

    Changes ``model`` in place so that every score s becomes (s − mean) / std. Without a bias in the
    head, the scale goes into the head's weights w, and the shift into what the final norm adds to
    every hidden state, along w: w·(h − mean·w/|w|²)/std = (w·h − mean)/std. So the folder still
    loads with plain ``transformers``. Where the architecture's final norm adds nothing (Llama's),
    scores are only scaled, s / std: a constant that neither rankings nor PPO's advantages see.
    The trunk's logits as a language model change with it; the answers to questions do not.

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
    bias = model.trunk.final_bias
    if bias is not None:
        shift = mean * weight / squared_norm
        bias.copy_(bias.double() - shift)
        if model.questions is not None:
            correction = model.questions.weight.double() @ shift
            model.questions.bias.copy_(model.questions.bias.double() + correction)
    model.score.weight[0] = weight / std
    if model.members is not None:
        model.members.weight.copy_(model.members.weight.double() / std)
    return 0.0 if bias is not None else mean / std
