"""How fast image files are packed: one process against all cores, beside a plain Pillow loop, and in how much memory.

Run: python benchmarks/packing.py [rounds]

JPEG files as ImageNet has them (400x300) and as Tiny-ImageNet has them (64x64), to 84x84. Memory is what this process
holds beyond what it held before, at its highest, without the pages of the mapped store that the system can drop.
"""

import io
import sys
import tempfile
import threading
import time
from pathlib import Path

import loky
import numpy as np
from measuring import held
from PIL import Image as Pillow

from tasks import scan as scan_module
from tasks.decode import Decoder
from tasks.listing import Image, Listing, Source
from tasks.packing import packed
from tasks.scan import Plan, scan

DECODER = Decoder(3, 84)


class Files(Source):
    """Ten different JPEG files, over and over."""

    path = Path("files")

    def __init__(self, width: int, height: int):
        random = np.random.default_rng(0)
        self.files = []
        for _ in range(10):
            small = random.integers(0, 256, (height // 8, width // 8, 3)).astype(np.uint8)
            file = io.BytesIO()
            Pillow.fromarray(small).resize((width, height), Pillow.Resampling.BICUBIC).save(file, "JPEG", quality=90)
            self.files.append(file.getvalue())

    def read(self, key: int) -> bytes:
        """Bytes of a file."""
        return self.files[key % 10]


def listing(source: Files, images: int) -> Listing:
    found = [Image(f"{key}.jpg", source, key) for key in range(images)]
    return Listing("files", source.path, {"a": found[: images // 2], "b": found[images // 2 :]}, f"{images}")


def pillow(source: Files, images: int) -> None:
    for key in range(images):
        image = Pillow.open(io.BytesIO(source.read(key))).convert("RGB")
        np.asarray(image.resize((84, 84), Pillow.Resampling.LANCZOS))


def ours(source: Files, images: int, workers: int) -> None:
    loky.cpu_count, before = (lambda: workers), loky.cpu_count
    try:
        for _ in scan(Plan.of(listing(source, images)), DECODER):
            pass
    finally:
        loky.cpu_count = before


def highest(images: int) -> tuple[float, float]:
    """Seconds and megabytes that packing so many images takes."""
    source, before, most, done = Files(64, 64), held(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            most[0] = max(most[0], held() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        packed("bench", listing(source, images), DECODER, root=Path(folder))
    done.set()
    watcher.join()
    return time.perf_counter() - began, most[0] / 1e6


def main(rounds: int) -> None:
    scan_module._FEW = 0
    cores = loky.cpu_count()
    ours(Files(64, 64), 1000, cores)  # starts the processes
    print(f"{'images/s, best of ' + str(rounds):28} {'Pillow loop':>12} {'one process':>12} {f'{cores} processes':>12}")
    for width, height, images in ((400, 300, 1500), (64, 64, 10_000)):
        source = Files(width, height)
        seconds = np.full((3, rounds), np.inf)
        for r in range(rounds):
            for row, work in enumerate((pillow, lambda s, n: ours(s, n, 1), lambda s, n: ours(s, n, cores))):
                began = time.perf_counter()
                work(source, images)
                seconds[row, r] = time.perf_counter() - began
        speed = images / seconds.min(1)
        spread = ", ".join(f"{100 * (row.max() / row.min() - 1):.0f} %" for row in seconds)
        cells = " ".join(f"{value:12,.0f}" for value in speed)
        print(f"{f'{width}x{height} JPEG':28} {cells}   all cores / loop {speed[2] / speed[0]:.2f}   spread {spread}")
    for images in (10_000, 40_000):
        took, megabytes = highest(images)
        written = images * 84 * 84 * 3 / 1e6
        print(f"packing {images} images: {took:.1f} s, {written:.0f} MB written, {megabytes:.0f} MB held")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
