"""Attacks over HTTP on the application as it runs: none gets in, and nothing changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from labeling_ui.accounts import Accounts
from labeling_ui.sign_in import SignIn
from tests.labeling_ui.conftest import sample_set
from tests.labeling_ui.victim import CALL, PASSWORD, Victim, raw


@pytest.fixture(scope="module")
def victim(start_server: Any) -> Victim:
    return Victim(start_server([sample_set(f"p{i}", f"Prompt {i}", "abc") for i in range(9)]))


@pytest.fixture
def unchanged(victim: Victim) -> Iterator[None]:
    before = victim.state()
    yield
    assert victim.state() == before
    assert victim.call("ann", "next_task", {}).json()["task"]["lease"] == victim.task["lease"]


# --- judgments and drafts that are not what they should be ---------------------------------------

BAD_JUDGMENTS: dict[str, dict[str, Any]] = {
    "rating true": {"ratings": [True, 4, 4]},
    "rating null": {"ratings": [None, 4, 4]},
    "rating 3.0": {"ratings": [3.0, 4, 4]},
    "rating '3'": {"ratings": ["3", 4, 4]},
    "rating 99": {"ratings": [99, 4, 4]},
    "rating -1": {"ratings": [-1, 4, 4]},
    "rating 0": {"ratings": [0, 4, 4]},
    "rating huge": {"ratings": [10**400, 4, 4]},
    "rating list": {"ratings": [[4], 4, 4]},
    "rating object": {"ratings": [{"a": 1}, 4, 4]},
    "too few ratings": {"ratings": [4, 4]},
    "too many ratings": {"ratings": [4, 4, 4, 4]},
    "ratings as text": {"ratings": "444"},
    "ratings as object": {"ratings": {"0": 4, "1": 4, "2": 4}},
    "rank 0": {"ranks": [0, 1, 1]},
    "rank true": {"ranks": [True, 1, 1]},
    "rank beyond": {"ranks": [1, 2, 9]},
    "contradiction": {"ratings": [1, 7, 7], "ranks": [1, 2, 2]},
    "contradiction 'yes'": {"ratings": [1, 7, 7], "ranks": [1, 2, 2], "confirmed": "yes"},
    "unknown question": {"answers": {"planted": [True] * 3}},
    "answer 1": {"answers": {"rude": [1, 0, 1]}},
    "answers as list": {"answers": [[True]]},
    "note too long": {"note": "x" * 5_001},
    "note as list": {"note": ["x"]},
    "note half a character": {"note": "\ud83d"},
    "unknown confidence": {"confidence": "certain"},
    "seconds negative": {"seconds": -1},
    "seconds as text": {"seconds": "9"},
    "seconds true": {"seconds": True},
    "lease of nobody": {"lease": "A" * 32},
    "lease empty": {"lease": ""},
    "lease as number": {"lease": 1},
    "lease as list": {"lease": ["x"]},
    "lease as object": {"lease": {"$ne": None}},
    "lease with quotes": {"lease": "' OR 1=1; --"},
    "lease too long": {"lease": "x" * 10_000},
}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", BAD_JUDGMENTS)
def test_a_bad_judgment_changes_nothing(victim: Victim, name: str) -> None:
    answer = victim.call("ann", "submit_task", victim.judgment(**BAD_JUDGMENTS[name]))
    assert answer.status_code == 200
    assert "Fix:" in answer.json()["error"]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("data", [None, [], "x", 3, True, [{}]])
@pytest.mark.parametrize("function", ["submit_task", "skip_task", "save_draft"])
def test_what_is_no_object_changes_nothing(victim: Victim, function: str, data: Any) -> None:
    answer = victim.call("ann", function, data)
    assert "error" in answer.json()


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "call",
    [
        lambda v: v.call("bob", "submit_task", v.judgment()),
        lambda v: v.call("bob", "skip_task", {"lease": v.task["lease"], "reason": "unclear"}),
        lambda v: v.call(
            "bob", "save_draft", {"lease": v.task["lease"], "page": "p", "seq": 1, "draft": {}}
        ),
        lambda v: v.call("bob", "submit_task", v.judgment(labeler="ann", labeler_id=1, user="ann")),
    ],
)
def test_anothers_lease_is_of_no_use(victim: Victim, call: Callable[[Victim], Any]) -> None:
    assert call(victim).json()["gone"]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("function", ["undo_all", "__class__", "", "submit", "_answer", "load"])
def test_functions_that_are_not_offered_cannot_be_called(victim: Victim, function: str) -> None:
    assert victim.call("ann", function, {}).status_code >= 400


@pytest.mark.usefixtures("unchanged")
def test_20_megabytes_are_not_read(victim: Victim) -> None:
    answer = victim.call("ann", "submit_task", victim.judgment(note="x" * 20_000_000))
    assert answer.status_code == 413
    fields = {"lease": victim.task["lease"], "page": "p", "seq": 1, "draft": {"note": "x" * 40_000}}
    assert "too long" in victim.call("ann", "save_draft", fields).json()["error"]
    form = {"name": "x" * 70_000, "password": "y"}
    assert victim.client().post("/sign-in", data=form).status_code == 413
    deep: Any = {}
    for _ in range(5_000):
        deep = {"a": deep}
    assert "error" in victim.call("ann", "save_draft", {**fields, "draft": "x"}).json()


# --- who is not signed in, and other sites -------------------------------------------------------

PATHS = ["/", "/label/", "/label/config", CALL, "/people", "/label/gradio_api/upload", "/sign-out"]
PATHS += ["/dashboard", f"/dashboard/task/{'0' * 64}"]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE"])
def test_who_is_not_signed_in_gets_nothing(victim: Victim, path: str, method: str) -> None:
    with victim.client() as client:
        assert client.request(method, path).status_code == 401
        override = {"X-HTTP-Method-Override": "GET", "X-Forwarded-For": "127.0.0.1"}
        assert client.request(method, path, headers=override).status_code == 401


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": ""},
        {"Origin": "", "Sec-Fetch-Site": "cross-site"},
    ],
)
@pytest.mark.parametrize("what", ["judgment", "people", "sign-out", "sign-in"])
def test_another_site_changes_nothing(victim: Victim, what: str, headers: dict[str, str]) -> None:
    ida = victim.clients["ida"]
    if what == "judgment":
        answer = victim.call("ann", "submit_task", victim.judgment(), headers=headers)
    elif what == "people":
        form = {"action": "add", "name": "mallory", "role": "admin"}
        answer = ida.post("/people", data=form, headers=headers)
    elif what == "sign-out":
        answer = ida.post("/sign-out", headers=headers)
    else:
        form = {"name": "ida", "password": PASSWORD}
        answer = victim.client().post("/sign-in", data=form, headers=headers)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert ida.get("/people").status_code == 200


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example", "[::1]", ""]
)
def test_another_name_for_this_machine_is_not_answered(victim: Victim, host: str) -> None:
    answer = victim.call("ann", "submit_task", victim.judgment(), headers={"Host": host})
    assert answer.status_code in (400, 421)
    assert victim.client().get("/sign-in", headers={"Host": host}).status_code in (400, 421)


@pytest.mark.usefixtures("unchanged")
def test_two_hosts_or_none_are_not_answered(victim: Victim) -> None:
    port = victim.server.port
    host = f"Host: 127.0.0.1:{port}\r\n".encode()
    for headers in (host + b"Host: evil.example\r\n", b"Host: evil.example\r\n" + host, b""):
        answer = raw(victim, b"GET /sign-in HTTP/1.1\r\n" + headers + b"Connection: close\r\n\r\n")
        assert answer.split()[1] in (b"400", b"421")


# --- paths ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "path",
    [
        "/label/gradio_api/file=/etc/passwd",
        "/label/gradio_api/file=labels.db",
        "/label/gradio_api/file%3D/etc/passwd",
        "/label/file=/etc/passwd",
        "/label/static/../../labels.db",
        "/label/static/%2e%2e/%2e%2e/labels.db",
        "/label/static/%252e%252e/labels.db",
        "/label/static/..%5c..%5clabels.db",
        "/label/assets/..%2f..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "/label/gradio_api/proxy=http://127.0.0.1:1/",
        "/label/gradio_api/upload",
        "/label/gradio_api/upload_progress",
        "/label/gradio_api/queue/join",
        "/label/gradio_api/stream/x/y/z/playlist.m3u8",
        "/label/gradio_api/call/next_task",
        "/label/gradio_api/component_server/../upload",
        "/label/gradio_api/dev/reload",
        "/label/monitoring/x",
        "/label/svelte/../../pages.py",
        "/openapi.json",
        "/docs",
        "/people/../labels.db",
        "/label/config%00.html",
        "/LABEL/gradio_api/upload",
    ],
)
def test_paths_that_lead_elsewhere_lead_nowhere(victim: Victim, path: str) -> None:
    port = victim.server.port
    cookie = "; ".join(f"{k}={v}" for k, v in victim.clients["ann"].cookies.items())
    head = f"Host: 127.0.0.1:{port}\r\nCookie: {cookie}\r\nConnection: close\r\n"
    for method in ("GET", "POST"):
        origin = f"Origin: http://127.0.0.1:{port}\r\nContent-Length: 0\r\n"
        request = f"{method} {path} HTTP/1.1\r\n{head}{origin}\r\n"
        answer = raw(victim, request.encode())
        assert answer.split()[1] in (b"400", b"404", b"405"), answer[:300]
        assert b"root:" not in answer


@pytest.mark.usefixtures("unchanged")
def test_files_cannot_be_uploaded(victim: Victim) -> None:
    files = {"files": ("x.txt", b"planted")}
    for path in ("/label/gradio_api/upload", CALL, "/people"):
        assert victim.clients["ann"].post(path, files=files).status_code >= 400


def test_a_websocket_is_closed(victim: Victim) -> None:
    port = victim.server.port
    request = (
        f"GET /label/gradio_api/queue/join HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert raw(victim, request.encode()).split()[1] in (b"400", b"401", b"403", b"404", b"426")


# --- sessions and links --------------------------------------------------------------------------


@pytest.mark.usefixtures("unchanged")
def test_a_session_cannot_be_given_to_a_browser(victim: Victim) -> None:
    """Fixation: an id that was in the browser before signing in is worth nothing after it."""
    name = f"align_session_{victim.server.port}"
    with victim.client() as client:
        client.cookies.set(name, "planted-session-id", domain="127.0.0.1")
        form = {"name": "bob", "password": PASSWORD}
        answer = client.post("/sign-in", data=form)
        assert answer.status_code == 303
        assert "planted" not in answer.headers["set-cookie"]
    with victim.client() as client:
        client.cookies.set(name, "planted-session-id", domain="127.0.0.1")
        assert client.get("/label/config").status_code == 401


@pytest.mark.usefixtures("unchanged")
def test_a_stolen_cookie_is_worth_nothing_after_signing_out(victim: Victim) -> None:
    with closing(victim.client("bob")) as client:
        stolen = dict(client.cookies)
        assert client.get("/label/config").status_code == 200
        assert client.post("/sign-out").status_code == 303
    with victim.client() as thief:
        thief.cookies.update(stolen)
        assert thief.get("/label/config").status_code == 401


def test_a_stolen_cookie_is_worth_nothing_after_a_reset_or_a_ban(victim: Victim) -> None:
    with closing(victim.server.store()) as store:
        accounts = Accounts(store)
        accounts.choose_password(accounts.add("eva"), PASSWORD)
        with closing(victim.client("eva")) as client:
            assert client.get("/label/config").status_code == 200
            token = accounts.reset("eva")
            assert client.get("/label/config").status_code == 401
            assert client.post("/invite", data={"token": token, "password": PASSWORD}).is_success
            assert client.get("/label/config").status_code == 200
            accounts.disable("eva")
            assert client.get("/label/config").status_code == 401
            form = {"name": "eva", "password": PASSWORD}
            assert client.post("/sign-in", data=form).status_code == 401


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("cookie", ["x", "x" * 4000, "' OR 1=1; --", "../../x", "%00", "null"])
def test_made_up_cookies_are_nobodys(victim: Victim, cookie: str) -> None:
    name = f"align_session_{victim.server.port}"
    with victim.client() as client:
        headers = {"Cookie": f"{name}={cookie}; {name}=second"}
        assert client.get("/label/config", headers=headers).status_code == 401


def test_links_work_once_and_for_their_purpose(victim: Victim) -> None:
    with closing(victim.server.store()) as store:
        accounts = Accounts(store)
        invite = accounts.add("uma")
        enter = SignIn(store, victim.server.port).new_link_token(store.add_labeler("bob").id)
    with victim.client() as client:
        assert client.get("/enter", params={"token": invite}).status_code == 403
        assert client.get("/invite", params={"token": enter}).status_code == 403
        form = {"token": invite, "password": PASSWORD}
        assert client.post("/invite", data={**form, "password": "short"}).status_code == 422
        assert client.post("/invite", data=form).status_code == 200
    with victim.client() as client:
        assert client.post("/invite", data=form).status_code == 403
        # From another site a link only asks.
        for site in ("cross-site", "same-site"):  # another port of this machine is the latter
            headers = {"Sec-Fetch-Site": site}
            page = client.get("/enter", params={"token": enter}, headers=headers)
            assert "set-cookie" not in page.headers
        assert client.get("/enter", params={"token": enter}).status_code == 200
    with victim.client() as client:
        assert client.get("/enter", params={"token": enter}).status_code == 403


# --- roles ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("action", ["add", "reset", "disable", "enable", "role"])
@pytest.mark.parametrize("who", ["ann", "bob", "lea"])
def test_only_admins_change_people(victim: Victim, who: str, action: str) -> None:
    for name in (who, "ida", "mallory"):
        form = {"action": action, "name": name, "role": "admin"}
        assert victim.clients[who].post("/people", data=form).status_code == 403
    page = victim.clients[who].get("/people")
    assert page.status_code == (200 if who == "lea" else 403)
    assert 'action="/people"' not in page.text


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "form",
    [
        {"action": "add", "name": ""},
        {"action": "add", "name": "a\r\nSet-Cookie: x=y"},
        {"action": "add", "name": "ANN"},
        {"action": "add", "name": "file: labeler-1"},
        {"action": "add", "name": "a\u2028b"},
        {"action": "add", "name": "x" * 500},
        {"action": "add", "name": "mallory", "role": "root"},
        {"action": "role", "name": "ida", "role": "labeler"},
        {"action": "disable", "name": "nobody"},
        {"action": "drop", "name": "ann"},
        {},
    ],
)
def test_admins_cannot_do_what_makes_no_sense(victim: Victim, form: dict[str, str]) -> None:
    answer = victim.clients["ida"].post("/people", data=form)
    assert answer.status_code == 422
    assert "set-cookie" not in answer.headers


def test_names_are_shown_as_text(victim: Victim) -> None:
    name = "<script>alert(1)</script>'\""
    form = {"action": "add", "name": name, "role": "labeler"}
    page = victim.clients["ida"].post("/people", data=form)
    assert page.status_code == 200
    assert "<script>" not in page.text
    assert "&lt;script&gt;" in page.text
    with victim.client() as client:
        page = client.post("/sign-in", data={"name": name, "password": "wrong password"})
        assert "<script>" not in page.text


# --- guessing and replaying ----------------------------------------------------------------------


def test_passwords_cannot_be_guessed_at_speed(victim: Victim) -> None:
    with closing(victim.server.store()) as store:
        accounts = Accounts(store)
        accounts.choose_password(accounts.add("olga"), PASSWORD)
    statuses: list[int] = []
    with victim.client() as client:
        for index in range(12):
            headers = {"X-Forwarded-For": f"10.0.0.{index}"}  # which nobody believes
            form = {"name": "olga", "password": f"wrong password {index}"}
            statuses.append(client.post("/sign-in", data=form, headers=headers).status_code)
        assert statuses == [401] * 5 + [429] * 7
        form = {"name": "olga", "password": PASSWORD}
        assert client.post("/sign-in", data=form).status_code == 429
        known = client.post("/sign-in", data={"name": "bob", "password": "wrong password"})
        unknown = client.post("/sign-in", data={"name": "bo8", "password": "wrong password"})
        assert known.text.replace("bob", "bo8") == unknown.text


def test_a_replayed_submission_changes_nothing(victim: Victim) -> None:
    mine = victim.call("bob", "next_task", {}).json()["task"]
    judgment = victim.judgment(lease=mine["lease"])
    assert "error" not in victim.call("bob", "submit_task", judgment).json()
    before = victim.state()
    replay = victim.judgment(lease=mine["lease"], ratings=[1, 1, 1])
    assert "error" not in victim.call("bob", "submit_task", replay).json()
    after = victim.state()
    assert after[0] == before[0]
    assert (
        "error" in victim.call("bob", "skip_task", {"lease": mine["lease"], "reason": "x"}).json()
    )
    assert victim.call("bob", "undo", {}).json()["task"]["lease"] != mine["lease"]
    assert victim.call("bob", "submit_task", judgment).json()["gone"]  # after it was taken back


def test_nothing_secret_is_printed(victim: Victim) -> None:
    """The last test of this file: it stops the application."""
    code, printed = victim.server.stop()
    assert code == 0
    for secret in (PASSWORD, "wrong password", "planted", "Traceback", "argon2"):
        assert secret not in printed
