"""A packed image dataset: one directory with class-sorted uint8 images, memory-mapped.

``images.npy`` (n, c, h, w) uint8 · ``meta.json`` class names, offsets, fingerprint · ``image_names.json``, read late ·
``factors.npz`` known factors, if any. Written to a temporary sibling and renamed: a store that exists is complete.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from tasks.errors import DataError

SCHEMA = 2
_READ = (1, 2)  # 1 kept the image names in meta.json
IMAGES = "images.npy"
_PIECE = 1 << 24  # bytes written or hashed at once


class Names:
    """Names of images, kept in a file until one of them is asked for."""

    def __init__(self, path: Path, count: int):
        self.path, self.count = path, count

    @cached_property
    def _names(self) -> list[str]:
        try:
            names: list[str] = json.loads(self.path.read_bytes())
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path} cannot be read ({error}); {_fix(self.path.parent)}") from error
        if len(names) != self.count:
            raise DataError(f"{self.path} has {len(names)} names for {self.count} images; {_fix(self.path.parent)}")
        return names

    def __len__(self) -> int:
        return self.count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._names[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)


@dataclass(frozen=True, eq=False)
class Store:
    """Images of a dataset, sorted by class.

    ``images`` (n, c, h, w) uint8, 0 to 255; ``offsets`` (K + 1,): the images of class k are rows offsets[k]
    to offsets[k + 1]; ``class_names`` K sorted names; ``image_names`` n names, or none; ``factors`` name ->
    (n,) float32, or none; ``fingerprint`` sha256 of all of these; ``info`` where the data came from.
    """

    name: str
    images: UInt8[np.ndarray, "n c h w"]
    offsets: Int64[np.ndarray, " k1"]
    class_names: tuple[str, ...]
    image_names: Sequence[str] | Names = ()
    factors: Mapping[str, Float32[np.ndarray, " _"]] = field(default_factory=dict)
    fingerprint: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise DataError(f"store {self.name!r}: {problem}")
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", fingerprint(self))


def fingerprint(store: Store) -> str:
    """Hash images, names, offsets and factors to 64 hexadecimal digits (sha256); reads every image."""
    digest = hashlib.sha256()
    header = [
        list(store.images.shape),
        list(store.class_names),
        list(store.image_names),
        sorted(store.factors),
    ]
    digest.update(json.dumps(header).encode())
    digest.update(store.offsets.astype("<i8").tobytes())
    for name in sorted(store.factors):
        digest.update(store.factors[name].astype("<f4").tobytes())
    flat = store.images.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        digest.update(flat[start : start + _PIECE].tobytes())
    return digest.hexdigest()


def write_store(path: Path, store: Store) -> Store:
    """Write a store to the directory ``path``, all or nothing, and open it from there.

    An equal store that is there, perhaps from another process just now, is kept; any other is replaced.
    Raises DataError when the disk is full or the place is not writable; nothing of the attempt stays behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        with writing(path, store.images.nbytes):
            temporary.mkdir(parents=True)
            _write(temporary / IMAGES, lambda file: _write_array(file, store.images))
            seal(temporary, path, store)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return open_store(path)


def seal(staging: Path, path: Path, store: Store) -> None:
    """Make the folder ``staging``, in which the images of ``store`` are, a store and put it in place as ``path``."""
    if store.factors:
        _write(staging / "factors.npz", lambda file: np.savez(file, **dict(store.factors)))
    if store.image_names:
        names = json.dumps(list(store.image_names)).encode()
        _write(staging / "image_names.json", lambda file: file.write(names))
    meta = {
        "schema": SCHEMA,
        "name": store.name,
        "fingerprint": store.fingerprint,
        "factors": sorted(store.factors),
        "info": dict(store.info),
        "offsets": store.offsets.tolist(),
        "class_names": list(store.class_names),
        "image_names": bool(store.image_names),
    }
    _write(staging / "meta.json", lambda file: file.write(json.dumps(meta).encode()))
    _put_in_place(staging, path, store.fingerprint)


