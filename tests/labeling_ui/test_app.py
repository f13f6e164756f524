"""The application over HTTP: who is let in, what is refused, whose name a label gets."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest

from labeling_ui.serve import serve
from labeling_ui.sign_in import SignIn
from labeling_ui.store import Progress
from labeling_ui.tables import Assignment, SignInLink, SignInSession
from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.records import SampledResponse, SampleSet, write_rows

COMPONENT_SERVER = "/label/gradio_api/component_server"
PATHS = [
    "/",
    "/label",
    "/label/",
    "/label/config",
    "/label/theme.css",
    "/label/login",
    "/label/logout",
    "/label/assets/index.js",
    "/label/static/fonts/x.woff2",
    "/label/gradio_api/info",
    "/label/gradio_api/token",
    "/label/gradio_api/user",
    "/label/gradio_api/app_id",
    "/label/gradio_api/startup-events",
    "/label/gradio_api/upload",
    "/label/gradio_api/queue/join",
    "/label/gradio_api/queue/data",
    "/label/gradio_api/file=/etc/passwd",
    "/label/gradio_api/proxy=https://example.org/",
    "/label/gradio_api/heartbeat/abc",
    "/label/gradio_api/reset",
    "/label/gradio_api/cancel",
    "/label/monitoring",
    COMPONENT_SERVER,
    COMPONENT_SERVER + "/",
    "/docs",
    "/openapi.json",
    "/nothing-here",
]
UNUSED_PATHS = [
    "/label/gradio_api/upload",
    "/label/gradio_api/queue/join",
    "/label/gradio_api/file=/etc/passwd",
    "/label/gradio_api/file/etc/passwd",
    "/label/gradio_api/proxy=https://example.org/",
    "/label/gradio_api/run/predict",
    "/label/gradio_api/call/predict",
    "/label//gradio_api/upload",
    "/label/assets/%2e%2e/gradio_api/upload",
    "/label/static/%2e%2e/%2e%2e/%2e%2e/__init__.py",
    "/label/monitoring",
    "/label/login",
    "/docs",
    "/openapi.json",
]


class Server(Protocol):
    link: str
    database: Path
    process: Any

    @property
    def origin(self) -> str: ...
    @property
    def port(self) -> int: ...
    def store(self) -> Any: ...
    def stop(self) -> tuple[int, str]: ...


def sample(name: str) -> SampleSet:
    return SampleSet(
        prompt_id=name,
        prompt=f"Prompt {name}",
        responses=[
            SampledResponse(
                response_id=f"planted-{name}-{i}",
                text=f"text {i}",
                policy="planted-policy",
                seed=i,
                temperature=1.0,
                top_p=1.0,
                finished=True,
            )
            for i in range(3)
        ],
    )


@pytest.fixture(scope="module")
def server(start_server: Any) -> Server:
    return start_server([sample(f"p{i}") for i in range(24)])


@pytest.fixture(scope="module")
def anonymous(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.origin, trust_env=False) as client:
        client.headers["Origin"] = server.origin  # as a browser says it
        yield client


@contextmanager
def signed_in(server: Server, name: str) -> Iterator[httpx.Client]:
    """A client with a session of its own, by a link of its own."""
    with closing(server.store()) as store:
        token = SignIn(store, server.port).new_link_token(store.add_labeler(name).id)
    with httpx.Client(base_url=server.origin, trust_env=False) as client:
        client.headers["Origin"] = server.origin
        assert client.get("/enter", params={"token": token}).status_code == 200
        yield client


@pytest.fixture(scope="module")
def ann(server: Server) -> Iterator[httpx.Client]:
    with signed_in(server, "ann") as client:
        yield client


def call(client: httpx.Client, name: str, data: Any, **options: Any) -> httpx.Response:
    components = client.get("/label/config").json()["components"]
    card = next(c["id"] for c in components if c["props"].get("elem_id") == "task-card")
    body = {"data": data, "component_id": card, "fn_name": name, "session_hash": "chosen"}
    return client.post(COMPONENT_SERVER, json=body, **options)


def judgment(reply: dict[str, Any], **changes: Any) -> dict[str, Any]:
    size = len(reply["task"]["responses"])
    return {
        "lease": reply["task"]["lease"],
        "ratings": [4] * size,
        "ranks": [1] * size,
        "answers": {"rude": [None] * size},
        "confirmed": False,
        "seconds": 2.5,
        **changes,
    }


# --- who is let in ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_nobody_gets_anything_without_a_session(anonymous: httpx.Client, path: str) -> None:
    forged = {"Cookie": f"align_session_{anonymous.base_url.port}=forged; access-token=x"}
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
        assert anonymous.request(method, path).status_code == 401, method
    for method in ("GET", "POST"):
        assert anonymous.request(method, path, headers=forged).status_code == 401, method
    page = anonymous.get(path, headers={"Accept": "text/html"})
    assert (page.status_code, page.headers["location"]) == (303, "/sign-in")


def test_health_is_open_and_says_nothing(anonymous: httpx.Client) -> None:
    assert anonymous.get("/healthz").json() == {"status": "ok"}


def test_a_link_works_once(server: Server, anonymous: httpx.Client) -> None:
    with signed_in(server, "cleo") as first:
        assert first.get("/label/config").status_code == 200
    with closing(server.store()) as store:
        token = SignIn(store, server.port).new_link_token(store.add_labeler("cleo").id)
    link = {"token": token}
    with httpx.Client(base_url=server.origin, trust_env=False) as first:
        response = first.get("/enter", params=link)
        cookie = response.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert first.get("/enter", params=link).status_code == 200  # the same browser: signed in
    refused = anonymous.get("/enter", params=link)
    assert refused.status_code == 403
    assert "set-cookie" not in refused.headers
    assert anonymous.get("/label/").status_code == 401


@pytest.mark.parametrize("token", ["", "x", "../..", "é", "'; DROP TABLE labeler; --"])
def test_a_wrong_token_is_refused(anonymous: httpx.Client, token: str) -> None:
    assert anonymous.get("/enter", params={"token": token}).status_code == 403


def test_old_links_and_old_sessions_are_refused(server: Server, anonymous: httpx.Client) -> None:
    with signed_in(server, "dora") as client, closing(server.store()) as store:
        labeler = store.add_labeler("dora").id
        token = SignIn(store, server.port).new_link_token(labeler)
        with store.writing() as session:
            for link in session.query(SignInLink).filter_by(labeler_id=labeler):
                link.expires_at = 1.0
            for row in session.query(SignInSession).filter_by(labeler_id=labeler):
                row.expires_at = 1.0
        assert client.get("/label/").status_code == 401
    assert anonymous.get("/enter", params={"token": token}).status_code == 403


def test_no_token_and_no_cookie_is_in_the_database(server: Server) -> None:
    with signed_in(server, "emil") as client:
        secrets = [cookie.value for cookie in client.cookies.jar if cookie.value]
    assert len(secrets) == 1
    secrets.append(server.link.partition("token=")[2])
    files = [server.database, server.database.with_name("labels.db-wal")]
    stored = b"".join(file.read_bytes() for file in files if file.exists())
    assert b"emil" in stored
    for secret in secrets:
        assert len(secret) > 40
        assert secret.encode() not in stored


# --- other sites --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://127.0.0.1.evil.example"}, 403),
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1"}, 421),
    ],
)
def test_a_call_from_another_site_changes_nothing(
    server: Server, ann: httpx.Client, headers: dict[str, str], status: int
) -> None:
    reply = call(ann, "next_task", {}).json()
    before = server.store().content_hash()
    response = call(ann, "submit_task", judgment(reply), headers=headers)
    assert response.status_code == status
    assert server.store().content_hash() == before
    preflight = ann.options(COMPONENT_SERVER, headers=headers)
    assert preflight.status_code == status
    assert not [name for name in preflight.headers if name.startswith("access-control")]


def test_our_own_origin_is_welcome_and_no_other_is_named(server: Server, ann: httpx.Client) -> None:
    response = call(ann, "next_task", {}, headers={"Origin": server.origin})
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_every_response_carries_the_security_headers(
    anonymous: httpx.Client, ann: httpx.Client
) -> None:
    responses = [anonymous.get("/label/"), anonymous.get("/enter"), anonymous.get("/healthz")]
    responses += [ann.get("/label/"), ann.get("/label/config"), ann.get("/docs")]
    for response in responses:
        policy = response.headers["content-security-policy"]
        assert "default-src 'self'" in policy or "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "same-origin"


# --- what is served -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", UNUSED_PATHS)
def test_what_labeling_does_not_need_is_not_there(ann: httpx.Client, path: str) -> None:
    for method in ("GET", "POST"):
        assert ann.request(method, path).status_code == 404


def test_a_large_body_is_refused(server: Server, ann: httpx.Client) -> None:
    reply = call(ann, "next_task", {}).json()
    before = server.store().content_hash()
    large = judgment(reply, note="x" * 70_000)
    assert call(ann, "submit_task", large).status_code == 413
    chunks = (b"x" * 10_000 for _ in range(10))  # without a length
    assert ann.post(COMPONENT_SERVER, content=chunks).status_code == 413
    assert server.store().content_hash() == before


def test_policies_and_ids_are_not_sent(ann: httpx.Client) -> None:
    sent = json.dumps(call(ann, "next_task", {}).json()) + ann.get("/label/config").text
    assert "text 0" in sent
    assert "planted" not in sent


# --- judgments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"ratings": [True, 4, 4]},
        {"ratings": [4.0, 4, 4]},
        {"ratings": ["4", 4, 4]},
        {"ratings": [None, 4, 4]},
        {"ratings": [0, 4, 4]},
        {"ratings": [8, 4, 4]},
        {"ratings": [4, 4]},
        {"ratings": "444"},
        {"ranks": [1, 1, 0]},
        {"ranks": [1, 1, True]},
        {"ratings": [1, 4, 4], "ranks": [1, 2, 2]},
        {"ratings": [1, 4, 4], "ranks": [1, 2, 2], "confirmed": "yes"},
        {"answers": None},
        {"answers": {"rude": [0, 1, 1]}},
        {"answers": {"planted": [None, None, None]}},
        {"lease": "1"},
        {"lease": True},
        {"lease": 10**30},
        {"lease": ["x"]},
        {"lease": None},
        {"confidence": "sure"},
        {"seconds": -1},
        {"note": ["x"]},
    ],
)
def test_a_bad_judgment_is_answered_with_an_error(
    server: Server, ann: httpx.Client, changes: dict[str, Any]
) -> None:
    reply = call(ann, "next_task", {}).json()
    before = server.store().content_hash()
    response = call(ann, "submit_task", judgment(reply, **changes))
    assert response.status_code == 200
    assert "Fix:" in response.json()["error"]
    assert server.store().content_hash() == before
    assert call(ann, "next_task", {}).json()["task"] == reply["task"]


def test_no_data_at_all_is_an_error(ann: httpx.Client) -> None:
    for data in (None, [], "x", 3):
        for name in ("submit_task", "skip_task"):
            assert "Fix:" in call(ann, name, data).json()["error"]


def test_labels_belong_to_who_is_signed_in(server: Server) -> None:
    names = ("gina", "hugo", "ines")
    forged = {"labeler": "ann", "labeler_id": 1, "user": "ann", "session_hash": "same"}
    with ExitStack() as stack:
        clients = [stack.enter_context(signed_in(server, name)) for name in names]
        for client in clients * 3:
            reply = call(client, "next_task", {}).json()
            saved = call(client, "submit_task", judgment(reply, **forged)).json()
            assert saved["progress"]["done"] >= 1
    with closing(server.store()) as store:
        per_labeler: dict[str, int] = {}
        for row in store.rankings():
            per_labeler[row.labeler] = per_labeler.get(row.labeler, 0) + 1
        pseudonyms = {store.add_labeler(name).pseudonym for name in names}
        assert store.progress() == Progress(done=9, open=15, skipped=0)
    assert per_labeler == dict.fromkeys(pseudonyms, 3)


def test_another_labelers_task_is_refused(server: Server, ann: httpx.Client) -> None:
    with signed_in(server, "bob") as bob:
        reply = call(ann, "next_task", {}).json()
        theirs = call(bob, "next_task", {}).json()
        assert theirs["task"]["lease"] != reply["task"]["lease"]
        assert theirs["task"]["prompt"] != reply["task"]["prompt"]
        assert "error" in call(bob, "submit_task", judgment(reply)).json()
        skip = {"lease": reply["task"]["lease"], "reason": "unclear"}
        assert "error" in call(bob, "skip_task", skip).json()
        draft = {"lease": reply["task"]["lease"], "page": "p", "seq": 1, "draft": {"note": "x"}}
        assert "error" in call(bob, "save_draft", draft).json()
        assert call(ann, "next_task", {}).json()["task"]["draft"] is None


# --- starting -----------------------------------------------------------------------------------


def config(**label: Any) -> RunConfig:
    values = {"data": {"tinyworld": {}}, "pretrain": {}, "label": {"source": "browser", **label}}
    return RunConfig.model_validate(values)


def test_without_samples_there_is_nothing_to_label(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to label yet"):
        serve(config(), tmp_path / "runs" / "x")
    assert not (tmp_path / "runs").exists()


def test_a_port_in_use_and_altered_samples_are_users_mistakes(
    tmp_path: Path, publish_folder: Callable[[Path, Callable[[Path], object]], None]
) -> None:
    def write(folder: Path) -> None:
        write_rows(folder / "samples.jsonl", [sample("a")])

    publish_folder(tmp_path / "samples", write)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}.*--port"):
            serve(config(), tmp_path, port)
    path = tmp_path / "samples" / "samples.jsonl"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(UserError, match=r"samples\.jsonl"):
        serve(config(), tmp_path, 0)


def test_the_application_loads_no_torch_and_no_analytics() -> None:
    program = (
        "import json, os, sys; import labeling_ui.serve; light = 'gradio' not in sys.modules\n"
        "import labeling_ui.app, gradio.analytics\n"
        "print(json.dumps([light, 'torch' in sys.modules, 'transformers' in sys.modules,"
        " gradio.analytics.analytics_enabled()]))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert json.loads(result.stdout) == [True, False, False, False]


# --- the end: this stops the server ---


def test_display_order_comes_back_canonical_until_all_is_done(server: Server) -> None:
    with closing(server.store()) as store, store.writing() as session:
        for assignment in session.query(Assignment).filter_by(ended_at=None):
            assignment.expires_at = 1.0  # what the others have begun and left
    with signed_in(server, "jane") as client:
        reply = call(client, "next_task", {}).json()
        while reply["task"] is not None:
            texts: list[str] = reply["task"]["responses"]
            ratings = [2 + int(text[-1]) for text in texts]  # "text 2" gets 4, wherever it stands
            ranks = [3 - int(text[-1]) for text in texts]
            rude = [text == "text 1" for text in texts]
            data = judgment(reply, ratings=ratings, ranks=ranks, answers={"rude": rude})
            reply = call(client, "submit_task", data).json()
    with closing(server.store()) as store:
        jane = store.add_labeler("jane").pseudonym
        rows = [row for row in store.rankings() if row.labeler == jane]
    assert len(rows) == 15
    assert any(row.display_order != [0, 1, 2] for row in rows)  # all 15 alike: 1 in 5·10¹¹
    for row in rows:
        assert [response.text for response in row.responses] == ["text 0", "text 1", "text 2"]
        assert (row.ratings, row.ranks) == ([2, 3, 4], [3, 2, 1])
        assert row.answers == {"rude": [False, True, False], "off_topic": [None, None, None]}
    code, printed = server.stop()
    assert code == 0
    assert "Traceback" not in printed
    assert "24 judged, 0 skipped, 0 still open." in printed
    assert "align run demo.yaml" in printed
