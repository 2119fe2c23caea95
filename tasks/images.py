"""Images by index at the speed of memory: uint8 or float32 in [0, 1], turned where asked, into memory that is there."""

import numpy as np
from jaxtyping import Int, Int8, UInt8

from tasks.class_names import MIRRORED
from tasks.errors import DataError

SCALE = 1 / 255  # of a uint8 image to [0, 1]; a product is faster than a division and at most one rounding off
_BLOCK = 1 << 19  # bytes of images worked on at once: they, and their floats, then stay in the processor's cache


class ImageReader:
    """Images ``images[index]``, each turned as it says, by their positions 0 to m - 1 in ``index``.

    images: (n, c, h, w) uint8, perhaps memory-mapped; never copied. index: (m,) rows of images, any order, perhaps
    repeated. orientations: (m,) 0 to 3 quarter turns, counter-clockwise as np.rot90, 4 to 7 the same of the image
    mirrored left and right. Memory of a call beyond its result: a few blocks of half a megabyte. Raises DataError for a
    row that is not there and for a turned image that is not square.
    """

    def __init__(
        self,
        images: UInt8[np.ndarray, "n c h w"],
        index: Int[np.ndarray, " m"],
        orientations: Int8[np.ndarray, " m"],
    ) -> None:
        check_numbers(index, len(images), "row", "store")
        _, channels, height, width = images.shape
        self.image_shape = (channels, height, width)
        self._stored = np.asarray(images).reshape(len(images), -1)
        self._index: np.ndarray | None = index
        self._size = len(index)
        if self._size and (np.diff(index) == 1).all():  # the usual case: a piece of the store
            self._stored, self._index = self._stored[index[0] : index[0] + self._size], None
        self._orientations = orientations if orientations.any() else None
        self._pixels = {k: _turned_pixels(self.image_shape, k) for k in range(1, 8) if (orientations == k).any()}

    def orientations(self, indices: Int[np.ndarray, "..."]) -> Int8[np.ndarray, "..."] | None:
        """Orientations at these positions, same shape; None where no image of all is turned or mirrored."""
        return None if self._orientations is None else self._orientations.take(indices)

    def uint8(
        self, indices: Int[np.ndarray, "..."], out: np.ndarray | None = None, *, turned: bool = True
    ) -> UInt8[np.ndarray, "... c h w"]:
        """Images at positions of any shape, (*shape, c, h, w), 0 to 255; into ``out`` where given, which is returned.

        ``turned=False`` leaves the images as they are stored. Raises DataError for a position that is not there and
        for an ``out`` of another shape or type.
        """
        return self._gather(indices, out, np.uint8, turned)

    def float32(self, indices: Int[np.ndarray, "..."], out: np.ndarray | None = None) -> np.ndarray:
        """Like ``uint8``, as float32 in [0, 1]: the uint8 value times ``SCALE``."""
        return self._gather(indices, out, np.float32, True)

    def _gather(self, indices: np.ndarray, out: np.ndarray | None, dtype: type, turned: bool) -> np.ndarray:
        check_numbers(indices, self._size, "image", "part")
        out = _room(out, (*indices.shape, *self.image_shape), dtype)
        at, target = indices.reshape(-1), out.reshape(indices.size, self._stored.shape[1])
        step = max(1, _BLOCK // max(1, target.shape[1]))
        scratch = target if dtype is np.uint8 else np.empty((min(step, len(at)), target.shape[1]), np.uint8)
        for start in range(0, len(at), step):
            now = slice(start, min(start + step, len(at)))
            raw = target[now] if dtype is np.uint8 else scratch[: now.stop - start]
            self._take(at[now], raw)
            if turned and self._orientations is not None:
                self._turn(raw, self._orientations.take(at[now]))
            if dtype is not np.uint8:
                np.copyto(target[now], raw)
                np.multiply(target[now], np.float32(SCALE), out=target[now])
        return out

    def _take(self, at: Int[np.ndarray, " b"], raw: UInt8[np.ndarray, "b d"]) -> None:
        rows = at if self._index is None else self._index.take(at)
        # A byte of each image first: the processor waits for many places in memory at once, not for one after another.
        self._stored.reshape(-1).take(rows * self._stored.shape[1], mode="clip")
        self._stored.take(rows, axis=0, out=raw, mode="clip")  # with the default mode numpy copies ``out``

    def _turn(self, raw: UInt8[np.ndarray, "b d"], orientations: Int8[np.ndarray, " b"]) -> None:
        for k, pixels in self._pixels.items():
            these = np.flatnonzero(orientations == k)
            if len(these):
                raw[these] = raw[these].take(pixels, axis=1, mode="clip")


def _turned_pixels(shape: tuple[int, int, int], k: int) -> Int[np.ndarray, " d"]:
    """Which pixel of an image comes to lie where when it is oriented so: the image is then ``flat[pixels]``."""
    if k % 2 and shape[1] != shape[2]:
        raise DataError(
            f"images of {shape[1]}x{shape[2]} cannot be turned by {90 * (k % MIRRORED)} degrees: only square ones can"
        )
    pixels = np.arange(np.prod(shape)).reshape(shape)
    return np.rot90(pixels[:, :, ::-1] if k >= MIRRORED else pixels, k % MIRRORED, axes=(1, 2)).reshape(-1)


def check_numbers(indices: np.ndarray, size: int, what: str, of: str) -> None:
    """Raise DataError unless all are whole numbers from 0 to size - 1; the message names ``what`` ``of`` what."""
    if indices.dtype.kind not in "iu":
        raise DataError(f"{what} numbers are {indices.dtype}; give whole numbers from 0 to {size - 1}")
    low, high = (int(indices.min()), int(indices.max())) if indices.size else (0, -1)
    if low < 0 or high >= size:
        wrong = low if low < 0 else high
        raise DataError(f"{what} {wrong} of a {of} of {size}: give whole numbers from 0 to {size - 1}")


def _room(out: np.ndarray | None, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Return ``out`` when it can hold the images, or new memory."""
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous or not out.flags.writeable:
        given = f"{out.dtype} {out.shape}" + ("" if out.flags.c_contiguous else ", with gaps")
        given += "" if out.flags.writeable else ", read-only"
        raise DataError(f"out is {given}; needed: {np.dtype(dtype)} {shape}, contiguous and writable")
    return out
