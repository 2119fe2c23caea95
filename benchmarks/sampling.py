"""Episodes a second: ours, other libraries', and the memory that their images have to pass, in one run.

Run: python benchmarks/sampling.py [rounds]      (15 rounds take 3 minutes, 3 GB of memory, 1.1 GB of temporary files)

The others: learn2learn comes with the package; easyfsl is not needed for anything else, so give it a folder of its own:
pip install --no-deps --target FOLDER easyfsl==1.5.0 tqdm "pandas<3" pytz python-dateutil tzdata six
PYTHONPATH=FOLDER python benchmarks/sampling.py

One thread. 32,460 images of 1,623 classes (Omniglot's numbers) of 28x28, glyphs. Everything takes its turn in every
round; a figure is of the best round. An episode of ours is drawn and gathered, support and query, into memory that is
there, 500 at a time, new ones every time. The floors are a copy of as many uint8 bytes as 500 episodes have, and a
write (fill) of as many float32, to memory that is there. The others make the tensors of one episode at a time. The bar
is against the best of them as it is used, images in one float32 tensor; what uint8 would give it, and beyond that a
list of tensors split ahead, stands beside it. Plain numpy is fancy indexing and np.rot90, into new memory.

Scale: a file of 1.28 million images of 1,000 classes, random bytes, memory-mapped like every store of ours, beside
Omniglot's numbers in a mapped file. Both files are in the page cache; once, the large one is then dropped from it.
"""

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measuring import held, interleaved
from peers import FILED, InFiles, InMemory, Setting, easyfsl, learn2learn

from tasks.episodes import EpisodeSampler
from tasks.glyphs import glyph_store
from tasks.images import ImageReader

SETTINGS: dict[str, Setting] = {"5w1s15q": (5, 1, 15), "5w5s15q": (5, 5, 15), "20w1s5q": (20, 1, 5)}
CLASSES, EACH = 1623, 20
COUNT = 500  # episodes of ours at a time
TIMES = 4  # in a round
FEW = 60  # episodes of the others in a round
SPLIT = "learn2learn, uint8, split, int labels"
Work = Callable[[], object]


class Ours:
    """What is measured of ours, on images that are sorted by class, ``each`` a class."""

    def __init__(self, images: np.ndarray, each: int, setting: Setting) -> None:
        self.labels, (ways, shots, queries) = np.arange(len(images)) // each, setting
        self.sampler = EpisodeSampler(self.labels, ways=ways, shots=shots, queries=queries, seed=0)
        self.images, rows = images, np.arange(len(images))
        self.upright = ImageReader(images, rows, np.zeros(len(images), np.int8))
        self.turned = ImageReader(images, rows, (self.labels % 4).astype(np.int8))
        self.shapes = [(COUNT, ways, each, *images.shape[1:]) for each in (shots, queries)]
        self.next = 0

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """Draw the next episodes."""
        self.next += COUNT
        drawn = self.sampler[self.next : self.next + COUNT]
        return drawn.support, drawn.query

    def plain(self) -> object:
        """Gather the images of turned classes as the definition says."""
        indices = np.concatenate(self.draw(), -1)
        images, turns = self.images[indices], self.labels[indices] % 4
        for k in (1, 2, 3):
            images[turns == k] = np.rot90(images[turns == k], k, axes=(-2, -1))
        return images

    def works(self) -> dict[str, Work]:
        """Name -> draws and gathers ``COUNT`` episodes."""
        places = {kind: [np.ones(shape, kind) for shape in self.shapes] for kind in (np.uint8, np.float32)}

        def gather(reader: ImageReader, kind: type) -> None:
            for indices, out in zip(self.draw(), places[kind], strict=True):
                (reader.uint8 if kind is np.uint8 else reader.float32)(indices, out)

        return {
            "indices": self.draw,
            "uint8": lambda: gather(self.upright, np.uint8),
            "float32": lambda: gather(self.upright, np.float32),
            "uint8, 3 of 4 turned": lambda: gather(self.turned, np.uint8),
            "float32, 3 of 4 turned": lambda: gather(self.turned, np.float32),
            "plain numpy uint8, 3 of 4 turned": self.plain,
        }


def floors(setting: Setting) -> dict[str, Work]:
    """Name -> moves the bytes of ``COUNT`` episodes."""
    ways, shots, queries = setting
    source, target = (np.ones((COUNT, ways * (shots + queries), 784), np.uint8) for _ in range(2))
    floats = np.ones(target.shape, np.float32)
    return {"memcpy uint8": lambda: np.copyto(target, source), "write float32": lambda: floats.fill(0.5)}


