"""Parts of a dataset that share no class, and its splits by seed, keyed by class name."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Int8, Int64, UInt8

from tasks.class_names import MIRRORED, base_class, class_groups, orientation, turned_name
from tasks.episodes import EpisodeIndices, EpisodeSampler
from tasks.errors import DataError
from tasks.images import ImageReader
from tasks.store import Store

PARTS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Partition:
    """One part of a dataset, sorted by class; touches no image until asked.

    ``index`` (n,) rows of store.images; ``orientations`` (n,) int8, 0 to 3 quarter turns, counter-clockwise as
    np.rot90, 4 to 7 the same after mirroring left and right; ``labels`` (n,) 0 to K - 1; ``class_names`` K sorted
    names, ``Alphabet/characterNN``, or ``Alphabet/characterNN/rotDDD`` or ``/mirDDD`` where turned ones are classes.
    ``within_groups``: whether episodes have classes of one group, such as an alphabet (`tasks.class_names`), or all.
    """

    store: Store
    name: str
    index: Int64[np.ndarray, " n"]
    orientations: Int8[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"]
    class_names: tuple[str, ...]
    within_groups: bool = False

    @classmethod
    def of_classes(cls, store: Store, name: str, class_names: Iterable[str]) -> "Partition":
        """Build a part from names of the store's classes, each perhaps followed by ``/rotDDD`` or ``/mirDDD``.

        Raises DataError for a class that the store does not have, or one named twice.
        """
        names = sorted(class_names)
        repeated = sorted({a for a, b in zip(names, names[1:], strict=False) if a == b})
        if repeated:
            raise DataError(f"part {name!r} names {_some(repeated)} twice; name each class once")
        rows = {row_name: k for k, row_name in enumerate(store.class_names)}
        missing = [full for full in names if base_class(full) not in rows]
        if missing:
            raise DataError(f"part {name!r}: {_some(missing)} not in the store {store.name!r}; correct the names")
        where = np.array([rows[base_class(full)] for full in names], np.int64)
        sizes = np.diff(store.offsets)[where]
        starts = np.cumsum(sizes) - sizes
        index = np.arange(sizes.sum()) + np.repeat(store.offsets[where] - starts, sizes)
        turns = np.array([orientation(full) or 0 for full in names], np.int8)
        labels = np.repeat(np.arange(len(names)), sizes)
        return cls(store, name, index, np.repeat(turns, sizes), labels, tuple(names))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.store.images.shape[1:]
        return channels, height, width

    @property
    def factors(self) -> dict[str, np.ndarray]:
        """Known factors of the images as stored, before any turn: name -> (n,) float32, or none."""
        return {name: values[self.index] for name, values in self.store.factors.items()}

    @property
    def fingerprint(self) -> str:
        """sha256 of the store's fingerprint and of which images are taken, turned how; not of labels or episodes."""
        digest = hashlib.sha256(self.store.fingerprint.encode())
        digest.update(self.index.astype("<i8").tobytes())
        digest.update(self.orientations.astype("i1").tobytes())
        return digest.hexdigest()

    @property
    def drawn_from(self) -> str:
        """What parts have in common whose episodes of equal settings are equal: fingerprint, and how they are drawn."""
        return f"{self.fingerprint}/within groups" if self.within_groups else self.fingerprint

    @property
    def base_classes(self) -> frozenset[str]:
        """Class names without how they are turned."""
        return frozenset(map(base_class, self.class_names))

    def episodes(self, *, ways: int, shots: int, queries: int, seed: int) -> EpisodeSampler:
        """Episodes of this part, within groups where it says so. Raises DataError as `EpisodeSampler` does."""
        groups = class_groups(self.class_names) if self.within_groups else None
        if self.within_groups and groups is None:
            raise DataError(
                f"part {self.name!r} has classes without a group, whose episodes are to be within groups; name them "
                "group/class, or draw from all"
            )
        return EpisodeSampler(
            self.labels, ways=ways, shots=shots, queries=queries, seed=seed, class_names=self.class_names, groups=groups
        )

    @cached_property
    def reader(self) -> ImageReader:
        """Gives the images by position, as uint8 or as float32."""
        return ImageReader(self.store.images, self.index, self.orientations)

    def gather(self, indices: Int[np.ndarray, "..."], out: np.ndarray | None = None) -> UInt8[np.ndarray, "... c h w"]:
        """Images at positions 0 to n - 1, any shape, as uint8 (*shape, c, h, w), in ``out`` where it is given.

        Raises DataError for a position that is not there and for an ``out`` of another shape or type.
        """
        return self.reader.uint8(indices, out)

    def gather_floats(
        self, indices: Int[np.ndarray, "..."], out: np.ndarray | None = None
    ) -> Float32[np.ndarray, "... c h w"]:
        """Like ``gather``, as float32 in [0, 1]."""
        return self.reader.float32(indices, out)

    def images(self) -> UInt8[np.ndarray, "n c h w"]:
        """All images of this part, in memory."""
        return self.gather(np.arange(len(self.index)))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three parts without a common class. Raises DataError, naming the classes, when two parts share one.

    ``settings``: the kind and options from which it can be built again, none where they are not known. ``fixed``: gives
    the episodes of the test part of a seed, where the dataset prescribes them; None where they are drawn.
    """

    name: str
    split: str
    train: Partition
    val: Partition
    test: Partition
    settings: Mapping[str, Any] = field(default_factory=dict)
    fixed: Callable[[int], EpisodeIndices] | None = None

    def __post_init__(self) -> None:
        for one, other in combinations((self.train, self.val, self.test), 2):
            shared = sorted(one.base_classes & other.base_classes)
            if shared:
                raise DataError(
                    f"{self.label}: parts {one.name!r} and {other.name!r} overlap in {len(shared)} classes "
                    f"({_some(shared)}); each class belongs in one part only"
                )

    @property
    def label(self) -> str:
        """Name and split, as in ``omniglot/lake``."""
        return f"{self.name}/{self.split}"

    def with_episodes_within_groups(self, *parts: str) -> "Dataset":
        """The same, episodes of these parts within groups of classes."""
        return replace(self, **{part: replace(getattr(self, part), within_groups=True) for part in parts})

    @classmethod
    def of_classes(cls, name: str, split: str, store: Store, parts: Mapping[str, Iterable[str]]) -> "Dataset":
        """Build train, val and test from their class names. Raises DataError as Partition.of_classes does."""
        train, val, test = (Partition.of_classes(store, part, parts[part]) for part in PARTS)
        return cls(name, split, train, val, test)


def rotated(names: Iterable[str]) -> list[str]:
    """Each class as four: turned by 0, 90, 180 and 270 degrees counter-clockwise."""
    return [turned_name(name, turns) for name in names for turns in range(4)]


def training_turned(
    parts: Mapping[str, list[str]], *, rotations: bool = False, reflections: bool = False
) -> dict[str, list[str]]:
    """The same parts, each training class as four, turned, and twice as many, mirrored; the others stay as they are."""
    train = rotated(parts["train"]) if rotations else parts["train"]
    if reflections:
        train = [*train, *(turned_name(base_class(name), MIRRORED + (orientation(name) or 0)) for name in train)]
    return {**parts, "train": train}


def upright(names: Iterable[str]) -> list[str]:
    """Keep the classes that are turned by 0 degrees, without the suffix that says so."""
    return [base_class(name) for name in names if name.endswith("/rot000")]


def seeded_order(names: Iterable[str], seed: int) -> list[str]:
    """Shuffle names by the sha256 of seed and name: the same on every machine, from whatever order."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())


