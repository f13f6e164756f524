"""The page docs/from_scratch.md is a program: its Python blocks run in order, in one namespace."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "from_scratch.md"
TEXT = PAGE.read_text(encoding="utf-8")


def python_blocks(text: str) -> Iterator[str]:
    """Each block after as many empty lines as precede it, so that errors name the page's line."""
    for block in re.finditer(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        yield "\n" * text.count("\n", 0, block.start(1)) + block[1]


def run(text: str) -> None:
    with torch.random.fork_rng():
        namespace: dict[str, object] = {}
        for block in python_blocks(text):
            exec(compile(block, str(PAGE), "exec"), namespace)


def test_the_page_runs() -> None:
    run(TEXT)


def test_every_step_checks_what_it_says() -> None:
    steps = [step for step in TEXT.split("\n## ")[1:] if "```python" in step]
    assert len(steps) == 16
    assert [
        step for step in steps if not re.search(r"^ *(assert|close)\b", step, re.MULTILINE)
    ] == []


WRONG = (
    ("joined[-1] += part", "joined[-1] = part"),
    ("tokens[start + 1 : start + T + 1]", "tokens[start : start + T]"),
    ("triu(diagonal=1)", "triu(diagonal=2)"),
    ("(q @ k.transpose(-1, -2) / math.sqrt(D))", "(q @ k.transpose(-1, -2))"),
    ("slice(head * D, (head + 1) * D)", "slice(0, D)"),
    ("variance + 1e-5", "variance + 1e-2"),
    ("0.044715 * wide**3", "0.04 * wide**3"),
    ("x = x + attention(module.attn, layer", "x = attention(module.attn, layer"),
    ("ids.append(int(logits.argmax()))", "ids.append(int(logits.argmin()))"),
    ("-of_targets.log().mean()", "of_targets.log().sum()"),
    ("if step < warmup else falling", "if step < warmup else progress"),
)


@pytest.mark.parametrize(("right", "wrong"), WRONG, ids=[right for right, _ in WRONG])
def test_a_mistake_on_the_page_is_noticed(right: str, wrong: str) -> None:
    assert TEXT.count(right) == 1
    with pytest.raises(AssertionError):
        run(TEXT.replace(right, wrong))
