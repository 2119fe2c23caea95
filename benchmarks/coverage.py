"""How often 95 % intervals over seeds and episodes cover the true mean, by simulation with known variances.

Run: python benchmarks/coverage.py [simulations]

For each number of seeds the least and the most over seeds that add 0 to 100 times the variance of episodes and
residuals of 0.01 to 3 times it, 200 and 2,000 episodes: of `metalearn.crossed.Crossed`, of Satterthwaite's interval
alone and of Howe's alone, and the width of the first over that of the second. The mean squares of normal values are
independent chi-squares (Searle, Casella & McCulloch 1992, ch. 4), which are drawn. 15 s for 20,000 simulations.
"""

import sys

import numpy as np
from scipy import stats

from metalearn.crossed import Crossed

RATIOS = (0, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
RESIDUALS = (0.01, 0.3, 1, 3)


def widths(one: Crossed) -> dict[str, np.ndarray]:
    """Half the widths of 95 % intervals."""
    ours = np.asarray(one.half_width(0.05))
    together = stats.t.ppf(0.975, one.df) * np.sqrt(one.variance)
    return {"ours": ours, "Satterthwaite": together, "Howe": 2 * ours - together}


def drawn(seeds: int, episodes: int, ratio: float, residual: float, runs: int, rng: np.random.Generator) -> Crossed:
    """Means and mean squares of many simulations; the true mean is zero, the variance of episodes 1."""
    of_seed = ratio * (seeds + residual)  # seeds * episodes times the variance that seeds add to the mean

    def square(expected: float, freedom: int) -> np.ndarray:
        return expected * rng.chisquare(freedom, runs) / freedom

    return Crossed(
        rng.normal(size=runs) * np.sqrt((of_seed + seeds + residual) / (seeds * episodes)), seeds, episodes,
        square(of_seed + residual, seeds - 1), square(seeds + residual, episodes - 1),
        square(residual, (seeds - 1) * (episodes - 1)),
    )  # fmt: skip


def main(runs: int) -> None:
    """Print a line for each number of seeds and episodes."""
    rng = np.random.default_rng(0)
    for episodes in (200, 2000):
        for seeds in (2, 3, 4, 5, 10):
            cover: dict[str, list[float]] = {}
            wider = []
            for ratio in RATIOS:
                for residual in RESIDUALS:
                    one = drawn(seeds, episodes, ratio, residual, runs, rng)
                    found = widths(one)
                    for name, half in found.items():
                        cover.setdefault(name, []).append(float(np.mean(np.abs(one.mean) <= half)))
                    wider.append(found["ours"].mean() / found["Satterthwaite"].mean())
            said = "   ".join(f"{name} {min(many):.1%} to {max(many):.1%}" for name, many in cover.items())
            print(f"{episodes:5} episodes {seeds:2} seeds   {said}   width {np.mean(wider):.2f}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