def lake(
    background: Sequence[str], evaluation: Sequence[str], seed: int, held_out: int | None = None
) -> dict[str, list[str]]:
    """Split by Omniglot's own two sets (Lake et al. 2015): test is the evaluation set.

    Validation is the last ``held_out`` of the background alphabets in a seeded order, None: 20 % of them (6 of 30).
    Raises DataError unless one is held out and one is left to train on.
    """
    alphabets = seeded_order({name.split("/")[0] for name in background}, seed)
    count = max(1, round(0.2 * len(alphabets))) if held_out is None else held_out
    if held_out is not None and not 1 <= held_out < len(alphabets):
        raise DataError(
            f"validation_alphabets={held_out}: the background set has {len(alphabets)} alphabets, to train and to "
            f"validate on; give 1 to {len(alphabets) - 1}, or null for 20 % of them"
        )
    held_out_names = set(alphabets[len(alphabets) - count :])
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": list(evaluation)}
    for name in background:
        parts["val" if name.split("/")[0] in held_out_names else "train"].append(name)
    return parts


def shuffled(names: Sequence[str], seed: int, train: int, val: int) -> dict[str, list[str]]:
    """Shuffle classes by a seed: the first ``train`` train, the next ``val`` validate, the rest test."""
    order = seeded_order(names, seed)
    return {"train": order[:train], "val": order[train : train + val], "test": order[train + val :]}


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
