"""An Omniglot of a few drawings, written as zips or folders, for tests of what can be wrong with them."""

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from tasks.omniglot import Part

DRAWINGS = 3


def png(seed: int, size: tuple[int, int] = (105, 105), mode: str = "1") -> bytes:
    """A white image with a black block whose place depends on the seed."""
    ink = np.full(size[::-1], 255, np.uint8)
    ink[10 + seed % 40 : 40 + seed % 40, 20 : 30 + seed % 50] = 0
    file = io.BytesIO()
    Image.fromarray(ink).convert(mode).save(file, "PNG")
    return file.getvalue()


def drawings(folder: str, alphabets: list[str], characters: int = 2) -> dict[str, bytes]:
    names = [
        f"{folder}/{alphabet}/character{c:02d}/{d:04d}_{d:02d}.png"
        for alphabet in alphabets
        for c in range(1, characters + 1)
        for d in range(DRAWINGS)
    ]
    return {name: png(seed) for seed, name in enumerate(names)}


def part(folder: str, characters: int, data: bytes = b"", url: str = "http://127.0.0.1:9/none.zip") -> Part:
    return Part(folder, characters, DRAWINGS, hashlib.md5(data).hexdigest(), url)


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_folder(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


BACKGROUND = drawings("images_background", ["Greek", "Latin"])
EVALUATION = drawings("images_evaluation", ["Tifinagh"])
PARTS = (part("images_background", 4), part("images_evaluation", 2))
