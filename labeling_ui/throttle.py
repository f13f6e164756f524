"""How fast one may guess passwords: counted by account and by address, in the database.

A try counts as failed from its beginning until it has succeeded, so that many at once are no more
than many in a row; and a restart forgives nothing.
"""

from __future__ import annotations

import hashlib

from sqlalchemy import delete
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from labeling_ui.passwords import NAME_CHARACTERS, folded
from labeling_ui.tables import SignInFailures
from pipeline.errors import UserError

FREE_TRIES = 5  # wrong passwords to an account before the first wait
FIRST_WAIT = 30.0
LONGEST_WAIT = 15 * 60.0
ADDRESS_TRIES = 50  # wrong passwords from an address within ADDRESS_SECONDS
ADDRESS_SECONDS = 15 * 60.0


class Throttled(UserError):  # noqa: N818 (an error of its user, as its base is)
    """Too many wrong passwords: nothing is compared until some time has passed."""


def count_try(session: Session, name: str, address: str, now: float) -> None:
    """Counts a try to sign in as failed, until ``forgive`` is told otherwise.

    Raises:
        Throttled: there were too many to this account, or from this address; this one counts not.
    """
    old = now - 2 * LONGEST_WAIT
    session.execute(delete(SignInFailures).where(SignInFailures.last_at < old))
    account = _row(session, _account_key(name), now)
    there = _row(session, _address_key(address), now)
    since = abs(now - there.last_at)
    if since > ADDRESS_SECONDS:
        there.count = 0
    wait = wait_after(account.count) - abs(now - account.last_at)
    if there.count >= ADDRESS_TRIES:
        wait = max(wait, ADDRESS_SECONDS - since)
    if wait > 0:
        minutes = max(1, round(wait / 60))
        text = "a minute" if minutes == 1 else f"{minutes} minutes"
        raise Throttled("sign-in", "Too many wrong passwords.", f"try again in {text}.")
    for row in (account, there):
        row.count += 1
        row.last_at = now


def forgive(session: Session, name: str, address: str) -> None:
    """The try has succeeded: the account starts anew, the address has one failure less."""
    forget(session, name)
    row = session.get(SignInFailures, _address_key(address), with_for_update=True)
    if row is not None:
        row.count = max(0, row.count - 1)


def forget(session: Session, name: str) -> None:
    """Forgets the failures of an account."""
    session.execute(delete(SignInFailures).where(SignInFailures.key == _account_key(name)))


def wait_after(count: int) -> float:
    """Seconds from the last of ``count`` wrong passwords until the next try."""
    if count < FREE_TRIES:
        return 0.0
    return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(count - FREE_TRIES, 20))


def _row(session: Session, key: str, now: float) -> SignInFailures:
    """The row of a key, held until the transaction ends; made where there is none."""
    insert = sqlite.insert if session.connection().dialect.name == "sqlite" else postgresql.insert
    new = insert(SignInFailures).values(key=key, count=0, last_at=now)
    session.execute(new.on_conflict_do_nothing())
    return session.get_one(SignInFailures, key, with_for_update=True, populate_existing=True)


def _account_key(name: str) -> str:
    return _key("account", folded(name[: 2 * NAME_CHARACTERS]))


def _address_key(address: str) -> str:
    return _key("address", address)


def _key(kind: str, text: str) -> str:
    """Neither names nor addresses are kept for this."""
    return f"{kind} {hashlib.sha256(text.encode(errors='replace')).hexdigest()}"
