"""Runs what is missing or stale of a run, in order.

align run configs/quickstart.yaml
align run configs/quickstart.yaml --from reward ppo.kl_coef=0.1
"""

from __future__ import annotations

import difflib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from pipeline.artifacts import read_manifest
from pipeline.chain import StageLinks, chain_of, processes_of
from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.run_lock import run_lock
from pipeline.stage_context import corrupt_folder
from stages.chain import StageState, stage_state
from stages.cli import (
    ConfigPath,
    Debug,
    Overrides,
    guarded,
    read_config,
    run_folder_of,
    run_stage,
)
from stages.launch import launch_stage

From = Annotated[
    str | None,
    typer.Option("--from", metavar="STAGE", help="Make this stage and all after it anew."),
]
Until = Annotated[
    str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")
]


def run_chain(
    config: RunConfig,
    run_folder: Path,
    first: str | None = None,
    last: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Brings a run up to date, from ``first`` (which is made anew) to ``last``.

    Stops without an error where labels are to be given in the browser.

    Raises:
        UserError: a stage's own; a folder is corrupt; a stage before ``first`` is not fresh.
    """
    chain = chain_of(config)
    begin = _position(first, chain, "--from") if first else 0
    end = _position(last, chain, "--until") if last else len(chain) - 1
    if begin > end:
        raise UserError("--until", f"{last} comes before {first}.", "swap --from and --until.")
    with run_lock(run_folder):
        for index, links in enumerate(chain[: end + 1]):
            state = stage_state(links, config, run_folder)
            if index < begin:
                _require_fresh(state, run_folder, str(first))
            elif first is None and state.state == "fresh":
                say(f"{links.stage:<12}fresh")
            elif first is None and state.state == "corrupt":
                raise corrupt_folder(run_folder / links.folder, state.reason, links.stage)
            elif not _run(state, config, say):
                return
    if chain[end].stage == "compare":
        say_results(config, run_folder, say)


def _run(state: StageState, config: RunConfig, say: Callable[[str], None]) -> bool:
    """Runs one stage; False when it waits for people."""
    stage = state.links.stage
    reason = f": {state.reason}" if state.reason else ""
    say(f"{stage:<12}{state.state}{reason}, running …")
    started = time.monotonic()
    processes = processes_of(stage, config)
    if processes > 1:
        launch_stage(stage, config, processes)
        message = None
    else:
        message = run_stage(stage, config)
    if message is not None:
        say(f"{stage:<12}waits. {message}")
        return False
    say(f"{stage:<12}ran in {time.monotonic() - started:.0f} s")
    return True


def _position(stage: str, chain: Sequence[StageLinks], option: str) -> int:
    names = [links.stage for links in chain]
    if stage in names:
        return names.index(stage)
    close = difflib.get_close_matches(stage, names, n=1)
    fix = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(names)}."
    raise UserError(option, f"{stage} is no stage of this run.", fix)


def _require_fresh(state: StageState, run_folder: Path, first: str) -> None:
    if state.state == "fresh":
        return
    reason = f" ({state.reason})" if state.reason else ""
    raise UserError(
        run_folder / state.links.folder,
        f"is {state.state}{reason}, and --from {first} starts after it.",
        f"use --from {state.links.stage}, or leave --from out.",
    )


def say_results(config: RunConfig, run_folder: Path, say: Callable[[str], None]) -> None:
    """The comparison's small table, and where its report lies."""
    from pipeline.summary import console_table

    report = json.loads((run_folder / "compare" / "report.json").read_text(encoding="utf-8"))
    manifests = [read_manifest(run_folder / links.folder) for links in chain_of(config)]
    seconds = {manifest.stage: manifest.seconds for manifest in manifests if manifest}
    say(console_table(report, seconds, run_folder / "compare" / "report.html"))


def run_command(
    config: ConfigPath,
    overrides: Overrides = None,
    first: From = None,
    until: Until = None,
    debug: Debug = False,
) -> None:
    """Run what is missing or stale, in order."""
    values = read_config(config, overrides or [])
    run_chain(values, run_folder_of(values), first, until)


def main() -> None:
    """The command line of this script alone."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(run_command)
    sys.exit(guarded(lambda: app(standalone_mode=False), sys.argv[1:]))


if __name__ == "__main__":
    main()
