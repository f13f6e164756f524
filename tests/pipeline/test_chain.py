"""The table of what each stage reads and writes, against the design's own table."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import chain
from pipeline.config import RunConfig
from pipeline.errors import UserError

SOURCE = {"path": "i.jsonl", "prompt_columns": ["p"], "response_column": "r"}


def make_config(**changes: object) -> RunConfig:
    return RunConfig.model_validate({"data": {"tinyworld": {}}, "pretrain": {}} | changes)


IMPORTING = make_config(pretrain=None, import_base={"path": "gpt2"})


def test_the_base_is_pretrained_or_imported() -> None:
    rest = ["sft", "sample", "label", "reward", "ppo", "compare"]
    assert [s.stage for s in chain.chain_of(make_config())] == ["data", "pretrain", *rest]
    assert [s.stage for s in chain.chain_of(IMPORTING)] == ["data", "import_base", *rest]
    assert chain.maker_of("base", IMPORTING) == "import_base"
    assert chain.maker_of("base", make_config()) == "pretrain"
    folders = [chain.links_of(name, IMPORTING).folder for name in ("pretrain", "import_base")]
    assert folders == ["base", "base"]


def test_preferences_of_others_alone_need_no_labeling() -> None:
    source = {"path": "p.jsonl", "prompt_columns": ["q"], "chosen_column": "a"}
    preferences = [source | {"rejected_column": "b"}]
    config = make_config(reward={"own_labels": False, "preferences": preferences})
    chained = {links.stage: links for links in chain.chain_of(config)}
    assert "reward" in chained
    assert not chained.keys() & {"sample", "label"}
    assert not any("labels" in links.reads for links in chained.values())
    with pytest.raises(ValueError, match="own_labels"):
        make_config(reward={"own_labels": False})


def test_a_stage_reads_only_what_an_earlier_one_writes() -> None:
    for config in (make_config(), IMPORTING):
        written: set[str] = set()
        for links in chain.chain_of(config):
            assert set(links.reads) <= written
            written.add(links.folder)


def test_the_key_holds_the_section_but_not_where_labels_are_stored() -> None:
    config = make_config(label={"database": "postgresql://ann:secret@host/x", "labelers": 5})
    values = chain.section_values("label", config)
    assert values["labelers"] == 5
    assert "database" not in values
    assert chain.section_values("sample", config) == config.sample.model_dump(mode="json")
    assert "checkpoint_every_updates" not in chain.section_values("ppo", config)


def test_external_files_are_those_the_config_names(tmp_path: Path) -> None:
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "config.json").touch()
    corpus = [{"name": "a", "path": "a.txt", "proportion": 1.0}]
    config = make_config(
        data={"corpus": corpus, "instructions": SOURCE},
        pretrain=None,
        import_base={"path": "gpt2"},
        label={"source": "file", "file": "labels.jsonl"},
        data_root=str(tmp_path),
    )
    assert chain.external_files("data", config) == {
        "corpus/a": tmp_path / "a.txt",
        "instructions": tmp_path / "i.jsonl",
    }
    assert chain.external_files("label", config) == {"file": tmp_path / "labels.jsonl"}
    assert chain.external_files("import_base", config) == {
        "path/config.json": tmp_path / "gpt2" / "config.json"
    }
    assert chain.external_files("sft", config) == {}
    assert chain.missing_file("data", config) == ("corpus/a", tmp_path / "a.txt")
    assert chain.missing_file("import_base", config) is None


def test_a_dataset_is_a_folder_below_data_root_or_a_name_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "books" / "part").mkdir(parents=True)
    for name in ("a.jsonl", "part/b.jsonl"):
        (tmp_path / "books" / name).touch()
    corpus = [
        {"name": "local", "dataset": "books", "proportion": 0.5},
        {"name": "remote", "dataset": "somebody/books", "proportion": 0.5},
    ]
    config = make_config(data={"corpus": corpus, "instructions": SOURCE}, data_root=str(tmp_path))
    assert chain.external_files("data", config) == {
        "corpus/local/a.jsonl": tmp_path / "books" / "a.jsonl",
        "corpus/local/part/b.jsonl": tmp_path / "books" / "part" / "b.jsonl",
        "instructions": tmp_path / "i.jsonl",
    }
    assert chain.names_hub_dataset(config)
    alone = make_config(
        data={"corpus": [corpus[0] | {"proportion": 1.0}], "instructions": SOURCE},
        data_root=str(tmp_path),
    )
    assert not chain.names_hub_dataset(alone)
    assert not chain.names_hub_dataset(make_config())


def test_preferences_of_others_are_read_by_the_stage_reward(tmp_path: Path) -> None:
    (tmp_path / "chats").mkdir()
    (tmp_path / "chats" / "a.jsonl").touch()
    columns = {"prompt_columns": ["p"], "chosen_column": "c", "rejected_column": "r"}
    local = [{"path": "pairs.csv"} | columns, {"dataset": "chats"} | columns]
    remote = {"dataset": "somebody/chats"} | columns
    config = make_config(reward={"preferences": local}, data_root=str(tmp_path))
    assert chain.external_files("reward", config) == {
        "preferences/0": tmp_path / "pairs.csv",
        "preferences/1/a.jsonl": tmp_path / "chats" / "a.jsonl",
    }
    assert chain.external_files("data", config) == {}
    assert chain.external_files("reward", make_config()) == {}
    assert chain.missing_file("reward", config) == ("preferences/0", tmp_path / "pairs.csv")
    assert not chain.names_hub_dataset(config)
    with_remote = make_config(reward={"preferences": [*local, remote]}, data_root=str(tmp_path))
    assert chain.names_hub_dataset(with_remote)
    assert set(chain.external_files("reward", with_remote)) == {
        "preferences/0",
        "preferences/1/a.jsonl",
    }
    values = chain.section_values("reward", config)["preferences"]
    assert isinstance(values, list)
    assert len(values) == 2
    absolute = make_config(reward={"preferences": [columns | {"path": "/a.csv"}]})
    with pytest.raises(UserError, match=r"reward\.preferences\.0\.path: must be relative"):
        chain.external_files("reward", absolute)


def test_absolute_paths_are_refused(tmp_path: Path) -> None:
    config = make_config(
        data={"instructions": SOURCE | {"path": str(tmp_path)}},
        pretrain=None,
        import_base={"hub_id": "gpt2"},
    )
    with pytest.raises(UserError, match=r"data\.instructions\.path: must be relative"):
        chain.external_files("data", config)
    for place in ({"path": "/a.txt"}, {"dataset": str(tmp_path)}):
        corpus = [{"name": "a", "proportion": 1.0} | place]
        config = make_config(data={"corpus": corpus, "instructions": SOURCE})
        with pytest.raises(UserError, match=r"data.*: must be relative to data_root"):
            chain.external_files("data", config)


def test_a_version_is_read_without_running_the_script() -> None:
    from stages import data

    assert chain.stage_version("data") == data.VERSION
    with pytest.raises(ValueError, match="no integer VERSION"):
        chain.stage_version("cli")
