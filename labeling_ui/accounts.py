"""Who may come in: accounts, passwords, one-time links, sessions, and how fast one may guess.

Passwords are kept as Argon2 hashes, tokens as SHA-256. There is no default user and no default
password: an account begins with a one-time link, by which its owner chooses a password.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from labeling_ui import rows, throttle
from labeling_ui.address import check_address
from labeling_ui.passwords import (
    check_password,
    clean_name,
    folded,
    hash_password,
    needs_rehash,
    verify_password,
)
from labeling_ui.store import Store
from labeling_ui.tables import Event, Labeler, SignInLink, SignInSession
from pipeline.errors import UserError

Role = Literal["labeler", "lead", "admin"]
Purpose = Literal["enter", "invite"]

HOUR = 60 * 60.0
LINK_SECONDS: dict[Purpose, float] = {"enter": HOUR, "invite": 7 * 24 * HOUR}
SESSION_SECONDS = 14 * 24 * HOUR
TOKEN_CHARACTERS = 200
IMPORTED = "file: "  # what the names of imported labelers begin with
_ADVISORY_LOCK = 0x6163636F756E74  # "account"


@dataclass(frozen=True)
class Account:
    """A labeler as the people page and the command line show them."""

    name: str
    pseudonym: str
    role: Role
    disabled: bool
    has_password: bool
    created_at: str


class Accounts:
    """The accounts of a store. Safe in threads and several processes.

    Args:
        store: where they are.
        clock: seconds since the epoch.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock

    @contextmanager
    def _changing(self) -> Generator[Session]:
        """A transaction that changes accounts, one after the other in all processes.

        Rows alone will not do as locks: there must remain an admin among all, and no second name.
        """
        with self._store.writing() as session:
            if session.connection().dialect.name == "postgresql":
                session.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
            yield session

    # --- accounts ---------------------------------------------------------------------------------

    def list(self) -> list[Account]:
        """The people, by name; neither scripts nor those that only stand in an imported file."""
        with self._store.reading() as session:
            people = session.scalars(select(Labeler).where(_is_person()))
            return sorted((_account(person) for person in people), key=lambda one: one.name)

    def add(self, name: str, role: str = "labeler", by: int | None = None) -> str:
        """Makes an account; the token of the link by which its owner chooses a password.

        Raises:
            UserError: the name is empty, too long, holds control characters or is taken, or there
                is no such role.
        """
        name, role = clean_name(name), _role(role)
        with self._store.together(), self._changing() as session:
            if _is_taken(session, name):
                raise UserError(f"labeler {name}", "is there already.", "choose another name.")
            labeler = self._store.add_labeler(name, role=role)
            _note(session, by, "account added", name, role=role)
            return self._new_link(session, labeler.id, "invite")

    def reset(self, name: str, by: int | None = None) -> str:
        """Ends an account's sessions, links and password; the token of a new link to choose one.

        Raises:
            UserError: there is no such account, or it is disabled.
        """
        with self._changing() as session:
            labeler = _existing(session, name)
            if labeler.disabled:
                problem, fix = "is disabled.", "enable the account first."
                raise UserError(f"labeler {labeler.name}", problem, fix)
            _lock_out(session, labeler)
            labeler.password_hash = None
            _note(session, by, "account reset", labeler.name)
            return self._new_link(session, labeler.id, "invite")

    def disable(self, name: str, by: int | None = None) -> None:
        """Ends an account's sessions and links, and lets nobody in by it; its labels stay.

        Raises:
            UserError: there is no such account, or it is the last admin's.
        """
        with self._changing() as session:
            labeler = _existing(session, name)
            _keep_an_admin(session, labeler)
            _lock_out(session, labeler)
            labeler.disabled = True
            _note(session, by, "account disabled", labeler.name)

    def enable(self, name: str, by: int | None = None) -> None:
        """Lets a disabled account in again, with the password it had.

        Raises:
            UserError: there is no such account.
        """
        with self._changing() as session:
            labeler = _existing(session, name)
            labeler.disabled = False
            _note(session, by, "account enabled", labeler.name)

    def set_role(self, name: str, role: str, by: int | None = None) -> None:
        """Gives an account another role.

        Raises:
            UserError: there is no such account or role, or it is the last admin's.
        """
        role = _role(role)
        with self._changing() as session:
            labeler = _existing(session, name)
            if role != "admin":
                _keep_an_admin(session, labeler)
            labeler.role = role
            _note(session, by, "role changed", labeler.name, role=role)

    # --- links ------------------------------------------------------------------------------------

    def new_link(self, labeler_id: int) -> str:
        """A token that signs this labeler in once, within the hour."""
        with self._store.writing() as session:
            return self._new_link(session, labeler_id, "enter")

    def _new_link(self, session: Session, labeler_id: int, purpose: Purpose) -> str:
        token, now = secrets.token_urlsafe(32), self._clock()
        session.execute(delete(SignInLink).where(SignInLink.expires_at < now))
        expires = now + LINK_SECONDS[purpose]
        session.add(
            SignInLink(
                token_sha256=_sha256(token),
                labeler_id=labeler_id,
                purpose=purpose,
                expires_at=expires,
            )
        )
        return token

    def enter(self, token: str) -> str | None:
        """A new session by a link to enter; None if the link is unknown, used or old."""
        with self._changing() as session:
            labeler = self._use_link(session, token, "enter")
            return None if labeler is None else self._new_session(session, labeler)

    def invited(self, token: str) -> str | None:
        """The name of who may choose a password by this link; None if it is no longer good."""
        with self._store.reading() as session:
            link = session.get(SignInLink, _sha256(token))
            labeler = self._good(session, link, "invite")
            return None if labeler is None else labeler.name

    def choose_password(self, token: str, password: str) -> str | None:
        """A new session of who was invited, with a password from now on; None for a bad link.

        Raises:
            UserError: the password will not do; the link can be used again.
        """
        name = self.invited(token)
        if name is None:
            return None
        check_password(password, name)
        hashed = hash_password(password)  # before the transaction, which others would wait for
        with self._changing() as session:
            labeler = self._use_link(session, token, "invite")
            if labeler is None:
                return None
            _lock_out(session, labeler)
            labeler.password_hash = hashed
            _note(session, labeler.id, "password chosen", labeler.name)
            return self._new_session(session, labeler)

    def _use_link(self, session: Session, token: str, purpose: Purpose) -> Labeler | None:
        link = session.get(SignInLink, _sha256(token))
        labeler = self._good(session, link, purpose)
        if link is not None and labeler is not None:
            link.used_at = self._clock()
        return labeler

    def _good(self, session: Session, link: SignInLink | None, purpose: Purpose) -> Labeler | None:
        if link is None or link.purpose != purpose or link.used_at is not None:
            return None
        if link.expires_at < self._clock():
            return None
        labeler = session.get(Labeler, link.labeler_id)
        return labeler if labeler is not None and _may_enter(labeler) else None

    # --- signing in -------------------------------------------------------------------------------

    def sign_in(self, name: str, password: str, address: str) -> str | None:
        """A new session, or None where name and password do not belong together.

        A guess is counted before it is compared, so that many at once are no more than many in a
        row. A name that nobody has takes as long as any other and is slowed down alike.

        Args:
            address: where the request comes from.

        Raises:
            throttle.Throttled: after too many wrong passwords; nothing was compared.
        """
        now = self._clock()
        with self._store.writing() as session:
            throttle.count_try(session, name, address, now)
        with self._store.reading() as session:
            found = _find_whatever(session, name)
            labeler = found if found is not None and _may_enter(found) else None
        stored = labeler.password_hash if labeler is not None else None
        right = verify_password(stored, password)
        if labeler is None or stored is None or not right:
            return None
        rehashed = hash_password(password) if needs_rehash(stored) else None
        with self._store.writing() as session:
            labeler = session.get_one(Labeler, labeler.id, with_for_update=True)
            if not _may_enter(labeler) or labeler.password_hash != stored:
                return None  # reset or disabled while the password was compared
            if rehashed is not None:
                labeler.password_hash = rehashed
            throttle.forgive(session, name, address)
            return self._new_session(session, labeler)

    # --- sessions ---------------------------------------------------------------------------------

    def _new_session(self, session: Session, labeler: Labeler) -> str:
        sid, now = secrets.token_urlsafe(32), self._clock()
        session.execute(delete(SignInSession).where(SignInSession.expires_at < now))
        session.add(
            SignInSession(
                sid_sha256=_sha256(sid), labeler_id=labeler.id, expires_at=now + SESSION_SECONDS
            )
        )
        return sid

    def labeler_of(self, sid: str) -> Labeler | None:
        """The labeler of a session; None if it is unknown, ended or old, or they are disabled."""
        if not sid or len(sid) > TOKEN_CHARACTERS:
            return None
        with self._store.reading() as session:
            row = session.get(SignInSession, _sha256(sid))
            if row is None or row.expires_at < self._clock():
                return None
            labeler = session.get(Labeler, row.labeler_id)
            return labeler if labeler is not None and _may_enter(labeler) else None

    def sign_out(self, sid: str) -> None:
        """Ends a session."""
        with self._store.writing() as session:
            session.execute(delete(SignInSession).where(SignInSession.sid_sha256 == _sha256(sid)))


