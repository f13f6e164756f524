"""Attacks over HTTP on what labelers write: none gets in, and nothing changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from tests.labeling_ui.conftest import sample_set
from tests.labeling_ui.victim import Victim

CALLS = ("next", "draft", "finish", "finished", "skip", "edit", "leave", "withdraw")
FILES = ("write.js", "calls.js", "text.js", "write.css")


class Writers(Victim):
    """Ann has begun one, finished one and begun to edit one; bob has begun one."""

    def __init__(self, server: Any) -> None:
        super().__init__(server)
        first = self.post("ann", "next", {"tab": "given"}).json()["piece"]
        done = {"id": first["id"], "response": "Ann's first.", "tab": "given"}
        self.draft = self.post("ann", "finish", done).json()["piece"]["id"]
        self.post("bob", "next", {"tab": "given"})
        self.done = first["id"]
        self.edit = self.post("ann", "edit", {"id": self.done}).json()["piece"]["id"]

    def post(self, who: str, name: str, data: Any, **headers: str) -> httpx.Response:
        body = json.dumps(data, ensure_ascii=False)
        if not body.isprintable():  # half a character has no bytes of its own
            body = json.dumps(data)
        headers = {"Content-Type": "application/json", **headers}
        return self.clients[who].post(f"/write/{name}", content=body.encode(), headers=headers)

    def rows(self) -> list[str]:
        """What is written, but for leases, which every call of its labeler renews."""
        query = (
            "SELECT id, labeler_id, kind, prompt, response, edited_from, state, draft_page,"
            " draft_seq, created_at FROM demonstration ORDER BY id"
        )
        with closing(self.server.store()) as store, store.reading() as session:
            return [str(row) for row in session.connection().exec_driver_sql(query).all()]


@pytest.fixture(scope="module")
def victim(start_server: Any) -> Writers:
    return Writers(start_server([sample_set(f"p{i}", f"Prompt {i}", "abc") for i in range(9)]))


@pytest.fixture
def unchanged(victim: Writers) -> Iterator[None]:
    before = victim.state(), victim.rows()
    yield
    assert (victim.state(), victim.rows()) == before


def full(victim: Writers, name: str, **changes: Any) -> dict[str, Any]:
    """What this call of ann's page sends, all of it."""
    draft = {"response": "planted", "page": "p", "seq": 1, "started_from": None}
    return {"id": victim.draft, "tab": "given", "reason": "planted", **draft, **changes}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", ["draft", "finish", "skip", "edit", "leave", "withdraw"])
def test_what_is_anothers_is_of_no_use(victim: Writers, name: str) -> None:
    for wanted in (victim.draft, victim.done, victim.edit, "x", "", "' OR 1=1; --", "x" * 10_000):
        answer = victim.post("bob", name, full(victim, name, id=wanted, labeler="ann", user=1))
        assert answer.status_code == 200
        assert answer.json()["gone"], wanted
    for wanted in (None, 3, True, ["x"], {"$ne": None}, "\ud83d", "a\0b"):
        assert victim.post("ann", name, full(victim, name, id=wanted)).json()["gone"], wanted


BAD: dict[str, dict[str, Any]] = {
    "no text": {"response": None},
    "a list": {"response": ["planted"]},
    "too long": {"response": "x" * 20_001},
    "too many bytes": {"response": "€" * 20_000 + "x"},
    "half a character": {"response": "\udfff"},
    "a prompt for a given one": {"prompt": "mine"},
    "a kind for a given one": {"kind": "plain"},
    "a sampled answer too far": {"started_from": 3},
    "a sampled answer true": {"started_from": True},
    "a sampled answer huge": {"started_from": 10**400},
    "a sampled answer's id": {"started_from": "planted-p0-0"},
}
BAD_DRAFT = {"no page": {"page": None}, "seq true": {"seq": True}, "seq huge": {"seq": 2**40}}
BAD_END: dict[str, dict[str, Any]] = {
    "empty": {"response": " \n"},
    "seconds as text": {"seconds": "9"},
    "seconds negative": {"seconds": -1},
    "seconds infinite": {"seconds": float("inf")},
    "no such tab": {"tab": "planted"},
    "a tab as list": {"tab": ["given"]},
}


