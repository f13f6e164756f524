"""A classifier of texts: a language model's trunk, and one score for each label.

Shapes: B texts, T tokens, C width, L labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import tokenizers
import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.gpt2_format import read_config
from pipeline.hugging_face import trunk_of
from pipeline.language_model import LanguageModel
from pipeline.reward import apply_head
from pipeline.reward_batches import pad_rows
from pipeline.reward_files import read_trunk_and_head, save_trunk_and_head
from pipeline.tokenizer import END, Tokenizer


class Classifier(nn.Module):
    """A trunk with a linear head, read at a text's last real token, its end token.

    Args:
        model: what to start from; it is trained along and not copied.
        labels: what each output of the head stands for.
        generator: draws the head; torch's global generator by default.
    """

    def __init__(
        self,
        model: LanguageModel,
        labels: Sequence[str],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.trunk = trunk_of(model)
        self.labels = tuple(labels)
        self.score = nn.Linear(self.trunk.width, len(labels), bias=False)
        std = 1 / math.sqrt(self.trunk.width + 1)
        nn.init.normal_(self.score.weight, std=std, generator=generator)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Logits (B, L) of right-padded ids (B, T) that have ``lengths`` (B,) real tokens."""
        rows = torch.arange(len(input_ids), device=input_ids.device)
        last = self.trunk.hidden_states(input_ids)[rows, lengths - 1]
        return apply_head(self.score, last)


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text and the end token, where the head is read."""
    return [*tokenizer.encode(text), tokenizer.eos_id]


@torch.no_grad()
def classify_rows(
    model: Classifier, rows: Sequence[Sequence[int]], pad_id: int, batch_rows: int = 256
) -> Tensor:
    """Log-probabilities (N, L) of rows of ids, on the CPU and in the given order."""
    device = model.score.weight.device
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    logprobs = torch.empty(len(rows), len(model.labels))
    for start in range(0, len(order), batch_rows):
        chosen = order[start : start + batch_rows]
        input_ids, lengths = pad_rows([rows[i] for i in chosen], pad_id)
        logits = model(input_ids.to(device), lengths.to(device))
        logprobs[chosen] = logits.float().log_softmax(-1).cpu()
    return logprobs


def save_classifier(model: Classifier, folder: Path, tokenizer: Tokenizer) -> None:
    """Writes a folder that ``AutoModelForSequenceClassification`` loads, with the same logits.

    Its tokenizer, called by plain ``transformers``, adds the end token as ``encode_text`` does: so
    ``pipeline("text-classification")`` says the same as this project.
    """
    save_trunk_and_head(model.trunk, model.score.weight, model.labels, folder, tokenizer)
    path = str(folder / "tokenizer.json")
    backend = tokenizers.Tokenizer.from_file(path)
    ends = TemplateProcessing(f"$A {END}", f"$A $B {END}", [(END, tokenizer.eos_id)])
    backend.post_processor = ends  # pyright: ignore[reportAttributeAccessIssue]
    backend.save(path)


def load_classifier(folder: Path) -> Classifier:
    """The classifier of a folder, in fp32 on the CPU.

    Raises:
        UserError: the folder is broken, or its head and its labels do not belong together.
    """
    labels = labels_of(folder)
    trunk, weight = read_trunk_and_head(folder)
    if weight is None or weight.shape != (len(labels), trunk.width):
        problem = f"holds no head for its {len(labels)} labels (score.weight)."
        raise UserError(folder, problem, "name a folder that the stage classify wrote.")
    model = Classifier(trunk, labels)
    with torch.no_grad():
        model.score.weight.copy_(weight)
    return model


def labels_of(folder: Path) -> list[str]:
    """The labels that a model folder's configuration names, in the order of its outputs.

    Raises:
        UserError: there is no readable configuration.
    """
    names = read_config(folder).get("id2label") or {}
    try:
        return [names[key] for key in sorted(names, key=int)]
    except (TypeError, ValueError):
        problem = "is not a model configuration (id2label has no numbers)."
        raise UserError(folder / "config.json", problem, "restore it.") from None
