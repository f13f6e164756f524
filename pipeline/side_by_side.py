"""Parts of one task on a CPU's cores, a part a core.

Torch shares every single operation out among its threads and waits for the slowest. Where the
operations are small and many, as in decoding, the cores wait more than they compute, and far more
where another program takes one of them. Parts that never wait for each other do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def side_by_side(
    work: Callable[[Part], Result], parts: Iterable[Part], threads: int
) -> Iterator[Result]:
    """``work(part)`` of each part, in order; up to ``threads`` at a time, each with one core.

    An error of one part is raised at its turn, after the parts that have begun are done. What
    torch keeps by thread, as inference mode and autocast, ``work`` must set itself.
    """
    if threads <= 1:
        yield from map(work, parts)
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
            yield from pool.map(work, parts)
    finally:
        torch.set_num_threads(before)
