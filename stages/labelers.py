"""``align labelers``: who may label a run in the browser.

Nothing heavy is imported: neither torch nor gradio.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.config_file import load_config
from pipeline.errors import UserError
from stages.chain import STORE_FILE
from stages.cli import ConfigPath, Debug, Overrides, run_folder_of

if TYPE_CHECKING:
    from labeling_ui.accounts import Accounts

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the labeler signs in by.")]
Url = Annotated[
    str, typer.Option("--url", help="The address by which people reach it, as align label's.")
]
LOCAL = "http://127.0.0.1:7860"

labelers_app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Invite labelers, and see, disable and reset their accounts.",
)


@labelers_app.command("add")
def add_command(
    config: ConfigPath,
    name: Name,
    overrides: Overrides = None,
    role: Annotated[str, typer.Option(help="labeler, lead or admin")] = "labeler",
    url: Url = LOCAL,
    debug: Debug = False,
) -> None:
    """Make an account, and print the link by which its owner chooses a password."""
    from labeling_ui.accounts import invitations_at

    with _accounts(config, overrides) as accounts:
        link_of = invitations_at(url)
        _print_link(name, link_of(accounts.add(name, role)))


@labelers_app.command("list")
def list_command(config: ConfigPath, overrides: Overrides = None, debug: Debug = False) -> None:
    """Show all accounts."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for heading in ("name", "pseudonym", "role", "state", "since (UTC)"):
        table.add_column(heading)
    with _accounts(config, overrides) as accounts:
        for account in accounts.list():
            state = "active" if account.has_password else "no password yet"
            state = "disabled" if account.disabled else state
            since = account.created_at[:16].replace("T", " ")
            cells = (account.name, account.pseudonym, account.role, state, since)
            table.add_row(*(Text(cell) for cell in cells))
    Console().print(table)


@labelers_app.command("disable")
def disable_command(
    config: ConfigPath, name: Name, overrides: Overrides = None, debug: Debug = False
) -> None:
    """Let nobody in by an account any more; its labels stay."""
    with _accounts(config, overrides) as accounts:
        accounts.disable(name)
    typer.echo(f"{name}: disabled.")


@labelers_app.command("enable")
def enable_command(
    config: ConfigPath, name: Name, overrides: Overrides = None, debug: Debug = False
) -> None:
    """Let a disabled account in again."""
    with _accounts(config, overrides) as accounts:
        accounts.enable(name)
    typer.echo(f"{name}: enabled.")


@labelers_app.command("reset")
def reset_command(
    config: ConfigPath,
    name: Name,
    overrides: Overrides = None,
    url: Url = LOCAL,
    debug: Debug = False,
) -> None:
    """Sign an account out everywhere, and print a link for a new password."""
    from labeling_ui.accounts import invitations_at

    with _accounts(config, overrides) as accounts:
        link_of = invitations_at(url)
        _print_link(name, link_of(accounts.reset(name)))


@contextmanager
def _accounts(config: Path, overrides: list[str] | None) -> Generator[Accounts]:
    values = load_config(config, overrides or [])
    from labeling_ui.accounts import Accounts
    from labeling_ui.store import open_store

    folder = run_folder_of(values)
    if values.label.database is None and not folder.is_dir():
        fix = "run the chain up to the samples first: align run CONFIG --until sample."
        raise UserError(folder, "is missing: there is nothing to label yet.", fix)
    with closing(open_store(values.label.database or folder / STORE_FILE)) as store:
        yield Accounts(store)


def _print_link(name: str, link: str) -> None:
    typer.echo(f"Give this link to {name} and to nobody else. It works once, within a week:")
    typer.echo(f"\n    {link}\n")
