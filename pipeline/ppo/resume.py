"""Where PPO stands after an update, on disk: what a killed run goes on from.

Prompts, seeds of responses and the order of episodes are functions of the seed and the update's
number, so the weights, what the optimizers remember and a few numbers are all there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from pipeline.checkpoints import Checkpoints, restore_training_state, training_state
from pipeline.early_stopping import is_best_yet, restore_best
from pipeline.ppo.processes import Processes
from pipeline.ppo_config import PPOConfig


@dataclass(frozen=True)
class Progress:
    """How far a run is, and what its controller and its monitor have come to.

    ``sampler_is_exact``: the sampler's log-probabilities are taken for the trainer's.
    """

    updates_done: int
    kl_coef: float
    sampler_is_exact: bool
    monitor: dict[str, Any] = field(default_factory=dict[str, Any])


class Keeper:
    """Writes and finds the snapshots of a run, and the weights that did best.

    The first process writes, all read. Without ``checkpoints`` nothing is kept.

    Args:
        learners: policy, and the critic or what it has of its own.
    """

    def __init__(
        self,
        checkpoints: Checkpoints | None,
        learners: Iterable[nn.Module],
        optimizers: Sequence[Optimizer],
        processes: Processes,
    ) -> None:
        self.checkpoints = checkpoints
        self.models = nn.ModuleList(learners)
        self.optimizers = optimizers
        self.processes = processes
        self.best = None
        if checkpoints is not None:
            folder = checkpoints.folder
            best = folder.with_name(f"{folder.name}-best")
            self.best = Checkpoints(best, checkpoints.key, log=None)

    def save(self, progress: Progress) -> None:
        """Writes a snapshot: whole or not at all."""
        if self.checkpoints is not None and self.processes.leads:
            tensors, memories = training_state(self.models, self.optimizers)
            values = {"progress": asdict(progress), "optimizers": memories}
            self.checkpoints.save(progress.updates_done, tensors, values)

    def restore(self) -> Progress | None:
        """How far an earlier process came; weights and optimizers stand as then. None: none did."""
        snapshot = self.checkpoints.latest() if self.checkpoints is not None else None
        if snapshot is None:
            return None
        state = replace(snapshot, values=snapshot.values["optimizers"])
        restore_training_state(state, self.models, self.optimizers)
        return Progress(**snapshot.values["progress"])

    def keep_best(self, update: int, metrics: Mapping[str, float], args: PPOConfig) -> None:
        """Keeps the weights before an update where they are evaluated and are the best so far.

        They are judged by score and divergence on the fixed prompts, or on the update's own where
        there are none; the divergence has the price that it had at first.
        """
        if self.best is None or update % args.eval_every_updates or not self.processes.leads:
            return
        own = metrics["objective/scores"] - args.kl_coef * metrics["objective/kl"]
        reached = metrics.get("eval/rlhf_reward", own)
        is_best_yet(self.best, update, -reached, self.models)

    def restore_best(self) -> int | None:
        """The number of updates after which the weights were best; they are so again."""
        self.processes.wait()  # until the first process has written them
        if self.best is None or self.best.latest() is None:
            return None
        return restore_best(self.best, self.models)
