"""What folders and archives have in common: the contract of a tree, which names are safe, files within files."""

import hashlib
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tasks.errors import DataError

LARGEST_IMAGE = 64 << 20  # bytes of one image file: more is refused
MOST_MEMBERS = 10_000_000  # ImageNet has 1.3 million; the index of 10 million takes gigabytes
# A bomb is an archive that unpacks to more than 1 GiB (less does no harm) and to more than 200 times its own size.
# Deflate reaches 1,000 on constant bytes, xz 7,000. Of data, images reach 1, pickles of photographs 2, arrays of
# drawings (Omniglot's, 105x105, one byte a pixel) 30 to 60.
BOMB_BYTES = 1 << 30
BOMB_RATIO = 200
_DRIVE = re.compile(r"[A-Za-z]:")


class Tree(ABC):
    """Files by their posix name relative to ``path``."""

    path: Path

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Sorted names of the regular files; hidden ones and those below ``__MACOSX`` are left out."""

    @abstractmethod
    def read(self, name: str, largest: int = LARGEST_IMAGE) -> bytes:
        """All bytes of a file, checksum compared where the archive has one. Raises DataError."""

    @abstractmethod
    def open(self, name: str) -> io.BufferedReader:
        """A seekable file to read from. Raises DataError, also later, while it is read."""

    @abstractmethod
    def stamp(self, names: Iterable[str]) -> str:
        """64 hexadecimal digits that change when one of these files may have: sizes with times or checksums."""

    def rank(self, name: str) -> int:
        """Where in the archive a file lies: reading in this order is the fastest. 0 throughout in a folder."""
        return 0

    def close(self) -> None:  # noqa: B027
        """Let go of open files; a later read opens them again."""


def safe_name(raw: str, where: object) -> str:
    """Normalise a member's name: no ``.`` and no empty components; "" for the root itself.

    Raises DataError, led by ``where``, for a name that points outside or that not every system reads alike.
    """
    fault = None
    if raw.startswith("/"):
        fault = "an absolute name, which points outside of the archive"
    elif "\\" in raw:
        fault = "a backslash in its name, which some systems take for a separator"
    elif _DRIVE.match(raw):
        fault = "a drive letter, which points outside of the archive"
    elif ".." in raw.split("/"):
        fault = "'..' in its name, which points outside of the archive"
    elif "\x00" in raw or not raw.isascii() and not encodable(raw):
        fault = "a name that is no UTF-8 text"
    if fault:
        raise DataError(f"{where}: member {raw[:200]!r} has {fault}; refused: fetch it from its source, or repack it")
    return "/".join(step for step in raw.split("/") if step not in ("", "."))


def encodable(text: str) -> bool:
    """Whether a name is UTF-8 text: what the file system or an archive gives may not be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def hidden(name: str) -> bool:
    """Whether a file or a folder above it is hidden, or is what macOS adds to archives."""
    return name.startswith(".") or "/." in name or name.startswith("__MACOSX/") or "/__MACOSX/" in name


def digest(lines: Iterable[str]) -> str:
    """Hash lines, whatever their order, to 64 hexadecimal digits."""
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def check_size(size: int, largest: int, where: str) -> None:
    """Raise DataError, led by ``where``, for a file of more than ``largest`` bytes."""
    if size > largest:
        raise DataError(f"{where} has {size:,} bytes, allowed are {largest:,}; it is no file of this kind: remove it")


def check_bomb(unpacked: int, packed: int, where: object) -> None:
    """Raise DataError for an archive or member whose ``packed`` bytes unpack to what no data does."""
    if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * packed:
        raise DataError(
            f"{where} unpacks {packed:,} bytes to {unpacked:,} or more, over {BOMB_RATIO} times as many: refused as a "
            "decompression bomb; fetch it from its source, or unpack it by hand and give the folder"
        )


class Member(io.RawIOBase):
    """``size`` bytes of a file, from ``start`` on, as a file of its own. Closes the file with itself.

    Every error of reading goes through ``error``, which gives the DataError to raise; so does a file that ends early.
    """

    def __init__(self, file: Any, start: int, size: int, error: Callable[[Exception], DataError]) -> None:
        self._file, self._start, self._size, self._error = file, start, size, error
        self._at = 0

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, or as much of it as is left."""
        wanted = min(len(buffer), self._size - self._at)
        if wanted <= 0:
            return 0
        try:
            if self._file.tell() != self._start + self._at:
                self._file.seek(self._start + self._at)
            data = self._file.read(wanted)
            if not data:
                raise EOFError(f"it ends after {self._at:,} of {self._size:,} bytes")
        except DataError:
            raise
        except Exception as error:  # zipfile, gzip, bz2 and lzma have errors of their own, and let zlib's through
            raise self._error(error) from error
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; no byte is read before the next read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._at = base + offset
        return self._at

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Bytes from the start of this file."""
        return self._at

    def close(self) -> None:
        """Close this file and the one that it is part of."""
        if not self.closed:
            self._file.close()
        super().close()
