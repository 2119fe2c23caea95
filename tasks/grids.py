"""Datasets that are a grid of known factors: every combination of their values is one image, in a fixed order.

Such a dataset has no classes of its own, and two uses that want opposite things of its parts. Few-shot episodes need
classes, none of them in two parts. The disentanglement field trains and measures on the same grid, all of it. So a
class is a combination of values of some factors (what is where), a subset of the grid is drawn by a seed, as many
images of each class, and:

split ``classes``: 60 / 20 / 20 % of the classes, shuffled by split_seed. Only combinations are held out: each value of
each factor occurs in every part. Episodes may be drawn from every part; train is still most of the grid to measure on.

split ``images``: 60 / 20 / 20 % of the images, shuffled by split_seed, for training and measuring on all combinations.
train keeps its classes by name, so an encoder that was trained on it counts as trained on all of them, and the test of
shared classes refuses it for few-shot tests on any of them. val and test are one class each, of which no episode can be
drawn: pretrain with ``monitor: null``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from tasks.errors import DataError, unknown
from tasks.hashing import words
from tasks.splits import shuffled

SPLITS = ("classes", "images")
_HELD_OUT = {"val": "images-val", "test": "images-test"}
_LARGEST_SEED = 2**63 - 1


class Factor(NamedTuple):
    """A known factor: ``categorical`` (no order), ``ordinal`` or ``cyclic``, and its values in the grid's order."""

    kind: Literal["categorical", "ordinal", "cyclic"]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Draw:
    """Which images of a grid to take, drawn by ``seed``, and how to divide them; see the top of this file."""

    images: int
    seed: int
    split: str
    split_seed: int

    def settings(self) -> dict[str, Any]:
        """What the stored images are a function of: the split of classes is not, for it only groups them."""
        asked = {"images": self.images, "seed": self.seed, "split": self.split}
        return {**asked, "split_seed": self.split_seed} if self.split == "images" else asked


@dataclass(frozen=True, eq=False)
class Grid:
    """``factors`` by name, the last varies fastest; ``classes``: factor -> how many neighbouring values go together.

    The class of an image is the combination of its groups of those factors: 288 classes of sprites, say
    ``shape2-scale0-position_x3-position_y1``, of 32 positions by eights.
    """

    factors: Mapping[str, Factor]
    classes: Mapping[str, int]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of values of each factor."""
        return tuple(len(factor.values) for factor in self.factors.values())

    @property
    def count(self) -> int:
        """Number of images of the whole grid."""
        return int(np.prod(self.sizes))

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of all classes, sorted, which is the order of the grid."""
        digits = [len(str(count - 1)) for count in self._groups]
        return tuple(
            "-".join(f"{name}{k:0{d}d}" for name, k, d in zip(self.classes, key, digits, strict=True))
            for key in np.ndindex(self._groups)
        )

    def indices(self, rows: Int64[np.ndarray, " n"]) -> dict[str, np.ndarray]:
        """Which value of each factor an image has: name -> (n,) int64, 0 to values - 1."""
        return dict(zip(self.factors, np.unravel_index(rows, self.sizes), strict=True))

    def values(self, rows: Int64[np.ndarray, " n"]) -> dict[str, Float32[np.ndarray, " n"]]:
        """The values of each factor: name -> (n,) float32."""
        found = self.indices(rows)
        return {name: np.array(self.factors[name].values, np.float32)[found[name]] for name in found}

    def info(self) -> dict[str, Any]:
        """What the factors are, kept in Store.info: ``factor_kinds`` and ``factor_values``, name -> kind or values."""
        return {
            "factor_kinds": {name: factor.kind for name, factor in self.factors.items()},
            "factor_values": {name: list(factor.values) for name, factor in self.factors.items()},
        }

    def drawn(self, draw: Draw) -> dict[str, Int64[np.ndarray, " m"]]:
        """Draw images without replacement, as many of each class, give or take one, and all of a class equally likely.

        Class name, sorted, to rows of the grid, rising. A draw of more images with the same seed contains one of fewer.
        Raises DataError for settings out of range.
        """
        self._check(draw)
        order = np.argsort(words(draw.seed, 0, np.arange(self.count)), kind="stable")
        chosen = order[np.argsort(_how_many_before(self._labels(order)), kind="stable")[: draw.images]]
        rows = {"train": np.sort(chosen)}
        if draw.split == "images":
            order = chosen[np.argsort(words(draw.split_seed, 1, chosen), kind="stable")]
            fifth = len(order) // 5
            rows = {"val": order[:fifth], "test": order[fifth : 2 * fifth], "train": order[2 * fifth :]}
            rows = {part: np.sort(found) for part, found in rows.items()}
        held_out = {name: rows[part] for part, name in _HELD_OUT.items() if part in rows}
        return dict(sorted([*held_out.items(), *self._by_class(rows["train"])]))

    def parts(self, class_names: tuple[str, ...], draw: Draw) -> dict[str, list[str]]:
        """Divide the classes of a draw: part -> names."""
        if draw.split == "images":
            held_out = {part: [name] for part, name in _HELD_OUT.items()}
            return {"train": [name for name in class_names if name not in _HELD_OUT.values()], **held_out}
        fifth = len(class_names) // 5
        return shuffled(class_names, draw.split_seed, train=len(class_names) - 2 * fifth, val=fifth)

    @property
    def _groups(self) -> tuple[int, ...]:
        return tuple(-(-len(self.factors[name].values) // width) for name, width in self.classes.items())

    def _by_class(self, rows: Int64[np.ndarray, " n"]) -> Iterator[tuple[str, np.ndarray]]:
        labels = self._labels(rows)
        order = np.argsort(labels, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
            yield self.class_names[labels[part[0]]], rows[part]

    def _labels(self, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Which of class_names each row is of."""
        found = self.indices(rows)
        groups = [found[name] // width for name, width in self.classes.items()]
        return np.ravel_multi_index(groups, self._groups)

    def _check(self, draw: Draw) -> None:
        if draw.split not in SPLITS:
            raise DataError(unknown("split", draw.split, SPLITS))
        least = len(self.class_names)
        for name, value, low, high in (
            ("images", draw.images, least, self.count),
            ("seed", draw.seed, 0, _LARGEST_SEED),
            ("split_seed", draw.split_seed, 0, _LARGEST_SEED),
        ):
            if not low <= value <= high:
                raise DataError(f"{name}={value}: allowed are whole numbers from {low} to {high}")


def _how_many_before(labels: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """How many earlier items have the same label."""
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)
    before = np.empty_like(labels)
    before[order] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return before
