"""The command line of a single stage: ``python -m stages.sft CONFIG [key=value…]``."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from pipeline.config import RunConfig
from pipeline.config_file import load_config
from pipeline.errors import EXIT_CODE, UserError
from pipeline.stage_context import names_hub
from stages import HUB_SWITCHES

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Values to use instead of the file's."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

RUNS = Path("runs")
INTERRUPTED = 130
# What a machine refuses (disk full, no permission, read-only) is not a defect of the program.
_MACHINE = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EPERM)


class StageFailedError(Exception):
    """A process of a stage ended with ``exit_code``, or by a signal (negative)."""

    def __init__(self, stage: str, exit_code: int) -> None:
        super().__init__(f"a process of {stage} ended with exit code {exit_code}")
        self.exit_code = exit_code


def stage_main(name: str) -> None:
    """Runs one stage from the command line, then exits: 0, or 2 with one line on stderr."""

    def main(config: ConfigPath, overrides: Overrides = None, debug: Debug = False) -> None:
        message = run_stage(name, read_config(config, overrides or []))
        if message is not None:
            print(message)

    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(help=f"Run the stage {name} alone.")(main)
    _leave(guarded(lambda: app(standalone_mode=False), sys.argv[1:]))


def _leave(exit_code: int) -> NoReturn:
    """Ends this process.

    One of several leaves at once, when all is written: as gloo takes its connections down, it
    aborts one process in ten (``terminate called without an active exception``).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


def read_config(path: Path, overrides: Sequence[str]) -> RunConfig:
    """The config, with the hub opened for it when it names a hub id."""
    config = load_config(path, overrides)
    if names_hub(config):
        for switch in HUB_SWITCHES:
            os.environ.pop(switch, None)
    return config


def run_folder_of(config: RunConfig) -> Path:
    """``runs/<name>``, below the working directory."""
    return RUNS / str(config.name)


def run_stage(name: str, config: RunConfig) -> str | None:
    """Imports a stage's script and runs it.

    Returns what the user has to do first when the stage waits for people (``LabelsPending``).
    """
    module = importlib.import_module(f"stages.{name}")
    pending: type[Exception] | tuple[()] = getattr(module, "LabelsPending", ())
    try:
        module.run(config, run_folder_of(config))
    except pending as message:
        return str(message)
    return None


def guarded(command: Callable[[], object], arguments: Sequence[str]) -> int:
    """The exit code of a command; an error becomes one line on stderr, unless ``--debug``."""
    try:
        result = command()
    except StageFailedError as failure:
        if failure.exit_code < 0:  # a process that ends by itself has said why
            print(failure, file=sys.stderr)
        return failure.exit_code if failure.exit_code > 0 else 1
    except Exception as error:
        line = _one_line(error)
        if line is None:
            raise
        if "--debug" in arguments:
            traceback.print_exc()
        print(line, file=sys.stderr)
        return EXIT_CODE
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    return result if isinstance(result, int) else 0


def _one_line(error: Exception) -> str | None:
    """What to tell the user, or None where the error is a defect and needs its traceback."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in _MACHINE:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}. Fix: free some space or check the permissions."
    if type(error).__module__.startswith(("click", "typer")):  # wrong usage
        message = getattr(error, "format_message", lambda: str(error))()
        return f"command line: {' '.join(message.split())} Fix: see --help."
    return None
