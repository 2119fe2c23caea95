"""A zip as a read-only tree. Its whole directory is checked before the first file is read."""

import io
import stat
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path

from tasks import tree_base
from tasks.errors import DataError
from tasks.tree_base import LARGEST_IMAGE, Member, Tree, check_bomb, check_size, digest, hidden, safe_name

_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # the others inflate a buffer without bound
_NAMES = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstd", 95: "xz"}
_ENTRY = 256  # bytes of an entry of the directory: 46 and a name, twice what names usually need


class Zip(Tree):
    """Files of a zip archive, stored or deflated.

    A file that was opened compares its checksum when its end is reached; going back in a deflated one reads it again
    from its start. Raises DataError, naming archive and member, for what is damaged, encrypted, a link, a device,
    named twice, named so that it points outside, and for bombs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: zipfile.ZipFile | None = None
        self._claimed = _claimed(path)
        self._members = self._list()
        self._names = tuple(sorted(self._members))

    @property
    def names(self) -> tuple[str, ...]:
        """Sorted names of the regular files; hidden ones and those below ``__MACOSX`` are left out."""
        return self._names

    def read(self, name: str, largest: int = LARGEST_IMAGE) -> bytes:
        """All bytes of a file of at most ``largest``, its checksum compared. Raises DataError."""
        info = self._member(name)
        check_size(info.file_size, largest, f"{self.path}: {name}")
        try:
            with self._archive().open(info) as file:
                data = file.read()  # no more than info.file_size, whatever the archive holds
        except Exception as error:  # zipfile lets zlib, struct, OS and runtime errors through
            raise self._damaged(name, error) from error
        if len(data) != info.file_size:
            raise self._damaged(name, EOFError(f"{len(data):,} of {info.file_size:,} bytes are there"))
        return data

    def open(self, name: str) -> io.BufferedReader:
        """A seekable file to read from. Raises DataError, also later, while it is read."""
        info = self._member(name)
        try:
            file = self._archive().open(info)
        except Exception as error:  # as in read
            raise self._damaged(name, error) from error
        return io.BufferedReader(Member(file, 0, info.file_size, lambda error: self._damaged(name, error)), 1 << 16)

    def stamp(self, names: Iterable[str]) -> str:
        """Hash names, sizes and checksums."""
        infos = ((name, self._member(name)) for name in names)
        return digest(f"{name}:{info.file_size}:{info.CRC:08x}" for name, info in infos)

    def rank(self, name: str) -> int:
        """Where the file begins in the archive."""
        return self._member(name).header_offset

    def close(self) -> None:
        """Close the archive's file; a later read opens it again."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _archive(self) -> zipfile.ZipFile:
        if self._opened is None:
            try:
                self._opened = zipfile.ZipFile(self.path)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{self.path}: member {error.object[:200]!r} has a name that is no UTF-8 text; refused: fetch it "
                    "from its source, or repack it"
                ) from error
            except Exception as error:  # zipfile lets struct, OS, memory and runtime errors through
                raise DataError(f"{self.path} is not a complete zip file ({error}); fetch it again") from error
        return self._opened

    def _member(self, name: str) -> zipfile.ZipInfo:
        if name not in self._members:
            raise DataError(f"{self.path}: there is no file {name!r} in this archive; correct the name")
        return self._members[name]

    def _damaged(self, name: str, error: Exception) -> DataError:
        return DataError(f"{self.path}: {name} cannot be read ({error}); the archive is damaged: fetch it again")

    def _list(self) -> dict[str, zipfile.ZipInfo]:
        members: dict[str, zipfile.ZipInfo] = {}
        seen: set[str] = set()
        size, total = self.path.stat().st_size, 0
        infos = self._archive().infolist()
        if self._claimed not in (None, len(infos), len(infos) % (1 << 16)):  # some writers count in 16 bits throughout
            raise DataError(
                f"{self.path} is not a complete zip file ({len(infos):,} members are there, {self._claimed:,} are "
                "claimed); fetch it again"
            )
        for info in infos:
            name = safe_name(info.orig_filename, self.path)
            if info.is_dir() or not name:
                continue
            fault = _fault(info)
            if fault:
                raise DataError(f"{self.path}: member {name!r} {fault}; unpack the archive by hand, or repack it")
            if name in seen:
                raise DataError(f"{self.path}: member {name!r} is there twice; fetch the archive again, or repack it")
            seen.add(name)
            check_bomb(info.file_size, size, f"{self.path}: member {name!r}")
            total += info.file_size
            if not hidden(name):
                members[name] = info
        check_bomb(total, size, self.path)
        return members


def _fault(info: zipfile.ZipInfo) -> str | None:
    """Say what keeps a member from being read, None when nothing does."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "is a symbolic link, which is refused"
    if kind not in (0, stat.S_IFREG):
        return "is a device or another special file, which is refused"
    if info.flag_bits & 0x41:
        return "is encrypted"
    if info.compress_type not in _METHODS:
        method = _NAMES.get(info.compress_type, f"number {info.compress_type}")
        return f"is compressed by the method {method}; supported are stored and deflated files"
    return None


def _claimed(path: Path) -> int | None:
    """Give the number of members that the directory claims, None where there is none.

    Raises DataError for too many, before zipfile reads them into memory.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 16) - 98))
        tail = file.read()
    end = tail.rfind(b"PK\x05\x06")  # where zipfile looks for it too
    if end < 0 or len(tail) < end + 22:
        return None  # zipfile says what is wrong
    count, size = struct.unpack("<HL", tail[end + 10 : end + 16])
    large = tail[max(0, end - 76) : end]
    if large[:4] == b"PK\x06\x06" and len(large) == 76:
        count, size = struct.unpack("<QQ", large[32:48])
    if count > tree_base.MOST_MEMBERS or size > tree_base.MOST_MEMBERS * _ENTRY:
        raise DataError(
            f"{path} claims {count:,} members in a directory of {size:,} bytes; at most {tree_base.MOST_MEMBERS:,} "
            "members are read: unpack it by hand and give the folder, or fetch it again"
        )
    return count
