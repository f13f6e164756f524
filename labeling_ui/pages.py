"""The few pages that are not the task itself. They hold no text from outside."""

from __future__ import annotations

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="/favicon.ico">
{head}
<title>{title}</title>
<style>
:root {{ --paper: #f6f5f1; --sheet: #fff; --ink: #22262b; --soft: #646b73; --line: #e3e0d8;
  --tint: #eef1ee; }}
@media (prefers-color-scheme: dark) {{ :root {{ --paper: #131619; --sheet: #1b1f23;
  --ink: #e4e7ea; --soft: #9aa3ab; --line: #2c3238; --tint: #252a2f; }} }}
body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--paper);
  color: var(--ink); font: 16px/1.55 Inter, "Segoe UI", system-ui, "Liberation Sans", sans-serif; }}
main {{ max-width: 26rem; margin: 1.5rem; padding: 2rem; background: var(--sheet);
  border: 1px solid var(--line); border-radius: 14px; }}
h1 {{ font-size: 1.25rem; margin: 0 0 .5rem; }}
p {{ margin: .5rem 0; color: var(--soft); }}
code {{ padding: .15em .4em; border-radius: 5px; background: var(--tint); color: var(--ink); }}
a {{ color: inherit; }}
</style>
</head>
<body><main><h1>{title}</h1>{body}</main></body>
</html>
"""


def signed_out() -> str:
    """For who comes without a session."""
    return _PAGE.format(
        head="",
        title="You are not signed in",
        body="<p>Open the link that <code>align label</code> printed in the terminal. It works "
        "once. For a new one, stop the command with Ctrl+C and start it again.</p>",
    )


def link_refused() -> str:
    """For a link that is used, old or wrong."""
    return _PAGE.format(
        head="",
        title="This link no longer works",
        body="<p>A link signs in one browser, once, within the hour. For a new one, stop "
        "<code>align label</code> in the terminal with Ctrl+C and start it again.</p>",
    )


def entering() -> str:
    """After a link was accepted.

    The page goes on by itself: a redirect could follow a click on another site, and then the
    browser would not send the new cookie, which is for our own pages only.
    """
    return _PAGE.format(
        head='<meta http-equiv="refresh" content="0; url=/label/">',
        title="You are signed in",
        body='<p><a href="/label/">Go to the first task</a></p>',
    )
