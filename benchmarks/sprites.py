"""Sprites a second, drawn by one thread, beside the same images read from a memory map in a random order.

Run: python benchmarks/sprites.py [rounds]

Reading is the best case of a stored dataset: 165 MB that are in the system's page cache, no decompression.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tasks.sprites import GRID, atlas, draw, sprites

IMAGES = 40_320
BATCH = 256


def rate(work: Callable[[np.ndarray], object], rows: np.ndarray, rounds: int) -> tuple[float, float]:
    """Images a second in batches, best of the rounds, and the spread of the rounds."""
    seconds = np.empty(rounds)
    for r in range(rounds):
        began = time.perf_counter()
        for start in range(0, len(rows), BATCH):
            work(rows[start : start + BATCH])
        seconds[r] = time.perf_counter() - began
    return len(rows) / seconds.min(), seconds.max() / seconds.min() - 1


def main(rounds: int) -> None:
    began = time.perf_counter()
    atlas()
    print(f"the 720 sprites, once a process: {time.perf_counter() - began:.3f} s, {atlas().nbytes / 1e6:.1f} MB")
    rows = np.random.default_rng(0).choice(GRID.count, IMAGES, replace=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, draw(rows))
        stored = np.load(path, mmap_mode="r")
        order = np.random.default_rng(1).permutation(IMAGES)
        for name, work, which in (
            ("drawn", draw, rows),
            ("read", lambda places: np.asarray(stored[places]), order),
        ):
            speed, spread = rate(work, which, rounds)
            print(f"{name:6} {speed:12,.0f} images/s in batches of {BATCH}, best of {rounds}, spread {spread:.0%}")
    began = time.perf_counter()
    sprites(images=IMAGES)
    print(f"dataset of {IMAGES:,} images, hashed and divided: {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
