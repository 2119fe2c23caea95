"""Anybody's images as a few-shot dataset: folders of a class each, or lists in csv, split ready, by lists or by a seed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tasks.decode import Decoder
from tasks.errors import DataError
from tasks.folders import existing
from tasks.formats.base import PARTS, Found, Shelf, one_listing, part_files, stamp_of
from tasks.formats.folders import classes_in, left_out, part_folders, read_folders, read_listed
from tasks.formats.lists import Columns, Row, by_class, finder, read_csv_parts, rows_of
from tasks.image_sets import LARGEST_SIDE
from tasks.listing import Listing
from tasks.packing import packed
from tasks.progress import Progress, silent
from tasks.splits import Dataset, seeded_order
from tasks.tree import Folder, open_tree


@dataclass(frozen=True)
class Division:
    """Shares of the classes that are held out for validation and test, in an order shuffled by ``seed``."""

    val: float
    test: float
    seed: int

    def parts(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Divide class names. Raises DataError for shares out of range and for too few classes."""
        for part, share in {"val": self.val, "test": self.test}.items():
            if not 0 < share < 1 or self.val + self.test >= 1:
                raise DataError(
                    f"{part}={share}: shares of the classes to hold out must lie between 0 and 1 and leave some to train "
                    f"on, val + test < 1 (given {self.val} + {self.test})"
                )
        val, test = (max(1, round(share * len(names))) for share in (self.val, self.test))
        train = len(names) - val - test
        if train < 1:
            raise DataError(
                f"{len(names)} classes cannot be divided into train, val and test by val={self.val} and test={self.test}; "
                "at least 3 are needed"
            )
        order = seeded_order(names, self.seed)
        return {"train": order[:train], "val": order[train : train + val], "test": order[train + val :]}


@dataclass(frozen=True)
class Pixels:
    """How images are decoded: sides, channels, and what tasks.decode.Decoder says of the rest."""

    image_size: int
    channels: Literal[1, 3]
    fit: Literal["stretch", "crop"]
    invert: bool

    def decoder(self) -> Decoder:
        """Raises DataError for a size out of range."""
        if not 1 <= self.image_size <= LARGEST_SIDE:
            raise DataError(f"image_size={self.image_size}: allowed are 1 to {LARGEST_SIDE} pixels a side")
        return Decoder(self.channels, self.image_size, fit=self.fit, invert=self.invert)


def folder_listing(root: Path, path: str, split: str, lists: str | None, division: Division) -> Listing:
    """List images in folders; ``split`` is folders, lists or random, see tasks.datasets.folder."""
    shelf = shelf_at(root, path)
    if split == "folders":
        if not part_folders({name.partition("/")[0] for name in shelf.files if "/" in name}):
            raise DataError(
                f"{shelf.path} has no folders train, val and test; for a folder a class give split: random, or split: lists "
                "with train.txt, val.txt and test.txt"
            )
        return one_listing("folders {train,val,test}/CLASS/*", shelf.path, read_folders(shelf))
    if split == "lists":
        below = f"{lists.strip('/')}/" if lists else ""
        names = part_files(shelf, {part: [f"{below}{part}.txt"] for part in PARTS}, "lists of classes")
        return one_listing("folders CLASS/*, classes of each part listed", shelf.path, read_listed(shelf, names, ""))
    classes, left = classes_in(shelf, "")
    found = Found(
        {part: {kind: classes[kind] for kind in kinds} for part, kinds in division.parts(list(classes)).items()}, ""
    )
    found = replace(found, stamp=stamp_of(found.parts), notes=left_out(left))
    return one_listing(f"folders CLASS/*, divided by seed {division.seed}", shelf.path, found)


def csv_listing(root: Path, path: str, file: str | None, columns: Columns, division: Division) -> Listing:
    """List images of csv lists: one a part, or one file whose column says the part, or that is divided by a seed."""
    shelf = shelf_at(root, path)
    if file is None:
        return one_listing("csv lists {train,val,test}.csv", shelf.path, read_csv_parts(shelf, columns))
    if not shelf.has(file):
        raise DataError(f"{shelf.path} has no file {file!r}; give list: the csv file, relative to that folder")
    rows, find = rows_of(shelf, file, columns), finder(shelf)
    classes = by_class(rows, find)
    said = {row.part for row in rows}
    if said == {None}:
        parts = {part: {kind: classes[kind] for kind in kinds} for part, kinds in division.parts(list(classes)).items()}
    else:
        parts = {part: by_class(_of(rows, part), find) for part in PARTS}
    found = Found(parts, f"{stamp_of(parts)} {shelf.stamp([file])}", _other_parts(rows, said))
    return one_listing(f"csv list {file}", shelf.path, found)


def _of(rows: Sequence[Row], part: str) -> list[Row]:
    return [row for row in rows if row.part == part]


def _other_parts(rows: Sequence[Row], said: set[str | None]) -> tuple[str, ...]:
    """A note on lines of other parts than train, val and test."""
    others = sorted(str(part) for part in said - {None, *PARTS})
    count = sum(row.part in others for row in rows)
    return (f"{count} lines are of other parts and left out: {', '.join(others)}",) if others else ()


def shelf_at(root: Path, path: str) -> Shelf:
    """Open the folder or archive at ``path``, relative to the data root or absolute. A single folder in it is entered."""
    place = root / path
    if not place.exists():
        raise DataError(f"path {path!r}: {place} does not exist; give a folder or an archive of the data root")
    shelf = Shelf(open_tree(place))
    tops = {name.partition("/")[0] for name in shelf.files}
    if not isinstance(shelf.tree, Folder) and len(tops) == 1 and all("/" in name for name in shelf.files):
        return Shelf(shelf.tree, f"{tops.pop()}/")  # as archives of a folder are
    return shelf


def own_images(
    kind: str,
    root: Path,
    listing: Listing,
    pixels: Pixels,
    split: str,
    name: str | None,
    cache: Path | None = None,
    report: Progress = silent,
) -> Dataset:
    """Pack a listing, divided into parts already, and open it as a dataset called ``name``, else as its file or folder."""
    store = packed(kind, listing, pixels.decoder(), root=existing(root), cache=cache, report=report)
    return Dataset.of_classes(name or listing.path.name.split(".")[0] or kind, split, store, listing.parts)
