"""Scores responses with a reward model: ``align score runs/quickstart/reward FILE``.

FILE has one JSON object a line: ``prompt``, ``response``, and ``finished`` where a response was cut
off before its end token. Each comes back with its ``score``, and with the probability of yes to
each question that the model has a head for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.records import iter_json_lines
from pipeline.reward import score_and_ask
from pipeline.reward_files import load_reward_model
from pipeline.tokenizer import Tokenizer

ROWS_AT_ONCE = 1024


def score(checkpoint: Path, path: Path) -> None:
    """Prints each row of the file with its score, as JSON lines.

    Raises:
        UserError: ``checkpoint`` is no reward model, or a row is broken or too long.
    """
    for row in scored(checkpoint, path):
        print(json.dumps(row, ensure_ascii=False), flush=True)


def scored(checkpoint: Path, path: Path) -> Iterator[dict[str, Any]]:
    """Each row with ``score`` and ``answers``, in order; every row is checked before the first.

    Raises:
        UserError: as ``score``.
    """
    tokenizer = Tokenizer.load(checkpoint)
    model = load_reward_model(checkpoint).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    rows = [
        (row, row_ids(row, where, tokenizer, model.trunk.context_tokens))
        for where, row in iter_json_lines(path)
    ]
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        scores, logits = score_and_ask(model, [ids for _, ids in part], tokenizer.pad_id)
        for (row, _), value, yes in zip(part, scores.tolist(), logits.sigmoid(), strict=True):
            answers = dict(zip(model.question_names, yes.tolist(), strict=True))
            yield row | {"score": value} | ({"answers": answers} if answers else {})


def row_ids(
    row: dict[str, Any], where: str, tokenizer: Tokenizer, context_tokens: int
) -> list[int]:
    """The ids of a row's prompt and response, as the reward model was trained on.

    Raises:
        UserError: a field is missing or no text, or the row is longer than the context.
    """
    prompt, response, finished = row.get("prompt"), row.get("response"), row.get("finished", True)
    if not (isinstance(prompt, str) and isinstance(response, str) and isinstance(finished, bool)):
        raise UserError(
            where,
            "needs the texts prompt and response, and finished only as true or false.",
            "correct the row.",
        )
    ids = tokenizer.encode_prompt(prompt) + tokenizer.encode_response(response, finished)
    if len(ids) > context_tokens:
        problem = f"has {len(ids)} tokens with its prompt, the model reads {context_tokens}."
        raise UserError(where, problem, "shorten it.")
    return ids
