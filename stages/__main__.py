"""The command ``align``. Whatever is heavy is imported only when a stage has to run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.chain import chain_of, missing_file
from pipeline.config import RunConfig
from pipeline.config_file import load_config
from pipeline.errors import UserError
from pipeline.stage_context import CONFIG_FILE
from stages.chain import StageState, chain_states
from stages.cli import ConfigPath, Debug, Overrides, guarded, read_config, run_folder_of
from stages.label_stats import stats_command
from stages.labelers import labelers_app
from stages.labels import labels_app
from stages.run import run_command

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    help="From a base model to an aligned one, with people in the loop.",
)
app.command("run")(run_command)
app.add_typer(labelers_app, name="labelers")
labels_app.command("stats")(stats_command)
app.add_typer(labels_app, name="labels")


@app.command("status")
def status_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or its config.")],
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Show what of a run is fresh, stale (and why), corrupt or missing."""
    if run.is_dir():
        folder, config = run, _config_of(run, overrides or [])
    else:
        config = load_config(run, overrides or [])
        folder = run_folder_of(config)
    _print_states(chain_states(config, folder), str(folder))


def _config_of(run_folder: Path, overrides: list[str]) -> RunConfig:
    path = run_folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(run_folder, "is no run folder.", "name a folder in runs/, or a config.")
    return load_config(path, overrides)


def _print_states(states: list[StageState], title: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for heading in ("stage", "state", "why", "when (UTC)"):
        table.add_column(heading)
    table.add_column("seconds", justify="right")
    colors = {"fresh": "green", "stale": "yellow", "corrupt": "red", "missing": "dim"}
    for state in states:
        manifest = state.manifest
        table.add_row(
            state.links.stage,
            Text(state.state, style=colors[state.state]),
            Text(state.reason),
            manifest.finished[:19].replace("T", " ") if manifest else "",
            f"{manifest.seconds:.1f}" if manifest else "",
        )
    Console().print(table)


@app.command("validate")
def validate_command(config: ConfigPath, overrides: Overrides = None, debug: Debug = False) -> None:
    """Check a config, and that the files it names are there. Nothing is written."""
    values = load_config(config, overrides or [])
    stages = [links.stage for links in chain_of(values)]
    for stage in stages:
        missing = missing_file(stage, values)
        if missing is not None:
            raise UserError(missing[1], f"is missing ({missing[0]}).", "check data_root.")
    typer.echo(f"{config}: valid. {' → '.join(stages)}, into {run_folder_of(values)}")


@app.command("plan")
def plan_command(config: ConfigPath, overrides: Overrides = None, debug: Debug = False) -> None:
    """Say what pretraining takes: parameters, memory, and time by a measurement of 5 seconds."""
    values = load_config(config, overrides or [])
    from stages.plan import plan

    for name, value in plan(values):
        typer.echo(f"{name:<22}{value}")


@app.command("chat")
def chat_command(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A model folder.")],
    temperature: Annotated[float, typer.Option(min=0.01)] = 0.7,
    max_response_tokens: Annotated[int, typer.Option(min=1)] = 64,
    debug: Debug = False,
) -> None:
    """Talk to a checkpoint: type a prompt, read the response."""
    if not (checkpoint / "config.json").is_file():
        raise UserError(checkpoint, "is no model folder.", "name one such as runs/quickstart/ppo.")
    from stages.chat import chat

    chat(checkpoint, temperature, max_response_tokens)


@app.command("score")
def score_command(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A reward model or a classifier.")
    ],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON lines: prompt, response; or text.")
    ],
    debug: Debug = False,
) -> None:
    """Score responses by a reward model, or label texts by a classifier: row in, row out."""
    if not (checkpoint / "config.json").is_file():
        raise UserError(checkpoint, "is no model folder.", "name one: runs/quickstart/reward.")
    from stages.score import score

    score(checkpoint, file)


@app.command("label")
def label_command(
    config: ConfigPath,
    overrides: Overrides = None,
    port: Annotated[int, typer.Option(min=0, max=65535)] = 7860,
    url: Annotated[
        str | None, typer.Option(help="The address people reach it by, through a proxy.")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open")] = True,
    debug: Debug = False,
) -> None:
    """Open the labeling application of a run in the browser."""
    values = read_config(config, overrides or [])
    if values.label.source == "file":
        problem = "is file: labels given in the browser would not be used."
        raise UserError("label.source", problem, "set label.source=browser.")
    from labeling_ui.serve import serve
    from stages.label import label_questions

    serve(
        values,
        run_folder_of(values),
        port,
        open_browser,
        questions=label_questions(values),
        next_command=shlex.join(["align", "run", str(config), *(overrides or [])]),
        public_url=url,
    )


def main() -> None:
    """The entry point of ``align``."""
    arguments = sys.argv[1:] or ["--help"]
    sys.exit(guarded(lambda: app(arguments, standalone_mode=False), arguments))


if __name__ == "__main__":
    main()
