"""From a listing to a packed store: decoded on every core, memory bounded, resumed after a kill, all or nothing."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from jaxtyping import Int64, UInt8

from tasks.decode import Decoder
from tasks.errors import DataError
from tasks.folders import cache_folder, stores_folder
from tasks.listing import Listing
from tasks.progress import Progress, silent
from tasks.scan import CHUNK, Plan, scan
from tasks.store import IMAGES, Store, open_store, seal, writing

VERSION = 2  # of the packing: another one gives another store
_SAVE_EVERY = 16  # chunks between two marks from which a killed packing goes on
_MARK = "packed.json"


def packed(
    name: str, listing: Listing, decoder: Decoder, *, root: Path, cache: Path | None = None, report: Progress = silent
) -> Store:
    """Open the store that this listing was packed to, under ``root`` or in the cache; pack it if there is none.

    The store's name is ``name``, the decoder's size and a hash of listing.stamp and decoder, so that other
    contents make another store. ``store.info`` holds ``parts`` (part -> class names), ``format``, ``notes``,
    ``label``, ``source``, and what listing.info says. A packing that was killed goes on where it stood; two at once
    wait for each other.
    Raises DataError for an image that cannot be decoded, a class without images, and when the disk is full.
    """
    content = hashlib.sha256(json.dumps([listing.stamp, asdict(decoder), VERSION]).encode()).hexdigest()
    full_name = f"{_stem(name, decoder.size)}{content[:12]}"
    for folder in _folders(root, cache):
        if (folder / full_name).is_dir():
            return open_store(folder / full_name)
    where = stores_folder(root, cache)
    empty = [kind for kind, images in listing.classes.items() if not images]
    if empty or not listing.classes:
        raise DataError(f"{listing.path}: {'class ' + empty[0] if empty else 'it'} has no image; fetch it again")
    with writing(where / full_name, 0):
        where.mkdir(parents=True, exist_ok=True)
    with _alone(where / ".packing.lock", report):
        if not (where / full_name).is_dir():  # nobody was faster
            _pack(full_name, listing, decoder, where, report)
    return open_store(where / full_name)


def newest(name: str, size: int, *, root: Path, cache: Path | None = None) -> Store | None:
    """The newest store of a dataset that is packed already, for when its source files are gone; None without one."""
    found = stores(name, root=root, cache=cache, size=size)
    return open_store(max(found, key=lambda path: path.stat().st_mtime)) if found else None


def stores(name: str, *, root: Path, cache: Path | None = None, size: int | None = None) -> list[Path]:
    """Folders of the stores of a dataset under root and in the cache; of one size, or of all."""
    pattern = f"{_stem(name, size)}*" if size else f"{name}-[0-9]*"
    return sorted(path for folder in _folders(root, cache) for path in folder.glob(pattern))


def _folders(root: Path, cache: Path | None) -> dict[Path, None]:
    return dict.fromkeys((root / "stores", cache_folder(cache) / "stores"))


def _stem(name: str, size: int) -> str:
    return f"{name}-{size}-v{VERSION}-"


@contextmanager
def _alone(path: Path, report: Progress) -> Iterator[None]:
    """Within, no other process packs into the same folder; one that dies lets go."""
    lock = FileLock(path)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=1)
        except Timeout:
            report("wait for another process that packs data", 0, 0)
    try:
        yield
    finally:
        lock.release()


def _pack(full_name: str, listing: Listing, decoder: Decoder, where: Path, report: Progress) -> None:
    path, staging = where / full_name, where / f".{full_name}.partial"
    plan = Plan.of(listing)
    shape = (plan.images, decoder.channels, decoder.size, decoder.size)
    what = f"pack {listing.path.name}"
    with writing(path, int(np.prod(shape))):
        done = _begin(staging, shape)
        with (staging / IMAGES).open("r+b") as file:
            begin = file.seek(0, os.SEEK_END) - int(np.prod(shape))
            for number, chunk in scan(plan, decoder, first=done):
                if chunk.problems:
                    _mark(staging, file.fileno(), number)
                    raise DataError(_said(chunk.problems))
                _put(file.fileno(), begin, chunk.rows, chunk.pixels)
                report(what, min((number + 1) * CHUNK, plan.images), plan.images)
                if (number + 1) % _SAVE_EVERY == 0:
                    _mark(staging, file.fileno(), number + 1)
            os.fsync(file.fileno())
        store = _described(full_name, listing, plan, np.load(staging / IMAGES, mmap_mode="r"))
        (staging / _MARK).unlink()
        seal(staging, path, store)
    shutil.rmtree(staging, ignore_errors=True)


def _begin(staging: Path, shape: tuple[int, ...]) -> int:
    """Make room for the images, or find what an earlier packing left; the number of chunks that are done."""
    size = int(np.prod(shape))
    try:
        kept = json.loads((staging / _MARK).read_text())
        if kept["shape"] == list(shape) and kept["chunk"] == CHUNK and (staging / IMAGES).stat().st_size > size:
            return int(kept["done"])
    except (OSError, ValueError, KeyError):
        pass  # nothing to go on from
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    with (staging / IMAGES).open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + size)
        _mark(staging, file.fileno(), 0, shape)
    return 0


def _mark(staging: Path, file: int, done: int, shape: tuple[int, ...] | None = None) -> None:
    """Record, once the images are on the disk, that ``done`` chunks are."""
    os.fsync(file)
    kept = {"shape": list(shape), "chunk": CHUNK} if shape else json.loads((staging / _MARK).read_text())
    new = staging / f"{_MARK}.new"
    new.write_text(json.dumps({**kept, "done": done}))
    os.replace(new, staging / _MARK)


def _put(file: int, begin: int, rows: Int64[np.ndarray, " k"], pixels: UInt8[np.ndarray, "k c h w"]) -> None:
    """Write images to their rows, each run of neighbours at once; a full disk raises here, not in a memory map."""
    each = pixels[0].nbytes
    for run in _runs(rows):
        data = memoryview(pixels[run].tobytes())
        offset = begin + int(rows[run.start]) * each
        while data:
            written = os.pwrite(file, data, offset)
            data, offset = data[written:], offset + written


def _runs(rows: Int64[np.ndarray, " k"]) -> Iterator[slice]:
    ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        yield slice(start, end)


def _described(full_name: str, listing: Listing, plan: Plan, images: np.ndarray) -> Store:
    info = {
        "parts": {part: sorted(names) for part, names in listing.parts.items()},
        "format": listing.format,
        "notes": list(listing.notes),
        "label": listing.label,
        "source": listing.path.name,
        "version": VERSION,
        **listing.info,
    }
    names = [image.name for kind in plan.class_names for image in listing.classes[kind]]
    return Store(
        full_name, images, plan.offsets, plan.class_names, image_names=names, factors=listing.factors, info=info
    )


def _said(problems: list[str]) -> str:
    more = len(problems) - 3
    return "; ".join(problems[:3]) + (f"; and {more} more: `metalearn data check` names all" if more > 0 else "")
