"""Kept encoders on their way from one machine's cache to another's, as bytes with a checksum."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from gvae.atomic import write_atomic
from gvae.checkpoint import ENCODER
from gvae.recorder import Recorder
from metalearn.encoders import alone_in, is_whole
from metalearn.errors import UserError

FILES = ("encoder.json", ENCODER)  # the one that counts is written last


@dataclass(frozen=True)
class Parcel:
    """The files of a kept encoder, and the SHA-256 of them all."""

    files: dict[str, bytes]
    sha256: str


def packed(folder: Path, recorder: Recorder) -> Parcel | None:
    """The encoder kept in a folder; None where there is none. A damaged one is removed and said so."""
    if not folder.exists():
        return None
    with alone_in(folder, recorder):
        if not is_whole(folder / ENCODER, recorder):
            return None
        files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}
    return Parcel(files, checksum(files))


def unpacked(parcel: Parcel, folder: Path, recorder: Recorder) -> None:
    """Keep an encoder in a folder, unless it is there. Raises UserError for one that was damaged on its way."""
    if checksum(parcel.files) != parcel.sha256:
        raise UserError(f"encoder {folder.name} was damaged on its way to this machine; start again")
    with alone_in(folder, recorder):
        if not is_whole(folder / ENCODER, recorder):
            for name in FILES:
                if name in parcel.files:
                    _write(folder / name, parcel.files[name])


def checksum(files: dict[str, bytes]) -> str:
    """SHA-256 of named files."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {len(files[name])} ".encode() + files[name])
    return digest.hexdigest()


def _write(path: Path, data: bytes) -> None:
    write_atomic(path, lambda file: file.write(data))
