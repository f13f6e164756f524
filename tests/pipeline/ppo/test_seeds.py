"""Randomness is a pure function of counters, and covers what it must cover."""

from __future__ import annotations

from collections import Counter

from pipeline.ppo.seeds import derive_seed, episode_seeds, minibatches, prompt_indices


def test_every_part_of_a_seed_counts() -> None:
    seeds = {derive_seed(*parts) for parts in [(1, 2), (2, 1), (12,), (1, 2, 0), ("1", "2x")]}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_each_epoch_takes_every_prompt_once_in_an_order_of_its_own() -> None:
    order = prompt_indices(seed=3, first_episode=0, episodes=30, prompts=10)
    epochs = [order[:10], order[10:20], order[20:]]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_prompts_depend_on_the_episode_and_not_on_the_batch() -> None:
    whole = prompt_indices(seed=3, first_episode=0, episodes=24, prompts=7)
    for size in (1, 4, 12):
        parts = [prompt_indices(3, start, size, 7) for start in range(0, 24, size)]
        assert [index for part in parts for index in part] == whole


def test_each_episode_has_a_seed_of_its_own() -> None:
    seeds = [seed for update in range(5) for seed in episode_seeds(1, update, 64)]
    assert len(set(seeds)) == 5 * 64
    assert episode_seeds(1, 2, 64)[:8] == episode_seeds(1, 2, 8)


def test_minibatches_cover_each_episode_once_per_epoch() -> None:
    epochs = [minibatches(5, 0, epoch, 12, 3) for epoch in range(4)]
    for parts in epochs:
        assert [len(part) for part in parts] == [4, 4, 4]
        assert Counter(i for part in parts for i in part.tolist()) == Counter(range(12))
    assert len({tuple(parts[0].tolist()) for parts in epochs}) > 1
    again = minibatches(5, 0, 2, 12, 3)
    assert [part.tolist() for part in again] == [part.tolist() for part in epochs[2]]
