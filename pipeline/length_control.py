"""The win rate with the advantage of mere length taken out. No torch here."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit, stdtrit

from pipeline.evaluation import Leaf, Vector, win_rate

# Precision of the normal prior (standard deviation 2.5, after Gelman et al. 2008) that keeps the
# length coefficient finite where length alone separates wins from losses.
LENGTH_PRIOR_PRECISION = 1 / 2.5**2


def length_controlled_win_rate(results: ArrayLike, length_differences: ArrayLike) -> Leaf:
    """The win rate that a would have against b if their responses were of equal length.

    Logistic regression of the outcomes (N,) on tanh(length difference / its standard deviation),
    read at a difference of 0, as AlpacaEval-LC does (Dubois et al. 2024, arXiv:2404.04475;
    its term for a prompt's difficulty is left out). Outcomes may be 0.5, so the interval is the
    sandwich estimate's (Papke and Wooldridge 1996) on the logit scale.

    Where lengths do not vary, or all outcomes are equal, this is the plain win rate.
    """
    y = np.asarray(results, dtype=np.float64)
    differences = np.asarray(length_differences, dtype=np.float64)
    n, spread = y.size, float(differences.std()) if y.size else 0.0
    if n < 3 or spread == 0 or np.ptp(y) == 0:
        plain = win_rate(y, 1 - y)
        return Leaf(mean=plain["win_rate"], ci95=plain["ci95"], n=n)
    X = np.stack([np.ones(n), np.tanh(differences / spread)], axis=1)  # (N, 2)
    penalty = np.diag([0.0, LENGTH_PRIOR_PRECISION])
    weights, hessian = _fit_logistic(X, y, penalty)
    scores = X * (y - expit(X @ weights))[:, None]  # (N, 2)
    inverse = np.linalg.inv(hessian)
    covariance = inverse @ (scores.T @ scores) @ inverse * n / (n - 2)
    half_width = float(stdtrit(n - 2, 0.975)) * math.sqrt(covariance[0, 0])
    ends = expit(np.array([weights[0] - half_width, weights[0] + half_width]))
    return Leaf(mean=float(expit(weights[0])), ci95=ends.tolist(), n=n)


def _fit_logistic(X: Vector, y: Vector, penalty: Vector) -> tuple[Vector, Vector]:
    """The weights that maximize the penalized likelihood, and its negative Hessian there.

    Newton's method with the step halved until the likelihood rises, so it cannot diverge.
    """

    def objective(weights: Vector) -> float:
        z = X @ weights
        return float(y @ z - np.logaddexp(0, z).sum() - weights @ penalty @ weights / 2)

    weights = np.array([float(logit(np.clip(y.mean(), 1e-6, 1 - 1e-6))), 0.0])
    hessian = penalty
    for _ in range(100):
        p = expit(X @ weights)
        gradient = X.T @ (y - p) - penalty @ weights
        hessian = (X * (p * (1 - p))[:, None]).T @ X + penalty
        step = np.linalg.solve(hessian, gradient)
        while objective(weights + step) < objective(weights) and np.abs(step).max() > 1e-10:
            step = step / 2
        weights = weights + step
        if np.abs(step).max() < 1e-10:
            break
    return weights, hessian
