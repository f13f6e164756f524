"""Where a config says that text and preferences are read from. No torch here."""

from __future__ import annotations

from pydantic import model_validator

from pipeline.config_types import Positive, Section


class TextSource(Section):
    """Where text is read from: a file below ``data_root``, or what ``datasets`` can load.

    ``dataset`` is a folder below ``data_root`` if there is one of that name, else a name on the
    hub; ``dataset_config`` and ``dataset_split`` choose a part of it.
    """

    path: str | None = None
    dataset: str | None = None
    dataset_config: str | None = None
    dataset_split: str = "train"

    @model_validator(mode="after")
    def _one_place(self) -> TextSource:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("name either path (a file) or dataset (a hub name or a folder)")
        if self.path is not None and (self.dataset_config or self.dataset_split != "train"):
            raise ValueError("dataset_config and dataset_split go with dataset, not with path")
        return self


class PreferenceSource(TextSource):
    """Ranked responses that others collected: JSON lines, JSON, CSV, parquet or a dataset.

    The prompt: the values of ``prompt_columns`` that are not empty, joined by a newline; or the
    turns in ``messages_column``, a list of ``{role, content}`` (a lone turn is its content, several
    are lines ``role: content``). The responses: ``chosen_column`` and ``rejected_column``; or a
    list in ``responses_column`` with ``ranks_column``, 1 = best and equal ranks for ties.

    ``group_column`` names what stays on one side of the split into training and validation, such
    as a conversation; without it, the prompt. Responses that have more than ``max_characters``
    with their prompt are left out, and counted.
    """

    prompt_columns: list[str] = []
    messages_column: str | None = None
    chosen_column: str | None = None
    rejected_column: str | None = None
    responses_column: str | None = None
    ranks_column: str | None = None
    labeler_column: str | None = None
    group_column: str | None = None
    max_characters: Positive | None = None

    @model_validator(mode="after")
    def _one_form(self) -> PreferenceSource:
        if bool(self.prompt_columns) == (self.messages_column is not None):
            raise ValueError("name the prompt's prompt_columns, or its messages_column")
        pair = (self.chosen_column, self.rejected_column)
        ranked = (self.responses_column, self.ranks_column)
        if any(pair) == any(ranked):
            raise ValueError(
                "name chosen_column and rejected_column, or responses_column and ranks_column"
            )
        if any(pair) and None in pair:
            raise ValueError("chosen_column and rejected_column go together")
        if any(ranked) and None in ranked:
            raise ValueError("responses_column and ranks_column go together")
        if pair[0] is not None and pair[0] == pair[1]:
            raise ValueError(f"chosen_column and rejected_column are both {pair[0]!r}")
        return self


class LabeledSource(TextSource):
    """Texts of which each has a label: JSON lines, JSON, CSV, parquet or a dataset.

    A label is a text, a whole number, or true or false.
    """

    text_column: str = "text"
    label_column: str = "label"
