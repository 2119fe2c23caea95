"""Which images make up episode i of seed s: indices only, no image is touched."""

import copy
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from tasks.errors import DataError
from tasks.hashing import below, words

_BLOCK = 256  # episodes drawn at once: the working arrays then stay in the processor's cache


@dataclass(frozen=True, eq=False)
class EpisodeIndices:
    """Positions in the dataset whose labels the sampler was given, int64.

    ``support`` (b, ways, shots) and ``query`` (b, ways, queries) hold image positions; ``classes`` (b, ways)
    the label of each way. In an episode the classes differ, and so do the images of a class.
    """

    support: Int[np.ndarray, "b ways shots"]
    query: Int[np.ndarray, "b ways queries"]
    classes: Int[np.ndarray, "b ways"]


class EpisodeSampler:
    """Episodes as a pure function of (seed, index).

    Episode i is the same whatever the batch it is asked for in, the order, the process and the machine.
    Classes are uniform without replacement, whatever their size; within a class so are the images.
    ``sampler[i]`` gives one episode (leading axis 1), ``sampler[a:b]`` a batch. Time and memory of a batch do
    not depend on the size of the dataset. Of sorted labels, which every ``Partition`` has, a sampler keeps where
    each class starts and ends; of unsorted ones the position of every image too.

    labels: (n,) whole numbers, any order, one per image. ways, shots, queries: at least 1; shots and queries
    are per class. seed: 0 to 2**64 - 1. class_names: optional, only to name a class in an error by its label.
    groups: optional, the number of each class's group, from 0, classes in the order of their labels; an episode then
    has classes of one group, uniform among those that have as many classes as ways.
    Raises DataError for a setting out of range, for more ways than classes (of any group), and for a class with fewer
    images than shots + queries.
    """

    def __init__(
        self,
        labels: Int[np.ndarray, " n"],
        *,
        ways: int | np.integer,
        shots: int | np.integer,
        queries: int | np.integer,
        seed: int | np.integer,
        class_names: Sequence[str] | None = None,
        groups: Int[np.ndarray, " classes"] | None = None,
    ) -> None:
        ways, shots, queries, seed = map(operator.index, (ways, shots, queries, seed))
        for name, value in {"ways": ways, "shots": shots, "queries": queries}.items():
            if value < 1:
                raise DataError(f"{name}={value}: an episode needs at least 1; give {name} >= 1")
        if not 0 <= seed < 2**64:
            raise DataError(f"episode seed {seed}: allowed are whole numbers from 0 to 2**64 - 1")
        self.ways, self.shots, self.queries, self.seed = ways, shots, queries, seed
        self._order = None if (labels[1:] >= labels[:-1]).all() else np.argsort(labels, kind="stable").astype(np.int64)
        ordered = labels if self._order is None else labels[self._order]
        first = np.ones(len(ordered), bool)
        first[1:] = ordered[1:] != ordered[:-1]
        self._starts = np.flatnonzero(first)
        self._sizes = np.diff(self._starts, append=len(ordered))
        self._classes = ordered[self._starts].astype(np.int64)
        self._part = 1, range(1)
        self._check(class_names)
        self._groups = None if groups is None else _Groups(groups, len(self._classes), ways)

    def of_each(self, size: int, part: range) -> "EpisodeSampler":
        """The sampler that has of each ``size`` episodes those of ``part`` alone, numbered anew from 0.

        So ``sampler.of_each(4, range(1, 3))`` has the episodes 1, 2, 5, 6, 9, 10, ... of ``sampler``.
        """
        found = copy.copy(self)
        found._part = size, part
        return found

    def _check(self, class_names: Sequence[str] | None) -> None:
        if self.ways > len(self._classes):
            raise DataError(
                f"ways={self.ways}, but the data has only {len(self._classes)} classes; "
                f"give ways <= {len(self._classes)} or a split with more classes"
            )
        needed = self.shots + self.queries
        small = np.flatnonzero(self._sizes < needed)
        if len(small):
            label, size = int(self._classes[small[0]]), int(self._sizes[small[0]])
            name = f"{class_names[label]!r}" if class_names is not None else f"{label}"
            others = f" ({len(small) - 1} more classes are too small)" if len(small) > 1 else ""
            raise DataError(
                f"class {name} has {size} images, but shots={self.shots} + queries={self.queries} "
                f"need {needed}{others}; give shots + queries <= {int(self._sizes.min())} "
                "or leave such classes out"
            )

    def __getitem__(self, index: int | np.integer | slice) -> EpisodeIndices:
        """Episode ``index``, or the episodes of a slice, which must have a stop. Indices: 0 to 2**63 - 1.

        Raises DataError for a negative or larger index and for a slice without a stop.
        """
        size, part = self._part
        block, place = np.divmod(episode_numbers(index), len(part))
        episodes = block * size + part.start + place
        blocks = [self._draw(episodes[i : i + _BLOCK]) for i in range(0, max(len(episodes), 1), _BLOCK)]
        support, query, classes = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        return EpisodeIndices(support, query, classes)

    def _draw(self, episodes: Int[np.ndarray, " b"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        batch, images = len(episodes), self.shots + self.queries
        position = np.arange(self.ways * (1 + images) + (self._groups is not None), dtype=np.uint64)[:, None]
        random = words(self.seed, episodes[None, :], position)  # (positions, b)
        of_classes, of_images = random[: self.ways], random[self.ways : self.ways * (1 + images)]
        if self._groups is None:
            chosen = _sample(of_classes, np.full(batch, len(self._classes)))  # (ways, b)
        else:
            chosen = self._groups.choose(random[-1], of_classes)
        sizes = self._sizes[chosen].reshape(-1)
        within = _sample(of_images.reshape(images, self.ways * batch), sizes)  # (images, ways * b)
        found = self._starts[chosen].reshape(-1) + within
        if self._order is not None:
            found = self._order[found]
        found = np.ascontiguousarray(found.reshape(images, self.ways, batch).transpose(2, 1, 0))
        return found[..., : self.shots], found[..., self.shots :], self._classes[chosen].T


class _Groups:
    """The groups that have ``ways`` classes: which classes, side by side."""

    def __init__(self, groups: Int[np.ndarray, " classes"], classes: int, ways: int) -> None:
        if groups.shape != (classes,) or groups.min(initial=0) < 0:
            raise DataError(
                f"groups of shape {groups.shape}, of {classes} classes; give a number from 0 for each class"
            )
        counts = np.bincount(groups)
        enough = np.flatnonzero(counts >= ways)
        if not len(enough):
            raise DataError(
                f"ways={ways} of one group, but the largest group has only {counts.max()} classes; give ways <= "
                f"{counts.max()}, or draw from all classes"
            )
        self._members = np.argsort(groups, kind="stable")
        self._starts, self._sizes = (np.cumsum(counts) - counts)[enough], counts[enough]

    def choose(self, of_group: np.ndarray, of_classes: np.ndarray) -> Int[np.ndarray, "ways b"]:
        """Draw a group and ways of its classes for each episode, from random words (b,) and (ways, b)."""
        group = below(of_group, np.full(len(of_group), len(self._sizes)))
        return self._members[self._starts[group] + _sample(of_classes, self._sizes[group])]


def _sample(random: np.ndarray, sizes: Int[np.ndarray, " rows"]) -> Int[np.ndarray, "m rows"]:
    """Draw m of 0..size-1 in random order without replacement, per row: the first m steps of Fisher-Yates.

    Step i takes what lies at place j[i] >= i of the list 0..size-1 and puts there what lies at place i, which no
    later step looks at. A long list is not built: places are then numbered anew, only those that are used.
    """
    m, rows = random.shape
    step = np.arange(m, dtype=np.int64)[:, None]
    j = below(random, sizes - step)
    j += step
    longest = int(sizes.max(initial=m))
    if longest <= 4 * m:
        place, content = j, np.arange(longest, dtype=np.int32)[:, None].repeat(rows, 1)
    else:
        j = j.astype(np.int32)
        place, content = _places(j).astype(np.int64), np.concatenate([step.astype(np.int32).repeat(rows, 1), j])
    place = place * rows + np.arange(rows)  # in the flattened lists
    everything, picked = content.reshape(-1), np.empty((m, rows), np.int32)
    for i in range(m):
        everything.take(place[i], out=picked[i], mode="clip")  # the mode that needs no copy of ``out``
        everything[place[i]] = content[i]
    return picked.astype(np.int64)


def _places(j: Int[np.ndarray, "m rows"]) -> Int[np.ndarray, "m rows"]:
    """Number the places 0..m-1 and j: a place below m keeps its number, another gets m + the first k with its j[k]."""
    m = len(j)
    place = np.where(j < m, j, np.arange(m, 2 * m, dtype=j.dtype)[:, None])
    for k in range(m - 1):
        np.copyto(place[k + 1 :], place[k], where=j[k + 1 :] == j[k])
    return place


def episode_numbers(index: int | np.integer | slice) -> Int[np.ndarray, " b"]:
    """Numbers of the episodes that an index or a slice asks for. Raises DataError as ``EpisodeSampler`` does."""
    if isinstance(index, slice):
        if index.stop is None:
            raise DataError("episodes have no end: give the slice a stop, as in sampler[0:1000]")
        numbers = range(index.start or 0, index.stop, 1 if index.step is None else index.step)
    else:
        first = operator.index(index)
        numbers = range(first, first + 1)
    ends = [numbers[0], numbers[-1]] if numbers else []
    if any(not 0 <= end < 2**63 for end in ends):
        raise DataError(f"episode index {index}: allowed are whole numbers from 0 to 2**63 - 1")
    return np.fromiter(numbers, np.int64, len(numbers))
