"""The application that is attacked in the tests, and who works on it."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from typing import Any

import httpx

from labeling_ui.accounts import Accounts

CALL = "/label/gradio_api/component_server"
PASSWORD = "correct horse battery"
PEOPLE = (("ann", "labeler"), ("bob", "labeler"), ("lea", "lead"), ("ida", "admin"))


class Victim:
    """A running application: ann is at work, bob labels too, lea is a lead, ida an admin."""

    def __init__(self, server: Any) -> None:
        self.server = server
        with closing(server.store()) as store:
            accounts = Accounts(store)
            for name, role in PEOPLE:
                accounts.choose_password(accounts.add(name, role), PASSWORD)
        self.clients = {name: self.client(name) for name, _ in PEOPLE}
        components = self.clients["ann"].get("/label/config").json()["components"]
        self.card = next(c["id"] for c in components if c["props"].get("elem_id") == "task-card")
        self.task = self.call("ann", "next_task", {}).json()["task"]
        self.call("bob", "next_task", {})
        with closing(server.store()) as store, store.writing() as session:
            # But for ida, only the terminal's own account is an admin.
            statement = "UPDATE labeler SET disabled = true WHERE name = 'local'"
            session.connection().exec_driver_sql(statement)

    def client(self, name: str | None = None) -> httpx.Client:
        client = httpx.Client(base_url=self.server.origin, trust_env=False, timeout=30)
        client.headers["Origin"] = self.server.origin
        if name is not None:
            form = {"name": name, "password": PASSWORD}
            assert client.post("/sign-in", data=form).status_code == 303
        return client

    def call(self, who: str, name: str, data: Any, **options: Any) -> httpx.Response:
        body = {"data": data, "component_id": self.card, "fn_name": name, "session_hash": "x"}
        headers = {"Content-Type": "application/json", **options.pop("headers", {})}
        return self.clients[who].post(CALL, content=json.dumps(body), headers=headers, **options)

    def judgment(self, **changes: Any) -> dict[str, Any]:
        size = len(self.task["responses"])
        plain = {"lease": self.task["lease"], "ratings": [4] * size, "ranks": [1] * size}
        return {**plain, "answers": {}, "confirmed": False, "seconds": 1.0, **changes}

    def state(self) -> list[Any]:
        """Everything in the database that an attack could change, but for counted guesses."""
        tables = ["labeler", "submission", "judgment", "skipped_task", "event", "task", "response"]
        tables += ["sign_in_link", "guideline"]
        with closing(self.server.store()) as store, store.reading() as session:
            connection = session.connection()
            rows = [connection.exec_driver_sql(f"SELECT * FROM {t}").all() for t in tables]
            query = "SELECT lease, draft, ended_at FROM assignment ORDER BY id"
            return [str(rows), connection.exec_driver_sql(query).all()]


def raw(victim: Victim, request: bytes) -> bytes:
    """The answer to bytes that no client would send."""
    with socket.create_connection(("127.0.0.1", victim.server.port), timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer
