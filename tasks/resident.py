"""Images of a part on the device that works on them: kept there, or gathered on the host and brought ahead of use."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float32, Int, Int64, UInt8
from torch import Tensor

from tasks.class_names import MIRRORED
from tasks.episodes import EpisodeIndices, EpisodeSampler
from tasks.errors import DataError, unknown
from tasks.images import SCALE, ImageReader, check_numbers
from tasks.splits import Partition

RESIDENCES = ("host", "device", "stream")
SHARE = 0.5  # of the device's free memory, which the images of a part may take
_PIECE = 1 << 26  # bytes brought to the device at once
_AHEAD = 2  # batches gathered before they are asked for
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class EpisodeBatch:
    """Images of ``b`` episodes as float32 in [0, 1] and the labels of their ways, on a device; and which they are."""

    support: Float32[Tensor, "b ways shots c h w"]
    query: Float32[Tensor, "b ways queries c h w"]
    classes: Int64[Tensor, "b ways"]
    indices: EpisodeIndices


class DeviceImages:
    """Images of a part as float32 in [0, 1] on ``device``, the same bits wherever they come from.

    ``residence`` says how, and ``why`` in words:
    ``host``    the device is the CPU: gathered from the store, turned and converted where they lie.
    ``device``  the stored images are kept in the device's memory as uint8, turned and converted there.
    ``stream``  gathered as uint8 by a thread, two batches ahead (for a GPU in pinned memory and by a stream of its
                own, so that copies run while it works), turned and converted on the device.
    Unless it is given: ``host`` for the CPU; else ``device`` where the images take at most ``share`` of the memory
    that is free on the device now; else ``stream``. Raises DataError for another residence, for a share outside 0 to
    1, and for ``host`` where the device is not the CPU.
    """

    def __init__(
        self,
        partition: Partition,
        device: str | torch.device = "cpu",
        *,
        residence: str | None = None,
        share: float = SHARE,
    ) -> None:
        if not 0 <= share <= 1:
            raise DataError(f"share={share} of the device's free memory; allowed: 0 to 1")
        self.partition, self.device = partition, torch.device(device)
        if residence is None:
            self.residence, self.why = _choose(partition, self.device, share)
        else:
            self.residence, self.why = residence, "as asked"
        if self.residence not in RESIDENCES:
            raise DataError(unknown("residence", self.residence, RESIDENCES))
        if self.residence == "host" and self.device.type != "cpu":
            raise DataError(f"residence 'host' is for the CPU, not for {self.device}; give 'device' or 'stream'")
        self._kept = _Kept(partition, self.device) if self.residence == "device" else None

    def episodes(self, sampler: EpisodeSampler, start: int, stop: int, batch: int) -> Iterator[EpisodeBatch]:
        """Episodes ``start`` to ``stop - 1`` of the sampler in batches, in order; the last batch may be smaller.

        The sampler is of this part's labels. An iterator that is dropped early ends its thread. An error of the
        thread is raised here. Raises DataError for a batch below 1, and what the sampler raises.
        """
        if batch < 1:
            raise DataError(f"batch={batch} episodes at a time; give at least 1")

        def draw(first: int) -> tuple[np.ndarray, EpisodeIndices]:
            drawn = sampler[first : min(first + batch, stop)]
            return np.concatenate([drawn.support.reshape(-1), drawn.query.reshape(-1)]), drawn

        for images, drawn in self._made(draw, range(start, stop, batch)):
            support, query = images.split([drawn.support.size, drawn.query.size])
            classes = torch.from_numpy(np.ascontiguousarray(drawn.classes)).to(self.device)
            yield EpisodeBatch(
                support.unflatten(0, drawn.support.shape), query.unflatten(0, drawn.query.shape), classes, drawn
            )

    def batches(self, indices: Int[np.ndarray, " n"], batch: int) -> Iterator[Float32[Tensor, "b c h w"]]:
        """Images at these positions of the part, in order, ``batch`` at a time; the last batch may be smaller."""
        if batch < 1:
            raise DataError(f"batch={batch} images at a time; give at least 1")
        firsts = range(0, len(indices), batch)
        for images, _ in self._made(lambda first: (indices[first : first + batch], None), firsts):
            yield images

    def _made(self, draw: Callable[[int], tuple[np.ndarray, Made]], firsts: range) -> Iterator[tuple[Tensor, Made]]:
        """Float images of what is drawn for each of ``firsts``, and what else was drawn."""
        reader = self.partition.reader
        if self.residence == "stream":
            transfer = _Transfer(reader, self.device)

            def fetch(first: int) -> tuple[np.ndarray, "_Sent", Made]:
                at, more = draw(first)
                return at, transfer(at), more

            for at, sent, more in _ahead(fetch, firsts):
                yield self._finished(sent.received(), at), more
            return
        for at, more in map(draw, firsts):
            if self._kept is None:
                yield torch.from_numpy(reader.float32(at)), more
            else:
                yield self._finished(self._kept(at), at), more

    def _finished(self, raw: UInt8[Tensor, "n c h w"], at: Int[np.ndarray, " n"]) -> Float32[Tensor, "n c h w"]:
        found = self.partition.reader.orientations(at)
        for k in range(1, 8) if found is not None else ():
            these = torch.from_numpy(np.flatnonzero(found == k)).to(self.device)
            chosen = raw[these].flip(-1) if k >= MIRRORED else raw[these]
            raw[these] = torch.rot90(chosen, k % MIRRORED, (-2, -1))
        return raw.float().mul_(SCALE)


class _Kept:
    """The stored images of a part in the memory of a device, each once however often it is turned."""

    def __init__(self, partition: Partition, device: torch.device) -> None:
        stored, self.rows = np.unique(partition.index, return_inverse=True)
        self.images = torch.empty((len(stored), *partition.image_shape), dtype=torch.uint8, device=device)
        reader = ImageReader(partition.store.images, stored, np.zeros(len(stored), np.int8))
        step = max(1, _PIECE // max(1, int(np.prod(partition.image_shape))))
        for start in range(0, len(stored), step):
            piece = reader.uint8(np.arange(start, min(start + step, len(stored))))
            self.images[start : start + len(piece)].copy_(torch.from_numpy(piece))

    def __call__(self, at: Int[np.ndarray, " n"]) -> UInt8[Tensor, "n c h w"]:
        """Images at these positions of the part, as stored, in memory of their own."""
        check_numbers(at, len(self.rows), "image", "part")
        return self.images.index_select(0, torch.from_numpy(self.rows[at]).to(self.images.device))


@dataclass(frozen=True, eq=False)
class _Sent:
    """Images on their way to the device, and the event after which they are there."""

    images: UInt8[Tensor, "n c h w"]
    arrived: torch.cuda.Event | None

    def received(self) -> Tensor:
        """Let the current stream wait for them, and their memory for what it will do with them."""
        if self.arrived is not None:
            current = torch.cuda.current_stream(self.images.device)
            current.wait_event(self.arrived)
            self.images.record_stream(current)
        return self.images


class _Transfer:
    """Gathers images and sends them to the device: for a GPU through two pinned buffers in turn, without waiting."""

    def __init__(self, reader: ImageReader, device: torch.device) -> None:
        self.reader, self.device = reader, device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.used: deque[tuple[Tensor, torch.cuda.Event]] = deque()

    def __call__(self, at: Int[np.ndarray, " n"]) -> _Sent:
        if self.stream is None:
            return _Sent(torch.from_numpy(self.reader.uint8(at, turned=False)).to(self.device), None)
        buffer = self._buffer((len(at), *self.reader.image_shape))
        self.reader.uint8(at, buffer.numpy(), turned=False)
        with torch.cuda.stream(self.stream):
            images = buffer.to(self.device, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(self.stream)
        self.used.append((buffer, arrived))
        return _Sent(images, arrived)

    def _buffer(self, shape: tuple[int, ...]) -> Tensor:
        """Pinned memory that no copy reads any more."""
        if len(self.used) == 2:
            buffer, arrived = self.used.popleft()
            arrived.synchronize()
            if buffer.shape == shape:
                return buffer
        return torch.empty(shape, dtype=torch.uint8, pin_memory=True)


def _ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """Like ``map``, by one thread that is up to ``_AHEAD`` items ahead and ends with the iterator."""
    pool, waiting = ThreadPoolExecutor(1, "images"), deque[Future[Made]]()
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device now, or None where that cannot be measured."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def _choose(partition: Partition, device: torch.device, share: float) -> tuple[str, str]:
    """Where the images are to be, and why."""
    if device.type == "cpu":
        return "host", "the device is the CPU, which works on the store's own memory"
    free = free_memory(device)
    if free is None:
        return "stream", f"how much memory of {device} is free cannot be measured"
    size = len(np.unique(partition.index)) * int(np.prod(partition.image_shape))
    fits = size <= share * free
    words = f"{size / 1e6:,.1f} MB of images {'fit' if fits else 'do not fit'} into {share:.0%} of the"
    return ("device" if fits else "stream"), f"{words} {free / 1e6:,.1f} MB that are free on {device}"
