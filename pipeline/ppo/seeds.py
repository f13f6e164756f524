"""All of PPO's randomness, as pure functions of the seed and of counters.

Nothing depends on what was drawn before: an update can be repeated on its own, and neither the
batch composition nor the number of processes changes what an episode draws.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**63) that any change of any part makes another one."""
    text = "/".join(str(part) for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def permutation(size: int, *parts: int | str) -> Tensor:
    """(size,) a random order of 0..size-1, drawn from the parts' seed."""
    generator = torch.Generator().manual_seed(derive_seed(*parts))
    return torch.randperm(size, generator=generator)


def prompt_indices(seed: int, first_episode: int, episodes: int, prompts: int) -> list[int]:
    """The prompt of each of ``episodes`` consecutive episodes, counted from ``first_episode``.

    Epoch e is the episodes from e * prompts on. Its order is a function of (seed, e), and each
    prompt comes once in it.
    """
    orders: dict[int, list[int]] = {}
    indices: list[int] = []
    for episode in range(first_episode, first_episode + episodes):
        epoch, place = divmod(episode, prompts)
        if epoch not in orders:
            orders[epoch] = permutation(prompts, "prompts", seed, epoch).tolist()
        indices.append(orders[epoch][place])
    return indices


def episode_seeds(seed: int, update: int, episodes: int) -> list[int]:
    """The sampling seed of each episode of an update, a function of (seed, update, index)."""
    return [derive_seed("episode", seed, update, index) for index in range(episodes)]


def evaluation_seeds(seed: int, prompts: int) -> list[int]:
    """The sampling seed of each fixed prompt, the same at each evaluation."""
    return [derive_seed("evaluation", seed, index) for index in range(prompts)]


def minibatches(
    seed: int, update: int, epoch: int, episodes: int, num_mini_batches: int
) -> tuple[Tensor, ...]:
    """Index tensors that cover the episodes exactly once, in an order of their own each epoch."""
    order = permutation(episodes, "minibatches", seed, update, epoch)
    return order.split(episodes // num_mini_batches)
