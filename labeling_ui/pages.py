"""The pages around the task: signing in, invitations, people. They need no script.

All text from outside goes through ``escape``.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import get_args

from labeling_ui.accounts import Account, Role
from labeling_ui.passwords import NAME_CHARACTERS, PASSWORD_CHARACTERS

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="/favicon.ico">
<link rel="stylesheet" href="/pages.css">
{head}
<title>{title}</title>
</head>
<body>{bar}<main class="{kind}"><h1>{title}</h1>{body}</main></body>
</html>
"""
_PLACES = (("/label/", "Tasks"), ("/write", "Write"))
_PLACES_OF_LEADS = (("/dashboard", "Dashboard"), ("/people", "People"))


def page(title: str, body: str, head: str = "", kind: str = "card", bar: str = "") -> str:
    """A whole page; only ``title`` is escaped here.

    Args:
        kind: ``card`` is small and in the middle, ``wide`` for tables, ``full`` for more.
        bar: what stands above it, as ``nav`` makes it.
    """
    return _PAGE.format(title=escape(title), body=body, head=head, kind=kind, bar=bar)


def nav(role: str, here: str) -> str:
    """The bar above the pages for who is signed in: where else to go, and the way out.

    Args:
        role: of the reader; only leads and admins are shown the way to what is theirs.
        here: the path of this page, such as ``/people``.
    """
    places = _PLACES + (_PLACES_OF_LEADS if role in ("lead", "admin") else ())
    current = ' aria-current="page"'
    links = "".join(
        f'<a href="{path}"{current if path == here else ""}>{name}</a>' for path, name in places
    )
    return f"""<header class="bar"><span class="brand" aria-hidden="true"></span>
<nav aria-label="Pages">{links}</nav>
<form method="post" action="/sign-out"><button>Sign out</button></form></header>"""


def _alert(text: str | None) -> str:
    return f'<p class="alert" role="alert">{escape(text)}</p>' if text else ""


def sign_in(name: str = "", problem: str | None = None) -> str:
    """The form for name and password."""
    focus = ("", " autofocus") if name else (" autofocus", "")
    return page(
        "Sign in",
        f"""{_alert(problem)}
<form method="post" action="/sign-in">
<label for="name">Name</label>
<input id="name" name="name" value="{escape(name)}" maxlength="{NAME_CHARACTERS}"
 autocomplete="username" autocapitalize="none" spellcheck="false" required{focus[0]}>
<label for="password">Password</label>
<input id="password" name="password" type="password" maxlength="{PASSWORD_CHARACTERS[1]}"
 autocomplete="current-password" required{focus[1]}>
<button type="submit">Sign in</button>
</form>
<p class="soft">If you started <code>align label</code> yourself, open the link that it printed in
the terminal. It works once; for a new one, stop the command with Ctrl+C and start it again.</p>
<p class="soft">If you have lost your password, ask for a new link where you got the first.</p>""",
    )


def invite(token: str, name: str, problem: str | None = None) -> str:
    """The form in which who was invited chooses a password."""
    least, most = PASSWORD_CHARACTERS
    return page(
        f"Welcome, {name}",
        f"""{_alert(problem)}
<form method="post" action="/invite">
<input type="hidden" name="token" value="{escape(token)}">
<input type="hidden" name="username" value="{escape(name)}" autocomplete="username">
<label for="password">Choose a password</label>
<input id="password" name="password" type="password" minlength="{least}" maxlength="{most}"
 autocomplete="new-password" aria-describedby="rule" required autofocus>
<p id="rule" class="soft">At least {least} characters. A few words that only you would put together
are good.</p>
<button type="submit">Begin</button>
</form>""",
    )


def confirm_enter(token: str) -> str:
    """For a link that was followed from another site: going on is the reader's own choice."""
    return page(
        "Sign in by this link?",
        f"""<p>The link signs this browser in.</p>
<form method="post" action="/enter"><input type="hidden" name="token" value="{escape(token)}">
<button type="submit">Sign in</button></form>""",
    )


