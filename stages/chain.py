"""What of a run is fresh, stale, missing or corrupt, and why."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from labeling_ui.content import sqlite_content_hash
from pipeline.artifacts import Identity, Manifest, file_sha256, read_manifest, staleness, verify
from pipeline.chain import (
    StageLinks,
    chain_of,
    external_files,
    missing_file,
    section_values,
    stage_version,
)
from pipeline.config import RunConfig

STORE_FILE = "labels.db"


@dataclass(frozen=True)
class StageState:
    """One stage of a run. ``reason`` is empty for a fresh stage; the manifest is a whole one's."""

    links: StageLinks
    state: Literal["fresh", "stale", "missing", "corrupt"]
    reason: str = ""
    manifest: Manifest | None = None


def chain_states(config: RunConfig, run_folder: Path) -> list[StageState]:
    """The states of all stages in order; what follows a stage that will run is stale too."""
    states: list[StageState] = []
    unsettled: dict[str, str] = {}  # folder -> the stage that has to make it
    for links in chain_of(config):
        state = stage_state(links, config, run_folder, unsettled)
        if state.state != "fresh":
            unsettled[links.folder] = links.stage
        states.append(state)
    return states


def stage_state(
    links: StageLinks,
    config: RunConfig,
    run_folder: Path,
    unsettled: Mapping[str, str] = MappingProxyType({}),
) -> StageState:
    """The state of one stage's folder against the config and its inputs as they are now.

    ``unsettled`` maps the folders that are to be made anew to their stages.
    """
    folder = run_folder / links.folder
    if not folder.exists():
        return StageState(links, "missing")
    problem = verify(folder)
    manifest = read_manifest(folder)
    if problem is not None or manifest is None:
        return StageState(links, "corrupt", problem or "manifest.json is damaged")
    missing = missing_file(links.stage, config)
    if missing is not None:
        return StageState(links, "stale", f"{missing[0]} is missing ({missing[1]})", manifest)
    inputs = _inputs_now(links, config, run_folder)
    inputs |= {name: manifest.inputs[name] for name in unsettled if name in manifest.inputs}
    section = section_values(links.stage, config)
    version = stage_version(links.stage)
    identity = Identity(links.stage, section, config.seed, inputs, version)
    reason = staleness(manifest, identity)
    earlier = [unsettled[name] for name in links.reads if name in unsettled]
    if reason is None and earlier:
        reason = f"follows {earlier[0]}"
    return StageState(links, "stale" if reason else "fresh", reason or "", manifest)


def _inputs_now(links: StageLinks, config: RunConfig, run_folder: Path) -> dict[str, str]:
    inputs = {name: file_sha256(path) for name, path in external_files(links.stage, config).items()}
    for folder in links.reads:
        manifest = read_manifest(run_folder / folder)
        if manifest is not None:
            inputs[folder] = manifest.content
    if links.stage == "label":
        digest = store_digest(config, run_folder)
        if digest is not None:
            inputs["store"] = digest
    return inputs


def store_digest(config: RunConfig, run_folder: Path) -> str | None:
    """The hash of the labels in the database; None when there is no database.

    Raises:
        UserError: the file is no label database, or the server does not answer.
    """
    database = config.label.database or str(run_folder / STORE_FILE)
    if "://" not in database:
        return sqlite_content_hash(database)
    from labeling_ui.store import open_store  # loads SQLAlchemy

    with closing(open_store(database)) as store:
        return store.content_hash()
