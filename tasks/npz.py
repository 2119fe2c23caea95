"""The arrays of a numpy .npz file, row by row: nothing is unpickled, and no array is unpacked whole to read a row."""

import io
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from tasks.errors import DataError
from tasks.listing import Source
from tasks.sniff import HEAD, kind
from tasks.tree_base import check_size
from tasks.zip_tree import Zip

_LARGEST = 1 << 26  # bytes of an array that is read whole
_ZIP = b"PK\x03\x04"
_AGAIN = "fetch the file again"


class Header(NamedTuple):
    """Shape and dtype of an array, and where in its member the first row begins."""

    shape: tuple[int, ...]
    dtype: np.dtype
    begin: int

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


class Npz(Source):
    """Arrays of a .npz file, compressed or not, by name without ``.npy``. The key of an image is (array, row).

    Rows of a compressed array are read as a stream: forward is fast, back begins anew. ``last`` is the row after which
    the rest of a compressed array is read too, so that its checksum is compared. Arrays of Python objects, such as the
    metadata of dSprites, are pickles: they are listed by name only and never read. Raises DataError, naming file and
    array, for what is no intact .npz.
    """

    def __init__(self, path: Path, last: int | None = None) -> None:
        self.path, self.last = path, last
        self._zip: Zip | None = None
        self._headers: dict[str, Header] = {}
        self._open: tuple[str, io.BufferedReader] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Sorted names of the arrays."""
        return tuple(name.removesuffix(".npy") for name in self._archive().names if name.endswith(".npy"))

    def header(self, name: str) -> Header:
        """Describe an array. Raises DataError when there is none of this name, and for Python objects."""
        if name not in self._headers:
            if name not in self.names:
                raise DataError(f"{self.path} has no array {name!r}, only {', '.join(self.names) or 'none'}; {_AGAIN}")
            with self._archive().open(f"{name}.npy") as file:
                self._headers[name] = self._parsed(name, file)
        return self._headers[name]

    def read(self, key: tuple[str, int]) -> UInt8[np.ndarray, "h w *c"]:
        """One row (h, w) or (h, w, c), uint8. Raises DataError naming file, array and row."""
        name, row = key
        header = self.header(name)
        if header.dtype != np.uint8 or len(header.shape) not in (3, 4):
            raise DataError(f"{self.path}: {name} holds {header}; images are uint8 (n, height, width) or with channels")
        if not 0 <= row < header.shape[0]:
            raise DataError(f"{self.path}: {name} has {header.shape[0]} rows, there is no row {row}; correct the row")
        file = self._member(name)
        shape = header.shape[1:]
        each = math.prod(shape)
        file.seek(header.begin + row * each)
        data = file.read(each)
        if row == self.last:
            while file.read(1 << 20):
                pass
        if len(data) != each:
            raise DataError(f"{self.path}: {name} ends within row {row}; {_AGAIN}")
        return np.frombuffer(data, np.uint8).reshape(shape)

    def array(self, name: str) -> np.ndarray:
        """All of an array of at most 64 MB. Raises DataError."""
        header = self.header(name)
        check_size(header.size, _LARGEST, f"{self.path}: {name}")
        file = self._member(name)
        file.seek(header.begin)
        data = file.read()
        if len(data) != header.size:
            raise DataError(f"{self.path}: {name} holds {len(data):,} bytes, {header} has {header.size:,}; {_AGAIN}")
        return np.frombuffer(data, header.dtype).reshape(header.shape)

    def rank(self, key: tuple[str, int]) -> int:
        """Rows are read forward; all images are of one array."""
        return key[1]

    def stamp(self) -> str:
        """Hash names, sizes and checksums of the arrays."""
        return self._archive().stamp(self._archive().names)

    def close(self) -> None:
        """Let go of the open array; a later read begins anew."""
        if self._open is not None:
            self._open[1].close()
            self._open = None
        if self._zip is not None:
            self._zip.close()

    def _member(self, name: str) -> io.BufferedReader:
        if self._open is None or self._open[0] != name:
            self.close()
            self._open = name, self._archive().open(f"{name}.npy")
        return self._open[1]

    def _archive(self) -> Zip:
        if self._zip is None:
            try:
                with self.path.open("rb") as file:
                    head = file.read(HEAD)
            except OSError as error:
                raise DataError(f"{self.path} cannot be opened ({error.strerror}); give a numpy .npz file") from error
            if not head.startswith(_ZIP):
                found = kind(head)
                raise DataError(f"{self.path} is {found.what}; expected a numpy .npz file: {found.fix}")
            self._zip = Zip(self.path)
        return self._zip

    def _parsed(self, name: str, file: io.BufferedReader) -> Header:
        try:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, fortran, dtype = read(file)
        except DataError:
            raise
        except Exception as error:  # numpy lets syntax, type, value and tokenizer errors through
            raise DataError(f"{self.path}: {name} is no numpy array ({error}); {_AGAIN}") from error
        if dtype.hasobject:
            raise DataError(f"{self.path}: {name} holds pickled Python objects, which are not read; save it as numbers")
        if fortran:
            raise DataError(f"{self.path}: {name} is stored column by column; save it by numpy.ascontiguousarray")
        return Header(shape, dtype, file.tell())
