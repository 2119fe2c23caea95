"""A folder or an archive as a read-only tree of files: nothing is extracted, nothing outside is reached."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

LARGEST_IMAGE = 64 << 20  # bytes of one image file: more is refused


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
    def open(self, name: str) -> BinaryIO:
        """A seekable file to read from. Raises DataError."""

    @abstractmethod
    def stamp(self, names: Iterable[str]) -> str:
        """64 hexadecimal digits that change when one of these files may have: sizes with times or checksums."""


def open_tree(path: Path) -> Tree:
    """Open a folder, a zip or a tar (plain, gz, bz2, xz). Raises DataError for what is none or is not safe."""
    raise NotImplementedError
