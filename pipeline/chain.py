"""What each stage reads and writes: the artefacts of a run as a plain table.

``open_stage`` checks a stage's inputs by it before any work; the command ``align`` orders the
stages by it. Nothing here imports a stage.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import JsonValue

from pipeline.artifacts import list_files
from pipeline.config import RunConfig, TextSource
from pipeline.errors import UserError


@dataclass(frozen=True)
class StageLinks:
    """A stage's name, the folder it writes and the folders it reads, below ``runs/<name>/``."""

    stage: str
    folder: str
    reads: tuple[str, ...]


TABLE = (
    StageLinks("data", "data", ()),
    StageLinks("pretrain", "base", ("data",)),
    StageLinks("import_base", "base", ()),
    StageLinks("classify", "classifier", ("base",)),
    StageLinks("sft", "sft", ("base", "data")),
    StageLinks("sample", "samples", ("sft", "data")),
    StageLinks("label", "labels", ("samples", "data")),
    StageLinks("reward", "reward", ("sft", "labels", "data")),
    StageLinks("dpo", "dpo", ("sft", "labels", "data")),
    StageLinks("rloo", "rloo", ("sft", "reward", "data")),
    StageLinks("best_of_n", "best_of_n", ("sft", "reward", "data")),
    StageLinks("ppo", "ppo", ("sft", "reward", "data")),
    StageLinks("compare", "compare", ("base", "sft", "ppo", "reward", "data")),
)
STAGES = tuple(links.stage for links in TABLE)
# Those that can run in several processes.
PARALLEL_STAGES = ("pretrain", "classify", "sft", "reward", "dpo", "ppo")
# Those that a run has only where its config has their section.
OPTIONAL_STAGES = ("classify", "dpo", "rloo", "best_of_n")
# The folders that compare compares, in the order of the chain, where they are made.
CHECKPOINTS = ("base", "sft", "dpo", "rloo", "best_of_n", "ppo")

# What decides nothing. Where the labels are stored may name a host, too; how labelers are practiced
# and watched shows in the labels, whose content decides.
_NOT_IN_SECTION = {
    "label": {"database", "gold", "practice_tasks", "gold_fraction", "pass_mark"},
    "pretrain": {"checkpoint_every_steps"},
    "classify": {"checkpoint_every_steps"},
    "sft": {"checkpoint_every_steps"},
    "reward": {"checkpoint_every_steps"},
    "dpo": {"checkpoint_every_steps"},
    "rloo": {"checkpoint_every_updates"},
    "ppo": {"checkpoint_every_updates"},
}
# What other sections decide for a stage: how compare samples, and which rankings there are to
# learn from and to hold out.
_SAMPLING = {"max_prompts", "max_response_tokens", "temperature", "top_p"}
_RANKINGS = {"own_labels", "preferences", "held_out_labelers", "validation_fraction"}


def chain_of(config: RunConfig) -> tuple[StageLinks, ...]:
    """The stages of this run in order.

    ``base`` is made by pretrain or import_base. A classifier and what stands beside PPO are made
    where the config has their section, the classifier as soon as there is what it starts from.
    Where the reward model learns from preferences that others collected alone, nothing is sampled
    and labeled.
    """
    absent = {"import_base" if config.import_base is None else "pretrain"}
    absent |= {stage for stage in OPTIONAL_STAGES if getattr(config, stage) is None}
    if not config.reward.own_labels:
        absent |= {"sample", "label"}
    stages = [links.stage for links in TABLE if links.stage not in absent]
    if config.classify is not None and config.classify.start == "sft":
        stages.remove("classify")
        stages.insert(stages.index("sft") + 1, "classify")
    return tuple(links_of(stage, config) for stage in stages)


def links_of(stage: str, config: RunConfig) -> StageLinks:
    """What a stage of this run writes and reads; KeyError for a name that is none."""
    links = {links.stage: links for links in TABLE}[stage]
    if stage == "classify" and config.classify is not None:
        return replace(links, reads=(config.classify.start,))
    if stage == "compare":
        return replace(links, reads=(*checkpoints_of(config), "reward", "data"))
    if config.reward.own_labels:
        return links
    return replace(links, reads=tuple(folder for folder in links.reads if folder != "labels"))


def checkpoints_of(config: RunConfig) -> tuple[str, ...]:
    """The folders that compare compares in this run, in the order of the chain."""
    absent = {stage for stage in OPTIONAL_STAGES if getattr(config, stage) is None}
    return tuple(folder for folder in CHECKPOINTS if folder not in absent)


def maker_of(folder: str, config: RunConfig) -> str:
    """The stage that makes a folder in this run."""
    return next(links.stage for links in chain_of(config) if links.folder == folder)


def processes_of(stage: str, config: RunConfig) -> int:
    """In how many processes a stage of this run works."""
    return config.processes if stage in PARALLEL_STAGES else 1


