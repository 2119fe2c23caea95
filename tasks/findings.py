"""What is to be known about the images of a dataset before it is trusted: sizes, greys, duplicates, what is broken."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt64

from tasks.decode import Decoder
from tasks.listing import Listing
from tasks.progress import Progress, silent
from tasks.scan import Chunk, Plan, scan
from tasks.store import Store

_PIECE = 512  # packed images looked at together


@dataclass
class Findings:
    """What looking at every image found.

    ``counts``: class name to number of images. ``sizes``: (width, height) of the originals to how many, empty where
    only packed images were there. ``grey``: names of images without colour. ``problems``: words for each image that
    cannot be read or decoded. ``equal``: groups of two or more images with the same pixels, each (class, name).
    """

    counts: dict[str, int]
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    grey: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    equal: list[list[tuple[str, str]]] = field(default_factory=list)


def look_at_listing(listing: Listing, decoder: Decoder, report: Progress = silent) -> Findings:
    """Decode every image of a listing, on all cores, and say what was found; nothing is written.

    Duplicates are images whose pixels, decoded as ``decoder`` does, are equal. About 200 bytes an image are kept.
    """
    plan = Plan.of(listing)
    names = [image.name for kind in plan.class_names for image in listing.classes[kind]]
    chunks = (chunk for _, chunk in scan(plan, decoder))
    return _look(
        chunks, plan.class_names, plan.offsets, names, decoder.channels, f"look at {listing.path.name}", report
    )


def look_at_store(store: Store, report: Progress = silent) -> Findings:
    """The same for packed images, whose original sizes are no longer known."""
    names = list(store.image_names) or [f"image {row}" for row in range(len(store.images))]
    channels = store.images.shape[1]
    return _look(_pieces(store), store.class_names, store.offsets, names, channels, f"look at {store.name}", report)


def _pieces(store: Store) -> Iterator[Chunk]:
    for start in range(0, len(store.images), _PIECE):
        pixels = np.array(store.images[start : start + _PIECE])
        grey = (pixels == pixels[:, :1]).all((1, 2, 3))
        rows = np.arange(start, start + len(pixels))
        yield Chunk(rows, pixels, np.zeros((len(rows), 2), np.int64), grey, np.ones(len(rows), bool), [])


def _look(
    chunks: Iterable[Chunk],
    class_names: tuple[str, ...],
    offsets: np.ndarray,
    names: list[str],
    channels: int,
    what: str,
    report: Progress,
) -> Findings:
    found = Findings(dict(zip(class_names, np.diff(offsets).tolist(), strict=True)))
    digests = np.zeros(len(names), np.uint64)
    readable = np.zeros(len(names), bool)
    grey: list[int] = []
    done = 0
    for chunk in chunks:
        found.problems += chunk.problems
        found.sizes.update((width, height) for width, height in chunk.sizes.tolist() if width)
        for place, row in enumerate(chunk.rows.tolist()):
            digests[row] = _digest(chunk.pixels[place])
        readable[chunk.rows] = chunk.readable
        if channels == 3:
            grey += chunk.rows[chunk.grey].tolist()
        done += len(chunk.rows)
        report(what, done, len(names))
    found.grey = [names[row] for row in sorted(grey)]
    kinds = np.repeat(np.arange(len(class_names)), np.diff(offsets))
    rows = np.flatnonzero(readable)
    found.equal = [
        [(class_names[kinds[row]], names[row]) for row in rows[group].tolist()] for group in _groups(digests[rows])
    ]
    return found


def _digest(pixels: np.ndarray) -> np.uint64:
    """64 bits of the pixels' hash: two different images of a million agree with a chance of 3 in 100 million."""
    return np.frombuffer(hashlib.blake2b(pixels.tobytes(), digest_size=8).digest(), "<u8")[0]


def _groups(digests: UInt64[np.ndarray, " n"]) -> list[np.ndarray]:
    """Positions of equal values, a group of two or more each, in order of their first."""
    order = np.argsort(digests, kind="stable")
    ends = np.flatnonzero(np.diff(digests[order])) + 1
    return sorted((group for group in np.split(order, ends) if len(group) > 1), key=lambda group: int(group[0]))
