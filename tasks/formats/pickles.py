"""Pickles of image arrays: mini-ImageNet's caches by class, and arrays with a label an image."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from tasks.errors import DataError
from tasks.formats.base import SPELLINGS, Format, Found, Names, Shelf, part_files, text
from tasks.listing import Image, Source
from tasks.safe_pickle import load

_CACHE = re.compile(r"mini-imagenet-cache-(train|val|validation|test)\.pkl")
_CACHES = {
    part: [f"mini-imagenet-cache-{word}.pkl" for word in SPELLINGS if SPELLINGS[word] == part and word != "valid"]
    for part in ("train", "val", "test")
}


class PickledImages(Source):
    """The array of images in a pickle, (n, h, w, 3) uint8; the key of an image is its row.

    The pickle is read when it is first needed, and let go of by ``close``.
    """

    def __init__(self, shelf: Shelf, name: str, array: str) -> None:
        self.shelf, self.name, self.array = shelf, name, array
        self.path = shelf.tree.path / (shelf.inside + name)
        self._content: dict[Any, Any] | None = None

    def content(self, *needed: str) -> dict[Any, Any]:
        """What the pickle holds, keys as text. Raises DataError when it is no dict with the keys needed."""
        if self._content is None:
            where = self.shelf.where(self.name)
            with self.shelf.open(self.name) as file:
                held = load(file, where)
            keys = [self.array, *needed]
            if not isinstance(held, dict) or not {text(key) for key in held} >= set(keys):
                is_dict = isinstance(held, dict)
                holds = f"a dict with the keys {sorted(map(str, held))[:6]}" if is_dict else f"a {type(held).__name__}"
                raise DataError(f"{where} holds {holds}; expected a dict with {' and '.join(keys)}: fetch it again")
            self.bytes_keys = any(isinstance(key, bytes) for key in held)
            self._content = {text(key): value for key, value in held.items()}
        return self._content

    @property
    def images(self) -> UInt8[np.ndarray, "n h w c"]:
        """The array. Raises DataError when it is no array of images."""
        array = self.content()[self.array]
        if isinstance(array, list) and len({np.shape(one) for one in array}) == 1:
            array = self.content()[self.array] = np.array(array)
        is_array = isinstance(array, np.ndarray)
        if not is_array or array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] not in (1, 3):
            found = f"{array.dtype} {array.shape}" if is_array else f"a {type(array).__name__}"
            raise DataError(
                f"{self.shelf.where(self.name)}: {self.array} is {found}; expected uint8 (images, height, width, 3)"
            )
        return array

    def read(self, key: int) -> UInt8[np.ndarray, "h w c"]:
        """The pixels of an image, copied out of the pickle."""
        return np.array(self.images[key])

    def rank(self, key: int) -> int:
        """Rows in order."""
        return key

    def close(self) -> None:
        """Let go of the arrays."""
        self._content = None


def _fits_cache(names: Names) -> bool:
    return any(_CACHE.fullmatch(name) for name in names.files)


def _read_cache(shelf: Shelf) -> Found:
    """Read ``image_data`` (N, 84, 84, 3) and ``class_dict`` {wnid: rows} of each part."""
    files = part_files(shelf, _CACHES, "the caches of mini-ImageNet")
    parts, notes = {}, []
    for part, name in files.items():
        source = PickledImages(shelf, name, "image_data")
        by_class = source.content("class_dict")["class_dict"]
        if source.bytes_keys:
            notes.append(f"{name}: its keys are bytes, as Python 2 wrote them; read as text")
        parts[part] = _rows_by_class(source, by_class, shelf.where(name))
        source.close()
    return Found(parts, shelf.stamp(files.values()), tuple(notes))


def _rows_by_class(source: PickledImages, by_class: Any, where: str) -> dict[str, list[Image]]:
    if not isinstance(by_class, dict):
        raise DataError(f"{where}: class_dict is a {type(by_class).__name__}; expected a dict from class to rows")
    total = len(source.images)
    taken = np.zeros(total, np.int64)
    classes = {}
    for kind, given in by_class.items():
        rows = np.asarray(given)
        if rows.ndim != 1 or rows.dtype.kind not in "iu" or not len(rows) or rows.min() < 0 or rows.max() >= total:
            raise DataError(
                f"{where}: the rows of class {text(kind)} are not numbers from 0 to {total - 1}; fetch it again"
            )
        np.add.at(taken, rows, 1)
        classes[str(text(kind))] = [Image(f"{source.name} row {row}", source, row) for row in rows.tolist()]
    wrong = np.flatnonzero(taken != 1)
    if len(wrong):
        raise DataError(
            f"{where}: {len(wrong)} of {total} images are in no class or in several by class_dict, the first in row "
            f"{wrong[0]}; fetch it again"
        )
    return classes


CACHE = Format("pickles mini-imagenet-cache-{train,val,test}.pkl (or -validation.pkl)", _fits_cache, _read_cache)


def labelled(pattern: Mapping[str, str], what: str, leave: Iterable[str] = ()) -> Format:
    """Pickles with ``data`` (N, h, w, 3) and ``labels`` (N), one a part: ``pattern`` gives the file of each part.

    ``leave``: further files of such a set that are left out, which a note says.
    """

    def fits(names: Names) -> bool:
        return any(name in names.files for name in pattern.values())

    def read(shelf: Shelf) -> Found:
        files = part_files(shelf, {part: [name] for part, name in pattern.items()}, what)
        sources = {part: PickledImages(shelf, name, "data") for part, name in files.items()}
        labels = {part: _labels(source) for part, source in sources.items()}
        naming, notes = _naming(labels)
        parts = {}
        for part, source in sources.items():
            classes: dict[str, list[Image]] = {}
            for row, label in enumerate(labels[part]):
                classes.setdefault(naming(part, label), []).append(Image(f"{source.name} row {row}", source, row))
            parts[part] = classes
            source.close()
        left = [name for name in leave if shelf.has(name)]
        notes += [f"left out, as they show training classes: {', '.join(left)}"] if left else []
        return Found(parts, shelf.stamp(files.values()), tuple(notes))

    return Format(f"pickles {', '.join(pattern.values())} with data and labels", fits, read)


def _labels(source: PickledImages) -> list[int | str]:
    given = source.content("labels")["labels"]
    where, total = source.shelf.where(source.name), len(source.images)
    source.close()
    if not isinstance(given, list | tuple | np.ndarray):
        raise DataError(f"{where}: labels are a {type(given).__name__}; expected a list or an array, one an image")
    labels = [text(label) for label in np.asarray(given, object).tolist()]
    labels = [int(label) if isinstance(label, np.integer) else label for label in labels]
    if len(labels) != total:
        raise DataError(f"{where} has {len(labels)} labels for {total} images; fetch it again")
    kinds = {type(label) for label in labels}
    if kinds not in ({int}, {str}):
        raise DataError(f"{where}: labels must be all whole numbers or all text; fetch it again")
    return labels


def _naming(labels: Mapping[str, list[int | str]]) -> tuple[Callable[[str, int | str], str], list[str]]:
    """How classes are called: by their label; by part and number where each part numbers its classes anew."""
    known = {part: set(given) for part, given in labels.items()}
    if any(isinstance(label, str) for given in known.values() for label in given):
        return lambda part, label: str(label), []
    sizes = {len(given) for given in known.values()}
    if len(sizes) > 1 and all(given and min(given) == 0 for given in known.values()):
        return lambda part, label: f"{part}{label:03d}", [
            "each part numbers its classes from 0, so whether parts share a class cannot be told by name; `metalearn "
            "data check` looks for equal images"
        ]
    return lambda part, label: f"class{label:03d}", []
