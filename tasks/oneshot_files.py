"""The files of Omniglot's one-shot runs: found in a folder or in all_runs.zip, counted, and their lists read."""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from tasks.errors import DataError
from tasks.folders import walk
from tasks.listing import Image
from tasks.tree import Folder, TreeSource, open_tree

LABELS = "class_labels.txt"
ARCHIVE = "all_runs.zip"
_LARGEST_LIST = 1 << 20  # bytes of a class_labels.txt
_RUN = re.compile(r"run\d\d")
_AGAIN = f"fetch {ARCHIVE} again"


def place_of_runs(root: Path) -> Path | None:
    """Find all_runs.zip or the folder that holds runs: the least deep under root, a zip first."""
    found: set[tuple[int, bool, Path]] = set()
    for at, _, files in walk(root):
        if ARCHIVE in files:
            found.add((len(at.parts), False, at / ARCHIVE))
        if LABELS in files and _RUN.fullmatch(at.name):
            found.add((len(at.parent.parts), True, at.parent))
    return min(found)[2] if found else None


def read_runs(place: Path, names: list[str], ways: int) -> tuple[dict[str, list[Image]], list[str]]:
    """Read classes ``runNN/classKK``, each the drawing to learn from and the one to test, and a stamp a run.

    ``names``: of the runs there must be, each with ``ways`` drawings of each kind. Raises DataError for runs or
    drawings that are missing or too many, and, with file and line, for whatever is wrong with a class_labels.txt.
    """
    sources = _sources(place)
    wrong = sorted(sources.keys() ^ set(names))
    if wrong:
        fault = "is not one of them" if wrong[0] in sources else "is missing"
        raise DataError(f"{place} holds {len(sources)} runs, expected {len(names)}: {wrong[0]} {fault}; {_AGAIN}")
    classes: dict[str, list[Image]] = {}
    stamps = []
    for run in names:
        source, above = sources[run]
        inside = {f"{run}/{name.removeprefix(above)}": name for name in source.tree.names if name.startswith(above)}
        pairs = _pairs(place, source, run, inside, ways)
        used = [f"{run}/{LABELS}", *pairs, *pairs.values()]
        stamps.append(f"{run} {source.tree.stamp(inside[name] for name in used)}")
        for learned, tested in pairs.items():
            images = [Image(name, source, inside[name]) for name in (learned, tested)]
            classes[f"{run}/{PurePosixPath(learned).stem}"] = images
    return classes, stamps


def _sources(place: Path) -> dict[str, tuple[TreeSource, str]]:
    """Each run's source and what precedes its files' names there. In a folder nothing else is visited."""
    if place.is_dir():
        runs = (at for at in place.iterdir() if _RUN.fullmatch(at.name) and at.is_dir())
        return {at.name: (TreeSource(Folder(at)), "") for at in runs}
    tree = open_tree(place)
    folders = {at for name in tree.names for at in PurePosixPath(name).parents if _RUN.fullmatch(at.name)}
    top = min((at.parent for at in folders), key=lambda at: (len(at.parts), at), default=None)
    source = TreeSource(tree)
    return {at.name: (source, f"{at}/") for at in folders if at.parent == top}


def _pairs(place: Path, source: TreeSource, run: str, inside: Mapping[str, str], ways: int) -> dict[str, str]:
    """Read the list of a run: the drawing to learn from, to the one to test."""
    drawings = {
        folder: {name for name in inside if name.startswith(f"{run}/{folder}/") and name.endswith(".png")}
        for folder in ("training", "test")
    }
    for folder, names in drawings.items():
        if len(names) != ways:
            raise DataError(f"{place}: {run} has {len(names)} drawings in {folder}, expected {ways}; {_AGAIN}")
    file = f"{run}/{LABELS}"
    if file not in inside:
        raise DataError(f"{place}: {run} has no {LABELS}; {_AGAIN}")
    text = source.tree.read(inside[file], _LARGEST_LIST).decode(errors="replace")
    return _parsed(text, f"{place}: {file}", run, set.union(*drawings.values()))


def _parsed(text: str, where: str, run: str, drawings: set[str]) -> dict[str, str]:
    first: dict[str, int] = {}
    pairs: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        names = line.split()
        if not names:
            continue
        at = f"{where}, line {number}"
        if len(names) != 2:
            raise DataError(f"{at}: {line[:80]!r} is not {run}/test/itemKK.png {run}/training/classKK.png; {_AGAIN}")
        for name, form in zip(names, ("test/item", "training/class"), strict=True):
            if not name.startswith(f"{run}/") or ".." in name.split("/"):
                raise DataError(f"{at}: {name[:80]!r} lies outside of the folder {run}; {_AGAIN}")
            if not re.fullmatch(rf"{run}/{form}\d\d\.png", name):
                raise DataError(f"{at}: {name[:80]!r} is not {run}/{form}KK.png; {_AGAIN}")
            if name not in drawings:
                raise DataError(f"{at}: there is no file {name}; {_AGAIN}")
            if name in first:
                raise DataError(f"{at}: {name} is already on line {first[name]}; {_AGAIN}")
            first[name] = number
        pairs[names[1]] = names[0]
    absent = sorted(drawings - first.keys())
    if absent:
        raise DataError(f"{where} has no line for {absent[0]}; {_AGAIN}")
    return pairs
