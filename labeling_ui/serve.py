"""``align label``: serves the labeling application of one run on this machine."""

from __future__ import annotations

import contextlib
import socket
import webbrowser
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from labeling_ui.address import check_address
from labeling_ui.desk import Desk, Place
from labeling_ui.store import Progress, open_store
from labeling_ui.tasks import add_tasks
from pipeline.artifacts import verify
from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.label_config import INSTRUCTGPT_QUESTIONS
from pipeline.records import Prompt, SampleSet, read_rows

HOST = "127.0.0.1"
ACCOUNT = "local"


def serve(
    config: RunConfig,
    run_folder: Path,
    port: int = 7860,
    open_browser: bool = False,
    questions: Mapping[str, str] | None = None,
    next_command: str | None = None,
    public_url: str | None = None,
) -> None:
    """Adds the run's samples to its label database, prints a one-time link, serves until Ctrl+C.

    Args:
        config: the run.
        run_folder: where ``samples/`` is.
        port: 0 takes a free one.
        open_browser: opens the link at once.
        questions: the yes/no questions; the configured ones, else InstructGPT's, if not given.
        next_command: what the end page and the terminal say to run next.
        public_url: the address by which people reach it through a proxy, ``https://host``.

    Raises:
        UserError: there are no samples, the database is unusable, or the port is taken.
    """
    samples = run_folder / "samples" / "samples.jsonl"
    if not samples.is_file():
        fix = "run the chain up to them first: align run CONFIG --until sample."
        raise UserError(samples, "is missing: there is nothing to label yet.", fix)
    problem = verify(samples.parent)
    if problem is not None:
        fix = "rebuild it with align run CONFIG --from sample."
        raise UserError(samples.parent, f"is corrupt: {problem}.", fix)
    if public_url is not None:
        public_url = check_address(public_url)
    command = next_command or f"align run {run_folder / 'config.json'}"
    asked = config.label.questions if questions is None else questions
    if asked is None:
        asked = INSTRUCTGPT_QUESTIONS
    with closing(open_store(config.label.database or run_folder / "labels.db")) as store:
        prompts = run_folder / "data" / "prompts.jsonl"
        known = read_rows(prompts, Prompt) if prompts.exists() else []
        root, section = config.data_root, config.label
        add_tasks(store, read_rows(samples, SampleSet), known, section, asked, root)
        desk = Desk(
            store,
            lease_seconds=60 * section.lease_minutes,
            gold_fraction=section.gold_fraction,
            pass_mark=section.pass_mark,
        )
        with closing(_listening_socket(port)) as listening:
            place = Place(store, desk, run_folder.name, command)
            _serve(place, listening, open_browser, public_url)
        _say_goodbye(store.progress(people_only=True), command)


def _listening_socket(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen(128)  # a browser that comes before the server is up waits
    except OSError as error:
        listening.close()
        raise UserError(
            f"port {port}", f"cannot be used ({error.strerror}).", "choose another with --port."
        ) from None
    return listening


def _serve(
    place: Place, listening: socket.socket, open_browser: bool, public_url: str | None
) -> None:
    """Serves until it is told to stop."""
    print("Starting the labeling application …", flush=True)
    import uvicorn  # with gradio it takes seconds

    from labeling_ui.app import create_app
    from labeling_ui.sign_in import SignIn

    store, port = place.store, listening.getsockname()[1]
    secure = public_url is not None and public_url.startswith("https:")
    sign_in = SignIn(store, port, secure)
    app = create_app(place, sign_in, port, public_url)
    token = sign_in.new_link_token(store.add_labeler(ACCOUNT, role="admin").id)
    link = f"{public_url or f'http://{HOST}:{port}'}/enter?token={token}"
    settings = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
        proxy_headers=public_url is not None,  # else anybody could claim any address
    )
    print(f"{store.progress(people_only=True).open} tasks are open. Open this link (works once):")
    print(
        f"\n    {link}\n\nCtrl+C stops the application; every submitted task is saved.", flush=True
    )
    if open_browser:
        webbrowser.open(link)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn has shut down and passes Ctrl+C on
        uvicorn.Server(settings).run(sockets=[listening])


def _say_goodbye(progress: Progress, command: str) -> None:
    print(f"\n{progress.done} judged, {progress.skipped} skipped, {progress.open} still open.")
    print(f"Go on with: {command}")
