"""Alarms: what goes wrong during a run, said while it can still be stopped.

A policy that has found a hole in the reward model is seen in its samples before anybody reads
them: it answers everything alike, repeats itself, no longer stops, or is sure of every token. What
is measured once an update is compared with limits, most of them relative to the first update, when
the policy was still the fine-tuned model. An alarm that stands for ``patience`` updates in a row is
raised; those of collapse end the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.ppo_config import AlarmLimits

Metrics = Mapping[str, float]
COLLAPSE = ("distinct", "repetition", "entropy", "eos_rate", "length")  # the others only warn


@dataclass(frozen=True)
class Alarm:
    """What is wrong since when, and what to try."""

    name: str
    update: int
    message: str
    advice: str

    @property
    def is_collapse(self) -> bool:
        """Whether the policy is past saving, so that the run ends."""
        return self.name in COLLAPSE


@dataclass
class Monitor:
    """Watches a run; all that it remembers can be kept in a snapshot and put back."""

    limits: AlarmLimits
    episodes: int
    first: dict[str, float] = field(default_factory=dict[str, float])
    streaks: dict[str, int] = field(default_factory=dict[str, int])
    raised: list[Alarm] = field(default_factory=list[Alarm])

    def watch(self, update: int, metrics: Metrics) -> list[Alarm]:
        """The alarms that this update raises: each when it has stood for ``patience`` updates.

        Args:
            update: its number, from 1.
            metrics: of the update.
        """
        if not self.first:
            self.first = dict(metrics)
        wrong = {alarm.name: alarm for alarm in self._breaches(update, metrics)}
        self.streaks = {name: self.streaks.get(name, 0) + 1 for name in wrong}
        new = [wrong[name] for name, n in self.streaks.items() if n == self.limits.patience]
        self.raised += new
        return new

    def is_sick(self, metrics: Metrics) -> bool:
        """Whether the policy is beyond a limit that ends a run, or was so one update ago.

        Args:
            metrics: of the present one, as far as they are known before its steps.
        """
        standing = any(name in COLLAPSE for name in self.streaks)
        now = self._breaches(0, self.first | dict(metrics)) if self.first else []
        return standing or any(alarm.is_collapse for alarm in now)

    def _breaches(self, update: int, metrics: Metrics) -> list[Alarm]:
        return breaches(update, metrics, self.first, self.limits, self.episodes)

    def state(self) -> dict[str, Any]:
        """What it remembers, as JSON values."""
        raised = [asdict(alarm) for alarm in self.raised]
        return {"first": self.first, "streaks": self.streaks, "raised": raised}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Puts what ``state`` gave back."""
        self.first, self.streaks = dict(state["first"]), dict(state["streaks"])
        self.raised = [Alarm(**values) for values in state["raised"]]


def has_fallen(now: float, first: float, share: float, episodes: int) -> bool:
    """Whether a share of a batch's responses is below ``share`` of what it was, beyond chance.

    Beyond three standard errors of the difference of two batches: of a policy that hardly ever ends
    its responses, half as many in one batch as in another say nothing.
    """
    middle = (now + first) / 2
    error = math.sqrt(2 * middle * (1 - middle) / episodes)
    return now < share * first and first - now > 3 * error


def breaches(
    update: int, now: Metrics, first: Metrics, limits: AlarmLimits, episodes: int
) -> list[Alarm]:
    """What stands beyond a limit in this update, by the metrics of this update and the first."""
    found: list[Alarm] = []

    def check(name: str, wrong: bool, message: str, advice: str) -> None:
        if wrong:
            found.append(Alarm(name, update, message, advice))

    distinct = now["rollout/distinct"]
    check(
        "distinct",
        has_fallen(distinct, first["rollout/distinct"], limits.distinct_share, episodes),
        f"only {distinct:.0%} of a batch's responses are distinct",
        "raise kl_coef or lower learning_rate; read what the reward model likes so much",
    )
    repetition = now["rollout/repetition"]
    check(
        "repetition",
        repetition > max(limits.repetition, 2 * first["rollout/repetition"]),
        f"{repetition:.0%} of the runs of three tokens repeat an earlier one of their response",
        "raise kl_coef; rate repetition low in the labels, or penalize it by a reward function",
    )
    entropy, entropy_first = now["policy/entropy_avg"], first["policy/entropy_avg"]
    check(
        "entropy",
        entropy < limits.entropy_share * entropy_first,
        f"the policy's entropy fell from {entropy_first:.3g} to {entropy:.3g} nats a token",
        "lower learning_rate or num_ppo_epochs, or raise kl_coef",
    )
    eos_rate, eos_first = now["rollout/eos_rate"], first["rollout/eos_rate"]
    check(
        "eos_rate",
        has_fallen(eos_rate, eos_first, limits.eos_rate_share, episodes),
        f"{eos_rate:.0%} of the responses end by themselves, {eos_first:.0%} did at first",
        "raise missing_eos_penalty, or response_length if good answers need more room",
    )
    length, length_first = now["rollout/response_tokens"], first["rollout/response_tokens"]
    check(
        "length",
        not length_first / limits.length_factor <= length <= limits.length_factor * length_first,
        f"responses have {length:.0f} tokens on average, {length_first:.0f} at first",
        "raise kl_coef; look in reward/report.json whether scores follow length",
    )
    kl = now["objective/kl"]
    check(
        "kl",
        kl > limits.kl,
        f"the policy is {kl:.0f} nats a response away from the fine-tuned model",
        "raise kl_coef, set kl_target, or stop there with stop_kl",
    )
    explained = now["val/explained_var"]
    check(
        "critic",
        update > limits.critic_updates and explained < limits.explained_variance,
        f"the critic explains {explained:.0%} of the returns' variance",
        "raise critic_learning_rate, or give it value_warmup_updates",
    )
    return found
