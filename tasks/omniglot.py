"""Omniglot (Lake, Salakhutdinov and Tenenbaum 2015): found or downloaded, verified, packed once."""

import hashlib
import io
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from tasks.download import download
from tasks.errors import DataError
from tasks.folders import cache_folder, stores_folder, walk
from tasks.progress import Progress, silent
from tasks.store import Store, open_store, write_store

VERSION = 1  # of the packing: another one gives another store
SIDE = 105  # pixels of an original drawing
_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
_LARGEST = 1 << 20  # bytes of an image file; the real ones have under 2,000


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


@dataclass(frozen=True)
class Source:
    """Image files of a part, in a zip or a folder.

    ``entries`` maps Alphabet/characterNN/FILE.png to its place in the zip or folder; ``stamps`` change with a
    file.
    """

    part: Part
    path: Path
    entries: dict[str, str]
    stamps: tuple[str, ...]


def omniglot_store(
    root: Path,
    *,
    image_size: int = 28,
    parts: Sequence[Part] = (BACKGROUND, EVALUATION),
    cache: Path | None = None,
    report: Progress = silent,
) -> Store:
    """Give the packed drawings: (32460, 1, image_size, image_size) uint8, ink 255 on 0, 1,623 classes x 20.

    The zips or the folders ``images_background`` and ``images_evaluation`` may lie anywhere under ``root``;
    what is absent is downloaded to ``root/omniglot-py``. The store is kept in ``root/stores``, or, where root
    is read-only, in ``cache`` (see tasks.folders.stores_folder). Its name carries image size, packing version
    and a hash of the source files' names, sizes and checksums (in a folder: times), so that other contents
    make another store. When the sources are gone, the newest store serves.
    One core decodes: threads gain nothing here, and new processes would start the caller's script again.
    Raises DataError when a download fails and for whatever is wrong with the files.
    """
    if not 1 <= image_size <= SIDE:
        raise DataError(f"image_size={image_size}: the drawings have {SIDE} pixels a side; give 1 to {SIDE}")
    stem = f"omniglot-{image_size}-v{VERSION}-"
    folders = [root / "stores", cache_folder(cache) / "stores"]
    paths = [find(root, part) or find(cache_folder(cache) / "omniglot-py", part) for part in parts]
    if not any(paths):
        packed = [path for folder in folders if folder.is_dir() for path in folder.glob(f"{stem}*")]
        if packed:
            return open_store(max(packed, key=lambda path: path.stat().st_mtime))
    where = stores_folder(root, cache)
    sources = [
        open_source(path or fetch(part, where.parent / "omniglot-py", root, report), part)
        for path, part in zip(paths, parts, strict=True)
    ]
    content = repr([(source.part.folder, sorted(source.stamps)) for source in sources])
    name = stem + hashlib.sha256(content.encode()).hexdigest()[:12]
    for folder in folders:
        if (folder / name).is_dir():
            return open_store(folder / name)
    return write_store(where / name, pack(name, sources, image_size, report))


def find(root: Path, part: Part) -> Path | None:
    """Look for a part's zip or folder under root: the least deep one, a zip first; None without one."""
    found: list[Path] = []
    for at, folders, files in walk(root):
        found += [at / part.folder] * (part.folder in folders)
        found += [at / f"{part.folder}.zip"] * (f"{part.folder}.zip" in files)
    return min(found, key=lambda path: (len(path.parts), path.suffix != ".zip", path), default=None)


def fetch(part: Part, folder: Path, root: Path, report: Progress) -> Path:
    """Download a part's zip into ``folder``; its path. Raises DataError that says where to put the files."""
    path = folder / f"{part.folder}.zip"
    try:
        download(part.url, path, part.md5, report=report)
    except DataError as error:
        raise DataError(
            f"no {part.folder}.zip and no folder {part.folder} under {root}, and no download: {error}. "
            f"Without a network, put {part.folder}.zip or its unpacked folder anywhere under {root}"
        ) from error
    return path


def open_source(path: Path, part: Part) -> Source:
    """List a zip's or a folder's images and check that they are complete.

    Raises DataError naming the file and the count: not a zip, truncated, entries that point outside of it,
    a number of characters or of drawings a character other than the part's.
    """
    source = _zip_source(path, part) if path.suffix == ".zip" else _folder_source(path, part)
    drawings = Counter(map(_character, source.entries))
    found, expected = len(drawings), part.characters
    if found != expected:
        raise DataError(f"{path} holds {found} characters, expected {expected}; fetch it again")
    for character, count in sorted(drawings.items()):
        if count != part.drawings:
            raise DataError(f"{path}: {character} has {count} images, expected {part.drawings}; fetch it again")
    return source


