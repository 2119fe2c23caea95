"""Image files in folders: a folder a part and class, or a folder a class with lists of the classes of each part."""

import re
from collections.abc import Iterable, Mapping, Sequence

from tasks.class_lists import read_class_list
from tasks.errors import DataError
from tasks.formats.base import IMAGE_FILES, PARTS, SPELLINGS, Format, Found, Names, Shelf, part_files, stamp_of
from tasks.listing import Image

WNID = re.compile(r"n\d{8}")


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return name.lower().endswith(IMAGE_FILES)


def classes_in(shelf: Shelf, below: str) -> tuple[dict[str, list[Image]], list[str]]:
    """Images of each class in the folder ``below`` ("" or ``a/``): one folder a class, images at any depth in it.

    Also gives the names of files that were left out: no image by their name, or in no class.
    """
    classes: dict[str, list[Image]] = {}
    left = []
    for name in shelf.files:
        if not name.startswith(below):
            continue
        kind, _, rest = name[len(below) :].partition("/")
        if rest and is_image(rest):
            classes.setdefault(kind, []).append(shelf.image(name))
        else:
            left.append(name)
    return classes, left


def part_folders(folders: Iterable[str]) -> dict[str, str]:
    """Part -> the folder that holds it, of the folders there are."""
    return {SPELLINGS[name.lower()]: name for name in sorted(folders, reverse=True) if name.lower() in SPELLINGS}


def by_folders(class_name: re.Pattern[str]) -> Format:
    """``train/CLASS/*.jpg``, ``val/...``, ``test/...``, recognised where each part has a folder named like a class."""

    def fits(names: Names) -> bool:
        found = part_folders(names.folders)
        return len(found) == 3 and all(
            any(class_name.fullmatch(kind) for kind in names.below(folder)) for folder in found.values()
        )

    return Format("folders {train,val,test}/CLASS/*.jpg", fits, read_folders)


def read_folders(shelf: Shelf) -> Found:
    """Read a folder a part, a folder a class in it."""
    found = part_folders({name.partition("/")[0] for name in shelf.files if "/" in name})
    missing = [part for part in PARTS if part not in found]
    if missing:
        raise DataError(f"{shelf.path} has no folder {' and no folder '.join(missing)}; train, val and test are needed")
    parts, left = {}, []
    for part in PARTS:
        parts[part], more = classes_in(shelf, f"{found[part]}/")
        left += more
    return Found(parts, stamp_of(parts), left_out(left))


def read_listed(shelf: Shelf, lists: Mapping[str, str], below: str) -> Found:
    """Read a folder a class in ``below``, divided by files that name the classes of each part, one a line."""
    classes, left = classes_in(shelf, below)
    parts = {}
    for part, name in lists.items():
        where = shelf.where(name)
        parts[part] = {kind: classes[kind] for kind in read_class_list(shelf.read(name), where, classes)}
    used = {kind for known in parts.values() for kind in known}
    unused = sorted(set(classes) - used)
    notes = left_out([name for name in left if name not in lists.values()])
    if unused:
        notes += (f"{len(unused)} classes are in no list and left out: {_some(unused)}",)
    return Found(parts, f"{stamp_of(parts)} {shelf.stamp(lists.values())}", notes)


def bertinetto() -> Format:
    """CIFAR-FS as learn2learn fetches it: ``data/CLASS/*.png``, classes listed in ``splits/bertinetto/*.txt``."""

    def fits(names: Names) -> bool:
        return "data" in names.folders and "bertinetto" in names.below("splits")

    def read(shelf: Shelf) -> Found:
        lists = {part: [f"splits/bertinetto/{part}.txt"] for part in PARTS}
        return read_listed(shelf, part_files(shelf, lists, "the classes of CIFAR-FS"), "data/")

    return Format("folder data/CLASS/*.png with splits/bertinetto/{train,val,test}.txt", fits, read)


def left_out(names: Sequence[str]) -> tuple[str, ...]:
    """A note on files that are no images, none where there are none."""
    if not names:
        return ()
    return (f"{len(names)} files are no images by their names or in no class, and left out: {_some(names)}",)


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
