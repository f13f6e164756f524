"""What a response is worth: the reward model, questions answered with yes, functions of text.

The order is fixed: the reward model's score is clipped, then functions of text are added, then
what a yes to a question costs and what a missing end token costs are taken off. The divergence's
price comes after all of them, per token (``losses.compute_rewards``).

Shapes: B responses.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.ppo.losses import answer_weights, penalize_answers, penalize_missing_eos
from pipeline.ppo.rollout import Rollout
from pipeline.ppo_config import PPOConfig
from pipeline.reward import RewardModel
from pipeline.tokenizer import Tokenizer


class RewardFunction(NamedTuple):
    """A function of text that is part of the score.

    It is called as TRL calls its ``reward_funcs``, with ``prompts``, ``completions`` (texts, the
    special tokens left out) and ``completion_ids`` (as sampled, the end token included) by name,
    and returns a number for each completion.
    """

    name: str
    function: Callable[..., Sequence[float]]
    weight: float = 1.0


def check_names(functions: Sequence[str]) -> None:
    """Raises UserError where a function has the name of another part of the score."""
    taken = {"reward_model", "question_penalties", "missing_eos_penalty"}
    for name in functions:
        if name in taken:
            problem = f"has the name of another part of the score, {name}."
            raise UserError("a reward function", problem, "give the function another name.")
        taken.add(name)


class Scorer:
    """The score of responses, and how much of it each part gives.

    Raises:
        UserError: a penalty is for a question that the reward model has no head for, or two parts
            have one name.
    """

    def __init__(
        self,
        args: PPOConfig,
        tokenizer: Tokenizer,
        reward_model: RewardModel,
        functions: Sequence[RewardFunction] = (),
    ) -> None:
        self.args = args
        self.tokenizer = tokenizer
        self.reward_model = reward_model
        self.functions = functions
        check_names([one.name for one in functions])
        self.answer_weights = answer_weights(args.question_penalties, reward_model.question_names)

    @torch.no_grad()
    def __call__(self, rollout: Rollout, prompts: Sequence[str]) -> tuple[Tensor, dict[str, float]]:
        """(B,) fp32 scores of the responses as they were sampled, and each part's mean.

        A score that is not finite stays as it is: the trainer refuses it where all processes see.

        Args:
            prompts: the rows' prompts as text.

        Raises:
            UserError: a function raises, or gives another number of scores than it was asked for.
        """
        args = self.args
        scores, answers = rollout.in_parts(self._ask, args.local_rollout_forward_batch_size)
        if args.reward_clip is not None:
            scores = scores.clamp(-args.reward_clip, args.reward_clip)
        scores = args.reward_weight * scores
        parts = {"reward_model": scores}
        if self.functions:
            ids = rollout.response_ids()
            texts = [self.tokenizer.decode(row) for row in ids]
            for one in self.functions:
                given = call(one, prompts, texts, ids).to(scores.device)
                parts[one.name] = one.weight * given
                scores = scores + parts[one.name]
        if args.question_penalties:
            penalized = penalize_answers(scores, answers, self.answer_weights)
            parts["question_penalties"], scores = penalized - scores, penalized
        if args.missing_eos_penalty:
            penalized = penalize_missing_eos(scores, rollout.finished, args.missing_eos_penalty)
            parts["missing_eos_penalty"], scores = penalized - scores, penalized
        return scores, {f"rewards/{name}": float(part.mean()) for name, part in parts.items()}

    def _ask(self, part: Rollout) -> tuple[Tensor, Tensor]:
        """Scores (B,) and the logits of yes (B, Q), of which there are none unless they count."""
        if not self.args.question_penalties:
            scores = self.reward_model(part.input_ids, part.lengths).float()
            return scores, scores.new_empty(len(scores), 0)
        scores, answers = self.reward_model.scores_and_answers(part.input_ids, part.lengths)
        return scores.float(), answers.float()


def call(
    one: RewardFunction,
    prompts: Sequence[str],
    completions: Sequence[str],
    ids: Sequence[Sequence[int]],
) -> Tensor:
    """(B,) what a function gives, without its weight. The lists that it is given are its own.

    Raises:
        UserError: it raises, or gives something other than a number for each response.
    """
    try:
        given: Any = one.function(
            prompts=[*prompts], completions=[*completions], completion_ids=[[*row] for row in ids]
        )
        given = given if isinstance(given, Mapping | str) or given is None else list(given)
    except Exception as error:  # whatever the user's code may raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        problem = f"raised {type(error).__name__}: {error} ({where})."
        raise UserError(f"the reward function {one.name}", problem, "correct it.") from error
    try:
        odd = isinstance(given, Mapping | str)
        numbers = [] if odd else [float(score) for score in given]
        scores = torch.tensor(numbers)
    except (TypeError, ValueError, OverflowError):
        scores = torch.empty(0)
    if len(scores) != len(ids):
        raise UserError(
            f"the reward function {one.name}",
            f"gave something other than {len(ids)} numbers for {len(ids)} responses.",
            "return a list with one number for each completion.",
        )
    return scores
