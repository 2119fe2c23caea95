"""What a metric is given: the codes of a finite dataset with its known factors, drawn at random or with one held."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from gvae.errors import ModelError

LEVELS = 20  # bins of equal width into which continuous factors, and codes in mutual information, are cut
_REPEATS = 10  # a factor of more than LEVELS values is discrete when each stands for this many images on average


class Result(NamedTuple):
    """What a metric found: named numbers; what it drew, in words; what each latent tells of each factor, if it says.

    ``matrix`` is (latents, factors), 0 to 1, its columns in the order of ``FactorCodes.factors``.
    """

    values: dict[str, float]
    drawn: str
    matrix: Float[np.ndarray, "d k"] | None = None


class FactorCodes:
    """Codes of every image of a dataset and its factors; images are drawn by a generator, as row numbers.

    ``values`` (n, d) codes; ``factors`` name -> (n,) values, without those that never change; ``levels`` name -> (n,)
    0 to K - 1; ``continuous`` name -> bool. A factor is discrete, its values its levels, when it has at most 20 values
    or each stands for 10 images or more on average. Any other is continuous: its levels are 20 bins of equal width,
    and to hold it fixed is to draw from one bin, so that it varies by a twentieth of its range.
    """

    def __init__(self, codes: Float[np.ndarray, "n d"], factors: Mapping[str, Shaped[np.ndarray, " _"]]):
        if not codes.size:
            raise ModelError(f"codes of shape {codes.shape}; allowed: at least one image (row) and one latent (column)")
        wrong = [f"{name} ({len(values)})" for name, values in factors.items() if len(values) != len(codes)]
        if wrong:
            raise ModelError(f"codes of {len(codes)} images, but other numbers of values: {', '.join(wrong)}")
        if not np.isfinite(codes).all():
            bad = int((~np.isfinite(codes)).any(1).sum())
            raise ModelError(f"the codes of {bad} of {len(codes)} images are not finite; the encoder is damaged")
        odd = [name for name, values in factors.items() if not np.isfinite(values).all()]
        if odd:
            raise ModelError(f"factors {odd} hold values that are not finite; correct the dataset")
        self.factors = varying(factors)
        if not self.factors:
            raise ModelError(f"none of the factors {sorted(factors)} varies; a metric needs one that does")
        self.values = np.asarray(codes, np.float64)
        self.continuous = {name: is_continuous(values) for name, values in self.factors.items()}
        self.levels = {
            name: np.unique(bins(values) if self.continuous[name] else values, return_inverse=True)[1]
            for name, values in self.factors.items()
        }
        self._order = {name: np.argsort(levels, kind="stable") for name, levels in self.levels.items()}
        self._starts = {
            name: np.searchsorted(levels[self._order[name]], np.arange(levels.max() + 2))
            for name, levels in self.levels.items()
        }

    def __len__(self) -> int:
        return len(self.values)

    def draw(self, shape: int | tuple[int, ...], generator: np.random.Generator) -> Int[np.ndarray, "..."]:
        """Draw rows with replacement, each as likely."""
        return generator.integers(len(self), size=shape)

    def partners(
        self, factor: str, rows: Int[np.ndarray, "..."], generator: np.random.Generator
    ) -> Int[np.ndarray, "..."]:
        """Draw for each row one at the same level of ``factor``, any of them as likely, itself too."""
        level, starts = self.levels[factor][rows], self._starts[factor]
        count = starts[level + 1] - starts[level]
        return self._order[factor][starts[level] + (generator.random(rows.shape) * count).astype(np.int64)]

    def draw_with_fixed(
        self, factor: str, batches: int, size: int, generator: np.random.Generator
    ) -> Int[np.ndarray, "batches size"]:
        """Draw batches of rows; in each, ``factor`` is at one level, that of an image drawn at random."""
        first = self.draw((batches, 1), generator)
        return self.partners(factor, np.repeat(first, size, 1), generator)

    def sample(self, most: int, generator: np.random.Generator) -> Int[np.ndarray, " m"]:
        """Draw ``most`` rows without replacement; all of them, in order, where there are no more."""
        check_counts(samples=most)
        return generator.choice(len(self), most, replace=False) if most < len(self) else np.arange(len(self))

    def split(
        self, train: int, test: int, generator: np.random.Generator
    ) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]:
        """Draw rows to train on and others to test on, no row twice; where there are fewer, all in that proportion."""
        check_counts(train=train, test=test)
        if train + test > len(self):
            train, test = max(1, len(self) * train // (train + test)), len(self)
        order = generator.permutation(len(self))
        return order[:train], order[train : train + test]


def varying(factors: Mapping[str, Shaped[np.ndarray, " n"]]) -> dict[str, Shaped[np.ndarray, " n"]]:
    """Keep the factors of more than one value."""
    return {name: values for name, values in factors.items() if len(np.unique(values)) > 1}


def is_continuous(values: Shaped[np.ndarray, " n"]) -> bool:
    """Tell whether values are too many to be levels; see FactorCodes."""
    count = len(np.unique(values))
    return count > LEVELS and count * _REPEATS > len(values)


def bins(values: Shaped[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Cut values into 20 bins of equal width over their range: 0 to 19; all 0 where they are equal."""
    edges = np.linspace(values.min(), values.max(), LEVELS + 1)[1:-1]
    return np.searchsorted(edges, values, side="right") * int(values.max() > values.min())


def check_counts(**counts: int) -> None:
    """Raise ModelError, naming it, for a count below 1."""
    for name, count in counts.items():
        if count < 1:
            raise ModelError(f"{name}={count}: allowed are whole numbers from 1")
