"""A folder or an archive as a read-only tree of files: nothing is extracted, nothing outside is reached."""

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tasks import tree_base
from tasks.errors import DataError
from tasks.listing import Source
from tasks.sniff import HEAD, kind
from tasks.tar_tree import Tar
from tasks.tree_base import LARGEST_IMAGE, Tree, check_size, digest, encodable
from tasks.zip_tree import Zip

__all__ = ["LARGEST_IMAGE", "Folder", "Tar", "Tree", "TreeSource", "Zip", "open_tree"]

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_NO_FILE = "it is no regular file"
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")


def open_tree(path: Path) -> Tree:
    """Open a folder, a zip or a tar (plain, gz, bz2, xz). Raises DataError for what is none or is not safe.

    What a file is is told by its content, not its name.
    """
    if path.is_dir():
        return Folder(path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise DataError(f"{path} is a device or another special file; give a folder, a zip or a tar")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}); give a folder, a zip or a tar") from error
    if head.startswith(_ZIP):
        return Zip(path)
    if head.startswith(_COMPRESSED) or head[257:262] == b"ustar":
        return Tar(path)
    found = kind(head)
    if found.known:
        raise DataError(f"{path} is {found.what}; allowed: a folder, a zip or a tar: {found.fix}")
    if zipfile.is_zipfile(path):  # one that unpacks itself begins with a program
        return Zip(path)
    if tarfile.is_tarfile(path):  # before POSIX, tars had no mark
        return Tar(path)
    raise DataError(f"{path} is {found.what}; allowed: a folder, a zip or a tar: {found.fix}")


class TreeSource(Source):
    """Images that are files of a tree; the key of an image is the name of its file."""

    def __init__(self, tree: Tree, largest: int = LARGEST_IMAGE) -> None:
        self.tree, self.path, self.largest = tree, tree.path, largest

    def read(self, key: str) -> bytes:
        """All bytes of an image file. Raises DataError, as ``archive: member``, when it cannot be read."""
        return self.tree.read(key, self.largest)

    def rank(self, key: str) -> int:
        """Where in the archive the file begins."""
        return self.tree.rank(key)

    def close(self) -> None:
        """Let go of open files; a later read opens them again."""
        self.tree.close()


class Folder(Tree):
    """Files of a folder. Links are followed, also out of the folder: data on a cluster often lies elsewhere.

    Each real folder is visited once, by its name without a link where it has one; so links cannot lead in circles.
    Raises DataError for a link to nothing, for a folder that cannot be read and for a name that is no UTF-8 text.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._root = os.fspath(path)
        self._names = tuple(sorted(self._walk()))

    @property
    def names(self) -> tuple[str, ...]:
        """Sorted names of the regular files; hidden ones and those below ``__MACOSX`` are left out."""
        return self._names

    def read(self, name: str, largest: int = LARGEST_IMAGE) -> bytes:
        """All bytes of a file of at most ``largest``. Raises DataError."""
        with self._opened(name) as file:
            size = os.fstat(file.fileno()).st_size
            check_size(size, largest, f"{self.path}: {name}")
            return file.read(size)

    def open(self, name: str) -> io.BufferedReader:
        """A seekable file to read from. Raises DataError, also later, while it is read."""
        return self._opened(name)

    def stamp(self, names: Iterable[str]) -> str:
        """Hash names, sizes and times of modification."""
        return digest(map(self._line, names))

    def _line(self, name: str) -> str:
        self._place(name)
        state = self._state(name)
        if not stat.S_ISREG(state.st_mode):
            raise self._unreadable(name, OSError(0, _NO_FILE))
        return f"{name}:{state.st_size}:{state.st_mtime_ns}"

    def _state(self, name: str) -> os.stat_result:
        try:
            return os.stat(f"{self._root}/{name}")
        except (OSError, ValueError) as error:
            raise self._unreadable(name, error) from error

    def _place(self, name: str) -> str:
        if any(step in ("", ".", "..") for step in name.split("/")):
            raise DataError(f"{self.path}: there is no file {name!r} in this folder; correct the name")
        return f"{self._root}/{name}"

    def _opened(self, name: str) -> io.BufferedReader:
        try:
            return io.BufferedReader(_File(self._place(name), lambda error: self._unreadable(name, error)), 1 << 16)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: Exception) -> DataError:
        reason = error.strerror if isinstance(error, OSError) else error
        return DataError(f"{self.path}: {name} cannot be read ({reason}); restore the file or its rights")

    def _walk(self) -> Iterator[str]:
        count = 0
        seen: set[tuple[int, int]] = set()
        waiting: list[str] = [""]
        links: list[str] = []  # they wait until all that is reached without one is done
        while waiting or links:
            below = waiting.pop() if waiting else links.pop()
            state = self._state(below)
            if (state.st_dev, state.st_ino) in seen:
                continue
            seen.add((state.st_dev, state.st_ino))
            for entry in self._entries(below):
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                name = below + entry.name
                mode = self._mode(entry, name)
                if stat.S_ISDIR(mode):
                    (links if entry.is_symlink() else waiting).append(f"{name}/")
                elif stat.S_ISREG(mode):
                    count += 1
                    yield name
            if count > tree_base.MOST_MEMBERS:
                raise DataError(f"{self.path} holds more than {tree_base.MOST_MEMBERS:,} files; give a folder below it")

    def _mode(self, entry: os.DirEntry[str], name: str) -> int:
        if not encodable(name):
            raise DataError(f"{self.path}: {name!r} is no UTF-8 text; rename the file")
        if not entry.is_symlink():
            return stat.S_IFDIR if entry.is_dir() else stat.S_IFREG if entry.is_file() else 0
        try:
            return entry.stat().st_mode
        except OSError as error:
            raise DataError(
                f"{self.path}: {name} is a link to {os.readlink(entry.path)!r}, which cannot be followed "
                f"({error.strerror}); restore what it leads to, or remove the link"
            ) from error

    def _entries(self, below: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(f"{self._root}/{below}") as found:
                return sorted(found, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            raise self._unreadable(below or ".", error) from error


class _File(io.FileIO):
    """A file on disk, opened without waiting, as a named pipe would for a writer; ``error`` words what goes wrong."""

    def __init__(self, path: str, error: Callable[[Exception], DataError]) -> None:
        super().__init__(path, opener=lambda path, flags: os.open(path, flags | getattr(os, "O_NONBLOCK", 0)))
        self._error = error
        if not stat.S_ISREG(os.fstat(self.fileno()).st_mode):
            self.close()
            raise OSError(0, _NO_FILE)

    def readinto(self, buffer: Any) -> int | None:
        """Read as much as there is, up to the buffer's size."""
        return self._told(super().readinto, buffer)

    def readall(self) -> bytes:
        """Read all that is left."""
        return self._told(super().readall)

    def _told(self, read: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return read(*arguments)
        except OSError as error:
            raise self._error(error) from error
