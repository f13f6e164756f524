"""``align chat``: prompts from a pipe or a terminal, answers streamed, an end that is no error."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.sampling import SamplingSettings, generate, response_texts
from pipeline.tokenizer import Tokenizer
from stages import chat
from stages.chat import load_policy


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_answers_each_line_until_a_farewell(
    tiny_model_folder: Path,
    tiny_tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Near temperature zero the streamed answer is the likeliest one, which can be computed."""
    monkeypatch.setattr("sys.stdin", io.StringIO("Where?\nWho?\nexit\nnot read\n"))
    chat.chat(tiny_model_folder, temperature=1e-4, max_response_tokens=10)

    model, _ = load_policy(tiny_model_folder)
    prompts = [tiny_tokenizer.encode_prompt(prompt) for prompt in ("Where?", "Who?")]
    settings = SamplingSettings(10, temperature=1e-4)
    generation = generate(model, prompts, [0, 0], settings, tiny_tokenizer)
    expected = response_texts(generation, tiny_tokenizer)
    assert all(expected)
    assert capsys.readouterr().out.splitlines() == expected


@pytest.mark.parametrize("typed", ["", "\n", "exit\n", "  Quit \n"])
def test_every_way_to_end_on_a_terminal(
    typed: str,
    tiny_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    chat.chat(tiny_model_folder)
    assert "empty line or Ctrl-D ends" in capsys.readouterr().out


def test_ctrl_c_ends_quietly(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", io.StringIO("Where?\n"))
    monkeypatch.setattr(chat, "answer", interrupted)
    chat.chat(tiny_model_folder)


def test_a_response_ends_where_the_context_does(
    tiny_model_folder: Path,
    tiny_tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prompt = "x" * 200
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{prompt}\nWhere?\n"))
    chat.chat(tiny_model_folder, max_response_tokens=10_000)
    tokens = len(tiny_tokenizer.encode_prompt(prompt))
    assert f"(the prompt takes {tokens} tokens; the model reads at most 63)" in (
        capsys.readouterr().out
    )


def test_what_is_no_language_model_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json"):
        chat.chat(tmp_path)

    folder = tmp_path / "reward"
    shutil.copytree(tiny_model_folder, folder)
    values = json.loads((folder / "config.json").read_text())
    values["architectures"] = ["GPT2ForSequenceClassification"]
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="does not write text"):
        chat.chat(folder)

    with pytest.raises(UserError, match="above zero"):
        chat.chat(tiny_model_folder, temperature=0)
