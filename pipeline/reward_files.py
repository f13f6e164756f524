"""A reward model's folder, which plain ``transformers`` loads with the same scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from pipeline.errors import UserError
from pipeline.gpt2_format import (
    gpt2_config,
    is_gpt2,
    load_gpt,
    load_tensors,
    load_weights,
    read_config,
    to_gpt2_weights,
)
from pipeline.hugging_face import HuggingFaceTrunk
from pipeline.language_model import LanguageModel
from pipeline.model import GPT
from pipeline.reward import RewardModel
from pipeline.tokenizer import Tokenizer

QUESTIONS_FILE = "questions.safetensors"
MEMBERS_FILE = "members.safetensors"


def save_reward_model(model: RewardModel, folder: str | Path, tokenizer: Tokenizer) -> None:
    """Writes a folder that ``AutoModelForSequenceClassification`` loads, with the same scores.

    Hugging Face's classes read the rightmost token that is not the pad. That is the last real token
    because the pad is a token of its own, which no response contains. The questions' heads stand
    beside it in ``questions.safetensors``.
    """
    folder = Path(folder)
    save_trunk_and_head(model.trunk, model.score.weight, ["score"], folder, tokenizer)
    if model.questions is not None:
        weights = {name: w.detach().cpu() for name, w in model.questions.state_dict().items()}
        names = {"questions": json.dumps(model.question_names)}
        safetensors.torch.save_file(weights, folder / QUESTIONS_FILE, metadata=names)
    if model.members is not None:
        weights = {"weight": model.members.weight.detach().cpu(), "means": model.member_means}
        safetensors.torch.save_file(weights, folder / MEMBERS_FILE)


def save_trunk_and_head(
    trunk: LanguageModel,
    weight: torch.Tensor,
    labels: Sequence[str],
    folder: Path,
    tokenizer: Tokenizer,
) -> None:
    """Writes a sequence classifier of ``transformers``, with its tokenizer.

    Args:
        weight: (labels, C) of the linear head.
        labels: what each of its outputs stands for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    head = weight.detach().cpu().contiguous()
    if isinstance(trunk, GPT):
        weights = to_gpt2_weights(trunk) | {"score.weight": head}
        path = folder / "model.safetensors"
        safetensors.torch.save_file(weights, path, metadata={"format": "pt"})
        config = gpt2_config(trunk.config, tokenizer) | label_settings(labels)
        config["architectures"] = ["GPT2ForSequenceClassification"]
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
    else:
        assert isinstance(trunk, HuggingFaceTrunk)
        theirs = classifier_of(trunk, labels, tokenizer)
        theirs.base_model.load_state_dict(trunk.inner.state_dict())
        theirs.score.weight.data.copy_(head)
        theirs.save_pretrained(folder)
    tokenizer.save(folder, trunk.context_tokens)


def label_settings(labels: Sequence[str]) -> dict[str, Any]:
    """What a configuration says of a classifier's outputs."""
    names = {str(index): label for index, label in enumerate(labels)}
    ids = {label: index for index, label in enumerate(labels)}
    return {"num_labels": len(labels), "id2label": names, "label2id": ids}


def classifier_of(trunk: HuggingFaceTrunk, labels: Sequence[str], tokenizer: Tokenizer) -> Any:
    """A sequence classifier of ``transformers`` of the trunk's architecture, of random weights.

    Raises:
        UserError: ``transformers`` has none, or one that is built otherwise.
    """
    import transformers

    settings = label_settings(labels)
    settings["id2label"] = dict(enumerate(labels))
    config = type(trunk.inner.config)(**(trunk.inner.config.to_dict() | settings))
    config.pad_token_id = tokenizer.pad_id
    try:
        theirs = transformers.AutoModelForSequenceClassification.from_config(config)
    except ValueError:
        theirs = None
    head = getattr(theirs, "score", None)
    if not isinstance(head, torch.nn.Linear) or head.weight.shape != (len(labels), trunk.width):
        raise UserError(
            "base",
            f"transformers has no classifier of {config.model_type!r} with a linear head 'score'.",
            "start from a base of another architecture.",
        )
    return theirs


def require_classifier(trunk: LanguageModel, labels: Sequence[str], tokenizer: Tokenizer) -> None:
    """Raises UserError where ``save_trunk_and_head`` would: before anything is trained."""
    if isinstance(trunk, HuggingFaceTrunk):
        with torch.device("meta"):
            classifier_of(trunk, labels, tokenizer)


def load_reward_model(folder: str | Path) -> RewardModel:
    """The reward model of a folder, in fp32 on the CPU.

    Raises:
        UserError: the folder is broken, or holds a model without a scalar head.
    """
    folder = Path(folder)
    trunk, weight = read_trunk_and_head(folder)
    if weight is None or weight.shape != (1, trunk.width):
        raise UserError(
            folder,
            "holds no scalar head (score.weight).",
            "name a folder that the stage reward wrote.",
        )
    names, heads = read_questions(folder)
    members = read_members(folder)
    model = RewardModel(trunk, questions=names, members=len(members["means"]) if members else 1)
    with torch.no_grad():
        model.score.weight.copy_(weight)
        if model.members is not None:
            model.members.weight.copy_(members["weight"])
            model.member_means = members["means"]
    if model.questions is not None:
        model.questions.load_state_dict(heads)
    return model


def read_trunk_and_head(folder: Path) -> tuple[LanguageModel, torch.Tensor | None]:
    """The language model below the head, and the head's weight (1, C) if there is one.

    Raises:
        UserError: the folder is broken.
    """
    config = read_config(folder)
    if is_gpt2(config):
        return load_gpt(folder), load_weights(folder).get("score.weight")
    import transformers

    try:
        theirs: Any = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # it raises OSError, ValueError, KeyError, SafetensorError, ...
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        problem = f"cannot be loaded as a reward model ({reason})."
        raise UserError(folder, problem, "name a folder that the stage reward wrote.") from None
    weight = getattr(getattr(theirs, "score", None), "weight", None)
    if weight is None:
        raise UserError(
            folder, "holds no scalar head.", "name a folder that the stage reward wrote."
        )
    return HuggingFaceTrunk(theirs.base_model, weight.shape[1]), weight.detach()


def read_questions(folder: Path) -> tuple[list[str], dict[str, torch.Tensor]]:
    """The questions of a folder and their heads' weights; both empty where it has none.

    Raises:
        UserError: the file is broken.
    """
    path = folder / QUESTIONS_FILE
    if not path.exists():
        return [], {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = json.loads(file.metadata()["questions"])
            return names, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(path, f"cannot be read ({error}).", "restore the file.") from None


def read_members(folder: Path) -> dict[str, torch.Tensor]:
    """The heads of an ensemble and their means; empty where a folder has a single head.

    Raises:
        UserError: the file is broken.
    """
    path = folder / MEMBERS_FILE
    if not path.exists():
        return {}
    tensors = load_tensors(path)
    weight, means = tensors.get("weight"), tensors.get("means")
    if weight is None or means is None or len(weight) != len(means):
        raise UserError(path, "does not hold heads and their means.", "restore the file.")
    return tensors