def _character(entry: str) -> str:
    return entry.rsplit("/", 1)[0]


def _zip_source(path: Path, part: Part) -> Source:
    inside = re.compile(rf"(?:^|/){part.folder}/([^/]+/[^/]+/[^/.][^/]*\.png)$")
    entries, stamps = {}, []
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                steps = info.filename.replace("\\", "/").split("/")
                if not steps[0] or ":" in steps[0] or ".." in steps:
                    raise DataError(f"{path}: entry {info.filename!r} points outside of the zip; refused")
                found = inside.search(info.filename)
                if found and not info.filename.startswith("__MACOSX/"):
                    entries[found[1]] = info.filename
                    stamps.append(f"{found[1]}:{info.file_size}:{info.CRC:08x}")
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} is not a complete zip file ({error}); fetch it again") from error
    return Source(part, path, entries, tuple(stamps))


def _folder_source(path: Path, part: Part) -> Source:
    entries, stamps = {}, []
    for file in path.glob("*/*/*.png"):
        if not file.name.startswith("."):
            name, state = file.relative_to(path).as_posix(), file.stat()
            entries[name] = name
            stamps.append(f"{name}:{state.st_size}:{state.st_mtime_ns}")
    return Source(part, path, entries, tuple(stamps))


def pack(name: str, sources: Sequence[Source], image_size: int, report: Progress = silent) -> Store:
    """Read every image of the sources into one class-sorted store in memory, classes Alphabet/characterNN.

    Raises DataError for an image that cannot be read or has the wrong size, and for a class in two sources.
    """
    owners: dict[str, Path] = {}
    for source in sources:
        for character in {_character(entry) for entry in source.entries}:
            if owners.setdefault(character, source.path) != source.path:
                raise DataError(f"{character} is in {owners[character]} and in {source.path}; fetch them again")
    pairs = ((entry, number) for number, source in enumerate(sources) for entry in source.entries)
    files = sorted(pairs, key=lambda pair: (_character(pair[0]), pair[0]))
    readers = [_reader(source) for source in sources]
    images = np.empty((len(files), 1, image_size, image_size), np.uint8)
    for row, (entry, number) in enumerate(files):
        images[row, 0] = decode(readers[number](entry), f"{sources[number].path}: {entry}", image_size)
        if row % 500 == 0:
            report("pack Omniglot", row, len(files))
    report("pack Omniglot", len(files), len(files))
    counts = Counter(_character(entry) for entry, _ in files)
    class_names = tuple(sorted(counts))
    return Store(
        name=name,
        images=images,
        offsets=np.cumsum([0] + [counts[c] for c in class_names]).astype(np.int64),
        class_names=class_names,
        image_names=tuple(f"{sources[number].part.folder}/{entry}" for entry, number in files),
        info={"sources": [source.path.name for source in sources], "size": image_size, "version": VERSION},
    )


def _reader(source: Source) -> Callable[[str], bytes]:
    """Give a function from an entry's name to its bytes; DataError when they cannot be read."""
    archive = zipfile.ZipFile(source.path) if source.path.suffix == ".zip" else None

    def read(entry: str) -> bytes:
        place = source.entries[entry]
        size = (source.path / place).stat().st_size if archive is None else archive.getinfo(place).file_size
        if size > _LARGEST:
            raise DataError(f"{source.path}: {entry} has {size} bytes, more than any drawing; fetch it again")
        try:
            if archive is not None:
                return archive.read(place)  # compares the checksum
            data = (source.path / place).read_bytes()
            Image.open(io.BytesIO(data), formats=("PNG",)).verify()  # compares the PNG's own checksums
            return data
        except Exception as error:  # zipfile and Pillow let zlib, struct, syntax and runtime errors through
            raise DataError(f"{source.path}: {entry} cannot be read ({error}); fetch it again") from error

    return read


def decode(data: bytes, where: str, image_size: int) -> UInt8[np.ndarray, "s s"]:
    """Decode a 105x105 PNG with black ink to (image_size, image_size) uint8, ink 255, antialiased (Lanczos).

    Raises DataError, naming ``where``, when the bytes are no intact PNG or the size is another.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            size = image.size
            grey = image.convert("L") if size == (SIDE, SIDE) else image
    except Exception as error:  # Pillow lets struct, zlib, syntax and value errors through
        raise DataError(f"{where} is not a readable PNG ({error}); fetch the file again") from error
    if size != (SIDE, SIDE):
        raise DataError(f"{where} is {size[0]}x{size[1]} pixels, expected {SIDE}x{SIDE}; fetch it again")
    return 255 - np.asarray(grey.resize((image_size, image_size), Image.Resampling.LANCZOS))
