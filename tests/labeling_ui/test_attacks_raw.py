"""Attacks that no browser would send: requests broken off, doubled, overlong or out of form."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from labeling_ui.accounts import Accounts
from tests.labeling_ui.conftest import sample_set
from tests.labeling_ui.victim import CALL, PASSWORD, Victim, raw

ADD = {"action": "add", "name": "mallory", "role": "admin"}
FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
def victim(start_server: Any) -> Victim:
    return Victim(start_server([sample_set(f"p{i}", f"Prompt {i}", "abc") for i in range(3)]))


@pytest.fixture
def unchanged(victim: Victim) -> Iterator[None]:
    before = victim.state()
    yield
    assert victim.state() == before
    assert victim.clients["ida"].get("/people").status_code == 200  # it still answers


def head(victim: Victim, who: str, *lines: str, method: str = "POST", path: str = "/people") -> str:
    """The head of a request that would be carried out, with other lines added."""
    port = victim.server.port
    cookies = "; ".join(f"{name}={value}" for name, value in victim.clients[who].cookies.items())
    ours = [
        f"{method} {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        f"Origin: http://127.0.0.1:{port}",
        f"Cookie: {cookies}",
        f"Content-Type: {FORM}",
    ]
    return "\r\n".join([*ours, *lines, "Connection: close", "", ""])


def status(answer: bytes) -> int:
    """0 where the connection was closed without an answer."""
    return int(answer.split()[1]) if answer else 0


def cut_off(victim: Victim, request: str) -> bytes:
    """The answer to a request after which the connection is closed from here."""
    with socket.create_connection(("127.0.0.1", victim.server.port), timeout=10) as connection:
        connection.sendall(request.encode())
        time.sleep(0.2)  # until it waits for the rest
        connection.shutdown(socket.SHUT_WR)
        try:
            return connection.recv(65536)
        except ConnectionError:
            return b""


def test_what_the_others_leave_out_would_be_carried_out(victim: Victim) -> None:
    """Else the attacks below could fail for another reason than the one they are for."""
    body = urlencode({"action": "role", "name": "bob", "role": "labeler"})
    request = head(victim, "ida", f"Content-Length: {len(body)}") + body
    before = victim.state()
    assert status(raw(victim, request.encode())) == 200
    assert victim.state() != before  # it is noted


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("chunked", [False, True])
def test_half_a_form_is_not_carried_out(victim: Victim, chunked: bool) -> None:
    """``name=bobby``, broken off after ``bob``, must not be about bob."""
    body = "action=disable&name=bob"
    length = f"Content-Length: {len(body) + 2}"
    if chunked:
        length, body = "Transfer-Encoding: chunked", f"{len(body):x}\r\n{body}\r\n"
    cut_off(victim, head(victim, "ida", length) + body)
    time.sleep(0.3)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 5", "Content-Length: {length}"),
        ("Content-Length: -1",),
        ("Content-Length: {length}x",),
        ("Content-Length: 0x{length}",),
        ("Content-Length: 99999999999999999999999",),
        ("Content-Length: 70000",),
        ("Transfer-Encoding: chunked",),
        ("Transfer-Encoding: gzip, chunked",),
        ("Content-Length: {length}", "Transfer-Encoding: chunked"),
        ("Content-Length: {length}", "No-Colon"),
        ("Content-Length: {length}", "Bad\0Name: x"),
        ("Content-Length: {length}", "Origin: https://evil.example"),
        ("Content-Length: {length}", "Origin: null"),
        ("Content-Length: {length}", "Host: evil.example"),
    ],
)
def test_requests_out_of_form_are_not_carried_out(victim: Victim, lines: tuple[str, ...]) -> None:
    body = urlencode(ADD).ljust(70_000 if "70000" in lines[0] else 0, "&")
    ours = [line.format(length=len(body)) for line in lines]
    answer = cut_off(victim, head(victim, "ida", *ours) + body)
    assert status(answer) in (0, 400, 403, 413, 421, 501)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "first",
    [
        "POST /people",
        "POST /people HTTP/0.9",
        "POST /people HTTP/9.9",
        "post /people HTTP/1.1",
        "PUT /people HTTP/1.1",
        "POST\t/people HTTP/1.1",
        "POST /people HTTP/1.1 extra",
        "CONNECT 127.0.0.1:80 HTTP/1.1",
        "POST http://127.0.0.1/people HTTP/1.1",
        "POST /people?token=x HTTP/1.1",
        "POST /people/ HTTP/1.1",
        "POST //people HTTP/1.1",
        "POST /./people HTTP/1.1",
        "POST /sign-in/../people HTTP/1.1",
        "POST /sign-in%2f..%2fpeople HTTP/1.1",
        "POST /pages.css/../people HTTP/1.1",
        "POST /healthz/%2e%2e/people HTTP/1.1",
        "POST /enter\\..\\people HTTP/1.1",
        "POST /sign-in;/../people HTTP/1.1",
        "POST /sign-in%00/people HTTP/1.1",
        "POST /sign-in%0d%0aX:y HTTP/1.1",
        "POST /people%2f HTTP/1.1",
        "POST /PEOPLE HTTP/1.1",
        "POST \\people HTTP/1.1",
        "POST * HTTP/1.1",
        "GET /sign-in/../label/config HTTP/1.1",
        "GET /healthz/..%2flabel%2fconfig HTTP/1.1",
    ],
)
def test_no_spelling_of_a_path_gets_past_the_sign_in(victim: Victim, first: str) -> None:
    anonymous = head(victim, "ida").replace("Cookie:", "X-Cookie:").partition("\r\n")[2]
    body = urlencode(ADD)
    rest = anonymous.replace("Connection:", f"Content-Length: {len(body)}\r\nConnection:")
    answer = cut_off(victim, f"{first}\r\n{rest}{body}")
    assert status(answer) in (0, 400, 401, 404, 405)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("size", [5_000, 20_000, 60_000, 200_000])
@pytest.mark.parametrize("name", ["Cookie", "Accept", "X-Anything", "Origin"])
def test_overlong_headers_let_nobody_in(victim: Victim, name: str, size: int) -> None:
    port = victim.server.port
    value = f"align_session_{port}=" + "x" * size
    request = f"GET /people HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{name}: {value}\r\n"
    try:
        answer = raw(victim, f"{request}Connection: close\r\n\r\n".encode())
    except ConnectionError:  # closed while it was still being sent
        answer = b""
    assert status(answer) in (0, 400, 401, 403, 431)


@pytest.mark.usefixtures("unchanged")
def test_many_cookies_and_many_fields_let_nobody_in(victim: Victim) -> None:
    port = victim.server.port
    with victim.client() as client:
        cookies = "; ".join(f"align_session_{port}={index}" for index in range(500))
        assert client.get("/people", headers={"Cookie": cookies}).status_code == 401
        form = "&".join(["name=bob"] * 2_000 + ["password=x"])
        headers = {"Content-Type": FORM}
        answer = client.post("/sign-in", content=form, headers=headers)
    assert answer.status_code in (400, 401, 422)
    assert "set-cookie" not in answer.headers


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ('{"action": "add", "name": "mallory", "role": "admin"}', "application/json"),
        ('{"action": "add", "name": "mallory", "role": "admin"}', "text/plain"),
        (urlencode(ADD), "text/plain"),
        (urlencode(ADD), "application/json"),
        (urlencode(ADD), "multipart/form-data"),
        (urlencode(ADD), "multipart/form-data; boundary="),
        ("--x\r\n" + urlencode(ADD), "multipart/form-data; boundary=x"),
        ("\0\xff" * 100, FORM),
        ("%", FORM),
        ("action=add&name=%00&role=admin", FORM),
        ("action[]=add&name[]=mallory", FORM),
    ],
)
def test_a_body_that_is_no_form_changes_nothing(victim: Victim, content: str, kind: str) -> None:
    headers = {"Content-Type": kind}
    body = content.encode("latin-1")
    answer = victim.clients["ida"].post("/people", content=body, headers=headers)
    assert answer.status_code in (400, 422)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("client", ["script", "form of another site", "frame", "old tab"])
def test_a_form_that_says_not_where_it_is_from_is_refused(victim: Victim, client: str) -> None:
    headers = {
        "script": {},
        "form of another site": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
        "frame": {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "iframe"},
        "old tab": {"Sec-Fetch-Site": "none", "Referer": f"{victim.server.origin}/people"},
    }[client]
    cookies = dict(victim.clients["ida"].cookies)
    with httpx.Client(base_url=victim.server.origin, trust_env=False, cookies=cookies) as plain:
        for path, form in (("/people", ADD), ("/sign-out", {}), (CALL, {})):
            assert plain.post(path, data=form, headers=headers).status_code == 403
        same = {"Sec-Fetch-Site": "same-origin"}
        assert plain.post("/people", data={"action": "x"}, headers=same).status_code == 422


@pytest.mark.usefixtures("unchanged")
def test_a_page_of_who_has_been_signed_out_leads_to_the_sign_in(victim: Victim) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    with victim.client() as client:
        for path in ("/people", "/sign-out", "/label/"):
            answer = client.post(path, data=ADD, headers=browser)
            assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
        assert client.post(CALL, json=ADD).status_code == 401
        assert client.put("/people", headers=browser).status_code == 401


def test_who_is_demoted_loses_the_page_at_once(victim: Victim) -> None:
    with closing(victim.server.store()) as store:
        accounts = Accounts(store)
        accounts.choose_password(accounts.add("max", "admin"), PASSWORD)
        with closing(victim.client("max")) as client:
            assert client.get("/people").status_code == 200
            accounts.set_role("max", "lead")
            assert 'action="/people"' not in client.get("/people").text
            assert client.post("/people", data=ADD).status_code == 403
            accounts.set_role("max", "labeler")
            assert client.get("/people").status_code == 403
            assert "mallory" not in [account.name for account in accounts.list()]
