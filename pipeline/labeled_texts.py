"""Texts with labels: read, divided, and how well a classifier does on them. No torch here."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data import locate
from pipeline.data.tables import dataset_entries, file_entries, text_cell
from pipeline.errors import UserError
from pipeline.evaluation import Leaf
from pipeline.preferences import wilson_interval
from pipeline.source_config import LabeledSource


class LabeledText(NamedTuple):
    """A text, its label, and where it stands."""

    text: str
    label: str
    where: str


def read_labeled_texts(
    source: LabeledSource, data_root: Path
) -> tuple[list[LabeledText], str | None]:
    """All rows of a source, in its order, labels as texts; and the revision of a hub's dataset.

    Raises:
        UserError: the source is missing, broken or empty, a column is absent, a text is empty, or a
            label is no text, whole number or boolean.
    """
    place, revision = locate(source, data_root)
    if source.path is None or place is None:
        name = str(place or source.dataset)
        entries = dataset_entries(name, source.dataset_config, source.dataset_split, revision)
    else:
        entries = file_entries(place, [source.text_column, source.label_column])
    rows = [
        LabeledText(_text(source, columns, where), _label(source, columns, where), where)
        for where, columns in entries
    ]
    if not rows:
        raise UserError(name_of(source), "has no rows.", "supply texts with labels.")
    return rows, revision


def name_of(source: LabeledSource) -> str:
    """What a message calls the source."""
    return source.path or f"dataset {source.dataset}"


def label_names(rows: Sequence[LabeledText], where: str) -> list[str]:
    """The distinct labels, sorted: as numbers where all are whole numbers.

    Raises:
        UserError: there are fewer than two labels or distinct texts.
    """
    labels = sorted({row.label for row in rows})
    if len(labels) < 2:
        problem = f"has texts of one label only: {labels[0]}."
        raise UserError(where, problem, "supply texts of at least 2 labels.")
    if len({row.text for row in rows}) < 2:
        raise UserError(where, "has a single text.", "supply at least 2.")
    numbers = all(re.fullmatch(r"-?[0-9]{1,18}", label) for label in labels)
    return sorted(labels, key=int) if numbers else labels


def require_all_labels(training: Sequence[LabeledText], labels: Sequence[str], where: str) -> None:
    """Raises UserError where all texts of a label are held out, so that nothing can learn it."""
    absent = sorted(set(labels) - {row.label for row in training})
    if absent:
        raise UserError(
            where,
            f"all texts of label {absent[0]!r} are held out, none is left to learn from.",
            "supply more of them, or lower classify.validation_fraction.",
        )


def divide_texts(
    rows: Sequence[LabeledText], fraction: float, seed: int
) -> tuple[list[LabeledText], list[LabeledText]]:
    """``(training, validation)``, by a hash of the text: equal texts stand on one side.

    ``fraction`` counts distinct texts, rounded to the nearest but at least one on either side.
    """

    def key(text: str) -> bytes:
        return hashlib.sha256(f"{seed}\n{text}".encode()).digest()

    texts = sorted({row.text for row in rows}, key=key)
    size = min(max(round(fraction * len(texts)), 1), len(texts) - 1)
    held_out = frozenset(texts[:size])
    training = [row for row in rows if row.text not in held_out]
    return training, [row for row in rows if row.text in held_out]


def classification_report(
    logprobs: NDArray[np.float64], truth: Sequence[int], labels: Sequence[str]
) -> dict[str, Any]:
    """Accuracy, log-loss, and per label precision, recall and F1, as JSON values.

    ``largest_class`` is the accuracy of always answering with the label that most texts have.

    Args:
        logprobs: (N, L) of the labels.
        truth: (N,) index of each text's label.
    """
    true = np.asarray(truth)
    said = logprobs.argmax(1)
    confusion = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(confusion, (true, said), 1)
    return {
        "accuracy": _share(int((said == true).sum()), len(true)),
        "largest_class": _share(max(Counter(true.tolist()).values(), default=0), len(true)),
        "log_loss": float(-logprobs[np.arange(len(true)), true].mean()),
        "labels": {label: _label_report(confusion, i) for i, label in enumerate(labels)},
        "confusion": {
            label: dict(zip(labels, row, strict=True))
            for label, row in zip(labels, confusion.tolist(), strict=True)
        },
    }


def _label_report(confusion: NDArray[np.int_], index: int) -> dict[str, Any]:
    right = int(confusion[index, index])
    said, true = int(confusion[:, index].sum()), int(confusion[index].sum())
    f1 = 2 * right / (said + true) if said + true else None
    return {"precision": _share(right, said), "recall": _share(right, true), "f1": f1}


def _share(successes: int, trials: int) -> Leaf:
    if trials == 0:
        return Leaf(mean=None, ci95=None, n=0)
    return Leaf(mean=successes / trials, ci95=[*wilson_interval(successes, trials)], n=trials)


def _text(source: LabeledSource, columns: dict[str, Any], where: str) -> str:
    text = text_cell(columns, source.text_column, where, "classify.source.text_column").strip()
    if not text:
        raise UserError(where, f"column {source.text_column!r} is empty.", "remove this row.")
    return text


def _label(source: LabeledSource, columns: dict[str, Any], where: str) -> str:
    value = columns.get(source.label_column)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if value is not None and not isinstance(value, str):
        problem = f"column {source.label_column!r} is {value!r:.60}, and no label."
        raise UserError(where, problem, "use texts, whole numbers, or true and false.")
    label = text_cell(columns, source.label_column, where, "classify.source.label_column").strip()
    if not label:
        raise UserError(where, f"column {source.label_column!r} is empty.", "label this row.")
    return label
