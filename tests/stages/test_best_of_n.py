"""The stage best_of_n on a tiny model, and compare with every checkpoint there can be."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from pipeline.chain import STAGES, chain_of, links_of, section_values
from pipeline.errors import UserError
from stages import best_of_n, compare
from tests.stages.conftest import WORDS, alternatives_config, read_rows_of


def test_the_best_of_n_is_worth_its_score(optimized: Path) -> None:
    rows = read_rows_of(optimized / "best_of_n" / "responses.jsonl")
    assert {row["prompt"] for row in rows} == {f"{words} heldout" for words in WORDS}
    judged = {
        row["prompt_id"]: row
        for row in read_rows_of(optimized / "compare" / "responses.jsonl")
        if row["checkpoint"] == "best_of_n"
    }
    for row in rows:
        assert row["n"] == 3
        one = judged[row["prompt_id"]]
        assert (one["text"], one["finished"]) == (row["text"], row["finished"])
        assert one["reward"] == pytest.approx(row["reward"], abs=1e-5)
        assert one["kl_to_sft"] == pytest.approx(math.log(3) - 2 / 3)


def test_compare_takes_every_checkpoint_there_is(optimized: Path) -> None:
    report = json.loads((optimized / "compare" / "report.json").read_text(encoding="utf-8"))
    names = ["base", "sft", "dpo", "rloo", "best_of_n", "ppo"]
    assert list(report["checkpoints"]) == names
    assert len(report["pairs"]) == 15
    assert {row["name"] for row in report["ranking"]} == set(names)
    assert report["settings"]["best_of_n"] == {"n": 3}
    page = (optimized / "compare" / "report.html").read_text(encoding="utf-8")
    assert all(f"{name}</th>" in page for name in names)


def test_a_run_has_what_its_config_names() -> None:
    config = alternatives_config()
    stages = [links.stage for links in chain_of(config)]
    assert stages == [s for s in STAGES if s not in ("pretrain", "classify")]
    assert links_of("compare", config).reads == (
        "base", "sft", "dpo", "rloo", "best_of_n", "ppo", "reward", "data",
    )  # fmt: skip
    fewer = alternatives_config(dpo=None, best_of_n=None)
    assert not {"dpo", "best_of_n"} & {links.stage for links in chain_of(fewer)}
    assert links_of("compare", fewer).reads == ("base", "sft", "rloo", "ppo", "reward", "data")
    with pytest.raises(UserError, match=r"dpo: the config has no such section.*dpo=\{\}"):
        section_values("dpo", fewer)


def test_how_compare_samples_is_in_the_key() -> None:
    longer = alternatives_config(compare={"max_response_tokens": 13})
    usual = alternatives_config()
    assert section_values("best_of_n", longer) != section_values("best_of_n", usual)
    assert section_values("rloo", longer) == section_values("rloo", usual)


def test_one_of_one_is_no_choice() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        alternatives_config(best_of_n={"n": 1})


def test_compare_refuses_answers_to_other_prompts(optimized: Path, tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    shutil.copytree(optimized, run_folder)
    fewer = {"judge": "reward", "max_response_tokens": 12, "max_prompts": 2, "examples": 1}
    best_of_n.run(alternatives_config(compare=fewer), run_folder)
    with pytest.raises(UserError, match=r"responses\.jsonl: answers other prompts"):
        compare.run(alternatives_config(), run_folder)