def link_refused() -> str:
    """For a link that is used, old or wrong."""
    return page(
        "This link no longer works",
        "<p>A link signs in one browser, once. If <code>align label</code> printed it, stop the "
        "command in the terminal with Ctrl+C and start it again; if somebody gave it to you, ask "
        'them for a new one.</p><p><a href="/sign-in">Sign in with a password</a></p>',
    )


def entering() -> str:
    """After a link was accepted.

    The page goes on by itself: a redirect could follow a click on another site, and then the
    browser would not send the new cookie, which is for our own pages only.
    """
    return page(
        "You are signed in",
        '<p><a href="/label/">Go to the first task</a></p>',
        head='<meta http-equiv="refresh" content="0; url=/label/">',
    )


def forbidden() -> str:
    """For who is signed in and has no business here."""
    return page(
        "Not for your account",
        '<p>This page is for leads and admins.</p><p><a href="/label/">Go to the tasks</a></p>',
    )


def no_such_task(role: str) -> str:
    """For the address of a task that is not there."""
    body = '<p>It is not in this database.</p><p><a href="/dashboard">Go to the dashboard</a></p>'
    return page("There is no such task", body, bar=nav(role, ""))


# --- people -------------------------------------------------------------------------------------


def people(
    accounts: Sequence[Account],
    may_change: bool,
    link: tuple[str, str] | None = None,
    problem: str | None = None,
) -> str:
    """All accounts; for admins with what they can do to them.

    Args:
        link: a name and the one-time link just made for it, which is shown once.
    """
    shown = ""
    if link is not None:
        name, url = link
        shown = f"""<section class="made" role="status"><h2>A link for {escape(name)}</h2>
<p>Give it to nobody else. It works once, within a week, and is shown only here.</p>
<p><code class="link">{escape(url)}</code></p></section>"""
    head = "<tr><th>Name</th><th>Pseudonym</th><th>Role</th><th>State</th>"
    head += "<th>Change</th></tr>" if may_change else "</tr>"
    rows = "".join(_person(account, may_change) for account in accounts)
    form = _add_form() if may_change else ""
    return page(
        "People",
        f"""{_alert(problem)}{shown}{form}
<div class="scroll" tabindex="0" role="region" aria-label="Accounts">
<table>{head}{rows}</table></div>
<p class="soft">Exports carry pseudonyms, never names.</p>""",
        kind="wide",
        bar=nav("admin" if may_change else "lead", "/people"),
    )


def _person(account: Account, may_change: bool) -> str:
    state = "active" if account.has_password else "no password yet"
    state = "disabled" if account.disabled else state
    cells = f"""<tr><th scope="row">{escape(account.name)}</th>
<td><code>{escape(account.pseudonym)}</code></td><td>{account.role}</td><td>{state}</td>"""
    if not may_change:
        return cells + "</tr>"
    name = escape(account.name)
    turn = ("enable", "Enable") if account.disabled else ("disable", "Disable")
    buttons = [("role", "Change role"), turn]
    if not account.disabled:
        buttons.append(("reset", "New link"))
    options = "".join(
        f"<option{' selected' if role == account.role else ''}>{role}</option>"
        for role in get_args(Role)
    )
    pressed = "".join(
        f'<button name="action" value="{action}" aria-label="{text}: {name}">{text}</button>'
        for action, text in buttons
    )
    return f"""{cells}<td><form method="post" action="/people" class="row">
<input type="hidden" name="name" value="{name}">
<select name="role" aria-label="Role of {name}">{options}</select>{pressed}</form></td></tr>"""


def _add_form() -> str:
    options = "".join(f"<option>{role}</option>" for role in get_args(Role))
    return f"""<form method="post" action="/people" class="row add">
<label for="new">Invite</label>
<input id="new" name="name" maxlength="{NAME_CHARACTERS}" autocomplete="off" required
 placeholder="Name">
<select name="role" aria-label="Role">{options}</select>
<button name="action" value="add">Make a link</button></form>"""
