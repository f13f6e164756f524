"""Every configuration that is shipped loads and is valid; what is documented of it is so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.chain import chain_of
from pipeline.config_file import load_config
from stages.__main__ import app

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(CONFIGS.glob("*.yaml"))


def stages_of(name: str) -> list[str]:
    return [links.stage for links in chain_of(load_config(CONFIGS / name, []))]


def test_the_documented_configs_are_there() -> None:
    assert {"quickstart.yaml", "books.yaml", "gpt2.yaml", "spam.yaml"} <= {
        path.name for path in FILES
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_loads_and_names_its_run_after_itself(path: Path) -> None:
    config = load_config(path, [])
    assert config.name == path.stem
    assert config.seed == 0
    # What is sampled for labels, in PPO and in the comparison has one length.
    lengths = {
        config.sample.max_response_tokens,
        config.ppo.response_length,
        config.compare.max_response_tokens,
    }
    assert len(lengths) == 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_align_validate_accepts_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With files of the right names in place; validation does not read them."""
    monkeypatch.chdir(tmp_path)
    config = load_config(path, [])
    named = [source.path for source in config.data.corpus if source.path is not None]
    if config.data.instructions is not None and config.data.instructions.path is not None:
        named.append(config.data.instructions.path)
    if config.classify is not None and config.classify.source.path is not None:
        named.append(config.classify.source.path)
    for name in named:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"id": "1", "text": "words"}) + "\n")
    result = CliRunner().invoke(app, ["validate", str(path), f"data_root={tmp_path}"])
    assert result.exit_code == 0, result.output
    assert f"runs/{path.stem}" in result.output
    assert not (tmp_path / "runs").exists()


def test_the_quickstart_needs_nothing_from_outside() -> None:
    config = load_config(CONFIGS / "quickstart.yaml", [])
    assert config.data.tinyworld is not None
    assert config.import_base is None
    assert (config.label.source, config.label.judge) == ("scripted", "tinyworld")
    assert config.compare.judge == "tinyworld"
    assert config.sample.responses_per_prompt == 5
    assert config.pretrain is not None
    assert config.pretrain.copy_probe_minimum is not None
    assert stages_of("quickstart.yaml") == [
        "data",
        "pretrain",
        "sft",
        "sample",
        "label",
        "reward",
        "ppo",
        "compare",
    ]


def test_books_reads_files_below_data_root_and_is_judged_by_overlap() -> None:
    config = load_config(CONFIGS / "books.yaml", [])
    assert {source.path: source.proportion for source in config.data.corpus} == {
        "corpus/children.jsonl": 0.8,
        "corpus/speeches.jsonl": 0.2,
    }
    assert config.data.instructions is not None
    assert config.data.instructions.path == "instructions/llms_from_scratch.jsonl"
    assert config.data.instructions.dataset is None
    assert config.pretrain is not None
    assert (config.label.source, config.label.judge) == ("scripted", "overlap")
    assert config.compare.judge == "overlap"
    assert "pretrain" in stages_of("books.yaml")


def test_gpt2_takes_everything_from_the_hub_and_labels_from_people() -> None:
    config = load_config(CONFIGS / "gpt2.yaml", [])
    assert config.import_base is not None
    assert config.import_base.hub_id == "gpt2"
    assert config.pretrain is None
    assert config.data.instructions is not None
    assert config.data.instructions.dataset is not None
    assert config.data.instructions.path is None
    assert config.label.source == "browser"
    assert config.label.questions
    assert config.compare.judge == "reward"
    assert stages_of("gpt2.yaml")[:2] == ["data", "import_base"]


def test_spam_classifies_the_messages_beside_it() -> None:
    config = load_config(CONFIGS / "spam.yaml", [])
    assert config.classify is not None
    assert config.classify.source.path == "examples/messages.jsonl"
    assert stages_of("spam.yaml")[:3] == ["data", "pretrain", "classify"]
    lines = (CONFIGS.parent / "examples" / "messages.jsonl").read_text().splitlines()
    messages = [json.loads(line) for line in lines]
    assert len({message["text"] for message in messages}) == len(messages)
    labels = [message["label"] for message in messages]
    assert labels.count("spam") == labels.count("ham") == 120
