"""Configs from files: defaults, overrides, and the one line that each mistake gives."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import RunConfig
from pipeline.config_file import load_config
from pipeline.errors import UserError

MINIMAL = "data: {tinyworld: {}}\npretrain: {}\n"


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_config(text: str, name: str = "tiny.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_config


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_file_s_stem_is_the_name_and_defaults_hold(write: Any) -> None:
    config = load_config(write(MINIMAL))
    assert config.name == "tiny"
    assert config.sft == RunConfig.model_fields["sft"].default
    assert config.seed == 0


def test_overrides_win_and_are_read_as_yaml(write: Any) -> None:
    config = load_config(
        write(MINIMAL + "sft: {epochs: 2}\n"),
        [
            "sft.learning_rate=1e-4",
            "ppo.whiten_rewards=true",
            "data.tinyworld.documents=7",
            "name=2024",
            "label.questions={rude: 'Is it rude?'}",
        ],
    )
    assert config.sft.learning_rate == 0.0001
    assert config.sft.epochs == 2
    assert config.ppo.whiten_rewards is True
    assert config.data.tinyworld is not None
    assert config.data.tinyworld.documents == 7
    assert config.name == "2024"
    assert config.label.questions == {"rude": "Is it rude?"}


def test_an_entry_of_a_list_can_be_overridden(write: Any) -> None:
    text = (
        "data:\n  corpus:\n  - {name: a, path: a.txt, proportion: 1}\n"
        "  instructions: {path: i.jsonl, prompt_columns: [p], response_column: r}\npretrain: {}\n"
        "label: {judge: overlap}\ncompare: {judge: overlap}\n"
    )
    config = load_config(write(text), ["data.corpus.0.path=b.txt"])
    assert config.data.corpus[0].path == "b.txt"
    assert "no entry" in refusal(write(text), "data.instructions.prompt_columns.5=x")


@pytest.mark.parametrize(
    ("extra", "overrides", "words"),
    [
        ("sft: {learning_rat: 1e-4}", [], "sft.learning_rat: .* did you mean sft.learning_rate?"),
        ("sfft: {}", [], "sfft: .* did you mean sft?"),
        ("xyzzy: 1", [], "xyzzy: is no known key"),
        ("", ["ppo.kl_coeff=1"], "did you mean ppo.kl_coef?"),
        ("ppo: {batch_size: many}", [], "ppo.batch_size: should be a valid integer, got 'many'"),
        ("ppo: {batch_size: 64.0}", [], "ppo.batch_size: .* got 64.0"),
        ("ppo: {whiten_rewards: yes}", [], "ppo.whiten_rewards: .* got 'yes'"),
        ("ppo: {batch_size: 0}", [], "ppo.batch_size: should be greater than 0, got 0"),
        (
            "",
            ["ppo.total_episodes=100"],
            "ppo: total_episodes 100 is not divisible by batch_size 64",
        ),
        ("seed: true", [], "seed: .* got True"),
        ("seed: -1", [], "seed: .* got -1"),
        ("sft: {learning_rate: .inf}", [], "sft.learning_rate: .* got inf"),
        ("sft: {learning_rate: .nan}", [], "sft.learning_rate: .* got nan"),
        ("sft: 3", [], "sft: should hold keys and values, got 3"),
        ("precision: fp8", [], "precision: .*'auto', 'fp32' or 'bf16', got 'fp8'"),
        ("import_base: {hub_id: gpt2}", [], "pretrain or import_base"),
        ("name: ../escape", [], "name: must be a folder name"),
        ("", ["sft.epochs"], "write it as section.key=value"),
        ("", ["sft..epochs=1"], "write it as section.key=value"),
        ("", ["seed.deep=1"], "seed: should be a valid integer"),
        ("", ["sft.epochs=[1"], "not valid YAML"),
        ("sft: {epochs: 1, epochs: 2}", [], ":3: .*'epochs' is given twice"),
    ],
)
def test_mistakes_are_named(write: Any, extra: str, overrides: list[str], words: str) -> None:
    message = refusal(write(MINIMAL + extra + "\n"), *overrides)
    assert re.search(words, message), message
    assert " Fix: " in message


def test_a_message_names_the_file(write: Any) -> None:
    path = write(MINIMAL + "ppo: {batch_size: -2}\n")
    assert refusal(path).startswith(f"{path}: ppo.batch_size: ")


def test_a_required_key_is_asked_for(write: Any) -> None:
    assert "data: is required. Fix: add data." in refusal(write("pretrain: {}\n"))


@pytest.mark.parametrize("content", [b"", b"- a\n", b"text", b"\xff\xfe\x00", b"a: \x00"])
def test_what_is_no_config_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    assert str(path) in refusal(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "no.yaml")
    assert "cannot be read" in refusal(tmp_path)


def test_a_stem_that_is_no_folder_name_needs_a_name(write: Any) -> None:
    path = write(MINIMAL, "my run.yaml")
    assert "'my run'" in refusal(path)
    assert load_config(path, ["name=mine"]).name == "mine"
