"""What an update reports, under the names of TRL's PPO trainer; every mean over tokens is masked.

objective/kl, kl_k3     nats per response between policy and reference (sum over its tokens)
objective/entropy       nats per response: the sum of -log pi of the tokens drawn (TRL's meaning)
objective/scores        of the reward model, with functions of text, less what is taken off
rewards/*               what each part gives to objective/scores
objective/non_score_reward, rlhf_reward
                        the divergence's price, and score plus price
policy/approxkl_avg, clipfrac_avg, entropy_avg, val/clipfrac_avg, val/ratio, loss/*_avg
                        means over the update's optimizer steps, each a mean over its tokens;
                        the entropy is that of the whole distribution, in [0, ln V]
val/ratio_var           variance over the update's optimizer steps of the mean ratio
val/explained_var       how much of the returns' variance the critic foresaw; 1 is all
rollout/distinct        the share of responses that no earlier one of the batch equals
rollout/repetition      the share of runs of three tokens that came before in their response
rollout/logp_gap        mean |log pi by the sampler - log pi by the trainer| per token; exactly 0
                        once the sampler's are used, because they agreed in the first update
eval/*                  of the fixed prompts, answered with the same seeds each time
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch import Tensor

from pipeline.ppo.experience import Experience, ScoredRollout
from pipeline.ppo.losses import explained_variance, kl_k1, kl_k3, masked_mean, masked_sum


def experience_metrics(experience: Experience, kl_coef: float) -> dict[str, float]:
    """What a batch of episodes says of the policy, before it is trained on."""
    mask, episodes = experience.response_mask, len(experience)
    kl = kl_k1(experience.logprobs, experience.ref_logprobs, mask).mean()
    k3 = kl_k3(experience.logprobs, experience.ref_logprobs, mask).mean()
    gap = (experience.sampler_logprobs - experience.logprobs).abs()
    metrics: dict[str, Tensor] = {
        "objective/kl": kl,
        "objective/kl_k3": k3,
        "objective/entropy": -masked_sum(experience.logprobs, mask) / episodes,
        "objective/scores": experience.scores.mean(),
        "objective/non_score_reward": -kl_coef * kl,
        "objective/rlhf_reward": experience.scores.mean() - kl_coef * kl,
        "val/explained_var": explained_variance(experience.values, experience.returns, mask),
        "val/num_eos_tokens": experience.finished.sum(),
        "rollout/eos_rate": experience.finished.float().mean(),
        "rollout/response_tokens": experience.response_lengths.float().mean(),
        "rollout/logp_gap": masked_mean(gap, mask),
    }
    numbers = {name: float(value) for name, value in metrics.items()}
    responses = experience.response_ids()
    numbers["rollout/distinct"] = len(set(map(tuple, responses))) / len(responses)
    numbers["rollout/repetition"] = repeated_share(responses)
    return numbers


def evaluation_metrics(batch: ScoredRollout, kl_coef: float) -> dict[str, float]:
    """What the fixed prompts' responses say of the policy.

    Args:
        kl_coef: the one that the run began with, so that evaluations can be compared.
    """
    kl = float(kl_k1(batch.logprobs, batch.ref_logprobs, batch.response_mask).mean())
    score = float(batch.scores.mean())
    return {
        "eval/scores": score,
        "eval/kl": kl,
        "eval/rlhf_reward": score - kl_coef * kl,
        "eval/eos_rate": float(batch.finished.float().mean()),
        "eval/response_tokens": float(batch.response_lengths.float().mean()),
    }


def repeated_share(responses: Sequence[Sequence[int]], run: int = 3) -> float:
    """The share of all runs of ``run`` tokens that stood before in their own response."""
    total = distinct = 0
    for ids in responses:
        runs = [tuple(ids[start : start + run]) for start in range(len(ids) - run + 1)]
        total += len(runs)
        distinct += len(set(runs))
    return 1 - distinct / total if total else 0.0


class Stopwatch:
    """Seconds by phase of one update."""

    def __init__(self) -> None:
        self._started = self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        """Books the time since the last lap under ``time/phase``."""
        now = time.perf_counter()
        self._laps[f"time/{phase}"] = now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        """All laps, and ``time/total`` up to the last one."""
        return self._laps | {"time/total": self._last - self._started}
