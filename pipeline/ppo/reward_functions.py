"""Reward functions from a Python file of the user's."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.ppo.scoring import RewardFunction
from pipeline.ppo_config import RewardFunctionSource


def load_reward_functions(
    sources: Sequence[RewardFunctionSource], data_root: Path
) -> list[RewardFunction]:
    """The functions that the entries name, in their order.

    Raises:
        UserError: a file is missing or does not run, or has no such function.
    """
    return [
        RewardFunction(source.function, _function_of(data_root / source.file, source.function),
                       source.weight)
        for source in sources
    ]  # fmt: skip


def _function_of(path: Path, name: str) -> Any:
    known_as = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(f"reward_functions_{path.stem}_{known_as}", path)
    if spec is None or spec.loader is None:
        raise UserError(path, "is no Python file.", "correct ppo.reward_funcs.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and type hints look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code may raise
        problem = f"does not run ({type(error).__name__}: {error})."
        raise UserError(path, problem, "correct it.") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(path, f"has no function {name!r}.", "correct ppo.reward_funcs.")
    return function