def invitations_at(url: str) -> Callable[[str], str]:
    """What makes the link of an invitation's token, for people who come by the address ``url``.

    Raises:
        UserError: it is no address.
    """
    address = check_address(url)
    return lambda token: f"{address}/invite?token={token}"


# --- rows ---------------------------------------------------------------------------------------


def _is_person() -> ColumnElement[bool]:
    imported = func.lower(Labeler.name).startswith(IMPORTED, autoescape=True)
    return Labeler.active & ~Labeler.scripted & ~imported


def _is_imported(name: str) -> bool:
    return folded(name).startswith(IMPORTED)


def _may_enter(labeler: Labeler) -> bool:
    person = not labeler.scripted and not _is_imported(labeler.name)
    return person and labeler.active and not labeler.disabled


def _find(session: Session, name: str) -> Labeler | None:
    """The person of a name, whatever the case of its letters.

    All names are read, so that one which is there takes as long as one that is not.
    """
    people = session.execute(select(Labeler.id, Labeler.name).where(_is_person())).all()
    alike = [person for person in people if folded(person.name) == folded(name)]
    if not alike:
        return None
    best = next((person for person in alike if person.name == name), alike[0])
    return session.get(Labeler, best.id)


def _is_taken(session: Session, name: str) -> bool:
    """Scripts and files have names of their own, which are no person's."""
    names = session.scalars(select(Labeler.name))
    return _is_imported(name) or folded(name) in map(folded, names)


