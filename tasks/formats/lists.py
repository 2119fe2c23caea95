"""Lists of image files in csv: one a part, or one with the class and perhaps the part of each image."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tasks.errors import DataError
from tasks.formats.base import PARTS, Format, Found, Names, Shelf, part_files, stamp_of
from tasks.listing import Image
from tasks.sniff import HEAD
from tasks.sniff import kind as kind_of

LARGEST_LIST = 1 << 28  # bytes of a csv file: ImageNet's has 50 million
FILE_COLUMNS = ("filename", "file_name", "file", "image_name", "image", "image_path", "path")
CLASS_COLUMNS = ("label", "class_name", "class", "category", "wnid", "target")
PART_COLUMNS = ("split", "part", "subset", "set", "phase")


class Columns(NamedTuple):
    """Names of the columns of a csv list; None: the first of the usual names that is there."""

    file: str | None = None
    kind: str | None = None
    part: str | None = None


class Row(NamedTuple):
    """A line of a csv list: where it is, the file it names, its class, and its part where the list says."""

    where: str
    file: str
    kind: str
    part: str | None


def csv_parts() -> Format:
    """``train.csv``, ``val.csv``, ``test.csv`` beside the images: in ``images/``, in a folder a class, or anywhere."""

    def fits(names: Names) -> bool:
        return {f"{part}.csv" for part in PARTS} <= set(names.files)

    return Format("csv files {train,val,test}.csv with the images they name", fits, read_csv_parts)


def read_csv_parts(shelf: Shelf, columns: Columns = Columns()) -> Found:  # noqa: B008
    """Read a list a part: header ``filename,label`` or ``class_name,image_name``."""
    lists = part_files(shelf, {part: [f"{part}.csv"] for part in PARTS}, "csv lists")
    find = finder(shelf)
    parts = {part: by_class(rows_of(shelf, name, columns), find) for part, name in lists.items()}
    return Found(parts, f"{stamp_of(parts)} {shelf.stamp(lists.values())}", ())


def rows_of(shelf: Shelf, name: str, columns: Columns) -> list[Row]:
    """Lines of a csv list. Raises DataError for what is no csv with a header, and for a line without file or class."""
    where = shelf.where(name)
    data = shelf.read(name, LARGEST_LIST)
    found = kind_of(data[:HEAD])
    if found.known and not found.what.startswith("a text"):
        raise DataError(f"{where} is {found.what}; expected comma-separated values with a header: {found.fix}")
    reader = csv.reader(io.StringIO(data.decode("utf-8-sig", "replace"), newline=""), strict=True)
    try:
        header = [word.strip() for word in next(reader, [])]
        file = _column(header, columns.file, FILE_COLUMNS, where)
        kind = _column(header, columns.kind, CLASS_COLUMNS, where)
        has_part = columns.part or set(PART_COLUMNS) & set(header)
        part = _column(header, columns.part, PART_COLUMNS, where) if has_part else None
        rows = []
        for cells in reader:
            here = f"{where}, line {reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(header) or not cells[file].strip() or not cells[kind].strip():
                raise DataError(f"{here}: {','.join(cells)[:80]!r} does not give {', '.join(header)}; correct it")
            said = cells[part].strip() if part is not None else None
            rows.append(Row(here, cells[file].strip(), cells[kind].strip(), said))
    except csv.Error as error:
        raise DataError(f"{where}, line {reader.line_num}: {error}; expected comma-separated values") from error
    if not rows:
        raise DataError(f"{where} lists no image; it needs a header, such as filename,label, and a line an image")
    return rows


def _column(header: list[str], given: str | None, usual: Sequence[str], where: str) -> int:
    names = [given] if given else usual
    found = next((name for name in names if name in header), None)
    if found is None:
        raise DataError(
            f"{where} has the columns {', '.join(header)[:100] or 'of an empty line'}; expected a header with "
            f"{'the column ' + given if given else 'one of ' + ', '.join(usual)}"
        )
    return header.index(found)


def by_class(rows: Iterable[Row], find: Callable[[Row], Image]) -> dict[str, list[Image]]:
    """Images of each class, in the order of the lines. Raises DataError for a file that is missing or listed twice."""
    classes: dict[str, list[Image]] = {}
    first: dict[object, str] = {}
    missing = []
    for row in rows:
        try:
            image = find(row)
        except LookupError:
            missing.append(row)
            continue
        if image.key in first:
            raise DataError(f"{row.where}: {row.file!r} is listed already in {first[image.key]}; list each image once")
        first[image.key] = row.where
        classes.setdefault(row.kind, []).append(image)
    if missing:
        one = missing[0]
        raise DataError(
            f"{one.where}: there is no file {one.file!r}, nor are the files of {len(missing) - 1} other lines there; "
            "put the images beside the lists, in images/, or in a folder a class"
        )
    return classes


def finder(shelf: Shelf) -> Callable[[Row], Image]:
    """How the file of a line is found: as named, in ``images/``, in the folder of its class; LookupError if nowhere.

    The lists may also lie in a folder of their own, beside ``images``.
    """
    shelves = [shelf, shelf.parent] if shelf.parent else [shelf]

    def find(row: Row) -> Image:
        for at in shelves:
            for below in ("", "images/", f"{row.kind}/", f"images/{row.kind}/"):
                if at.has(f"{below}{row.file}"):
                    return at.image(f"{below}{row.file}")
        raise LookupError(row.file)

    return find
