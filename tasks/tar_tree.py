"""A tar, plain or compressed, as a read-only tree, read from its start to its end once when it is opened."""

import bz2
import gzip
import io
import lzma
import re
import tarfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tasks import tree_base
from tasks.errors import DataError
from tasks.sniff import HEAD, kind
from tasks.tree_base import LARGEST_IMAGE, Member, Tree, check_bomb, check_size, digest, hidden, safe_name

_OPENERS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_BLOCK = 512
_LARGEST_HEADER = 1 << 20  # bytes of one extended header: names, owners, attributes
_DIGITS = re.compile(rb"\d{256}")  # no name is so long; some versions of tarfile take quadratic time over them
_PIECE = 1 << 20


class _Place(NamedTuple):
    start: int
    size: int
    mtime: float


class Tar(Tree):
    """Files of a tar archive: plain, gzip, bzip2 or xz.

    A plain one is read anywhere at no cost. A compressed one is unpacked once when it is opened (checksums of the
    compression are compared then), and can only be read forward: in the order of ``rank`` all files together take one
    more pass; a file that lies before the last one read costs unpacking all that is before it again. Files opened by
    ``open`` have a pass of their own. Raises DataError, naming archive and member, for what is damaged, cut off, a
    link, a device, sparse, named twice, named so that it points outside, and for bombs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        self._state = path.stat()
        self._places = self._list()
        self._names = tuple(sorted(self._places))

    @property
    def names(self) -> tuple[str, ...]:
        """Sorted names of the regular files; hidden ones and those below ``__MACOSX`` are left out."""
        return self._names

    def read(self, name: str, largest: int = LARGEST_IMAGE) -> bytes:
        """All bytes of a file of at most ``largest``. Raises DataError."""
        place = self._place(name)
        check_size(place.size, largest, f"{self.path}: {name}")
        if self._file is None:
            self._file = self._unpacked()
        try:
            self._file.seek(place.start)
            data = self._file.read(place.size)
        except Exception as error:  # gzip, bz2 and lzma have errors of their own, and let zlib's through
            raise self._damaged(name, error) from error
        if len(data) != place.size:
            raise self._damaged(name, EOFError(f"{len(data):,} of {place.size:,} bytes are there"))
        return data

    def open(self, name: str) -> io.BufferedReader:
        """A seekable file to read from. Raises DataError, also later, while it is read."""
        place = self._place(name)
        member = Member(self._unpacked(), place.start, place.size, lambda error: self._damaged(name, error))
        return io.BufferedReader(member, 1 << 16)

    def stamp(self, names: Iterable[str]) -> str:
        """Hash the archive's size and time, and names, sizes and times of the files."""
        places = ((name, self._place(name)) for name in names)
        lines = [f"{name}:{place.size}:{place.mtime}" for name, place in places]
        return digest([*lines, f"{self._state.st_size}:{self._state.st_mtime_ns}"])

    def rank(self, name: str) -> int:
        """Where the file begins in the archive."""
        return self._place(name).start

    def close(self) -> None:
        """Close the archive's file; a later read opens it again, and unpacks it from its start."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _place(self, name: str) -> _Place:
        if name not in self._places:
            raise DataError(f"{self.path}: there is no file {name!r} in this archive; correct the name")
        return self._places[name]

    def _damaged(self, name: str, error: Exception) -> DataError:
        return DataError(f"{self.path}: {name} cannot be read ({error}); the archive is damaged: fetch it again")

    def _unpacked(self) -> Any:
        try:
            with self.path.open("rb") as file:
                head = file.read(8)
            opener = next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), open)
            return opener(self.path, "rb")
        except OSError as error:
            raise DataError(f"{self.path} cannot be opened ({error.strerror or error})") from error

    def _head(self) -> bytes:
        with suppress(Exception), self._unpacked() as file:  # whatever is wrong with it has been told
            return file.read(HEAD)
        return b""

    def _list(self) -> dict[str, _Place]:
        places: dict[str, _Place] = {}
        seen: set[str] = set()
        with self._unpacked() as unpacked:
            file = _Forward(unpacked, self.path, self._state.st_size)
            try:
                with tarfile.TarFile(fileobj=file) as archive:  # type: ignore[arg-type]
                    while (member := archive.next()) is not None:
                        archive.members = []  # type: ignore[attr-defined]  # else it keeps them all
                        name = safe_name(member.name, self.path)
                        fault = _fault(member)
                        if fault:
                            raise DataError(f"{self.path}: member {name!r} {fault}; repack it without")
                        if member.isdir() or not name:
                            continue
                        if name in seen:
                            raise DataError(f"{self.path}: member {name!r} is there twice; repack it")
                        seen.add(name)
                        if len(seen) > tree_base.MOST_MEMBERS:
                            raise DataError(
                                f"{self.path} has more than {tree_base.MOST_MEMBERS:,} members; unpack it by hand "
                                "and give the folder"
                            )
                        if not hidden(name):
                            places[name] = _Place(member.offset_data, member.size, float(member.mtime))
                file.finish()
            except DataError:
                raise
            except Exception as error:  # tarfile, gzip, bz2 and lzma have errors of their own, and let zlib's through
                inside = kind(self._head() or bytes(1))
                is_other = inside.known and inside.what != "a tar archive"
                reason = f"inside it is {inside.what}" if is_other else error
                raise DataError(f"{self.path} is not a complete tar archive ({reason}); fetch it again") from error
        return places


def _fault(member: tarfile.TarInfo) -> str | None:
    """Say what keeps a member from being read, None when nothing does."""
    if member.issym() or member.islnk():
        return f"is a link (to {member.linkname[:200]!r}), which is refused"
    if member.sparse is not None:
        return "is a sparse file, which is not supported"
    if not member.isdir() and not member.isreg():
        return "is a device or another special file, which is refused"
    if member.size < 0:
        return f"has a size of {member.size} bytes, so the archive is damaged"
    return None


class _Forward:
    """What tarfile reads the headers from: forward only, bounded, so that no header leads it astray.

    tarfile takes a damaged header, and the end of a file that was cut between two members, for the end of the archive;
    so the last block that it reads must be the end mark.
    """

    def __init__(self, file: Any, path: Path, packed: int) -> None:
        self._file, self._path, self._packed = file, path, packed
        self._last = b""

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, position: int) -> None:
        if position < self._file.tell():
            raise ValueError("a header points backwards")
        check_bomb(position, self._packed, self._path)
        self._file.seek(position)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise ValueError(f"a header claims {size:,} bytes")
        self._last = self._file.read(size)
        if size > _BLOCK and _DIGITS.search(self._last):
            raise ValueError("a header holds a number of more than 256 digits")
        check_bomb(self._file.tell(), self._packed, self._path)
        return self._last

    def finish(self) -> None:
        """Read what follows the last header to its end, so that the checksums of the compression are compared."""
        if self._last != bytes(_BLOCK):
            raise EOFError("its end mark is missing: it is cut off, or a header is damaged")
        while piece := self._file.read(_PIECE):
            check_bomb(self._file.tell(), self._packed, self._path)
            if piece.strip(b"\x00"):
                raise ValueError("something follows its end mark, as in archives put behind each other; unpack by hand")
