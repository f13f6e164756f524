"""Who is calling: one-time links, sessions, and ``current_user``, which every path asks.

Tokens are random, and only their SHA-256 is in the database. There is no password and no default
user: a request without a valid session cookie is nobody's.
"""

from __future__ import annotations

import hashlib
import secrets
import time

from fastapi.requests import HTTPConnection
from fastapi.responses import Response
from sqlalchemy import delete

from labeling_ui.store import Store
from labeling_ui.tables import Labeler, SignInLink, SignInSession

LINK_SECONDS = 60 * 60
SESSION_SECONDS = 14 * 24 * 60 * 60


class SignIn:
    """Sign-in for one server. The cookie is named for its port, since browsers ignore ports."""

    def __init__(self, store: Store, port: int) -> None:
        self._store = store
        self._cookie = f"align_session_{port}"

    def new_link_token(self, labeler_id: int) -> str:
        """A token that signs this labeler in once, within the hour."""
        token = secrets.token_urlsafe(32)
        with self._store.writing() as session:
            session.execute(delete(SignInLink).where(SignInLink.expires_at < time.time()))
            session.add(
                SignInLink(
                    token_sha256=_sha256(token),
                    labeler_id=labeler_id,
                    purpose="enter",
                    expires_at=time.time() + LINK_SECONDS,
                )
            )
        return token

    def redeem(self, token: str) -> str | None:
        """A new session id for the link's labeler; None if the token is unknown, used or old."""
        now, sid = time.time(), secrets.token_urlsafe(32)
        with self._store.writing() as session:
            link = session.get(SignInLink, _sha256(token))
            if link is None or link.used_at is not None or link.expires_at < now:
                return None
            link.used_at = now
            session.execute(delete(SignInSession).where(SignInSession.expires_at < now))
            session.add(
                SignInSession(
                    sid_sha256=_sha256(sid),
                    labeler_id=link.labeler_id,
                    expires_at=now + SESSION_SECONDS,
                )
            )
        return sid

    def set_cookie(self, response: Response, sid: str) -> None:
        """Gives the browser its session: not readable by scripts, not sent from other sites."""
        response.set_cookie(
            self._cookie, sid, max_age=SESSION_SECONDS, httponly=True, samesite="strict"
        )

    def current_user(self, request: HTTPConnection) -> int | None:
        """The labeler id of the request's session cookie; None if it has no valid one."""
        sid = request.cookies.get(self._cookie)
        if not sid:
            return None
        with self._store.reading() as session:
            row = session.get(SignInSession, _sha256(sid))
            if row is None or row.expires_at < time.time():
                return None
            labeler = session.get(Labeler, row.labeler_id)
            return labeler.id if labeler is not None and labeler.active else None


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
