"""The application behind a proxy with TLS: the address that people use, and no other."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from labeling_ui.accounts import Accounts
from labeling_ui.address import check_address
from labeling_ui.store import Store, open_store
from labeling_ui.throttle import ADDRESS_TRIES
from pipeline.errors import UserError
from tests.labeling_ui.conftest import publish_samples, sample_set

PASSWORD = "correct horse battery"
ADDRESS = "https://labels.example.org"
SERVE = f"""
import sys
from pathlib import Path
from labeling_ui.serve import serve
from pipeline.config import RunConfig
values = {{"name": "demo", "data": {{"tinyworld": {{}}}}, "pretrain": {{}},
          "label": {{"source": "browser"}}}}
serve(RunConfig.model_validate(values), Path(sys.argv[1]), int(sys.argv[2]), public_url="{ADDRESS}")
"""


@dataclass
class Proxied:
    """A server behind a proxy that does not say that people come by https."""

    process: subprocess.Popen[str]
    folder: Path
    token: str
    port: int

    def store(self) -> Store:
        return open_store(self.folder / "labels.db")

    def client(self, sender: str = "198.51.100.1", **headers: str) -> httpx.Client:
        """Someone's browser, as the proxy passes its requests on."""
        ours = {"Host": "labels.example.org", "Origin": ADDRESS, "X-Forwarded-For": sender}
        base = f"http://127.0.0.1:{self.port}"
        return httpx.Client(base_url=base, headers=ours | headers, trust_env=False, timeout=30)

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


def start(folder: Path) -> Proxied:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]  # behind a proxy none is printed
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(folder), str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        found = re.search(rf"{re.escape(ADDRESS)}/enter\?token=(\S+)", line)
        if found:
            return Proxied(process, folder, found[1], port)
    raise AssertionError("the application did not start")


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    folder = tmp_path_factory.mktemp("run") / "demo"
    publish_samples(folder, [sample_set("p", "Prompt", "ab")])
    server = start(folder)
    with closing(server.store()) as store:
        accounts = Accounts(store)
        accounts.choose_password(accounts.add("ida", "admin"), PASSWORD)
    yield server
    server.stop()


def cookie_of(answer: httpx.Response) -> str:
    return answer.headers["set-cookie"].partition(";")[0]


def test_the_session_is_for_https_alone(proxied: Proxied) -> None:
    with proxied.client() as client:
        answer = client.get("/enter", params={"token": proxied.token})
        assert answer.status_code == 200
        name, _, rest = answer.headers["set-cookie"].partition("=")
        assert name == f"__Host-align_session_{proxied.port}"
        attributes = {part.strip().lower() for part in rest.split(";")[1:]}
        assert {"secure", "httponly", "samesite=strict", "path=/"} <= attributes
        assert not any(part.startswith("domain") for part in attributes)
        assert client.get("/label/config", headers={"Cookie": cookie_of(answer)}).is_success
        bare = cookie_of(answer).replace("__Host-", "")
        assert client.get("/label/config", headers={"Cookie": bare}).status_code == 401
        for path in ("/sign-in", "/label/config", "/healthz"):
            seconds = client.get(path).headers["strict-transport-security"]
            assert seconds == "max-age=31536000"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://labels.example.org"}, 403),
        ({"Origin": "https://labels.example.org:8443"}, 403),
        ({"Origin": "https://labels.example.org.evil.example"}, 403),
        ({"Origin": "https://evil-labels.example.org"}, 403),
        ({"Origin": "https://example.org"}, 403),
        ({"Host": "example.org"}, 421),
        ({"Host": "labels.example.org:8443"}, 421),
        ({"Host": "labels.example.org.evil.example"}, 421),
        ({"Host": "evil.example", "X-Forwarded-Host": "labels.example.org"}, 421),
    ],
)
def test_no_other_address_is_answered(
    proxied: Proxied, headers: dict[str, str], status: int
) -> None:
    form = {"name": "ida", "password": PASSWORD}
    with proxied.client(**headers) as client:
        answer = client.post("/sign-in", data=form)
    assert answer.status_code == status
    assert "set-cookie" not in answer.headers


def test_invitations_name_the_address_that_people_use(proxied: Proxied) -> None:
    """Else a password would be chosen over plain http."""
    with proxied.client() as client:
        answer = client.post("/sign-in", data={"name": "ida", "password": PASSWORD})
        assert answer.status_code == 303
        form = {"action": "add", "name": "bob", "role": "labeler"}
        page = client.post("/people", data=form, headers={"Cookie": cookie_of(answer)})
    found = re.search(r'class="link">([^<]+)/invite\?token=[\w-]+<', page.text)
    assert found is not None
    assert found[1] == ADDRESS


def test_guesses_are_counted_by_the_address_that_the_proxy_names(proxied: Proxied) -> None:
    def guess(index: int, sender: str) -> int:
        with proxied.client(sender) as client:
            form = {"name": f"name {index}", "password": "wrong password"}
            return client.post("/sign-in", data=form).status_code

    # What a client writes there itself stands before what the proxy adds.
    statuses = [guess(i, f"10.0.0.{i}, 203.0.113.7") for i in range(ADDRESS_TRIES + 3)]
    assert statuses == [401] * ADDRESS_TRIES + [429] * 3
    assert guess(0, "203.0.113.8") == 401


def test_a_restart_forgives_no_guesses(proxied: Proxied, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    publish_samples(folder, [sample_set("p", "Prompt", "ab")])
    form = {"name": "ida", "password": "wrong password"}
    first = start(folder)
    with first.client() as client:
        assert [client.post("/sign-in", data=form).status_code for _ in range(6)][4:] == [401, 429]
    first.stop()
    second = start(folder)
    with second.client() as client:
        assert client.post("/sign-in", data=form).status_code == 429
    second.stop()


# --- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("https://labels.example.org", "https://labels.example.org"),
        ("https://Labels.Example.ORG/", "https://labels.example.org"),
        ("https://labels.example.org:443", "https://labels.example.org"),
        ("HTTP://labels.example.org:80/", "http://labels.example.org"),
        ("http://labels.example.org:443", "http://labels.example.org:443"),
        ("http://127.0.0.1:7860", "http://127.0.0.1:7860"),
    ],
)
def test_an_address_is_kept_as_browsers_say_it(given: str, meant: str) -> None:
    assert check_address(given) == meant


@pytest.mark.parametrize(
    "url",
    [
        "",
        "labels.example.org",
        "ftp://labels.example.org",
        "https://",
        "https://labels.example.org/here",
        "https://user@labels.example.org",
        "https://labels.example.org:",
        "https://labels.example.org?x",
        "https://labels.example.org\n.evil.example",
        "javascript:alert(1)",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UserError, match=r"--url: is no address"):
        check_address(url)
