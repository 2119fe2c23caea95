"""Folders and archives of the same files, for the tests of trees."""

import io
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

FILES = {  # in the order in which archives hold them
    "b/2.png": b"two",
    "a/1.png": b"one" * 1000,
    "a/ä€.png": b"\x00\xff",
    "empty.txt": b"",
    "c/" + "long/" * 40 + "3.bin": np.random.default_rng(0).bytes(200_000),
}
HIDDEN = {".DS_Store": b"x", "a/.hidden": b"x", "__MACOSX/a/1.png": b"x", ".git/config": b"x"}
KINDS = ("folder", "zip", "deflated.zip", "tar", "tar.gz", "tar.bz2", "tar.xz")


def folder(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def zipped(path: Path, files: Mapping[str, bytes] | Iterable[tuple[zipfile.ZipInfo, bytes]], method: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a/", b"")
        for name, data in files.items() if isinstance(files, Mapping) else files:
            archive.writestr(name, data, method)
    return path


def member(name: str, data: bytes = b"", **more) -> tuple[tarfile.TarInfo, bytes]:
    """A member of a tar, with its fields set as given."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in more.items():
        setattr(info, field, value)
    return info, data


def tarred(path: Path, files: Mapping[str, bytes] | Iterable[tuple[tarfile.TarInfo, bytes]], **more) -> Path:
    """Write a tar, compressed as the name says."""
    mode = path.suffix[1:] if path.suffix in (".gz", ".bz2", ".xz") else ""
    with tarfile.open(path, f"w:{mode}", **more) as archive:  # type: ignore[call-overload]
        archive.addfile(member("./", type=tarfile.DIRTYPE)[0])
        archive.addfile(member("a/", type=tarfile.DIRTYPE)[0])
        for info, data in (member(*pair) for pair in files.items()) if isinstance(files, Mapping) else files:
            archive.addfile(info, io.BytesIO(data))
    return path


def build(kind: str, at: Path, files: Mapping[str, bytes]) -> Path:
    """A folder or an archive of these files."""
    if kind == "folder":
        return folder(at / "folder", files)
    path = at / f"data.{kind}"
    if kind.endswith("zip"):
        return zipped(path, files, zipfile.ZIP_DEFLATED if kind.startswith("deflated") else zipfile.ZIP_STORED)
    return tarred(path, files)
