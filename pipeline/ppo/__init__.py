"""Proximal policy optimization from a reward model: ``PPOTrainer`` and its ``PPOConfig``.

``trainer.py`` holds the loop in the order of the paper's box; the maths it calls is in
``losses.py`` (pure functions), ``logprobs.py`` and ``masks.py`` (the one owner of indices).
"""

from pipeline.config import PPOConfig
from pipeline.ppo.trainer import PPOTrainer

__all__ = ["PPOConfig", "PPOTrainer"]
