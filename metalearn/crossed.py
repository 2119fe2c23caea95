"""Two-way crossed random effects with one observation a cell: how sure a mean over seeds and episodes is.

Values are arrays ``a[s, e]``: seed s, episode e; every seed sees the same episodes. The model is ``a[s, e] = mean +
seed_s + episode_e + residual_se``, the three independent with mean zero. Then ``Var(mean) = sigma_seed^2 / S +
sigma_episode^2 / E + sigma_residual^2 / (S E)``, estimated without bias by ``(MS_seed + MS_episode - MS_residual) /
(S E)``, and never less than ``MS_residual / (S E)`` (Searle, Casella & McCulloch 1992, Variance Components, ch. 4).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import optimize, stats

from metalearn.errors import UserError

Numbers = Any  # a float, or an array of them: one of each case

_LEAST = 1e-100  # p-value that is told from zero


@dataclass(frozen=True)
class Crossed:
    """The mean of ``a[s, e]`` and its mean squares, from which an interval and a p-value follow.

    With one seed they are those of the ordinary t over episodes, which says nothing about other seeds. With more, the
    half width of an interval is the mean of two, for few seeds make one too narrow and the other too wide (mean squares
    may be arrays here, of many cases at once):

    - Satterthwaite 1946 (Biometrics Bulletin 2): ``t(df) * sqrt(variance)``, with degrees of freedom put together from
      those of the mean squares.
    - Howe 1974 (JASA 69), each part with its own t: ``sqrt(t(S-1)^2 MS_seed + t(E-1)^2 rest) / sqrt(S E)``, ``rest``
      being what the variance has besides ``MS_seed / (S E)``.

    Coverage of the 95 % interval, from the least to the most over seeds that add 0 to 100 times the variance of
    episodes, and residuals of 0.01 to 3 times it (`python benchmarks/coverage.py 200000`: that many normal simulations
    of each case, 200 and 2,000 episodes; ``tests/test_stats.py`` repeats a part): 94.2 to 96.7 % with 3 seeds, 94.6 to
    96.1 % with 4, 94.7 to 95.9 % with 5, 94.9 to 95.4 % with 10. With 2 seeds 93.1 to 98.3 %: there it is rather too
    wide. Satterthwaite's alone has 92.1 to 95.1 % with 3 and 87 to 95 % with 2.
    """

    mean: Numbers
    seeds: int
    episodes: int
    ms_seed: Numbers
    ms_episode: Numbers
    ms_residual: Numbers

    @classmethod
    def of(cls, a: Float[np.ndarray, "s e"]) -> "Crossed":
        """The mean squares. Raises UserError for fewer than 2 episodes, no seed, and values that are not finite."""
        seeds, episodes = a.shape
        if seeds < 1 or episodes < 2:
            raise UserError(f"{seeds} seeds x {episodes} episodes: an interval needs at least 1 seed and 2 episodes")
        if not np.isfinite(a).all():
            raise UserError(f"{int((~np.isfinite(a)).sum())} of {a.size} accuracies are not finite")
        mean, of_seed, of_episode = a.mean(), a.mean(1, keepdims=True), a.mean(0, keepdims=True)
        if np.ptp(a) < 1e-12:  # equal but for rounding, which would leave a variance of 1e-33
            return cls(float(mean), seeds, episodes, 0.0, 0.0, 0.0)
        residual = np.square(a - of_seed - of_episode + mean).sum()
        return cls(
            float(mean), seeds, episodes,
            float(episodes * np.square(of_seed - mean).sum() / (seeds - 1)) if seeds > 1 else 0.0,
            float(seeds * np.square(of_episode - mean).sum() / (episodes - 1)),
            float(residual / ((seeds - 1) * (episodes - 1))) if seeds > 1 else 0.0,
        )  # fmt: skip

    @property
    def variance(self) -> Numbers:
        """Of the mean."""
        total = self.ms_seed + self.ms_episode - self.ms_residual
        least = np.maximum(total, self.ms_residual)  # which is what it expects at least
        return least / (self.seeds * self.episodes)

    @property
    def df(self) -> Numbers:
        """Degrees of freedom of the variance (Satterthwaite)."""
        more, freedom = self.seeds - 1, self.episodes - 1
        if self.seeds == 1 or not np.any(self.variance):
            return float(freedom)
        parts = [(self.ms_seed, more), (self.ms_episode, freedom), (self.ms_residual, more * freedom)]
        return (self.variance * self.seeds * self.episodes) ** 2 / sum(square**2 / of for square, of in parts)

    def half_width(self, outside: float) -> Numbers:
        """Half the width of the interval that leaves ``outside``, a fraction, on both sides together."""
        together = stats.t.isf(outside / 2, self.df) * self.variance**0.5
        if self.seeds == 1:
            return together
        of_seed, of_episode = stats.t.isf(outside / 2, [self.seeds - 1, self.episodes - 1])
        each = self.ms_seed / (self.seeds * self.episodes)
        return (together + np.hypot(of_seed * each**0.5, of_episode * np.maximum(self.variance - each, 0) ** 0.5)) / 2

    def p_value(self) -> float:
        """Two-sided, that the true mean is zero: what is outside of the interval that just reaches it.

        Where nothing varies, 1 if the mean is zero and 0 if not; 0 too for one of several seeds below 1e-100.
        """
        distance = abs(self.mean)
        if not self.variance or not distance:
            return float(not distance)
        if self.seeds == 1:
            return 2 * float(stats.t.sf(distance / self.variance**0.5, self.df))
        if self.half_width(_LEAST) < distance:
            return 0.0
        return float(np.exp(optimize.brentq(lambda log: self.half_width(np.exp(log)) - distance, np.log(_LEAST), 0.0)))
