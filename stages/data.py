"""Prepares the data of a run, and is the only place that splits it.

    python -m stages.data configs/quickstart.yaml
    accelerate launch -m stages.data configs/quickstart.yaml

Reads the embedded world, or the configured corpus and instructions; writes data/:
``demonstrations.jsonl``, ``prompts.jsonl``, ``corpus/sources.json``, ``summary.json``; for the
world also its texts, ``world.json`` and ``copy_probes.jsonl``.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import file_sha256
from pipeline.config import CorpusSource, RunConfig, TinyWorldSection
from pipeline.data import document_is_heldout, read_documents
from pipeline.errors import UserError
from pipeline.instructions import read_instructions, split_instructions
from pipeline.records import CopyProbe, Demonstration, Prompt, write_rows
from pipeline.stage_context import StageContext, open_stage
from pipeline.tinyworld import (
    MIXTURE,
    build_world,
    copy_probes,
    make_corpus,
    make_demonstrations,
    make_prompts,
    world_constants,
)
from stages.cli import stage_main

VERSION = 1
COPY_PROBES = 200


def run(config: RunConfig, run_folder: Path) -> None:
    """Publishes ``data/``.

    Raises:
        UserError: a source is missing, empty or broken, or too small to be split.
    """
    with open_stage("data", config, run_folder) as stage:
        (stage.output / "corpus").mkdir()
        if config.data.tinyworld is not None:
            summary = write_world(stage, config.data.tinyworld)
        else:
            summary = write_sources(stage)
        _write_json(stage.output / "summary.json", summary)
        print(format_summary(summary))


def write_world(stage: StageContext, sizes: TinyWorldSection) -> dict[str, Any]:
    """Writes all that the embedded world gives; returns the summary."""
    world, seed, folder = build_world(stage.config.seed), stage.seed, stage.output
    _write_json(folder / "world.json", {"seed": world.seed, "constants": world_constants()})
    sources: list[dict[str, Any]] = []
    for name, documents in make_corpus(world, sizes.documents, seed).items():
        path = folder / "corpus" / f"{name}.jsonl"
        write_rows(path, documents)
        source = CorpusSource(
            name=name, path=path.name, proportion=MIXTURE[name], id_column="document_id"
        )
        sources.append(describe_source(source, path, file_sha256(path), stage))
    _write_json(folder / "corpus" / "sources.json", sources)
    probes = copy_probes(world, COPY_PROBES, seed)
    rows = [CopyProbe(prefix=probe.prefix, target=probe.target) for probe in probes]
    write_rows(folder / "copy_probes.jsonl", rows)
    prompts = make_prompts(
        world, sizes.label_prompts, sizes.ppo_prompts, sizes.heldout_prompts, seed
    )
    demonstrations = make_demonstrations(world, sizes.demonstrations, seed)
    return write_rows_and_summary(folder, demonstrations, prompts, sources)


def write_sources(stage: StageContext) -> dict[str, Any]:
    """Divides the configured instructions and lists the corpus; returns the summary."""
    section = stage.config.data
    assert section.instructions is not None, "checked by DataSection"
    rows, too_long = read_instructions(section.instructions, stage.data_root)
    where = section.instructions.path or str(section.instructions.dataset)
    splits = split_instructions(rows, section.instructions, stage.seed, where)
    sources = [
        describe_source(
            source, stage.data_root / source.path, stage.inputs[f"corpus/{source.name}"], stage
        )
        for source in section.corpus
    ]
    _write_json(stage.output / "corpus" / "sources.json", sources)
    summary = write_rows_and_summary(stage.output, splits.demonstrations, splits.prompts, sources)
    return {**summary, "rows_left_out_for_length": too_long}


def describe_source(
    source: CorpusSource, path: Path, sha256: str, stage: StageContext
) -> dict[str, Any]:
    """One entry of ``corpus/sources.json``: where the texts are, and which are held out."""
    documents = list(_identities(path, source))
    fraction = stage.config.data.heldout_document_fraction
    return {
        **source.model_dump(),
        "sha256": sha256,
        "bytes": path.stat().st_size,
        "documents": len(documents),
        "heldout_ids": heldout_ids(documents, source.name, stage.seed, fraction),
    }


def heldout_ids(
    documents: Sequence[tuple[str, str]], source: str, seed: int, fraction: float
) -> list[str]:
    """The ids of a source's held-out documents, sorted.

    ``documents`` are (id, hash of the text). Documents with one id or one text go together. About
    ``fraction`` are held out, at least one of two documents or more, and never all.
    """
    groups = _groups(documents)
    held = [document_is_heldout(seed, source, group[0], fraction) for group in groups]
    if len(groups) == 1:
        held = [False]
    elif len(set(held)) == 1:
        order = sorted(range(len(groups)), key=lambda i: _text_hash(f"{seed}\0{groups[i][0]}"))
        held[order[0]] = not held[0]
    return sorted(name for group, out in zip(groups, held, strict=True) if out for name in group)


def _groups(documents: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Document ids that share a text, directly or by way of others; ids and groups sorted."""
    by_text: dict[str, set[str]] = {}
    texts_of: dict[str, set[str]] = {}
    for name, text in documents:
        by_text.setdefault(text, set()).add(name)
        texts_of.setdefault(name, set()).add(text)
    groups: list[list[str]] = []
    seen: set[str] = set()
    for name in texts_of:
        group: set[str] = set()
        waiting = [name] if name not in seen else []
        while waiting:
            member = waiting.pop()
            group.add(member)
            for text in texts_of[member]:
                waiting += by_text[text] - group
        if group:
            seen |= group
            groups.append(sorted(group))
    return sorted(groups)


def _identities(path: Path, source: CorpusSource) -> Iterable[tuple[str, str]]:
    for name, text in read_documents(path, source.text_column, source.id_column):
        yield name, _text_hash(text)


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write_rows_and_summary(
    folder: Path,
    demonstrations: list[Demonstration],
    prompts: list[Prompt],
    sources: list[dict[str, Any]],
) -> dict[str, Any]:
    """Writes demonstrations and prompts; returns how much there is of everything."""
    if not demonstrations or not prompts:
        raise UserError("data", "there are no demonstrations or no prompts.", "supply some.")
    write_rows(folder / "demonstrations.jsonl", demonstrations)
    write_rows(folder / "prompts.jsonl", prompts)
    counts = Counter(prompt.split for prompt in prompts)
    return {
        "demonstrations": len(demonstrations),
        "prompts": {split: counts[split] for split in ("label", "ppo", "heldout")},
        "corpus": {
            source["name"]: {
                "documents": source["documents"],
                "heldout": len(source["heldout_ids"]),
                "bytes": source["bytes"],
            }
            for source in sources
        },
    }


def format_summary(summary: dict[str, Any]) -> str:
    """The summary as lines for the console."""
    prompts = ", ".join(f"{split} {count}" for split, count in summary["prompts"].items())
    lines = [f"  demonstrations {summary['demonstrations']}; prompts: {prompts}"]
    if summary.get("rows_left_out_for_length"):
        lines.append(f"  {summary['rows_left_out_for_length']} rows left out for their length")
    for name, source in summary["corpus"].items():
        lines.append(
            f"  {name:<14}{source['documents']:>7} documents ({source['heldout']} held out), "
            f"{source['bytes'] / 1e6:.1f} MB"
        )
    return "\n".join(lines)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    stage_main("data")
