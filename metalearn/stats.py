"""Intervals and paired tests over pretraining seeds and episodes, both random: see `metalearn.crossed`.

Accuracies are arrays ``a[s, e]``: seed s of the extractor, episode e, in fractions; every seed sees the same episodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from metalearn.crossed import Crossed
from metalearn.errors import UserError


@dataclass(frozen=True)
class Estimate:
    """A mean with its confidence interval ``low..high`` = ``mean -+ half_width``, standard error and df."""

    mean: float
    low: float
    high: float
    half_width: float
    standard_error: float
    df: float


@dataclass(frozen=True)
class Comparison:
    """A candidate against a baseline on the same episodes; errors are fractions.

    ``difference`` is candidate error minus baseline error: negative when the candidate is better.
    ``relative_reduction`` is ``-difference / error_baseline``; it and its interval are None when the
    baseline makes no error.
    """

    error_baseline: float
    error_candidate: float
    difference: float
    difference_ci95: tuple[float, float]
    relative_reduction: float | None
    relative_reduction_ci95: tuple[float, float] | None
    p_value: float
    n_episodes: int
    n_seeds: int


def mean_interval(a: Float[np.ndarray, "s e"], confidence: float = 0.95) -> Estimate:
    """Mean of ``a[s, e]`` with an interval over both seeds and episodes (`metalearn.crossed`).

    A single seed gives exactly ``scipy.stats.t.interval`` over episodes. Equal values everywhere give an
    interval of width zero.

    Raises UserError for fewer than 2 episodes, for values that are not finite, and for a confidence outside
    (0, 1).
    """
    if not 0 < confidence < 1:
        raise UserError(f"confidence={confidence} is not between 0 and 1, such as 0.95")
    return estimate(Crossed.of(a), confidence)


def estimate(crossed: Crossed, confidence: float = 0.95) -> Estimate:
    """A mean with its interval."""
    mean, half = float(crossed.mean), float(crossed.half_width(1 - confidence))
    return Estimate(mean, mean - half, mean + half, half, float(crossed.variance) ** 0.5, float(crossed.df))


def compare(baseline: Float[np.ndarray, "s e"], candidate: Float[np.ndarray, "t f"]) -> Comparison:
    """Compare accuracies ``[seed, episode]`` of two extractors or learners on the same episodes, paired.

    An array with one seed (pixels, say) stands for every seed of the other. The p-value is two-sided, of the
    mean difference and its crossed effects, below 0.05 where the 95 % interval excludes zero; with one seed it
    is that of ``scipy.stats.ttest_rel``. When all differences are equal, p is 1 if they are zero and 0 if not.
    The interval of the relative reduction ``1 - r``, ``r = error_candidate /
    error_baseline``, is the delta method's: the crossed variance of the influence values ``(r * baseline
    error[s, e] - candidate error[s, e]) / error_baseline``.

    Raises UserError for different episodes, for numbers of seeds that differ and are not 1, and as
    ``mean_interval``.
    """
    if baseline.shape[1] != candidate.shape[1]:
        raise UserError(
            f"baseline has {baseline.shape[1]} episodes and candidate {candidate.shape[1]}: a paired comparison "
            "needs the same episodes"
        )
    seeds = {len(baseline), len(candidate)} - {1}
    if len(seeds) > 1:
        raise UserError(
            f"baseline has {len(baseline)} seeds and candidate {len(candidate)}: give both the same number, or "
            "one of them a single seed"
        )
    error_a, error_b = np.broadcast_arrays(1 - baseline, 1 - candidate)
    crossed = Crossed.of(error_b - error_a)
    difference = estimate(crossed)
    mean_a, mean_b = float(error_a.mean()), float(error_b.mean())
    reduction, reduction_ci = None, None
    if mean_a > 0:
        reduction = 1 - mean_b / mean_a
        half = mean_interval((mean_b / mean_a * error_a - error_b) / mean_a).half_width
        reduction_ci = (reduction - half, reduction + half)
    return Comparison(
        error_baseline=mean_a,
        error_candidate=mean_b,
        difference=difference.mean,
        difference_ci95=(difference.low, difference.high),
        relative_reduction=reduction,
        relative_reduction_ci95=reduction_ci,
        p_value=crossed.p_value(),
        n_episodes=error_a.shape[1],
        n_seeds=len(error_a),
    )


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rho of n pairs, and its 95 % interval, None where there is none."""

    rho: float
    ci95: tuple[float, float] | None
    n: int


def rank_correlation(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> RankCorrelation:
    """Spearman's rank correlation, ties given their mean rank, with the interval of Bonett and Wright 2000
    (Psychometrika 65): ``tanh(arctanh(rho) -+ 1.96 sqrt((1 + rho^2 / 2) / (n - 3)))``.

    No interval for fewer than 4 pairs, nor where the ranks agree throughout, as the formula then has no width.
    Raises UserError for fewer than 3 pairs, and where all x or all y are equal.
    """
    n = len(x)
    if n < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        raise UserError(f"a rank correlation needs at least 3 pairs that differ in both numbers, given {n}")
    rho = float(stats.spearmanr(x, y).statistic)
    if n < 4 or abs(rho) > 1 - 1e-12:
        return RankCorrelation(rho, None, n)
    half = float(stats.norm.ppf(0.975)) * np.sqrt((1 + rho**2 / 2) / (n - 3))
    low, high = np.tanh(np.arctanh(rho) - half), np.tanh(np.arctanh(rho) + half)
    return RankCorrelation(rho, (float(low), float(high)), n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979, Scandinavian Journal of Statistics
    6).

    The k-th smallest of m becomes ``max over j <= k of min(1, (m - j + 1) p_(j))``. Raises UserError for a
    value outside [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise UserError(f"p-values {list(p_values)} are not all between 0 and 1")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted.tolist()
