"""A packed image dataset: one directory with class-sorted uint8 images, memory-mapped.

``images.npy`` (n, c, h, w) uint8 · ``meta.json`` names, offsets, fingerprint · ``factors.npz`` known factors (optional).
It is written to a temporary sibling directory and renamed, so a store that exists is complete.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from tasks.errors import DataError

SCHEMA = 1
_PIECE = 1 << 24  # bytes written or hashed at once


@dataclass(frozen=True, eq=False)
class Store:
    """Images of a dataset, sorted by class.

    ``images`` (n, c, h, w) uint8, 0 to 255; ``offsets`` (K + 1,): the images of class k are rows offsets[k] to
    offsets[k + 1]; ``class_names`` K sorted names; ``image_names`` n names, or none; ``factors`` name -> (n,)
    float32, or none; ``fingerprint`` sha256 of all of these; ``info`` where the data came from.
    """

    name: str
    images: UInt8[np.ndarray, "n c h w"]
    offsets: Int64[np.ndarray, "k1"]
    class_names: tuple[str, ...]
    image_names: tuple[str, ...] = ()
    factors: Mapping[str, Float32[np.ndarray, "n"]] = field(default_factory=dict)
    fingerprint: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise DataError(f"store {self.name!r}: {problem}")
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", fingerprint(self))


def fingerprint(store: Store) -> str:
    """Hash images, names, offsets and factors of a store to 64 hexadecimal digits (sha256); reads every image."""
    digest = hashlib.sha256()
    header = [list(store.images.shape), list(store.class_names), list(store.image_names), sorted(store.factors)]
    digest.update(json.dumps(header).encode())
    digest.update(store.offsets.astype("<i8").tobytes())
    for name in sorted(store.factors):
        digest.update(store.factors[name].astype("<f4").tobytes())
    flat = store.images.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        digest.update(np.ascontiguousarray(flat[start : start + _PIECE]))
    return digest.hexdigest()


def write_store(path: Path, store: Store) -> Store:
    """Write a store to the directory ``path``, all or nothing, and open it from there.

    Where another process wrote ``path`` meanwhile, that one is replaced. Raises DataError when the disk is full
    or the place is not writable; nothing of the attempt stays behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir(parents=True)
        _write(temporary / "images.npy", lambda file: _write_array(file, store.images))
        if store.factors:
            _write(temporary / "factors.npz", lambda file: np.savez(file, **dict(store.factors)))
        meta = {
            "schema": SCHEMA,
            "name": store.name,
            "fingerprint": store.fingerprint,
            "factors": sorted(store.factors),
            "info": dict(store.info),
            "offsets": store.offsets.tolist(),
            "class_names": list(store.class_names),
            "image_names": list(store.image_names),
        }
        _write(temporary / "meta.json", lambda file: file.write(json.dumps(meta).encode()))
        _put_in_place(temporary, path)
    except OSError as error:
        raise DataError(
            f"cannot write the store {path}: {error.strerror or error}; "
            f"{store.images.nbytes / 1e6:.0f} MB are needed: free space or choose another data root or cache folder"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return open_store(path)


def open_store(path: Path, *, verify: bool = False) -> Store:
    """Open a store without reading its images; with ``verify``, read all and compare the fingerprint.

    Raises DataError when a part of it is missing, damaged, truncated or written by another version.
    """
    fix = f"delete the folder {path} and it is packed again"
    try:
        meta = json.loads((path / "meta.json").read_text())
        if meta["schema"] != SCHEMA:
            raise DataError(f"store {path} has schema {meta['schema']}, this version reads {SCHEMA}; {fix}")
        factors = {}
        if meta["factors"]:
            with np.load(path / "factors.npz", allow_pickle=False) as stored:
                factors = {name: stored[name] for name in meta["factors"]}
        store = Store(
            name=meta["name"],
            images=np.load(path / "images.npy", mmap_mode="r", allow_pickle=False),
            offsets=np.array(meta["offsets"], np.int64),
            class_names=tuple(meta["class_names"]),
            image_names=tuple(meta["image_names"]),
            factors=factors,
            fingerprint=meta["fingerprint"],
            info=meta["info"],
        )
    except FileNotFoundError as error:
        raise DataError(f"store {path} is incomplete: {Path(error.filename).name} is missing; {fix}") from error
    except DataError as error:
        raise error if str(path) in str(error) else DataError(f"store {path} is damaged: {error}; {fix}") from error
    except Exception as error:  # numpy, zipfile and json each have errors of their own for bytes they cannot read
        raise DataError(f"store {path} is damaged: {error}; {fix}") from error
    if verify and fingerprint(store) != store.fingerprint:
        raise DataError(f"store {path} is damaged: its contents do not match its fingerprint; {fix}")
    return store


def stores_folder(root: Path, cache: Path | None = None) -> Path:
    """Where packed stores go: ``root/stores``, or ``cache/stores`` when root cannot be written.

    ``cache`` defaults to the environment variable METALEARN_CACHE, then to ``~/.cache/metalearn``. A folder
    without a write bit counts as read-only, also for a superuser.
    """
    stores = root / "stores"
    if _writable(stores if stores.is_dir() else root):
        return stores
    return cache_folder(cache) / "stores"


def cache_folder(cache: Path | None = None) -> Path:
    """Give the folder for what may be made again: the argument, METALEARN_CACHE, or ``~/.cache/metalearn``."""
    return cache or Path(os.environ.get("METALEARN_CACHE") or Path.home() / ".cache" / "metalearn")


def _writable(folder: Path) -> bool:
    return folder.is_dir() and bool(folder.stat().st_mode & 0o222) and os.access(folder, os.W_OK)


def _problem(store: Store) -> str | None:
    """Say what contradicts itself in a store, None when nothing does."""
    images, offsets, names = store.images, store.offsets, store.class_names
    if images.dtype != np.uint8 or images.ndim != 4:
        return f"images are {images.dtype} of shape {images.shape}; uint8 (n, c, h, w) is needed"
    if list(names) != sorted(set(names)):
        return "class names must be sorted and differ from each other"
    if len(offsets) != len(names) + 1 or offsets[0] != 0 or offsets[-1] != len(images) or (np.diff(offsets) < 1).any():
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


def _write_array(file: Any, array: np.ndarray) -> None:
    """Write .npy by plain writes: a memory map would end the process on a full disk instead of raising."""
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(np.empty((0,), np.uint8)) | {
        "shape": array.shape,
        "descr": np.lib.format.dtype_to_descr(array.dtype),
    })
    flat = array.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        file.write(np.ascontiguousarray(flat[start : start + _PIECE]))


def _put_in_place(temporary: Path, path: Path) -> None:
    if path.exists():
        old = path.with_name(f"{temporary.name}.old")
        os.replace(path, old)
        shutil.rmtree(old, ignore_errors=True)
    os.replace(temporary, path)
