"""Images that are rows of the datasets of an HDF5 file; read by h5py, an optional extra."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from tasks.errors import DataError
from tasks.hdf5_index import AGAIN, LARGEST_CHUNK, Entry, entries, library, reason
from tasks.listing import Source
from tasks.sniff import HDF5, HEAD, kind
from tasks.tree_base import check_size, digest

_HELD = 1 << 24  # bytes of rows kept in memory


class Hdf5(Source):
    """Datasets of an HDF5 file, named by their path without a leading slash: ``datasets/n01532829``.

    The key of an image is (dataset, row). Rows are read many at once and at most 16 MB of them are kept, so reading
    in the order of ``rank`` takes each chunk of a compressed dataset once, or, where the rows of a chunk do not fit,
    once for every 16 MB. Raises DataError when first read, naming the file and what is in it, for a file that is no
    intact HDF5, for soft and external links, external and virtual storage, groups that are linked twice, filters that
    are not installed, chunks of more than 64 MB, bombs, and when h5py is absent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        self._entries: dict[str, Entry] | None = None
        self._first: dict[str, int] = {}
        self._rows: tuple[str, int, np.ndarray] | None = None  # dataset, its first row that is kept, rows
        self._damaged: tuple[str, int] | None = None  # dataset and first row of a block that cannot be read whole

    def datasets(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of every dataset, sorted by path; that of text of any length is object. Raises DataError."""
        return {name: (entry.shape, entry.dtype) for name, entry in self._index().items()}

    def top(self) -> tuple[str, ...]:
        """Sorted names of what is at the root of the file, which tells one layout from another. Raises DataError."""
        return tuple(sorted(self._opened()))

    def read(self, key: tuple[str, int]) -> UInt8[np.ndarray, "h w *c"]:
        """One row (h, w) or (h, w, c), uint8. Raises DataError naming file, dataset and row."""
        name, row = key
        entry = self._entry(name)
        if entry.dtype != np.uint8 or len(entry.shape) not in (3, 4):
            raise DataError(
                f"{self.path}: {name} holds {entry}; images are uint8 (n, height, width) or (n, height, width, "
                "channels)"
            )
        if not 0 <= row < entry.shape[0]:
            raise DataError(f"{self.path}: {name} has {entry.shape[0]} rows, there is no row {row}; correct the row")
        if self._rows is None or self._rows[0] != name or not 0 <= row - self._rows[1] < len(self._rows[2]):
            self._rows = None  # never twice as much in memory
            self._rows = self._around(name, row, _block(entry))
        return self._rows[2][row - self._rows[1]].copy()

    def _around(self, name: str, row: int, each: int) -> tuple[str, int, np.ndarray]:
        """Read the block of ``each`` rows that a row is in; of one with a damaged row, that row alone."""
        start = row // each * each
        if (name, start) != self._damaged:
            try:
                return name, start, self._slice(name, name, slice(start, start + each))
            except DataError:
                self._damaged = name, start
        return name, row, self._slice(f"{name}, row {row},", name, slice(row, row + 1))

    def array(self, name: str, largest: int = LARGEST_CHUNK) -> np.ndarray:
        """All of a dataset of at most ``largest`` bytes, of numbers or text of a fixed width. Raises DataError."""
        entry = self._entry(name)
        if entry.dtype.hasobject:
            raise DataError(
                f"{self.path}: {name} holds items that vary in length or refer to others; save them as numbers or as "
                "text of a fixed width"
            )
        check_size(entry.size, largest, f"{self.path}: {name}")
        return self._slice(name, name, ())

    def rank(self, key: tuple[str, int]) -> int:
        """Where the row lies: datasets in the order of the file, rows one after another."""
        name, row = key
        self._entry(name)
        return self._first[name] + row

    def stamp(self) -> str:
        """64 hexadecimal digits that change when size, time of modification, names or shapes do."""
        state = self.path.stat()
        lines = [f"{name}:{entry}" for name, entry in self._index().items()]
        return digest([f":{state.st_size}:{state.st_mtime_ns}", *lines])

    def close(self) -> None:
        """Close the file and let go of rows; a later read opens it again."""
        self._rows = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _slice(self, what: str, name: str, where: Any) -> np.ndarray:
        file = self._opened()
        try:
            return np.asarray(file[name][where])
        except Exception as error:  # of any kind: see reason
            raise DataError(f"{self.path}: {what} cannot be read ({reason(error)}); {AGAIN}") from error

    def _entry(self, name: str) -> Entry:
        index = self._index()
        if name not in index:
            raise DataError(f"{self.path}: there is no dataset {name!r} in this file; correct the name")
        return index[name]

    def _index(self) -> dict[str, Entry]:
        if self._entries is None:
            found = entries(self._opened(), self.path)
            first = 0
            for name in sorted(found, key=lambda name: (found[name].begin, name)):
                self._first[name] = first
                first += found[name].shape[0] if found[name].shape else 1
            self._entries = found
        return self._entries

    def _opened(self) -> Any:
        if self._file is None:
            self._file = _open(self.path)
        return self._file


def _open(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}); give an HDF5 file") from error
    found = kind(head)
    other = DataError(f"{path} is {found.what}; expected an HDF5 file: {found.fix}")
    if found.known and not head.startswith(HDF5):
        raise other
    h5py = library(path)
    if not h5py.is_hdf5(path):  # its first bytes may be another program's
        raise other
    try:
        return h5py.File(path, "r")
    except Exception as error:  # of any kind: see reason
        raise DataError(
            f"{path} is an HDF5 file that cannot be opened ({reason(error)}): cut short, damaged or still being "
            f"written; {AGAIN}"
        ) from error


def _block(entry: Entry) -> int:
    """Rows to read at once: as many as may be kept, whole chunks where one fits."""
    fit = max(1, _HELD // max(1, int(np.prod(entry.shape[1:]))))
    return fit // entry.chunk * entry.chunk if 0 < entry.chunk <= fit else fit