@contextmanager
def writing(path: Path, size: int) -> Iterator[None]:
    """Turn what the file system refuses while a store of ``size`` bytes is written into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write the store {path}: {error.strerror or error}; {size / 1e6:.0f} MB are needed: free space, "
            "or choose another data root or cache folder"
        ) from error


def open_store(path: Path, *, verify: bool = False) -> Store:
    """Open a store without reading its images; with ``verify``, read all and compare the fingerprint.

    Raises DataError when a part of it is missing, damaged, truncated or written by another version.
    """
    fix = _fix(path)
    try:
        meta = json.loads((path / "meta.json").read_text())
        if meta["schema"] not in _READ:
            raise DataError(f"store {path} has schema {meta['schema']}, this version reads {SCHEMA}; {fix}")
        factors = {}
        if meta["factors"]:
            with np.load(path / "factors.npz", allow_pickle=False) as stored:
                factors = {name: stored[name] for name in meta["factors"]}
        images = np.load(path / IMAGES, mmap_mode="r", allow_pickle=False)
        names = meta["image_names"] or ()
        if names is True:
            names = Names(path / "image_names.json", len(images))
            names.path.stat()  # it is there, though not read
        store = Store(
            name=meta["name"],
            images=images,
            offsets=np.array(meta["offsets"], np.int64),
            class_names=tuple(meta["class_names"]),
            image_names=names,
            factors=factors,
            fingerprint=meta["fingerprint"],
            info=meta["info"],
        )
    except FileNotFoundError as error:
        raise DataError(f"store {path} is incomplete: {Path(error.filename).name} is missing; {fix}") from error
    except DataError as error:
        if str(path) in str(error):  # said already
            raise
        raise DataError(f"store {path} is damaged: {error}; {fix}") from error
    except Exception as error:  # numpy, zipfile and json have errors of their own for unreadable bytes
        raise DataError(f"store {path} is damaged: {error}; {fix}") from error
    if verify and fingerprint(store) != store.fingerprint:
        raise DataError(f"store {path} is damaged: its contents do not match its fingerprint; {fix}")
    return store


def _fix(path: Path) -> str:
    return f"delete the folder {path} and it is packed again"


def _problem(store: Store) -> str | None:
    """Say what contradicts itself in a store, None when nothing does."""
    images, offsets, names = store.images, store.offsets, store.class_names
    if images.dtype != np.uint8 or images.ndim != 4:
        return f"images are {images.dtype} of shape {images.shape}; uint8 (n, c, h, w) is needed"
    if list(names) != sorted(set(names)):
        return "class names must be sorted and differ from each other"
    ends = offsets[[0, -1]].tolist() if len(offsets) else []
    if len(offsets) != len(names) + 1 or ends != [0, len(images)] or (np.diff(offsets) < 1).any():
        return f"offsets do not divide {len(images)} images among {len(names)} classes of at least one image"
    if store.image_names and len(store.image_names) != len(images):
        return f"{len(store.image_names)} image names for {len(images)} images"
    wrong = [name for name, values in store.factors.items() if values.shape != (len(images),)]
    return f"factors {wrong} are not one number an image" if wrong else None


def _write(path: Path, write: Callable[[Any], object]) -> None:
    with path.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def _write_array(file: BinaryIO, array: UInt8[np.ndarray, "..."]) -> None:
    """Write .npy by plain writes: a memory map would end the process on a full disk instead of raising."""
    header = {"descr": "|u1", "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(file, header)
    flat = array.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        file.write(flat[start : start + _PIECE].tobytes())


def _put_in_place(temporary: Path, path: Path, fingerprint: str) -> None:
    for _ in range(10):
        try:
            os.replace(temporary, path)  # fails when a store is there
            return
        except OSError:
            if not path.exists():
                raise
        try:
            if open_store(path).fingerprint == fingerprint:
                return
        except DataError:
            pass  # damaged: replaced below
        with suppress(FileNotFoundError):  # another process was faster
            old = path.with_name(f"{temporary.name}.old")
            os.replace(path, old)
            shutil.rmtree(old, ignore_errors=True)
    raise OSError(f"other processes keep writing {path}")