def _find_whatever(session: Session, name: str) -> Labeler | None:
    """The person of a name that may be anything: no database takes every text."""
    try:
        return _find(session, clean_name(name))
    except UserError:
        return None


def _existing(session: Session, name: str) -> Labeler:
    found = _find(session, clean_name(name))
    if found is None:
        raise UserError(f"labeler {name}", "is unknown.", "see align labelers list.")
    return session.get_one(Labeler, found.id, with_for_update=True)


def _keep_an_admin(session: Session, labeler: Labeler) -> None:
    query = select(func.count()).select_from(Labeler)
    admins = query.where(_is_person(), Labeler.role == "admin", ~Labeler.disabled)
    if labeler.role == "admin" and not labeler.disabled and (session.scalar(admins) or 0) < 2:
        problem, fix = "is the last admin.", "make somebody else an admin first."
        raise UserError(f"labeler {labeler.name}", problem, fix)


def _lock_out(session: Session, labeler: Labeler) -> None:
    for table in (SignInSession, SignInLink):
        session.execute(delete(table).where(table.labeler_id == labeler.id))
    throttle.forget(session, labeler.name)


def _account(labeler: Labeler) -> Account:
    return Account(
        name=labeler.name,
        pseudonym=labeler.pseudonym,
        role=_role(labeler.role),
        disabled=labeler.disabled,
        has_password=labeler.password_hash is not None,
        created_at=labeler.created_at,
    )


def _role(role: str) -> Role:
    for known in get_args(Role):
        if role == known:
            return known
    problem, fix = f"is no role, got {role!r:.40}.", f"one of {', '.join(get_args(Role))}."
    raise UserError("role", problem, fix)


def _note(session: Session, by: int | None, action: str, name: str, **more: str) -> None:
    detail = {"name": name, **more}
    session.add(Event(at=rows.now(), labeler_id=by, action=action, detail=detail))


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
