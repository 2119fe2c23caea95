"""Omniglot (Lake, Salakhutdinov and Tenenbaum 2015): found or downloaded, verified, packed once."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from tasks.decode import Decoder
from tasks.download import download
from tasks.errors import DataError
from tasks.folders import cache_folder, stores_folder, walk
from tasks.hdf5 import Hdf5
from tasks.listing import Image, Listing
from tasks.packing import newest, packed
from tasks.progress import Progress, silent
from tasks.store import Store
from tasks.tree import Folder, TreeSource, open_tree

SIDE = 105  # pixels of an original drawing
_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"


@dataclass(frozen=True)
class Part:
    """One of the two sets: its folder's name (also the zip's), how much it holds, where it comes from."""

    folder: str
    characters: int
    drawings: int
    md5: str
    url: str


BACKGROUND = Part("images_background", 964, 20, "68d2efa1b9178cc56df9314c21c6e718", f"{_URL}/images_background.zip")
EVALUATION = Part("images_evaluation", 659, 20, "6b91aef0f799c5bb55b94e3f2daec811", f"{_URL}/images_evaluation.zip")
PARTS = (BACKGROUND, EVALUATION)
OBTAIN = (
    "it is downloaded by `metalearn data prepare omniglot` (14 MB); without a network, put images_background.zip and "
    "images_evaluation.zip of github.com/brendenlake/omniglot (folder python), their unpacked folders or torchmeta's "
    "data.hdf5 anywhere in the data root"
)
_TORCHMETA = "data.hdf5"  # other datasets of torchmeta have files of this name too
_ORDER = (
    "read from torchmeta's data.hdf5, which has the drawings of each character in an order of its own: episodes of the "
    "same seed are not of the same drawings as with the zips"
)


def omniglot_store(
    root: Path,
    *,
    image_size: int = 28,
    parts: Sequence[Part] = PARTS,
    cache: Path | None = None,
    report: Progress = silent,
) -> Store:
    """Give the packed drawings: (32460, 1, image_size, image_size) uint8, ink 255 on 0, 1,623 classes x 20.

    The zips or the folders ``images_background`` and ``images_evaluation``, or torchmeta's ``data.hdf5``, may lie
    anywhere under ``root``; what is absent is downloaded to ``root/omniglot-py``. The store is kept in
    ``root/stores``, or, where root is read-only, in ``cache`` (see tasks.folders.stores_folder); when the sources are
    gone, the newest store serves. ``store.info["parts"]`` says which classes are of which of the two sets.
    Raises DataError when a download fails and for whatever is wrong with the files.
    """
    decoder = drawing_decoder(image_size)
    if not find(root, parts, cache):
        kept = newest("omniglot", image_size, root=root, cache=cache)
        if kept is not None:
            return kept
    found = listing(root, parts=parts, cache=cache, report=report)
    return packed("omniglot", found, decoder, root=root, cache=cache, report=report)


def drawing_decoder(image_size: int) -> Decoder:
    """How drawings are decoded: 105x105, black ink, to ink 255. Raises DataError for a size out of range."""
    if not 1 <= image_size <= SIDE:
        raise DataError(f"image_size={image_size}: the drawings have {SIDE} pixels a side; give 1 to {SIDE}")
    return Decoder(1, image_size, invert=True, side=SIDE)


def find(root: Path, parts: Sequence[Part] = PARTS, cache: Path | None = None) -> list[tuple[Path, str]]:
    """Where the files of the parts lie, under root or among the downloads, and what they are."""
    places = [place for part in parts if (place := _place(root, part, cache)) is not None]
    what = {".zip": "zip", ".hdf5": "torchmeta's HDF5 file"}
    return [(place, what.get(place.suffix, "folder")) for place in dict.fromkeys(places)]


def listing(
    root: Path, *, parts: Sequence[Part] = PARTS, cache: Path | None = None, report: Progress = silent
) -> Listing:
    """List the drawings of all parts, classes ``Alphabet/characterNN``; fetches what is absent.

    Raises DataError, naming file and count, for anything but the expected characters and drawings.
    """
    classes: dict[str, list[Image]] = {}
    owners: dict[str, Path] = {}
    sets: dict[str, list[str]] = {}
    stamps = []
    for part in parts:
        path = _place(root, part, cache) or _fetch(part, root, cache, report)
        found, stamp = _rows(path, part) if path.suffix == ".hdf5" else _characters(path, part)
        for name, images in found.items():
            if name in owners:
                raise DataError(f"{name} is in {owners[name]} and in {path}; fetch them again")
            owners[name], classes[name] = path, images
        sets[part.folder] = sorted(found)
        stamps.append(f"{part.folder} {stamp}")
    stamp = hashlib.sha256("\n".join(stamps).encode()).hexdigest()
    where = next(iter(owners.values())).parent
    notes = (_ORDER,) if any(path.suffix == ".hdf5" for path in owners.values()) else ()
    return Listing("drawings in Alphabet/characterNN", where, classes, stamp, sets, notes)


def _place(root: Path, part: Part, cache: Path | None) -> Path | None:
    """Look for a part's zip or folder, the least deep under root, or torchmeta's file; else the download."""
    for top in (root, cache_folder(cache) / "omniglot-py"):
        found: list[Path] = []
        others: list[Path] = []
        for at, folders, files in walk(top):
            found += [at / part.folder] * (part.folder in folders)
            found += [at / f"{part.folder}.zip"] * (f"{part.folder}.zip" in files)
            others += [at / _TORCHMETA] * (_TORCHMETA in files)
        found = found or [path for path in others if _of_torchmeta(path)]
        if found:
            return min(found, key=lambda path: (len(path.parts), path.suffix != ".zip", path))
    return None


def _of_torchmeta(path: Path) -> bool:
    """Whether a data.hdf5 is Omniglot's, by its folder's name, which torchmeta gives, or by what is in it."""
    source = Hdf5(path)
    try:
        return path.parent.name == "omniglot" or any(part.folder in source.top() for part in PARTS)
    except DataError:
        return False
    finally:
        source.close()


def _fetch(part: Part, root: Path, cache: Path | None, report: Progress) -> Path:
    """Download a part's zip; its path. Raises DataError that says where to put the files."""
    path = stores_folder(root, cache).parent / "omniglot-py" / f"{part.folder}.zip"
    try:
        download(part.url, path, part.md5, report=report)
    except DataError as error:
        raise DataError(
            f"no {part.folder}.zip and no folder {part.folder} under {root}, and no download: {error}. "
            f"Without a network, put {part.folder}.zip or its unpacked folder anywhere under {root}"
        ) from error
    return path


