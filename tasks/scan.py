"""Every image of a listing, decoded on all cores, in chunks whose order and contents depend on the listing alone."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import loky
import numpy as np
from jaxtyping import Bool, Int64, UInt8

from tasks.decode import Decoder
from tasks.errors import DataError
from tasks.listing import Image, Listing

CHUNK = 64  # images decoded at once by one worker: a few megabytes of files
_FEW = 4096  # images: fewer are decoded here before other processes would have started


Task = tuple[list[int], list[str], list[Any]]
"""Rows, names and contents (bytes, pixels, or the words of what went wrong) of the images of a chunk."""


class Chunk(NamedTuple):
    """Decoded images and the rows of the store that they belong to.

    ``sizes``: width and height of the originals; ``grey``: whether all colours are greys; ``readable``: False for an
    image that could not be read or decoded, whose pixels are 0, and of which ``problems`` speaks.
    """

    rows: Int64[np.ndarray, " k"]
    pixels: UInt8[np.ndarray, "k c h w"]
    sizes: Int64[np.ndarray, "k wh"]
    grey: Bool[np.ndarray, " k"]
    readable: Bool[np.ndarray, " k"]
    problems: list[str]


@dataclass(frozen=True, eq=False)
class Plan:
    """The order in which images are read: source by source, each forward, whatever the order of the classes.

    ``order``: (row of the store, image); rows follow sorted class names and, within a class, the listing.
    """

    class_names: tuple[str, ...]
    offsets: Int64[np.ndarray, " k1"]
    order: list[tuple[int, Image]]

    @property
    def images(self) -> int:
        """How many there are."""
        return len(self.order)

    @classmethod
    def of(cls, listing: Listing) -> "Plan":
        """Plan the reading of a listing."""
        names = tuple(sorted(listing.classes))
        counts = [len(listing.classes[name]) for name in names]
        order = list(enumerate(image for name in names for image in listing.classes[name]))
        sources: dict[int, int] = {}
        for _, image in order:
            sources.setdefault(id(image.source), len(sources))
        order.sort(key=lambda pair: (sources[id(pair[1].source)], pair[1].source.rank(pair[1].key)))
        return cls(names, np.cumsum([0, *counts]).astype(np.int64), order)


def scan(plan: Plan, decoder: Decoder, first: int = 0) -> Iterator[tuple[int, Chunk]]:
    """Yield (number, chunk) from chunk ``first`` on, in order. At most a few chunks are in memory at once.

    This process reads, others decode: new interpreters that do not run the caller's script again. Sources are closed
    when their last image is read.
    """
    starts = range(first * CHUNK, plan.images, CHUNK)
    few = plan.images - first * CHUNK < _FEW
    workers = 1 if few else loky.cpu_count()
    tasks = _read(plan, starts)
    if workers == 1:
        yield from enumerate((decode_all(*task, decoder) for task in tasks), first)
    else:
        yield from enumerate(_elsewhere(tasks, decoder, workers), first)


def _elsewhere(tasks: Iterable[Task], decoder: Decoder, workers: int) -> Iterator[Chunk]:
    """Decode in other processes; no more than three chunks a worker are read and not yet taken."""
    executor = loky.get_reusable_executor(max_workers=workers)
    pending: deque[Any] = deque()
    try:
        for task in tasks:
            pending.append(executor.submit(decode_all, *task, decoder))
            if len(pending) == 3 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except loky.process_executor.BrokenProcessPool as error:
        raise DataError(
            "a process that decodes images was ended from outside, perhaps because memory ran out; free memory and run "
            "again: it goes on where it stood"
        ) from error
    finally:
        for future in pending:
            future.cancel()


def _read(plan: Plan, starts: Iterable[int]) -> Iterator[Task]:
    """Read chunk by chunk; a source is closed when the next one is begun."""
    source = None
    for start in starts:
        part = plan.order[start : start + CHUNK]
        contents: list[Any] = []
        for _, image in part:
            if source is not None and source is not image.source:
                source.close()
            source = image.source
            try:
                contents.append(source.read(image.key))
            except DataError as error:
                contents.append(str(error))
        yield [row for row, _ in part], [f"{image.source.path}: {image.name}" for _, image in part], contents
    if source is not None:
        source.close()


def decode_all(rows: list[int], names: list[str], contents: list[Any], decoder: Decoder) -> Chunk:
    """Decode what was read; what cannot be is a problem in words, not an exception."""
    pixels = np.zeros((len(rows), decoder.channels, decoder.size, decoder.size), np.uint8)
    sizes, grey, readable = np.zeros((len(rows), 2), np.int64), np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    problems = []
    for place, (name, content) in enumerate(zip(names, contents, strict=True)):
        if isinstance(content, str):
            problems.append(content)
            continue
        try:
            image = decoder(content, name)
        except DataError as error:
            problems.append(str(error))
            continue
        pixels[place], sizes[place], grey[place] = image.pixels, (image.width, image.height), image.grey
        readable[place] = True
    return Chunk(np.array(rows, np.int64), pixels, sizes, grey, readable, problems)
