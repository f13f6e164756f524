"""Prepares the data of a run, and is the only place that splits it.

    python -m stages.data configs/quickstart.yaml
    accelerate launch -m stages.data configs/quickstart.yaml

Reads the embedded world, or the configured corpus and instructions; writes data/:
``demonstrations.jsonl``, ``prompts.jsonl``, ``corpus/sources.json``, ``corpus/heldout.npy`` (the
hashes of held-out texts), ``summary.json``; for the world also its texts, ``world.json`` and
``copy_probes.jsonl``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import CorpusSource, RunConfig, TinyWorldSection
from pipeline.data import SourceEntry, locate, survey_sources
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

VERSION = 2
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
    sources: list[CorpusSource] = []
    for name, documents in make_corpus(world, sizes.documents, seed).items():
        path = f"{name}.jsonl"
        write_rows(folder / "corpus" / path, documents)
        sources.append(
            CorpusSource(name=name, path=path, proportion=MIXTURE[name], id_column="document_id")
        )
    entries = survey(stage, sources, in_run=True)
    probes = copy_probes(world, COPY_PROBES, seed)
    rows = [CopyProbe(prefix=probe.prefix, target=probe.target) for probe in probes]
    write_rows(folder / "copy_probes.jsonl", rows)
    prompts = make_prompts(
        world, sizes.label_prompts, sizes.ppo_prompts, sizes.heldout_prompts, seed
    )
    demonstrations = make_demonstrations(world, sizes.demonstrations, seed)
    return write_rows_and_summary(folder, demonstrations, prompts, entries)


def write_sources(stage: StageContext) -> dict[str, Any]:
    """Divides the configured instructions and lists the corpus; returns the summary."""
    source = stage.config.data.instructions
    assert source is not None, "checked by DataSection"
    place, revision = locate(source, stage.data_root)
    rows, too_long = read_instructions(source, place, revision)
    splits = split_instructions(rows, source, stage.seed, str(source.path or source.dataset))
    entries = survey(stage, stage.config.data.corpus, in_run=False)
    summary = write_rows_and_summary(stage.output, splits.demonstrations, splits.prompts, entries)
    return {
        **summary,
        "rows_left_out_for_length": too_long,
        "repeated_prompts_left_out": splits.repeated,
        "instructions_revision": revision,
    }


def survey(
    stage: StageContext, sources: Sequence[CorpusSource], *, in_run: bool
) -> list[SourceEntry]:
    """Lists the corpus with what of it is held out; ``in_run``: the stage has written it itself."""
    corpus = stage.output / "corpus"
    return survey_sources(
        sources,
        corpus if in_run else stage.data_root,
        corpus,
        in_run=in_run,
        seed=stage.seed,
        heldout_share=stage.config.data.heldout_document_fraction,
    )


def write_rows_and_summary(
    folder: Path,
    demonstrations: list[Demonstration],
    prompts: list[Prompt],
    sources: Sequence[SourceEntry],
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
            source.name: {
                "documents": source.documents,
                "heldout": source.heldout_documents,
                "bytes": source.bytes,
                "empty_rows": source.empty_rows,
                "revision": source.revision,
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
    if summary.get("repeated_prompts_left_out"):
        lines.append(f"  {summary['repeated_prompts_left_out']} repeated prompts left out")
    for name, source in summary["corpus"].items():
        empty = f", {source['empty_rows']} empty rows left out" if source["empty_rows"] else ""
        lines.append(
            f"  {name:<14}{source['documents']:>7} documents ({source['heldout']} held out), "
            f"{source['bytes'] / 1e6:.1f} MB{empty}"
        )
    return "\n".join(lines)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    stage_main("data")
