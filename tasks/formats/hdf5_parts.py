"""torchmeta's mini-ImageNet: ``{train,val,test}_data.hdf5``, one dataset a class, and the classes as JSON."""

import json

from tasks.errors import DataError
from tasks.formats.base import PARTS, Format, Found, Names, Shelf, part_files
from tasks.hdf5 import Hdf5
from tasks.listing import Image
from tasks.tree import Folder

_GROUP = "datasets/"


def _fits(names: Names) -> bool:
    return any(f"{part}_data.hdf5" in names.files for part in PARTS)


def _read(shelf: Shelf) -> Found:
    """Read group ``datasets``: class -> (images, 84, 84, 3) uint8; ``{part}_labels.json`` lists the same classes."""
    if not isinstance(shelf.tree, Folder):
        raise DataError(f"{shelf.path}: HDF5 files are read from a folder only; unpack the archive")
    files = part_files(shelf, {part: [f"{part}_data.hdf5"] for part in PARTS}, "torchmeta's files")
    parts, stamps = {}, []
    for part, name in files.items():
        source = Hdf5(shelf.path / name)
        classes: dict[str, list[Image]] = {}
        for place, (shape, _) in source.datasets().items():
            kind = place.removeprefix(_GROUP)
            if not place.startswith(_GROUP) or "/" in kind or len(shape) != 4:
                raise DataError(
                    f"{shelf.where(name)}: {place} {shape} is no class of images; expected {_GROUP}CLASS (n, h, w, 3)"
                )
            classes[kind] = [Image(f"{name}: {place} row {row}", source, (place, row)) for row in range(shape[0])]
        _compare(shelf, f"{part}_labels.json", sorted(classes))
        parts[part] = classes
        stamps.append(source.stamp())
        source.close()
    return Found(parts, " ".join(stamps), ())


def _compare(shelf: Shelf, name: str, classes: list[str]) -> None:
    """Compare the classes with the list beside the file, where there is one."""
    if not shelf.has(name):
        return
    where = shelf.where(name)
    try:
        listed = json.loads(shelf.read(name))
    except ValueError as error:
        raise DataError(f"{where} is no JSON ({error}); fetch it again, or remove it") from error
    if not isinstance(listed, list) or sorted(map(str, listed)) != classes:
        raise DataError(
            f"{where} lists other classes than the {len(classes)} of the data beside it; fetch both again, or remove it"
        )


HDF5_PARTS = Format("torchmeta's {train,val,test}_data.hdf5", _fits, _read)
