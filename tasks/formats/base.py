"""What every reader of a dataset format has in common: the folder it reads, what it finds, and one listing of it."""

import io
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from tasks.errors import DataError
from tasks.listing import Image, Listing
from tasks.tree import LARGEST_IMAGE, Folder, Tree, TreeSource
from tasks.tree_base import digest

PARTS = ("train", "val", "test")
SPELLINGS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""How the parts are called in file and folder names."""

IMAGE_FILES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

Parts = Mapping[str, Mapping[str, Sequence[Image]]]
"""Part -> class name -> its images, in the order they shall have."""


class Names(NamedTuple):
    """Names of files and of folders in one folder; ``below(folder)``: names of the folders in one of its folders."""

    files: Collection[str]
    folders: Collection[str]
    below: Callable[[str], Collection[str]]


class Shelf:
    """One folder of a tree, ``inside`` it ("" or ``a/b/``): where the files of a dataset lie."""

    def __init__(self, tree: Tree, inside: str = "") -> None:
        self.tree, self.inside = tree, inside
        self.source = TreeSource(tree)

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Sorted names of all files below, relative to the shelf."""
        cut = len(self.inside)
        return tuple(name[cut:] for name in self.tree.names if name.startswith(self.inside))

    @property
    def path(self) -> Path:
        """What messages name when no file of the shelf is meant: folder, or archive and folder in it."""
        return self.tree.path / self.inside if self.inside else self.tree.path

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return name in self._known

    def where(self, name: str) -> str:
        """How messages name a file."""
        return f"{self.tree.path}: {self.inside}{name}"

    def read(self, name: str, largest: int = LARGEST_IMAGE) -> bytes:
        """All bytes of a file."""
        return self.tree.read(self.inside + name, largest)

    def open(self, name: str) -> io.BufferedReader:
        """A seekable file to read from."""
        return self.tree.open(self.inside + name)

    def image(self, name: str) -> Image:
        """The image in a file."""
        return Image(self.inside + name, self.source, self.inside + name)

    def stamp(self, names: Iterable[str]) -> str:
        """Changes when one of these files may have."""
        return self.tree.stamp([self.inside + name for name in names])

    @cached_property
    def parent(self) -> "Shelf | None":
        """The shelf one folder up: in an archive, or where a folder ``images`` lies there; else None."""
        if self.inside:
            above = self.inside.rstrip("/").rpartition("/")[0]
            return Shelf(self.tree, f"{above}/" if above else "")
        above_folder = self.tree.path.absolute().parent
        if isinstance(self.tree, Folder) and (above_folder / "images").is_dir():
            return Shelf(Folder(above_folder))
        return None

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.files)


@dataclass(frozen=True, eq=False)
class Found:
    """What a reader found: images by part and class, a stamp of the files they come from, what a user should know."""

    parts: Parts
    stamp: str
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, eq=False)
class Format:
    """A format of a dataset: ``words`` that name it, whether a folder ``fits`` it by its names, and its reader."""

    words: str
    fits: Callable[[Names], bool]
    read: Callable[[Shelf], Found]


def one_listing(words: str, path: Path, found: Found) -> Listing:
    """Make a listing of what was found. Raises DataError when a part is empty, and for classes in two parts."""
    parts = {part: found.parts.get(part, {}) for part in PARTS}
    for part, classes in parts.items():
        if not classes:
            raise DataError(f"{path}: the part {part!r} has no class; train, val and test each need some")
    for one, other in combinations(PARTS, 2):
        shared = sorted(set(parts[one]) & set(parts[other]))
        if shared:
            raise DataError(_overlap(path, parts, one, other, shared))
    classes = {name: images for part in parts.values() for name, images in part.items()}
    names = {part: sorted(known) for part, known in parts.items()}
    return Listing(words, path, classes, _stamp(found, classes), names, found.notes)


def _stamp(found: Found, classes: Mapping[str, Sequence[Image]]) -> str:
    """Hash what is in the files and which image is of which class: a list may be read in two ways."""
    lines = [json.dumps([name, [image.name for image in images]]) for name, images in classes.items()]
    return digest([found.stamp, *lines])


def _overlap(path: Path, parts: Parts, one: str, other: str, shared: list[str]) -> str:
    if all(set(parts[part]) == set(parts[PARTS[0]]) for part in PARTS):
        return (
            f"{path} has the same {len(shared)} classes in train, val and test: an ordinary classification split (as "
            "timm/mini-imagenet on Hugging Face is of mini-ImageNet), not a few-shot one, whose parts share no class; "
            "get the few-shot split (mini-ImageNet: 64, 16 and 20 classes, Ravi and Larochelle 2017)"
        )
    some = ", ".join(shared[:5]) + (", ..." if len(shared) > 5 else "")
    return (
        f"{path}: parts {one!r} and {other!r} share {len(shared)} classes ({some}); each class belongs in one part "
        "only: correct the split"
    )


def stamp_of(parts: Parts) -> str:
    """Stamp of the files that the images of all parts lie in."""
    files: dict[int, tuple[TreeSource, list[str]]] = {}
    for classes in parts.values():
        for images in classes.values():
            for image in images:
                assert isinstance(image.source, TreeSource) and isinstance(image.key, str)
                files.setdefault(id(image.source), (image.source, []))[1].append(image.key)
    return " ".join(sorted(source.tree.stamp(names) for source, names in files.values()))


def text(value: Any) -> Any:
    """Text for bytes, as Python 2 wrote keys and class names; anything else as it is."""
    return value.decode("latin-1") if isinstance(value, bytes) else value


def part_files(shelf: Shelf, wanted: Mapping[str, Sequence[str]], what: str) -> dict[str, str]:
    """The file of each part, of the names it may have. Raises DataError when one is missing or two are there."""
    chosen = {}
    for part, names in wanted.items():
        there = [name for name in names if shelf.has(name)]
        if not there:
            raise DataError(
                f"{shelf.path} has no {' or '.join(names)}; {what} need a file for each of train, val and test"
            )
        if len(there) > 1:
            raise DataError(f"{shelf.path} has {' and '.join(there)}, both for the part {part!r}; remove one")
        chosen[part] = there[0]
    return chosen
