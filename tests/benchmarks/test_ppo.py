"""The benchmark end to end, its models against transformers' own class, its limit against torch's
counter of operations; and the example that runs on both trainers."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSequenceClassification, GPT2LMHeadModel

from pipeline.model import GPT, GPTConfig
from pipeline.tinyworld import build_world, make_prompts
from pipeline.tokenizer import Tokenizer

QuickRun = Callable[[str], list[str]]
ROOT = Path(__file__).parents[2]
TRL_PYTHON = ROOT / ".venv-trl" / "bin" / "python"
BENCHMARK = runpy.run_path(str(ROOT / "benchmarks" / "ppo.py"))
WORK = runpy.run_path(str(ROOT / "benchmarks" / "ppo_work.py"))
Work, Contestant = WORK["Work"], BENCHMARK["Contestant"]


def run(command: Sequence[object], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


# --- end to end -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_last_line_holds_the_figures(tmp_path: Path, quick_run: QuickRun) -> None:
    figures = json.loads(quick_run("ppo")[-1])
    forced, natural = figures["forced"], figures["natural"]
    for compared in (forced, natural):
        assert {"ours", "shared_trunk"} <= compared.keys()
        for name in ("ours", "shared_trunk", "trl"):
            if name in compared:  # its environment is not part of the tests'
                one = compared[name]
                assert one["episodes_per_second"] == pytest.approx(8 / one["seconds"])
                assert 0 < one["padding_fraction"] < 0.5
                assert 0.1 < one["peak_gigabytes"] < 3
        ours = compared["ours"]
        phases = sum(ours[f"{name}_seconds"] for name in ("rollout", "score", "update"))
        assert 0 < phases <= ours["seconds"]  # a single update: no medians of different ones
        assert 0 < ours["roofline_fraction"] < 1
    # Twelve tokens are the most; with an end of 4% at each, 9.7 are the mean of many.
    lengths = [compared["ours"]["response_tokens"] for compared in (forced, natural)]
    assert lengths[0] == pytest.approx(12)
    assert 6 < lengths[1] < 12
    assert ("ratio_vs_trl_equal_work" in figures) == TRL_PYTHON.exists()
    if TRL_PYTHON.exists():
        assert forced["trl"]["response_tokens"] == pytest.approx(12)
        each = [one["trl"]["seconds"] / one["ours"]["seconds"] for one in (forced, natural)]
        assert figures["ratio_vs_trl_equal_work"] == pytest.approx(min(each))
        assert forced["versions"]["trl"].startswith("1.12.")
    assert list(tmp_path.iterdir()) == []


def test_without_trl_it_ends_with_one_line(tmp_path: Path) -> None:
    absent = tmp_path / "python"
    ended = run([sys.executable, "-m", "benchmarks.ppo", "--trl-python", absent], tmp_path)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert "make .venv-trl/installed" in ended.stderr
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "\n.venv-trl/installed:" in makefile


# --- the parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("natural", [False, True])
def test_the_end_has_its_probability_whatever_the_text_is(tmp_path: Path, natural: bool) -> None:
    work = Work("tiny", natural, "fp32")
    mean = WORK["write_work"](work, tmp_path)
    content = json.loads((tmp_path / "work.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.load(tmp_path / "policy")
    assert content["prompt_ids"] == [tokenizer.encode_prompt(text) for text in content["prompts"]]
    assert mean == sum(map(len, content["prompt_ids"])) / work.ppo.batch_size
    model: Any = GPT2LMHeadModel.from_pretrained(tmp_path / "policy")
    text = torch.randint(4, 300, (4, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        chances = model(text).logits.softmax(-1)
    ends = chances[..., tokenizer.eos_id]
    if natural:
        assert float(ends.mean()) == pytest.approx(0.04, rel=0.1)
        assert 0.02 < float(ends.min()) < float(ends.max()) < 0.06
    else:
        assert float(ends.max()) < 1e-15
    assert float(chances[..., list(tokenizer.never_sampled_ids)].max()) < 1e-15
    scorer: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")
    assert scorer(text).logits.shape == (4, 1)


def test_the_arithmetic_of_a_forward_is_what_torch_counts() -> None:
    config = GPTConfig(1024, 128, 4, 4, 192)
    model = GPT(config)
    with FlopCounterMode(display=False) as matrices:
        hidden = model.hidden_states(torch.zeros(1, 50, dtype=torch.long))
    with FlopCounterMode(display=False) as head:
        model.logits(hidden[:, 20:])
    # torch leaves attention out on a CPU: for each token and one it sees, a score and an average.
    pairs = sum(1 for query in range(50) for key in range(50) if key <= query)
    attention = config.layers * pairs * 2 * (2 * config.width)
    assert WORK["forward_flops"](config, 20, 30) == matrices.get_total_flops() + attention
    assert head.get_total_flops() == 2 * 1024 * 192 * 30  # as in the next test


def test_the_least_time_is_that_of_all_forwards() -> None:
    work = Work("quickstart", False, "bf16")
    model, ppo = work.model, work.ppo
    assert (ppo.batch_size, ppo.num_ppo_epochs, ppo.response_length) == (64, 2, 56)
    trunk = WORK["forward_flops"](model, 20, 56)
    head = 2 * 1024 * 192 * 56
    limits = {"fp32": 1e11, "bf16": 3e11, "bytes": 1e30}  # reading takes no time
    # fp32: sampling, the reward model. bf16: reference, critic; forward and backward of two, twice.
    expected = 64 * ((trunk + head + trunk) / 1e11)
    expected += 64 * ((2 * trunk + head) + 2 * 3 * (2 * trunk + head)) / 3e11
    assert WORK["least_seconds"](work, 20, 56, limits) == pytest.approx(expected)
    # Where arithmetic takes none: each step reads all weights and 48 tokens' keys and values each.
    weights = 4 * ((1024 + 128) * 192 + 4 * (12 * 192**2 + 13 * 192) + 2 * 192)
    read = 56 * (weights + 64 * 48 * 4 * 2 * 192 * 4)
    limits = {"fp32": 1e30, "bf16": 1e30, "bytes": 1e9}
    assert WORK["least_seconds"](work, 20, 56, limits) == pytest.approx(read / 1e9)


def test_figures_are_medians_and_shares() -> None:
    work = Work("tiny", False, "fp32")  # 8 episodes, two epochs
    turns = [
        {"seconds": s, "rows": 16, "slots": 400, "tokens": n, "peak_bytes": 10**9 * s}
        for s, n in ((1, 320), (9, 330), (2, 310))
    ]
    figures = BENCHMARK["figures_of"]({"trl": turns}, work, 5.0)["trl"]
    assert figures["episodes_per_second"] == 4
    assert figures["padding_fraction"] == pytest.approx(1 - 960 / 1200)
    assert figures["response_tokens"] == pytest.approx(960 / 48 - 5)
    turns[1]["rows"] = 15
    with pytest.raises(AssertionError, match="other work"):
        BENCHMARK["figures_of"]({"trl": turns}, work, 5.0)


def test_the_smaller_ratio_is_the_headline() -> None:
    compared = {
        "forced": {"ratio_equal_work": 3.0, "ratio_shared_trunk": 4.0},
        "natural": {"ratio_equal_work": 2.0, "ratio_shared_trunk": 5.0},
        "forced_bf16": {},
    }
    assert BENCHMARK["ratios_of"](compared) == {
        "ratio_vs_trl_equal_work_forced": 3.0,
        "ratio_vs_trl_equal_work_natural": 2.0,
        "ratio_vs_trl_equal_work": 2.0,
        "ratio_vs_trl_shared_trunk_forced": 4.0,
        "ratio_vs_trl_shared_trunk_natural": 5.0,
        "ratio_vs_trl_shared_trunk": 4.0,
    }


WORKER = """
import time
from benchmarks.turns import Turns
turns = Turns()
print("this is no answer")
for number in range(2):
    turns.begin()
    time.sleep(0.2)
    turns.end(number=number)
