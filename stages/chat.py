"""Talks to a checkpoint in the terminal: ``align chat runs/quickstart/ppo``.

Each prompt is answered on its own, as the model was trained: it has no memory of earlier turns.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from pipeline.errors import UserError
from pipeline.hugging_face import load_language_model
from pipeline.language_model import LanguageModel
from pipeline.sampling import SamplingSettings, stream
from pipeline.tokenizer import Tokenizer

PROMPT_SIGN = "> "
FAREWELLS = ("", "exit", "quit")


def chat(folder: Path, temperature: float = 0.7, max_response_tokens: int = 128) -> None:
    """Answers prompts from standard input until it ends, a line is empty or says ``exit``.

    Answers are streamed to standard output. They end at the end token, at ``max_response_tokens``
    or where the model's context does.

    Raises:
        UserError: ``folder`` is not a language model's folder; a setting is out of range.
    """
    if temperature <= 0 or max_response_tokens < 1:
        raise UserError(
            "chat",
            f"temperature {temperature:g} and max_response_tokens {max_response_tokens} must be "
            "above zero.",
            "choose positive values.",
        )
    model, tokenizer = load_policy(folder)
    try:
        for prompt in read_prompts():
            for piece in answer(model, tokenizer, prompt, temperature, max_response_tokens):
                print(piece, end="", flush=True)
            print(flush=True)
    except KeyboardInterrupt:
        print()


def load_policy(folder: Path) -> tuple[LanguageModel, Tokenizer]:
    """The model of a folder, on the GPU if there is one, and its tokenizer.

    Raises:
        UserError: the folder holds no language model.
    """
    model = load_language_model(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval(), Tokenizer.load(folder)


def read_prompts() -> Iterator[str]:
    """The lines typed, or piped in, up to a farewell or the end of the input."""
    sign = ""
    if sys.stdin.isatty():
        sign = PROMPT_SIGN
        print("Type a prompt; an empty line or Ctrl-D ends.")
    while True:
        try:
            line = input(sign).strip()
        except EOFError:
            if sign:
                print()
            return
        if line.lower() in FAREWELLS:
            return
        yield line


def answer(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str,
    temperature: float,
    max_response_tokens: int,
) -> Iterator[str]:
    """The pieces of one sampled answer, or one line that says why there is none."""
    prompt_ids = tokenizer.encode_prompt(prompt)
    room = model.context_tokens - len(prompt_ids)
    if room < 1:
        yield f"(the prompt takes {len(prompt_ids)} tokens; the model reads at most "
        yield f"{model.context_tokens - 1})"
        return
    settings = SamplingSettings(min(room, max_response_tokens), temperature)
    yield from stream(model, prompt_ids, secrets.randbelow(2**31), settings, tokenizer)
