"""Anybody's images as a few-shot dataset: a folder a class, or lists in csv; split ready, by lists or by a seed."""

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
                    f"{part}={share}: shares of the classes to hold out must lie between 0 and 1 and leave some to "
                    f"train on, val + test < 1 (given {self.val} + {self.test})"
                )
        val, test = (max(1, round(share * len(names))) for share in (self.val, self.test))
        train = len(names) - val - test
        if train < 1:
            raise DataError(
                f"{len(names)} classes cannot be divided by val={self.val} and test={self.test}: none is left to train "
                "on; hold out less, or give more classes (at least 3)"
            )
        order = seeded_order(names, self.seed)
        return {"train": order[:train], "val": order[train : train + val], "test": order[train + val :]}


def folder_listing(root: Path, path: str, split: str, lists: str | None, division: Division) -> Listing:
    """List images in folders; ``split`` is folders, lists or random, see tasks.datasets.folder."""
    shelf = shelf_at(root, path)
    if split == "folders":
        if not part_folders({name.partition("/")[0] for name in shelf.files if "/" in name}):
            raise DataError(
                f"{shelf.path} has no folders train, val and test; for a folder a class give split: random, or split: "
                "lists with train.txt, val.txt and test.txt"
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
    """Open the folder or archive at ``path``, relative to the data root or absolute.

    A folder that is all there is in an archive is entered.
    """
    place = root / path
    if not place.exists():
        raise DataError(f"path {path!r}: {place} does not exist; give a folder or an archive of the data root")
    shelf = Shelf(open_tree(place))
    tops = {name.partition("/")[0] for name in shelf.files}
    if not isinstance(shelf.tree, Folder) and len(tops) == 1 and all("/" in name for name in shelf.files):
        return Shelf(shelf.tree, f"{tops.pop()}/")  # as archives of a folder are
    return shelf


def open_folder(
    root: Path, *, path: str, split: str, lists: str | None, split_seed: int, val: float, test: float, image_size: int,
    channels: Literal[1, 3], fit: Literal["stretch", "crop"], invert: bool, **_: object
) -> tuple[Listing, Decoder]:  # fmt: skip
    """Find what ``folder`` reads, with its options; nothing is decoded."""
    listing = folder_listing(existing(root), path, split, lists, Division(val, test, split_seed))
    return listing, decoder_of(image_size, channels, fit, invert)


def open_csv(
    root: Path, *, path: str, list: str | None, file_column: str | None, class_column: str | None,
    part_column: str | None, split_seed: int, val: float, test: float, image_size: int, channels: Literal[1, 3],
    fit: Literal["stretch", "crop"], invert: bool, **_: object
) -> tuple[Listing, Decoder]:  # fmt: skip
    """Find what ``csv`` reads, with its options; nothing is decoded."""
    columns = Columns(file_column, class_column, part_column)
    listing = csv_listing(existing(root), path, list, columns, Division(val, test, split_seed))
    return listing, decoder_of(image_size, channels, fit, invert)


def decoder_of(image_size: int, channels: Literal[1, 3], fit: Literal["stretch", "crop"], invert: bool) -> Decoder:
    """How images are decoded. Raises DataError for a size out of range."""
    if not 1 <= image_size <= LARGEST_SIDE:
        raise DataError(f"image_size={image_size}: allowed are 1 to {LARGEST_SIDE} pixels a side")
    return Decoder(channels, image_size, fit=fit, invert=invert)


def folder(
    root: Path,
    *,
    path: str,
    split: Literal["folders", "lists", "random"] = "folders",
    lists: str | None = None,
    split_seed: int = 0,
    val: float = 0.2,
    test: float = 0.2,
    image_size: int = 84,
    channels: Literal[1, 3] = 3,
    fit: Literal["stretch", "crop"] = "crop",
    invert: bool = False,
    name: str | None = None,
    cache: Path | None = None,
    report: Progress = silent,
) -> Dataset:
    """Your images in folders: PNG, JPEG, WebP or BMP, a folder a class.

    path: folder or archive, relative to root or absolute. split ``folders``: train/, val/ and test/ hold the folders of
    classes; ``lists``: train.txt, val.txt and test.txt, in the folder ``lists`` of path or in path itself, name the
    classes, one a line; ``random``: the shares ``val`` and ``test`` of the classes are held out, in an order shuffled
    by split_seed. Images are (channels, image_size, image_size) uint8; fit and invert: see tasks.decode.Decoder. name:
    how reports call the dataset, path's last part if not given. Raises DataError for whatever is wrong.
    """
    listing, decoder = open_folder(
        root, path=path, split=split, lists=lists, split_seed=split_seed, val=val, test=test, image_size=image_size,
        channels=channels, fit=fit, invert=invert,
    )  # fmt: skip
    return _dataset("folder", root, listing, decoder, split, name, cache, report)


def csv(
    root: Path,
    *,
    path: str,
    list: str | None = None,
    file_column: str | None = None,
    class_column: str | None = None,
    part_column: str | None = None,
    split_seed: int = 0,
    val: float = 0.2,
    test: float = 0.2,
    image_size: int = 84,
    channels: Literal[1, 3] = 3,
    fit: Literal["stretch", "crop"] = "crop",
    invert: bool = False,
    name: str | None = None,
    cache: Path | None = None,
    report: Progress = silent,
) -> Dataset:
    """Your images listed in csv: train.csv, val.csv and test.csv, or one list with a class an image.

    path: folder or archive that holds lists and images. list: the one list, relative to path; a column (split, part,
    ...) that says train, val or test divides it, else split_seed with the shares ``val`` and ``test`` of the classes.
    Columns are found by their usual names (filename, image_name, ...; label, class_name, ...) or named by file_column,
    class_column and part_column. The rest as in folder.
    """
    listing, decoder = open_csv(
        root, path=path, list=list, file_column=file_column, class_column=class_column, part_column=part_column,
        split_seed=split_seed, val=val, test=test, image_size=image_size, channels=channels, fit=fit, invert=invert,
    )  # fmt: skip
    return _dataset("csv", root, listing, decoder, "lists" if list is None else "list", name, cache, report)


def _dataset(
    kind: str,
    root: Path,
    listing: Listing,
    decoder: Decoder,
    split: str,
    name: str | None,
    cache: Path | None,
    report: Progress,
) -> Dataset:
    """Pack a listing and open it, as divided, as a dataset called ``name``, else like its file or folder."""
    store = packed(kind, listing, decoder, root=existing(root), cache=cache, report=report)
    return Dataset.of_classes(name or listing.path.name.split(".")[0] or kind, split, store, listing.parts)