def _characters(path: Path, part: Part) -> tuple[dict[str, list[Image]], str]:
    """Drawings by ``Alphabet/characterNN`` in a part's zip or folder, and the stamp of its files."""
    tree = open_tree(path)
    prefix = "" if isinstance(tree, Folder) else rf"(?:^|.*/){part.folder}/"
    inside = re.compile(rf"{prefix}(([^/]+/[^/]+)/[^/]+\.png)")
    source = TreeSource(tree)
    found: dict[str, list[Image]] = {}
    used = []
    for name in tree.names:
        match = inside.fullmatch(name)
        if match:
            used.append(name)
            found.setdefault(match[2], []).append(Image(f"{part.folder}/{match[1]}", source, name))
    _check_counts(path, part, {name: len(images) for name, images in found.items()})
    return {name: sorted(images, key=lambda image: image.name) for name, images in found.items()}, tree.stamp(used)


class _Inked(Hdf5):
    """Drawings of torchmeta, which inverted them, as they were: both kinds are then decoded to the same bytes."""

    def read(self, key: tuple[str, int]) -> UInt8[np.ndarray, "h w *c"]:
        """One drawing (h, w), ink 0. Raises DataError as Hdf5 does."""
        return 255 - super().read(key)


def _rows(path: Path, part: Part) -> tuple[dict[str, list[Image]], str]:
    """Drawings by ``Alphabet/characterNN`` in torchmeta's file, and its stamp."""
    source = _Inked(path)
    found: dict[str, list[Image]] = {}
    for name, (shape, dtype) in source.datasets().items():
        folder, _, character = name.partition("/")
        if folder != part.folder or character.count("/") != 1:
            continue
        if dtype != np.uint8 or len(shape) != 3:
            expected = f"uint8 ({part.drawings}, {SIDE}, {SIDE})"
            raise DataError(f"{path}: {name} holds {dtype} {shape}, expected {expected}; fetch it again")
        found[character] = [Image(f"{name}/{row:02d}", source, (name, row)) for row in range(shape[0])]
    _check_counts(f"{path}, {part.folder}", part, {name: len(images) for name, images in found.items()})
    return found, source.stamp()


def _check_counts(path: object, part: Part, drawings: dict[str, int]) -> None:
    if len(drawings) != part.characters:
        raise DataError(f"{path} holds {len(drawings)} characters, expected {part.characters}; fetch it again")
    for name, count in sorted(Counter(drawings).items()):
        if count != part.drawings:
            raise DataError(f"{path}: {name} has {count} images, expected {part.drawings}; fetch it again")