raise ValueError("no more")
"""


def test_turns_are_timed_one_by_one_and_a_failure_is_told() -> None:
    contestant = Contestant([sys.executable, "-c", WORKER])
    answers = [contestant.turn() for _ in range(2)]
    assert [answer["number"] for answer in answers] == [0, 1]
    assert all(0.2 <= answer["seconds"] < 2 for answer in answers)
    with pytest.raises(RuntimeError, match="ValueError: no more"):
        contestant.turn()
    contestant.close()


# --- the example ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("trl", [False, True])
def test_the_example_trains_with_either(tmp_path: Path, trl: bool) -> None:
    if trl and not TRL_PYTHON.exists():
        pytest.skip("TRL 1.12 is not installed: make .venv-trl/installed")
    WORK["write_work"](Work("tiny", True, "fp32"), tmp_path)
    prompts = make_prompts(build_world(0), 0, 16, 0, 0)
    rows = [json.dumps({"prompt": prompt.prompt}) for prompt in prompts]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows), encoding="utf-8")
    ended = run(
        [TRL_PYTHON if trl else sys.executable, ROOT / "examples" / "ppo_from_trl.py",
         "--policy", "policy", "--reward", "reward", "--prompts", "prompts.jsonl",
         "--updates", 2, "--batch-size", 8, "--response-length", 12, *(["--trl"] if trl else [])],
        tmp_path,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    updates = [line for line in ended.stdout.splitlines() if "objective/kl" in line]
    assert len(updates) == 2
    assert all("nan" not in line for line in updates)
