"""Demonstrations: prompts of the training side with responses, most of them flawed on purpose."""

from __future__ import annotations

import random

from pipeline.records import Demonstration
from pipeline.tinyworld.constants import FLAWED_DEMONSTRATION_SHARE
from pipeline.tinyworld.flaws import draw_flaws, plant
from pipeline.tinyworld.prompts import draw_prompts
from pipeline.tinyworld.responses import join, write_response
from pipeline.tinyworld.world import Task, World


def make_demonstrations(world: World, count: int, seed: int) -> list[Demonstration]:
    """``count`` demonstrations of distinct prompts.

    Raises:
        UserError: the world has fewer prompts on the training side.
    """
    rng = random.Random(f"{seed}/demonstrations")
    prompts = draw_prompts(world, count, rng, heldout=False)
    return [
        Demonstration(prompt=text, response=_demonstrate(world, task, rng))
        for text, task in prompts
    ]


def _demonstrate(world: World, task: Task, rng: random.Random) -> str:
    if rng.random() >= FLAWED_DEMONSTRATION_SHARE:
        return join(write_response(world, task, rng))
    flaws = draw_flaws(rng)
    for attempt in range(200):
        flawed = plant(world, task, flaws, rng)
        if flawed is not None:
            return flawed
        if attempt % 20 == 19:  # this task cannot carry these: an answer cannot be too short
            flaws = draw_flaws(rng)
    raise AssertionError(f"no flaw fits {task}")