@pytest.mark.usefixtures("unchanged")
def test_what_does_not_fit_changes_nothing(victim: Writers) -> None:
    tries = [("draft", why, values) for why, values in (BAD | BAD_DRAFT).items()]
    tries += [("finish", why, values) for why, values in (BAD | BAD_END).items()]
    for name, why, values in tries:
        answer = victim.post("ann", name, full(victim, name, **values))
        assert answer.status_code == 200, why
        assert "Please" in answer.json()["error"], why
    for reason in (None, "", " ", 3, ["x"], "x" * 201, "\ud83d"):
        assert "error" in victim.post("ann", "skip", full(victim, "skip", reason=reason)).json()
    for after in (-1, "0", True, 2**40, None):
        assert "error" in victim.post("ann", "finished", {"after": after}).json()


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_object_changes_nothing(victim: Writers, name: str) -> None:
    for data in (None, [], "x", 3, True, [{}]):
        assert "error" in victim.post("ann", name, data).json()
    bodies = [b"", b"{", b"\xff", b"[" * 50_000, b'{"id": 1', b"id=1&tab=given"]
    for content in bodies:
        for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
            headers = {"Content-Type": kind}
            answer = victim.clients["ann"].post(f"/write/{name}", content=content, headers=headers)
            assert answer.status_code in (400, 422) or "error" in answer.json()


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", ["draft", "finish"])
def test_large_bodies_are_not_read(victim: Writers, name: str) -> None:
    for size in (70_000, 20_000_000):
        answer = victim.post("ann", name, full(victim, name, response="x" * size))
        assert answer.status_code == 413


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", CALLS)
def test_who_is_not_signed_in_or_comes_from_elsewhere_gets_nothing(
    victim: Writers, name: str
) -> None:
    data = json.dumps(full(victim, name))
    with victim.client() as client:
        assert client.post(f"/write/{name}", content=data).status_code == 401
        client.cookies.set(f"align_session_{victim.server.port}", "planted", domain="127.0.0.1")
        assert client.post(f"/write/{name}", content=data).status_code == 401
    elsewhere = ["https://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1:1", ""]
    for origin in elsewhere:
        assert victim.post("ann", name, full(victim, name), Origin=origin).status_code == 403
    answer = victim.post("ann", name, full(victim, name), Host="evil.example")
    assert answer.status_code == 421
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        assert victim.clients["ann"].request(method, f"/write/{name}").status_code == 405


@pytest.mark.usefixtures("unchanged")
def test_the_page_and_its_files_are_for_who_is_signed_in(victim: Writers) -> None:
    paths = ["/write", *(f"/write/{name}" for name in FILES)]
    with victim.client() as client:
        for path in paths:
            assert client.get(path).status_code == 401
        page = client.get("/write", headers={"Accept": "text/html"})
        assert (page.status_code, page.headers["location"]) == (303, "/sign-in")
    for path in paths:
        answer = victim.clients["bob"].get(path)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "script-src 'self'; connect-src 'self'" in policy
        assert "default-src 'none'" in policy
    assert (
        "script-src" not in victim.clients["lea"].get("/people").headers["content-security-policy"]
    )
    html = victim.clients["bob"].get("/write").text
    assert "/people" not in html
    assert "/people" in victim.clients["lea"].get("/write").text
    assert " style=" not in html
    assert html.count("<script") == html.count("<script src=") == 3
    for path in ("/", "/write.html", "/main.js", "/write.js/x", "/card/text.js", "/%2e%2e/people"):
        assert victim.clients["ann"].get(f"/write{path}").status_code == 404


def test_a_replayed_call_changes_nothing_more(victim: Writers) -> None:
    """The last test of this file: what it writes stays."""
    piece = victim.post("bob", "next", {"tab": "given"}).json()["piece"]
    finish = full(victim, "finish", id=piece["id"])
    after = victim.post("bob", "finish", finish).json()
    before = victim.rows()
    again = victim.post("bob", "finish", {**finish, "response": "another"}).json()
    assert (again["mine"], again["piece"]["id"]) == (1, after["piece"]["id"])
    assert victim.post("bob", "draft", finish).json()["gone"]
    assert "error" in victim.post("bob", "skip", finish).json()
    assert victim.rows() == before
    text = victim.post("bob", "finished", {}).text + json.dumps(after)
    assert piece["id"] in text
    for secret in ("planted-", "policy", "labeler_id", "pseudonym"):
        assert secret not in text
