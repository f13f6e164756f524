"""What an update reports, under the names of TRL's PPO trainer; every mean over tokens is masked.

objective/kl, kl_k3     nats per response between policy and reference (sum over its tokens)
objective/entropy       nats per response: the sum of -log pi of the tokens drawn (TRL's meaning)
objective/scores        of the reward model, less the penalty for a missing end token
objective/non_score_reward, rlhf_reward
                        the divergence's price, and score plus price
policy/approxkl_avg, clipfrac_avg, entropy_avg, val/clipfrac_avg, val/ratio, loss/*_avg
                        means over the update's optimizer steps, each a mean over its tokens;
                        the entropy is that of the whole distribution, in [0, ln V]
val/ratio_var           variance over the update's optimizer steps of the mean ratio
val/explained_var       how much of the returns' variance the critic foresaw; 1 is all
rollout/logp_gap        mean |log pi by the sampler - log pi by the trainer| per token
"""

from __future__ import annotations

import time

from torch import Tensor

from pipeline.ppo.experience import Experience
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
    return numbers | {"rollout/distinct": distinct_share(experience)}


def distinct_share(experience: Experience) -> float:
    """The share of responses that no earlier row of the batch has given, prompts apart."""
    rows = zip(
        experience.input_ids.tolist(),
        experience.prompt_lengths.tolist(),
        experience.lengths.tolist(),
        strict=True,
    )
    return len({tuple(ids[start:end]) for ids, start, end in rows}) / len(experience)


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
