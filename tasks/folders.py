"""Where data lies: the data root, the cache, and the search for files under a root."""

import os
from collections.abc import Iterator
from pathlib import Path

from tasks.errors import DataError


def existing(root: Path) -> Path:
    """Give root back; make it when it is the default cache folder. Raises DataError when it is no folder."""
    if root == cache_folder() and not root.exists():
        root.mkdir(parents=True)
    if not root.is_dir():
        raise DataError(
            f"data root {root} is not a folder; create it, or give another by --data-root or METALEARN_DATA"
        )
    return root


def cache_folder(cache: Path | None = None) -> Path:
    """Give the folder for what can be made again: cache, METALEARN_CACHE or ``~/.cache/metalearn``."""
    return cache or Path(os.environ.get("METALEARN_CACHE") or Path.home() / ".cache" / "metalearn")


def stores_folder(root: Path, cache: Path | None = None) -> Path:
    """Where packed stores go: ``root/stores``, or ``cache/stores`` when root cannot be written.

    ``cache`` defaults to the environment variable METALEARN_CACHE, then to ``~/.cache/metalearn``. A folder
    without a write bit counts as read-only, also for a superuser.
    """
    stores = root / "stores"
    if _writable(stores if stores.is_dir() else root):
        return stores
    return cache_folder(cache) / "stores"


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Visit root and the folders below it: (folder, names of folders, names of files).

    Links are followed, each folder is visited once. Hidden folders, packed stores and folders of images
    (``images``, ``images_...``) are not entered; their names are given.
    """
    seen = set()
    for at, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(at)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        names = list(folders)
        folders[:] = [n for n in folders if n not in ("stores", "images") and not n.startswith(("images_", "."))]
        yield Path(at), names, files


def _writable(folder: Path) -> bool:
    return folder.is_dir() and bool(folder.stat().st_mode & 0o222) and os.access(folder, os.W_OK)
