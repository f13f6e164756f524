"""What tests share: a tiny model with its tokenizer, and the browser."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import stages  # noqa: F401  (switches telemetry and the hub off before any library reads them)

if TYPE_CHECKING:
    from pipeline.model import GPT
    from pipeline.tokenizer import Tokenizer

GET_A_BROWSER = ".venv/bin/python -m playwright install --with-deps chromium"
NO_BROWSER = f"no Chromium found. Get one with: {GET_A_BROWSER}"

TINY_TEXTS = (
    "The red fox lives in the old mill and eats plums.",
    "A small owl has a blue kite. The owl thanks the fox for the plums.",
    "Tell me where the fox lives. It lives in the mill.",
) * 20


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Tokenizer:
    """A byte-level BPE of 300 tokens, trained on three sentences."""
    from pipeline.tokenizer import train_tokenizer

    return train_tokenizer(TINY_TEXTS, vocab_size=300)


@pytest.fixture(scope="session")
def tiny_model_folder(tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: random weights, 2 layers, 2 heads, width 32, context 64. Read it only."""
    import torch

    from pipeline.gpt2_format import save_gpt
    from pipeline.model import GPT, GPTConfig

    with torch.random.fork_rng():
        torch.manual_seed(0)
        gpt = GPT(GPTConfig(tiny_tokenizer.vocab_size, 64, layers=2, heads=2, width=32))
    folder = tmp_path_factory.mktemp("tiny") / "model"
    save_gpt(gpt, folder, tiny_tokenizer)
    return folder


@pytest.fixture
def tiny_gpt(tiny_model_folder: Path) -> GPT:
    """The model of ``tiny_model_folder``, a new one for each test, which may change it."""
    from pipeline.gpt2_format import load_gpt

    return load_gpt(tiny_model_folder)


@pytest.fixture
def data_root() -> Path:
    """The folder of real public data that ALIGN_DATA_ROOT names; without it the test is skipped."""
    root = os.environ.get("ALIGN_DATA_ROOT")
    if root is None or not Path(root).is_dir():
        pytest.skip("ALIGN_DATA_ROOT names no folder of public data")
    return Path(root)


Publish = Callable[[Path, Callable[[Path], object]], None]


@pytest.fixture(scope="session")
def publish_folder() -> Publish:
    """Publishes a folder of a run as its stage would: ``publish_folder(run / "data", write)``.

    ``write`` is called with the folder to write into.
    """
    from pipeline.artifacts import Identity, WorkRecord, publish, temporary_folder

    def make(folder: Path, write: Callable[[Path], object]) -> None:
        temporary = temporary_folder(folder)
        write(temporary)
        identity = Identity(folder.name, {}, 0, {}, 1)
        publish(temporary, folder, identity, WorkRecord({}, "", "", 0.0, 0))

    return make


def find_browser() -> str | None:
    """The browser that ``make test`` found or installed, else one that is here."""
    script = Path(__file__).parent / "find_browser.sh"
    named = os.environ.get("ALIGN_BROWSER")
    return named or subprocess.check_output(["sh", str(script)], text=True).strip() or None


@pytest.fixture(scope="session")
def browser_path() -> str:
    """The executable of a Chromium; without one the test is skipped, or fails where it must run."""
    path = find_browser()
    if path is not None:
        return path
    if os.environ.get("ALIGN_REQUIRE_BROWSER") == "1":
        pytest.fail(NO_BROWSER)
    pytest.skip(NO_BROWSER)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Says in plain words, after everything else, that the browser tests did not run."""
    yield
    reasons = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    count = sum(NO_BROWSER in reason for reason in reasons)
    if count:
        line = f"{count} browser tests were SKIPPED: {NO_BROWSER}"
        terminalreporter.write_line(line, yellow=True)