def others(images: np.ndarray, labels: np.ndarray, folder: Path) -> tuple[dict[str, Callable], dict[str, str]]:
    """Name -> setting -> one episode; and name -> why a library is missing."""
    floats = np.float32(images) / 255
    makers: dict[str, Callable] = {
        f"learn2learn, PIL, {FILED} classes": lambda: learn2learn(InFiles(images, labels, folder)),
        "learn2learn, float32, tensor labels": lambda: learn2learn(InMemory(floats, labels, tensors=True)),
        "learn2learn, float32, int labels": lambda: learn2learn(InMemory(floats, labels)),
        "easyfsl, float32, 0 workers": lambda: easyfsl(InMemory(floats, labels), 0),
        "easyfsl, float32, 2 workers": lambda: easyfsl(InMemory(floats, labels), 2),
        "learn2learn, uint8, int labels": lambda: learn2learn(InMemory(images, labels)),
        SPLIT: lambda: learn2learn(InMemory(images, labels, split=True)),
    }
    found, missing = {}, {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except ImportError as error:
            missing[name] = str(error)
    return found, missing


def repeated(work: Work, times: int) -> Work:
    """Return what does it several times."""
    return lambda: [work() for _ in range(times)]


def speeds(images: np.ndarray, labels: np.ndarray, folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Setting -> name -> episodes a second; prints the table."""
    peers, missing = others(images, labels, folder)
    found: dict[str, dict[str, float]] = {}
    for setting, numbers in SETTINGS.items():
        ours = Ours(images, EACH, numbers).works() | floors(numbers)
        works = {name: repeated(work, TIMES) for name, work in ours.items()}
        works |= {name: repeated(of(numbers), FEW) for name, of in peers.items()}
        interleaved(works, 1)  # fills caches, starts workers
        seconds = interleaved(works, rounds)
        found[setting] = {name: (COUNT * TIMES if name in ours else FEW) / each.min() for name, each in seconds.items()}
    print(f"episodes/s, best of {rounds} rounds, N = {COUNT * TIMES} episodes of ours a round, {FEW} of the others'")
    print(f"{'':36}" + "".join(f"{setting:>12}" for setting in SETTINGS))
    for name in next(iter(found.values())):
        print(f"{name:36}" + "".join(f"{found[setting][name]:12,.0f}" for setting in SETTINGS))
    for name, why in missing.items():
        print(f"{name:36} missing: {why}; see the head of this file")
    usual = [name for name in peers if "uint8" not in name]
    best = {setting: max((of[name] for name in usual), default=np.nan) for setting, of in found.items()}
    for setting, of in found.items():
        images_an_episode = SETTINGS[setting][0] * sum(SETTINGS[setting][1:])
        bar = 100_000 * (80 / images_an_episode if SETTINGS[setting][0] > 5 else 1)
        print(f"\n{setting}")
        verdict("uint8 / memcpy of the same bytes", of["uint8"] / of["memcpy uint8"], 0.5)
        verdict("uint8 / best peer as it is used", of["uint8"] / best[setting], 30)
        for name in [name for name in peers if "uint8" in name]:
            copy = of["memcpy uint8"] / of[name]
            print(f"  {'uint8 / ' + name:44} {of['uint8'] / of[name]:9.2f}   a memcpy would be {copy:.1f}")
        verdict("float32 / write of the same float32", of["float32"] / of["write float32"], 0.4)
        verdict("indices/s, in 100,000", of["indices"] / 1e5, bar / 1e5)
    return found


def verdict(what: str, value: float, bar: float, most: bool = False) -> None:
    """Print a figure beside its bar."""
    passed = value <= bar if most else value >= bar
    word = "not measured" if np.isnan(value) else "PASS" if passed else "FAIL"
    print(f"  {what:44} {value:9.2f}   bar {'<=' if most else '>='} {bar:<6.4g} {word}")


def write_file(path: Path, images: int) -> None:
    """Write a .npy of random 28x28 images, a piece at a time."""
    rng, piece = np.random.default_rng(0), 1 << 26
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (images, 1, 28, 28)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, images * 784, piece):
            file.write(rng.bytes(min(piece, images * 784 - start)))
        file.flush()
        os.fsync(file.fileno())


def scale(folder: Path, rounds: int) -> None:
    """What an episode of 1.28 million images costs beside one of Omniglot's number, and the memory it takes."""
    small, large = folder / "small.npy", folder / "large.npy"
    write_file(small, CLASSES * EACH)
    write_file(large, 1_280_000)
    print(f"\n1,280,000 images of 1,000 classes, a file of {large.stat().st_size / 1e9:.2f} GB of random bytes, cached")
    labels = np.arange(1_280_000) // 1280
    sampler = EpisodeSampler(labels, ways=5, shots=1, queries=15, seed=0)
    rows, turns = np.arange(len(labels)), np.zeros(len(labels), np.int8)
    makers: dict[str, Work] = {
        "sampler": lambda: EpisodeSampler(labels, ways=5, shots=1, queries=15, seed=0),
        "reader": lambda: ImageReader(np.load(large, mmap_mode="r"), rows, turns),
    }
    for name, seconds in interleaved(makers, 5).items():
        verdict(f"milliseconds to make the {name}, best of 5", seconds.min() * 1e3, 1000, most=True)
    kept = sum(value.nbytes for value in vars(sampler).values() if isinstance(value, np.ndarray))
    print(f"  the sampler keeps {kept:,} bytes")
    for setting in SETTINGS:
        growth(small, large, setting, rounds)
    memory(large)
    cold(large)


def growth(small: Path, large: Path, setting: str, rounds: int) -> None:
    """Cost of an episode of the large file beside that of the small one."""
    works: dict[tuple[str, str], Work] = {}
    for name, path, each in (("small", small, EACH), ("large", large, 1280)):
        every = Ours(np.load(path, mmap_mode="r"), each, SETTINGS[setting]).works()
        works |= {(name, kind): repeated(every[kind], TIMES) for kind in ("indices", "uint8", "float32")}
    interleaved(works, 1)
    seconds = interleaved(works, rounds)
    for kind in ("indices", "uint8", "float32"):
        cost = {name: seconds[name, kind].min() / (COUNT * TIMES) * 1e6 for name in ("small", "large")}
        what = f"{setting} {kind}: {cost['large']:.1f} us / Omniglot's {cost['small']:.1f}"
        if kind == "indices":  # a part of the others: the bar is of whole episodes
            print(f"  {what:44} {cost['large'] / cost['small']:9.2f}")
        else:
            verdict(what, cost["large"] / cost["small"], 1.5, most=True)


def memory(large: Path) -> None:
    """Memory while 40,000 episodes are gathered, beyond their outputs."""
    works = Ours(np.load(large, mmap_mode="r"), 1280, SETTINGS["5w1s15q"]).works()
    own, pages, highest = held(), held("RssFile"), 0
    for _ in range(40):
        works["uint8"](), works["float32"]()
        highest = max(highest, held() - own)
    seen = held("RssFile") - pages
    print(f"  memory while {80 * COUNT:,} episodes are gathered: {highest / 1e6:.1f} MB more of its own,")
    print(f"  {seen / 1e6:,.0f} MB more of mapped pages of the file, which the system drops when it needs memory")


def cold(large: Path, count: int = 100) -> None:
    """Episodes from a file that was dropped from the page cache: read once, for what is read is then there."""
    with large.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    images = np.load(large, mmap_mode="r")
    reader = ImageReader(images, np.arange(len(images)), np.zeros(len(images), np.int8))
    drawn = EpisodeSampler(np.arange(len(images)) // 1280, ways=5, shots=1, queries=15, seed=1)[0:count]
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    reader.uint8(drawn.support)
    reader.uint8(drawn.query)
    speed = count / (time.perf_counter() - began)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before
    print(f"  first {count} episodes (5w1s15q) after the file was dropped from the page cache: {speed:,.0f} a second,")
    print(f"  {faults:,} times waited for the disk, which reads ahead, for {count * 80:,} images")


def main(rounds: int) -> None:
    """Print everything."""
    torch.set_num_threads(1)
    load = os.getloadavg()
    print(f"{os.cpu_count()} cores, load {load[0]:.1f} {load[1]:.1f} {load[2]:.1f}, torch {torch.__version__}")
    store = glyph_store(classes=CLASSES, instances=EACH)
    labels = np.repeat(np.arange(CLASSES), EACH)
    with tempfile.TemporaryDirectory() as folder:
        speeds(store.images, labels, Path(folder), rounds)
        scale(Path(folder), rounds)
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
