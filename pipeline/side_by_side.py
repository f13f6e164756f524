"""Parts of one task on a CPU's cores, a part a core.

Torch shares every single operation out among its threads and waits for the slowest. Where the
operations are small and many, as in decoding, the cores wait more than they compute, and far more
where another program takes one of them. Parts that never wait for each other do not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def side_by_side(
    work: Callable[[Part, threading.Event], Result], parts: Iterable[Part], threads: int
) -> Generator[Result, None, None]:
    """``work(part, stop)`` of each part, in order; up to ``threads`` at a time, each with one core.

    ``stop`` is set when the results are no longer wanted: after an error (raised at its part's
    turn), an interruption, or when the caller goes away. Parts that have begun are waited for, so
    ``work`` has to look at it. What torch keeps by thread, as inference mode and autocast, ``work``
    must set itself.
    """
    stop = threading.Event()
    if threads <= 1:
        yield from (work(part, stop) for part in parts)
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
            try:
                yield from pool.map(lambda part: work(part, stop), parts)
            except BaseException:
                stop.set()
                raise
    finally:
        torch.set_num_threads(before)
