"""Who is calling: the session cookie, and ``current_user``, which every path asks.

There is no default user: a request without a valid session cookie is nobody's.
"""

from __future__ import annotations

from fastapi.requests import HTTPConnection
from fastapi.responses import Response

from labeling_ui.accounts import SESSION_SECONDS, Accounts
from labeling_ui.store import Store
from labeling_ui.tables import Labeler

_CURRENT_USER = "align_current_user"  # within one request, where only this program writes


class SignIn:
    """Sign-in for one server.

    Args:
        store: where accounts and sessions are.
        port: the cookie is named for it, since browsers ignore ports.
        secure: people come by https alone.
    """

    def __init__(self, store: Store, port: int, secure: bool = False) -> None:
        self.accounts = Accounts(store)
        self._secure = secure
        self._cookie = f"__Host-align_session_{port}" if secure else f"align_session_{port}"

    def new_link_token(self, labeler_id: int) -> str:
        """A token that signs this labeler in once, within the hour."""
        return self.accounts.new_link(labeler_id)

    def let_in(self, request: HTTPConnection, response: Response, sid: str) -> Response:
        """The response with a new session, the browser's earlier one ended: none is taken over.

        Scripts cannot read it, and requests from other sites do not carry it.
        """
        self.accounts.sign_out(self._sid(request))
        response.set_cookie(
            self._cookie,
            sid,
            max_age=int(SESSION_SECONDS),
            httponly=True,
            samesite="strict",
            secure=self._secure,
        )
        return response

    def let_out(self, request: HTTPConnection, response: Response) -> Response:
        """The response without a session; the browser's is ended here, not only forgotten there."""
        self.accounts.sign_out(self._sid(request))
        response.delete_cookie(self._cookie, httponly=True, samesite="strict", secure=self._secure)
        return response

    def labeler(self, request: HTTPConnection) -> Labeler | None:
        """The labeler of the request's session cookie; None if it has no valid one."""
        return self.accounts.labeler_of(self._sid(request))

    def current_user(self, request: HTTPConnection) -> int | None:
        """Their id. Shield, Gradio and the task's call all ask: it is looked up once a request."""
        known: dict[str, int | None] = request.scope.setdefault("state", {})
        if _CURRENT_USER not in known:
            labeler = self.labeler(request)
            known[_CURRENT_USER] = None if labeler is None else labeler.id
        return known[_CURRENT_USER]

    def _sid(self, request: HTTPConnection) -> str:
        return request.cookies.get(self._cookie, "")
