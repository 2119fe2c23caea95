"""How fast data is made: glyphs, episode indices, and the memory copy that their images would take, in one run.

Run: python benchmarks/data.py [rounds]
"""

import sys
import time
from collections.abc import Callable

import numpy as np

from tasks.episodes import EpisodeSampler
from tasks.glyphs import glyph_store

EPISODES = 2000
SETTINGS = {"5w1s15q": (5, 1, 15), "5w5s15q": (5, 5, 15), "20w1s5q": (20, 1, 5), "20w5s15q": (20, 5, 15)}


def best(work: Callable[[], object], rounds: int) -> float:
    """Least seconds of several rounds."""
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def main(rounds: int) -> None:
    """Print glyphs a second, and episodes a second beside a copy of as many 28x28 uint8 images."""
    seconds = best(glyph_store, 1)
    print(f"glyphs: 24,000 images of 1,200 classes in {seconds:.1f} s")
    labels = np.repeat(np.arange(659), 20)
    print(f"{'':10} {'indices/s':>10} {'copies/s':>10} {'ratio':>6}   N = {EPISODES} episodes, best of {rounds}")
    for name, (ways, shots, queries) in SETTINGS.items():
        sampler = EpisodeSampler(labels, ways=ways, shots=shots, queries=queries, seed=0)
        images = np.zeros((200, ways * (shots + queries), 784), np.uint8)
        target = np.empty_like(images)
        drawn = EPISODES / best(lambda sampler=sampler: sampler[0:EPISODES], rounds)
        copied = len(images) / best(lambda images=images, target=target: np.copyto(target, images), rounds)
        print(f"{name:10} {drawn:10,.0f} {copied:10,.0f} {drawn / copied:6.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
