"""docs/ppo.md against the trainer: its metrics, its alarms, its example."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import torch

from pipeline.ppo import PPOConfig, PPOTrainer
from pipeline.ppo.monitor import COLLAPSE

PAGE = (Path(__file__).parents[3] / "docs" / "ppo.md").read_text(encoding="utf-8")


def rows_below(heading: str) -> list[str]:
    """The first cell of each row of the first table below a heading."""
    section = PAGE.split(f"\n## {heading}", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    return [row.split("|")[1].strip() for row in rows[1:]]


def test_every_metric_is_explained_and_every_explained_one_exists(
    make_trainer: Callable[..., PPOTrainer], config: PPOConfig
) -> None:
    def rows_of_step(step: int, rows: int) -> torch.Tensor:
        return torch.full((rows, 5), 9)

    seen: list[dict[str, float]] = []
    trainer = make_trainer(
        config.model_copy(update={"ptx_coef": 1.0}),
        eval_dataset=["o"],
        pretraining_rows=rows_of_step,
        on_update=lambda update, metrics: seen.append(metrics),
    )
    trainer.train()
    named = {
        name
        for cell in rows_below("What each number means")
        for name in re.findall(r"`([^`]+)`", cell)
    }
    groups = {name.removesuffix("*") for name in named if name.endswith("/*")} | {"rewards/"}
    single = {name for name in named if not name.endswith("/*")}
    emitted = {name for name in seen[0] if not name.startswith(tuple(groups))}
    assert emitted == single
    for group in groups:
        assert any(name.startswith(group) for name in seen[0]), group


def test_every_alarm_is_explained(config: PPOConfig) -> None:
    names = rows_below("When it does not")
    assert names[:5] == list(COLLAPSE)
    assert set(names) == {*COLLAPSE, "kl", "critic"}


def test_the_limits_are_those_of_the_config() -> None:
    alarms = PPOConfig().alarms
    assert alarms.patience == 3
    assert (alarms.distinct_share, alarms.repetition, alarms.eos_rate_share) == (0.5, 0.5, 0.5)
    assert alarms.entropy_share == 1 / 20
    assert (alarms.length_factor, alarms.kl, alarms.critic_updates) == (4, 100, 20)


def test_the_example_names_what_exists() -> None:
    code = PAGE.split("```python\n", 1)[1].split("```", 1)[0]
    tree = ast.parse(code)
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names)
    calls = {
        node.func.id: {keyword.arg for keyword in node.keywords}
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert calls["PPOTrainer"] <= set(inspect.signature(PPOTrainer).parameters)
    assert calls["PPOConfig"] <= set(PPOConfig.model_fields)
