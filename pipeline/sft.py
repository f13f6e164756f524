"""What supervised fine-tuning trains on: demonstrations as rows of ids and labels.

A row is ``<|prompt|> prompt <|response|> response <|endoftext|>``; the labels are the response and
its end token, and nothing else.

Shapes: B sequences, T tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pipeline.errors import UserError
from pipeline.records import Demonstration
from pipeline.tokenizer import Tokenizer

IGNORED = -100  # a label that cross-entropy leaves out


class SftRow(TypedDict):
    """One demonstration in tokens; ``labels`` runs parallel to ``input_ids``, T of each."""

    input_ids: list[int]
    labels: list[int]


def encode_demonstration(demonstration: Demonstration, tokenizer: Tokenizer) -> SftRow:
    """Ids of prompt and response; labels are the response's ids and −100 on the prompt's."""
    prompt = tokenizer.encode_prompt(demonstration.prompt)
    response = tokenizer.encode_response(demonstration.response)
    return {"input_ids": prompt + response, "labels": [IGNORED] * len(prompt) + response}


def encode_demonstrations(
    demonstrations: Sequence[Demonstration],
    tokenizer: Tokenizer,
    context_tokens: int,
    source: str,
    max_left_out_fraction: float = 0.0,
) -> tuple[list[SftRow | None], list[str]]:
    """One row per demonstration, in order, and a line for each that is None.

    None stands for a demonstration longer than ``context_tokens``; none is ever cut.

    Raises:
        UserError: more than ``max_left_out_fraction`` of all are too long; the message names the
            first one by its number in ``source`` and says how many there are.
    """
    rows: list[SftRow | None] = []
    lines: list[str] = []
    for number, demonstration in enumerate(demonstrations, start=1):
        row = encode_demonstration(demonstration, tokenizer)
        tokens = len(row["input_ids"])
        rows.append(row if tokens <= context_tokens else None)
        if tokens > context_tokens:
            lines.append(
                f"{source}: demonstration {number} takes {tokens} tokens with its prompt, more "
                f"than the model's context of {context_tokens}"
            )
    if len(lines) > max_left_out_fraction * len(rows):
        where, _, problem = lines[0].partition(" takes ")
        raise UserError(
            where,
            f"takes {problem} ({len(lines)} of {len(rows)} are too long).",
            "shorten or remove them, use a base with a longer context, or allow some to be left "
            "out with sft.max_left_out_fraction.",
        )
    return rows, [f"{line}: left out" for line in lines]


def validation_prompts(prompts: Iterable[str], fraction: float, seed: int) -> frozenset[str]:
    """The prompts to validate on: ``fraction`` of the different ones, by a hash of their text.

    The number is rounded to the nearest but leaves at least one on either side. Order and
    repetition of ``prompts`` do not matter, so equal prompts fall on one side.

    Raises:
        UserError: there are fewer than two different prompts.
    """
    ordered = sorted(set(prompts), key=lambda p: hashlib.sha256(f"{seed}\n{p}".encode()).digest())
    if len(ordered) < 2:
        raise UserError(
            "demonstrations",
            "are all of one prompt, which leaves none to validate on.",
            "supply demonstrations of at least two prompts.",
        )
    return frozenset(ordered[: min(max(round(fraction * len(ordered)), 1), len(ordered) - 1)])


def collate(rows: Sequence[SftRow], pad_id: int) -> dict[str, Tensor]:
    """A batch, padded on the right.

    Returns:
        ``input_ids`` (B, T), ``labels`` (B, T; −100 on prompt and padding) and ``attention_mask``
        (B, T; 1 = real token, from the rows' lengths).
    """
    input_ids = [torch.tensor(row["input_ids"], dtype=torch.long) for row in rows]
    labels = [torch.tensor(row["labels"], dtype=torch.long) for row in rows]
    lengths = torch.tensor([len(ids) for ids in input_ids])
    positions = torch.arange(int(lengths.max()))
    return {
        "input_ids": pad_sequence(input_ids, batch_first=True, padding_value=pad_id),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        "attention_mask": (positions < lengths[:, None]).long(),
    }


def check_labels(batch: Mapping[str, Tensor], tokenizer: Tokenizer) -> None:
    """Checks that a batch trains on each response and its end token, and on nothing else.

    Raises:
        RuntimeError: a label is not where it must be; the message names the row of the batch.
    """
    for index, row in enumerate(
        zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True)
    ):
        input_ids, labels, mask = (values.tolist() for values in row)
        length = sum(mask)
        start = input_ids.index(tokenizer.response_mark_id) + 1
        response = input_ids[start:length]
        expected = [IGNORED] * start + response + [IGNORED] * (len(input_ids) - length)
        if labels != expected or response[-1] != tokenizer.eos_id:
            raise RuntimeError(f"row {index} of a batch has wrong labels: {labels}")
