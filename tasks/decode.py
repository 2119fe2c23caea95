"""From the bytes of an image file, or an array, to pixels of the size and channels that a store holds."""

import io
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image as Pillow

from tasks.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
LARGEST = 50_000_000  # pixels: more is taken for a decompression bomb; ImageNet's largest has 25 million
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L")


class Decoded(NamedTuple):
    """Pixels (c, size, size) uint8; width and height of the original; whether its colours are all greys."""

    pixels: UInt8[np.ndarray, "c h w"]
    width: int
    height: int
    grey: bool


@dataclass(frozen=True)
class Decoder:
    """Decodes images to (channels, size, size) uint8, antialiased (Lanczos).

    ``fit``: ``stretch`` both sides to ``size``, as mini-ImageNet was made, or ``crop`` the centre after the shorter
    side has ``size``. ``invert``: 255 minus the value, for drawings with black ink. ``side``: the width and height
    that every original must have, if any. Transparency is laid on white.
    """

    channels: Literal[1, 3]
    size: int
    fit: Literal["stretch", "crop"] = "stretch"
    invert: bool = False
    side: int | None = None

    def __call__(self, image: bytes | np.ndarray, where: str) -> Decoded:
        """Decode one image. Raises DataError, led by ``where``, for what is no intact image of an allowed kind."""
        opened = _from_bytes(image, where) if isinstance(image, bytes) else _from_array(image, where)
        width, height = opened.size
        if self.side and (width, height) != (self.side, self.side):
            raise DataError(f"{where} is {width}x{height} pixels, expected {self.side}x{self.side}; fetch it again")
        if opened.mode in _DEEP:
            raise DataError(f"{where} has more than 8 bits a channel ({opened.mode}); convert it to 8 bits")
        colour = _colour(opened, "L" if self.channels == 1 else "RGB")
        pixels = np.asarray(self._fitted(colour))
        pixels = pixels[None] if self.channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
        grey = self.channels == 1 or bool((pixels == pixels[:1]).all())
        return Decoded(255 - pixels if self.invert else pixels, width, height, grey)

    def _fitted(self, image: Pillow.Image) -> Pillow.Image:
        width, height = image.size
        if (width, height) == (self.size, self.size):
            return image
        box = None
        if self.fit == "crop":
            side = min(width, height)
            left, top = (width - side) / 2, (height - side) / 2
            box = (left, top, left + side, top + side)
        return image.resize((self.size, self.size), Pillow.Resampling.LANCZOS, box=box)


def _from_bytes(data: bytes, where: str) -> Pillow.Image:
    try:
        image = Pillow.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > LARGEST:
            raise DataError(
                f"{where} has {image.width}x{image.height} pixels, more than {LARGEST:,}; make it smaller or remove it"
            )
        if image.format == "PNG":
            Pillow.open(io.BytesIO(data), formats=("PNG",)).verify()  # its checksums, which decoding passes over
        image.load()
    except DataError:
        raise
    except Exception as error:  # Pillow lets struct, zlib, syntax and value errors through
        raise DataError(
            f"{where} is not a readable image ({_reason(data, error)}); allowed: intact PNG, JPEG, WebP or BMP; "
            "fetch it again or remove it"
        ) from error
    return image


def _reason(data: bytes, error: Exception) -> str:
    if not data:
        return "the file is empty"
    if data.lstrip()[:1] == b"<":
        return "it is an HTML or XML page"
    if isinstance(error, Pillow.UnidentifiedImageError) and data.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        return f"the image is damaged, or cut short after {len(data):,} bytes"
    if isinstance(error, Pillow.UnidentifiedImageError):
        return f"it begins with {data[:8]!r}"
    return str(error)


def _from_array(array: np.ndarray, where: str) -> Pillow.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise DataError(
            f"{where} is an array of {array.dtype} {array.shape}; allowed: uint8 (height, width) or "
            "(height, width, 1 or 3)"
        )
    return Pillow.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def _colour(image: Pillow.Image, mode: str) -> Pillow.Image:
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        white = Pillow.new("RGBA", image.size, "white")
        image = Pillow.alpha_composite(white, image.convert("RGBA"))
    return image.convert(mode)
