"""Decoding: what Pillow and numpy give, of the right size and channels, and a clear word for everything else."""

import io

import numpy as np
import pytest
from PIL import Image

from tasks import decode as decode_module
from tasks.decode import Decoder
from tasks.errors import DataError


def encoded(image: Image.Image, kind: str = "PNG", **more) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (height, width, 3)).astype(np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "JPEG"])
def test_every_allowed_kind(kind: str) -> None:
    image = picture(24, 24)
    found = Decoder(3, 24)(encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {})), "x")
    expected = Image.open(io.BytesIO(encoded(image, kind))) if kind == "JPEG" else image
    np.testing.assert_array_equal(found.pixels, np.asarray(expected).transpose(2, 0, 1))
    assert (found.width, found.height, found.grey) == (24, 24, False)


def test_an_array_of_the_right_size_comes_through_unchanged() -> None:
    pixels = np.asarray(picture(16, 16))
    np.testing.assert_array_equal(Decoder(3, 16)(pixels, "x").pixels, pixels.transpose(2, 0, 1))


def test_stretched() -> None:
    image = picture(40, 20)
    stretched = np.asarray(image.resize((10, 10), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    np.testing.assert_array_equal(Decoder(3, 10, "stretch")(np.asarray(image), "x").pixels, stretched)


def test_cropped_is_the_centre_of_the_image_scaled_to_its_shorter_side() -> None:
    image = picture(40, 20)
    scaled = np.asarray(image.resize((20, 10), Image.Resampling.LANCZOS))[:, 5:15].transpose(2, 0, 1)
    found = Decoder(3, 10, "crop")(np.asarray(image), "x").pixels
    assert abs(found.astype(int) - scaled.astype(int)).max() <= 1


def test_a_crop_of_the_right_height_is_cut_not_scaled() -> None:
    image = np.asarray(picture(14, 10))
    np.testing.assert_array_equal(Decoder(3, 10, "crop")(image, "x").pixels, image[:, 2:12].transpose(2, 0, 1))


def test_downscaling_is_antialiased_and_keeps_the_ink() -> None:
    lines = np.full((105, 105), 255, np.uint8)
    lines[::3] = 0
    found = Decoder(1, 28, invert=True)(lines, "x").pixels
    assert abs(found.mean() - (255 - lines).mean()) < 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGBA", "LA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_gives_the_channels_asked_for(mode: str, channels) -> None:
    image = picture(16, 16)
    image = image.convert("L").convert(mode) if mode in ("1", "LA") else image.convert(mode)
    data = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
    assert Decoder(channels, 16)(data, "x").pixels.shape == (channels, 16, 16)


def test_greys_are_noticed_in_any_mode() -> None:
    grey = picture(16, 16).convert("L")
    assert Decoder(3, 8)(encoded(grey), "x").grey
    assert Decoder(3, 8)(encoded(grey.convert("RGB")), "x").grey
    assert not Decoder(3, 8)(encoded(picture(16, 16)), "x").grey


def test_transparency_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (Decoder(3, 8)(encoded(clear), "x").pixels == 255).all()
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([9, 9, 9] * 256)
    assert (Decoder(3, 8)(encoded(palette, transparency=0), "x").pixels == 255).all()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "x is not a readable image .the file is empty.; allowed: intact PNG, JPEG, WebP or BMP"),
        (b"<!DOCTYPE html>", "it is an HTML or XML page"),
        (b"hello there", "it begins with b'hello th'"),
        (encoded(picture())[:200], "x is not a readable image"),
        (encoded(picture(), "JPEG")[:20], "readable image .the image is damaged, or cut short after 20 bytes"),
        (encoded(picture(), "JPEG")[:600], "x is not a readable image"),
        (encoded(picture(), "GIF"), "x is not a readable image .it begins with b'GIF8"),
        (encoded(Image.fromarray(np.zeros((4, 4), np.uint16))), "x has more than 8 bits a channel .I;16"),
    ],
)
def test_what_is_no_image(data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Decoder(3, 8)(data, "x")


def test_a_flipped_bit_in_a_png_is_noticed() -> None:
    data = bytearray(encoded(picture()))
    data[-20] ^= 1
    with pytest.raises(DataError, match="x is not a readable image"):
        Decoder(3, 8)(bytes(data), "x")


def test_a_picture_too_large_to_decode(monkeypatch) -> None:
    monkeypatch.setattr(decode_module, "LARGEST", 1000)
    with pytest.raises(DataError, match="x has 40x30 pixels, more than 1,000; make it smaller or remove it"):
        Decoder(3, 8)(encoded(picture()), "x")


def test_another_size_than_every_image_must_have() -> None:
    with pytest.raises(DataError, match="x is 40x30 pixels, expected 105x105; fetch it again"):
        Decoder(1, 28, side=105)(encoded(picture()), "x")


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 3), np.float32), np.zeros((3, 4, 4), np.uint8), np.zeros(4, np.uint8)]
)
def test_arrays_that_are_no_images(array: np.ndarray) -> None:
    with pytest.raises(DataError, match="x is an array of .*; allowed: uint8 .height, width"):
        Decoder(3, 8)(array, "x")