def section_values(stage: str, config: RunConfig) -> dict[str, JsonValue]:
    """A stage's config section as JSON values, as it enters the key and the manifest.

    Raises:
        UserError: the config has no such section, as for pretrain where import_base is given.
    """
    section = getattr(config, stage)
    if section is None and stage in OPTIONAL_STAGES:
        example = "classify.source, …" if stage == "classify" else f"{stage}={{}}."
        raise UserError(stage, "the config has no such section.", f"add it: {example}")
    if section is None:
        other = "import_base" if stage == "pretrain" else "pretrain"
        raise UserError(stage, f"the config makes its base by {other}.", f"run {other} instead.")
    values = section.model_dump(mode="json", exclude=_NOT_IN_SECTION.get(stage))
    if stage == "best_of_n":
        values["sampling"] = config.compare.model_dump(mode="json", include=_SAMPLING)
    if stage == "dpo":
        values["rankings"] = config.reward.model_dump(mode="json", include=_RANKINGS)
    return values


def external_files(stage: str, config: RunConfig) -> dict[str, Path]:
    """The files outside the run folder that a stage reads, by a name without absolute path.

    Raises:
        UserError: a configured path is absolute, or a configured folder does not exist.
    """
    root = Path(config.data_root)
    files: dict[str, Path] = {}
    for name, source in _text_sources(stage, config).items():
        if source.path is not None:
            where = f"{stage}.{name.replace('/', '.', 1)}.path"
            files[name] = root / _relative(where, source.path)
            continue
        folder = dataset_folder(source, root)
        if folder is not None:
            files |= {f"{name}/{file}": folder / file for file in list_files(folder)}
    if stage == "label" and config.label.file:
        files["file"] = root / _relative("label.file", config.label.file)
    if stage == "import_base" and config.import_base and config.import_base.path:
        files |= _files_below("import_base.path", root, config.import_base.path, "path")
    if stage == "ppo":
        for index, source in enumerate(config.ppo.reward_funcs):
            where = f"ppo.reward_funcs.{index}.file"
            files[f"reward_funcs/{index}"] = root / _relative(where, source.file)
    if stage == "sample":
        for index, policy in enumerate(config.sample.policies):
            where = f"sample.policies.{index}.path"
            files |= _files_below(where, root, policy.path, f"policies/{policy.name}")
    return files


def _files_below(where: str, root: Path, path: str, name: str) -> dict[str, Path]:
    folder = root / _relative(where, path)
    if not folder.is_dir():
        raise UserError(where, f"{folder} is no folder.", "correct the path.")
    return {f"{name}/{file}": folder / file for file in list_files(folder)}


def _text_sources(stage: str, config: RunConfig) -> dict[str, TextSource]:
    """The files and datasets that a stage reads rows from, by name."""
    if stage in ("reward", "dpo"):
        return {f"preferences/{i}": source for i, source in enumerate(config.reward.preferences)}
    if stage == "classify" and config.classify is not None:
        return {"source": config.classify.source}
    if stage != "data":
        return {}
    sources: dict[str, TextSource] = {f"corpus/{s.name}": s for s in config.data.corpus}
    if config.data.instructions is not None:
        sources["instructions"] = config.data.instructions
    return sources


def dataset_folder(source: TextSource, data_root: Path) -> Path | None:
    """The folder that a source's ``dataset`` names; None where it is a name on the hub.

    Raises:
        UserError: the name is an absolute path.
    """
    if source.dataset is None:
        return None
    folder = data_root / _relative("a dataset's name", source.dataset)
    return folder if folder.is_dir() else None


def names_hub_dataset(config: RunConfig) -> bool:
    """Whether a stage reads a dataset from the Hugging Face hub."""
    return any(
        source.dataset is not None and dataset_folder(source, Path(config.data_root)) is None
        for stage in STAGES
        for source in _text_sources(stage, config).values()
    )


def _relative(where: str, path: str) -> Path:
    if Path(path).is_absolute():
        raise UserError(
            where,
            f"must be relative to data_root, got {path}.",
            "set data_root to the folder and name the file below it.",
        )
    return Path(path)


def missing_file(stage: str, config: RunConfig) -> tuple[str, Path] | None:
    """The first external file of a stage that is not there, with its name; None if all are."""
    for name, path in external_files(stage, config).items():
        if not path.is_file():
            return name, path
    return None


def stage_version(stage: str) -> int:
    """The integer ``VERSION`` that a stage's script sets, read without running the script."""
    script = Path(__file__).parent.parent / "stages" / f"{stage}.py"
    for node in ast.parse(script.read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.Assign)
            and [ast.unparse(target) for target in node.targets] == ["VERSION"]
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, int)
        ):
            return node.value.value
    raise ValueError(f"{script.name} sets no integer VERSION")
