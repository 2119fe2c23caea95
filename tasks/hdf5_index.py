"""What an HDF5 file holds: its datasets by path, and the refusal of all that leads out of the file or is a trap."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasks.errors import DataError
from tasks.tree_base import check_bomb, encodable

LARGEST_CHUNK = 1 << 26  # bytes of one chunk, which is unpacked whole
AGAIN = "fetch the file again"
_INSTEAD = "refused: copy the data in its place"


class Entry(NamedTuple):
    """A dataset: shape, dtype, where in the file it begins, rows of a chunk (0 where it is not chunked)."""

    shape: tuple[int, ...]
    dtype: np.dtype
    begin: int
    chunk: int

    @property
    def size(self) -> int:
        """Bytes; a claim in a damaged file may be too large for numpy's product."""
        total = int(self.dtype.itemsize)
        for n in self.shape:
            total *= n
        return total

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


def library(path: Path) -> Any:
    """Import h5py. Raises DataError, naming the file that needs it, when it is not installed."""
    try:
        import h5py
    except ImportError as error:
        raise DataError(
            f"{path} is an HDF5 file and reading it needs h5py, which is not installed: "
            "pip install 'metalearn[formats]'"
        ) from error
    return h5py


def entries(file: Any, path: Path) -> dict[str, Entry]:
    """List every dataset of an opened file, sorted by path. Raises DataError as Hdf5 says."""
    found = dict(sorted(_walk(file, path)))
    check_bomb(sum(entry.size for entry in found.values()), path.stat().st_size, path)
    return found


def reason(error: Exception) -> str:
    """What h5py says of an error, which it words as OSError, RuntimeError, KeyError or ValueError."""
    return str(error).strip("'\"")[:300] or type(error).__name__


def _walk(file: Any, path: Path) -> Iterator[tuple[str, Entry]]:
    h5py = library(path)
    waiting = [("", file.id)]
    seen: dict[int, str] = {}
    while waiting:
        above, group = waiting.pop()
        try:
            address = h5py.h5o.get_info(group).addr
            members = [(name, group.links.get_info(name).type) for name in group]
        except Exception as error:  # of any kind: see reason
            raise _damaged(path, above or "its list of contents", error) from error
        if address in seen:
            raise DataError(
                f"{path}: group {above!r} is also {seen[address] or '/'!r}; groups that are linked twice are {_INSTEAD}"
            )
        seen[address] = above
        for raw, link in members:
            name = f"{above}/{_text(raw, path)}".lstrip("/")
            if link != h5py.h5l.TYPE_HARD:
                raise DataError(f"{path}: {name} {_led(h5py, group, raw, link)}; {_INSTEAD}")
            try:
                found = h5py.h5o.open(group, raw)
                if isinstance(found, h5py.h5d.DatasetID):
                    yield name, _entry(h5py, found, f"{path}: {name}")
                elif isinstance(found, h5py.h5g.GroupID):
                    waiting.append((name, found))
            except DataError:
                raise
            except Exception as error:  # of any kind: see reason
                raise _damaged(path, name, error) from error


def _entry(h5py: Any, dataset: Any, where: str) -> Entry:
    """Describe a dataset. How it is stored is asked first: even the shape of a virtual one comes from other files."""
    made = dataset.get_create_plist()
    if made.get_layout() == h5py.h5d.VIRTUAL:
        raise DataError(f"{where} is virtual: its data is in other datasets or files; {_INSTEAD}")
    if made.get_external_count():
        raise DataError(f"{where} keeps its data in another file; {_INSTEAD}")
    for number, _, _, name in map(made.get_filter, range(made.get_nfilters())):
        if not h5py.h5z.filter_avail(number):
            raise DataError(
                f"{where} is compressed by the filter {number} ({name.decode(errors='replace') or 'of no name'}), "
                "which is not installed; rewrite the file by `h5repack -f GZIP=4` where it is"
            )
    shape = () if dataset.shape == () else tuple(map(int, dataset.shape or (0,)))  # None: without any item
    chunk = made.get_chunk() if made.get_layout() == h5py.h5d.CHUNKED else ()
    size = Entry(chunk, dataset.dtype, 0, 0).size
    if chunk and size > LARGEST_CHUNK:
        raise DataError(
            f"{where} is stored in chunks of {size:,} bytes, allowed are {LARGEST_CHUNK:,}; rewrite the file in "
            "smaller ones by `h5repack -l CHUNK=...`"
        )
    begin = dataset.get_offset()
    begin = h5py.h5o.get_info(dataset).addr if begin is None else begin
    return Entry(shape, dataset.dtype, begin, chunk[0] if chunk else 0)


def _led(h5py: Any, group: Any, name: bytes, link: int) -> str:
    """Where a link leads, in words."""
    if link not in (h5py.h5l.TYPE_SOFT, h5py.h5l.TYPE_EXTERNAL):
        return "is a link of a kind that is not known"
    target = group.links.get_val(name)
    if link == h5py.h5l.TYPE_SOFT:
        return f"is a soft link to {target[:200].decode(errors='replace')!r}"
    file, inside = (part[:200].decode(errors="replace") for part in target)
    return f"is a link to {inside!r} of another file, {file!r}"


def _text(raw: bytes, path: Path) -> str:
    name = raw.decode(errors="surrogateescape")
    if not encodable(name):
        raise DataError(f"{path}: {name!r} is no UTF-8 text; rename it")
    return name


def _damaged(path: Path, what: str, error: Exception) -> DataError:
    return DataError(f"{path}: {what} is damaged ({reason(error)}); {AGAIN}")
