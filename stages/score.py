"""Scores responses, or classifies texts: ``align score runs/quickstart/reward FILE``.

FILE has one JSON object a line. For a reward model: ``prompt``, ``response``, and ``finished``
where a response was cut off before its end token. Each comes back with its ``score``, and with the
probability of yes to each question that the model has a head for; of an ensemble also with how
far its members disagree, in scores. For a classifier: ``text``, which
comes back with its ``label`` and the probability of each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pipeline.classifier import classify_rows, encode_text, labels_of, load_classifier
from pipeline.errors import UserError
from pipeline.records import iter_json_lines
from pipeline.reward import disagreement, score_and_ask
from pipeline.reward_files import load_reward_model
from pipeline.tokenizer import Tokenizer

ROWS_AT_ONCE = 1024


def score(checkpoint: Path, path: Path) -> None:
    """Prints each row of the file with its score, as JSON lines.

    Raises:
        UserError: ``checkpoint`` is no reward model and no classifier, or a row is broken or too
            long.
    """
    is_classifier = len(labels_of(checkpoint)) > 1
    for row in (classified if is_classifier else scored)(checkpoint, path):
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
        ids = [ids for _, ids in part]
        scores, logits = score_and_ask(model, ids, tokenizer.pad_id)
        columns: dict[str, list[Any]] = {"score": scores.tolist()}
        if model.question_names:
            shares = logits.sigmoid().tolist()
            columns["answers"] = [dict(zip(model.question_names, s, strict=True)) for s in shares]
        if model.members is not None:
            beyond = disagreement(model, ids, tokenizer.pad_id)
            columns["disagreement"] = beyond.std(1, correction=0).tolist()
        for index, (row, _) in enumerate(part):
            yield row | {name: values[index] for name, values in columns.items()}


def classified(checkpoint: Path, path: Path) -> Iterator[dict[str, Any]]:
    """Each row with ``label`` and ``probabilities``; every row is checked before the first.

    Raises:
        UserError: as ``score``.
    """
    tokenizer = Tokenizer.load(checkpoint)
    model = load_classifier(checkpoint).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    rows: list[tuple[dict[str, Any], list[int]]] = []
    for where, row in iter_json_lines(path):
        text = row.get("text")
        if not isinstance(text, str) or not text.strip():
            raise UserError(where, "needs a text in the field text.", "correct the row.")
        rows.append((row, encode_text(tokenizer, text.strip())))
        check_length(rows[-1][1], where, model.trunk.context_tokens)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        logprobs = classify_rows(model, [ids for _, ids in part], tokenizer.pad_id)
        for (row, _), values in zip(part, logprobs.exp().tolist(), strict=True):
            probabilities = dict(zip(model.labels, values, strict=True))
            label = max(probabilities, key=lambda name: probabilities[name])
            yield row | {"label": label, "probabilities": probabilities}


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
    check_length(ids, where, context_tokens)
    return ids


def check_length(ids: list[int], where: str, context_tokens: int) -> None:
    """Raises UserError where the model cannot read all ids."""
    if len(ids) > context_tokens:
        problem = f"has {len(ids)} tokens in all, the model reads {context_tokens}."
        raise UserError(where, problem, "shorten it.")
