"""Where the files of a dataset lie: folders and archives under the data root, told by the names in them."""

import os
import re
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tasks.errors import DataError
from tasks.folders import walk
from tasks.formats.base import Format, Names, Shelf
from tasks.tree import Folder, Tree, open_tree

_ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)


class Spot(NamedTuple):
    """A folder or archive, the folder ``inside`` it ("" or ``a/b/``), and the format of what lies there."""

    path: Path
    inside: str
    format: Format

    @property
    def place(self) -> Path:
        """The path with what is inside."""
        return self.path / self.inside if self.inside else self.path

    def shelf(self) -> Shelf:
        """Open it. Raises DataError for an archive that cannot be read or is not safe."""
        return Shelf(open_tree(self.path), self.inside)


def find_spots(root: Path, formats: Sequence[Format], archives: re.Pattern[str]) -> list[Spot]:
    """Every place below ``root`` that fits one of the formats, in archives too whose name matches ``archives``.

    A folder that fits several formats counts for the first. Raises DataError for an archive that cannot be read.
    """
    spots = []
    for at, folders, files in walk(root):
        spots += _fitting(at, "", Names(files, folders, partial(_folders, at)), formats)
        for name in files:
            if _ARCHIVE.search(name) and archives.search(name):
                spots += spots_within(at / name, formats)
    return sorted(spots, key=lambda spot: (len(spot.path.parts), spot.path, spot.inside))


def spots_within(path: Path, formats: Sequence[Format]) -> list[Spot]:
    """Every place in one folder or archive that fits a format. Raises DataError when it cannot be read."""
    tree = open_tree(path)
    if isinstance(tree, Folder):
        return find_spots(path, formats, re.compile("$^"))
    return [spot for inside, names in _folders_of(tree) for spot in _fitting(path, inside, names, formats)]


def the_spot(
    root: Path, formats: Sequence[Format], archives: re.Pattern[str], source: str | None, what: str, obtain: str
) -> Spot | None:
    """The one place that holds a dataset, None when there is none and ``source`` names none.

    ``source``: a file or folder, relative to the root or absolute. Raises DataError when it does not exist or holds
    nothing known, and, without it, when several places fit.
    """
    if source is None:
        spots = find_spots(root, formats, archives)
        if len(spots) > 1:
            places = ", ".join(str(spot.place) for spot in spots)
            raise DataError(
                f"{len(spots)} places under {root} hold {what}: {places}; say which by source (--set source=PATH, or "
                "source: PATH under dataset)"
            )
        return spots[0] if spots else None
    path = root / source
    if not path.exists():
        raise DataError(f"source {source!r}: {path} does not exist; give a file or folder of the data root")
    spots = spots_within(path, formats)
    if len(spots) != 1:
        places = ", ".join(str(spot.place) for spot in spots)
        found = f"{len(spots)} places in it do: {places}" if spots else "none found"
        known = "; ".join(format.words for format in formats)
        raise DataError(f"source {path} must hold {what} once, {found}; known forms: {known}. {obtain}")
    return spots[0]


def _fitting(path: Path, inside: str, names: Names, formats: Sequence[Format]) -> list[Spot]:
    fit = next((format for format in formats if format.fits(names)), None)
    return [Spot(path, inside, fit)] if fit else []


def _folders(at: Path, name: str) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(at / name) if entry.is_dir()]
    except OSError:
        return []  # a folder that cannot be read holds nothing for us


def _folders_of(tree: Tree) -> Iterator[tuple[str, Names]]:
    """Each folder of an archive with the names in it."""
    files: dict[str, set[str]] = {}
    folders: dict[str, set[str]] = {"": set()}
    for name in tree.names:
        *above, last = name.split("/")
        inside = ""
        for step in above:
            folders[inside].add(step)
            inside = f"{inside}{step}/"
            folders.setdefault(inside, set())
        files.setdefault(inside, set()).add(last)

    def below(inside: str, name: str) -> Collection[str]:
        return folders.get(f"{inside}{name}/", ())

    for inside in sorted(folders):
        yield inside, Names(files.get(inside, set()), folders[inside], partial(below, inside))
