"""Sprites: white shapes on black with exactly the factors of dSprites, drawn when they are asked for.

Factors, values and order are those of dSprites (Matthey, Higgins, Hassabis and Lerchner 2017): 3 shapes, 6 scales, 40
rotations, 32 x 32 positions, 737,280 images of 64 x 64. As there, rotations run from 0 to 2 pi with both ends, so the
last is the first again: 39 differ, and each image of rotation 0 occurs twice. All others differ. The pixels are our
own: shapes of equal area (289 to 297 pixels at scale 1, 4.2 % of an image on average), a step of position is a pixel.

Only the 720 sprites are ever computed; an image is a window into one of them, and its position says which. The bytes
are the same on every machine as those of tasks.glyphs are: nothing but +, -, *, /, comparisons and polynomials.
"""

from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8
from numpy.lib.stride_tricks import sliding_window_view

from tasks.glyphs import sine_cosine
from tasks.grids import Draw, Factor, Grid
from tasks.progress import Progress, silent
from tasks.splits import Dataset
from tasks.store import Store

SIDE = 64
SHAPES = ("square", "ellipse", "heart")
POSITIONS = 32
GRID = Grid(
    {
        "shape": Factor("categorical", (1.0, 2.0, 3.0)),  # as in SHAPES
        "scale": Factor("ordinal", tuple(np.linspace(0.5, 1, 6).tolist())),
        "orientation": Factor("cyclic", tuple((2 * np.pi * np.arange(40) / 39).tolist())),  # radians, counter-clockwise
        "position_x": Factor("ordinal", tuple((np.arange(POSITIONS) / 31).tolist())),  # to the right
        "position_y": Factor("ordinal", tuple((np.arange(POSITIONS) / 31).tolist())),  # downwards
    },
    classes={"shape": 1, "scale": 1, "position_x": 8, "position_y": 8},
)
VERSION = 1  # of drawing: another one gives other images
CENTRE = (16.69, 16.65)  # of position (0, 0), in pixels from the left and the top: see _SQUARE
_SQUARE = 8.5  # half side; pixels at scale 1. Off the pixel grid, as CENTRE is, no two of its 39 turns agree
_ELLIPSE = (13.5, 7.0)  # half axes
_HEART = 9.0  # unit of its curve
_HEART_LIFT = 0.2934764748  # of its centre of gravity over the origin of its curve
_WIDE = 32  # pixels a side that the largest sprite fits in, whatever its turn


def sprites(
    root: Path | None = None,
    *,
    images: int = 40_320,
    seed: int = 0,
    split: Literal["classes", "images"] = "classes",
    split_seed: int = 0,
    cache: Path | None = None,
    report: Progress = silent,
) -> Dataset:
    """Sprites: white shapes with dSprites' factors, drawn on the fly; embedded, nothing to download.

    Factors are shape, scale, rotation and position, with dSprites' values, in its order. images: how many of the
    737,280 are drawn, by seed, 140 of each class if not given. split ``classes``: classes of shape, scale and place (a
    fourth of each side), 60 / 20 / 20; ``images``: parts share all combinations, to train and measure on; tasks.grids
    says why. Images are (1, 64, 64) uint8, 0 or 255, in memory (4 KB each); nothing is stored, root and cache are not
    used. Raises DataError for a setting out of range.
    """
    asked = Draw(images, seed, split, split_seed)
    classes = GRID.drawn(asked)
    rows = np.concatenate(list(classes.values()))
    report("draw sprites", 0, len(rows))
    store = Store(
        name=f"sprites-v{VERSION}",
        images=draw(rows),
        offsets=np.cumsum([0, *map(len, classes.values())]).astype(np.int64),
        class_names=tuple(classes),
        factors=GRID.values(rows),
        info={**GRID.info(), "drawn": asked.settings(), "version": VERSION},
    )
    report("draw sprites", len(rows), len(rows))
    return Dataset.of_classes("sprites", split, store, GRID.parts(store.class_names, asked))


def draw(rows: Int64[np.ndarray, " n"]) -> UInt8[np.ndarray, "n c h w"]:
    """Draw the images of rows of the grid, 0 to 737,279 in dSprites' order: (n, 1, 64, 64), 0 or 255."""
    sprite, x, y = np.unravel_index(rows, (len(atlas()), POSITIONS, POSITIONS))
    windows = sliding_window_view(sliding_window_view(atlas(), SIDE, axis=1), SIDE, axis=2)
    return windows[sprite, POSITIONS - 1 - y, POSITIONS - 1 - x][:, None]


@cache
def atlas() -> UInt8[np.ndarray, "sprites h w"]:
    """The 720 sprites in the grid's order on black, (720, 95, 95), read-only: 6.5 MB that hold the whole grid.

    The image at position (x, y) is the window of 64 x 64 that begins at column 31 - x, row 31 - y; on a GPU,
    ``torch.from_numpy(atlas()).unfold(1, 64, 1).unfold(2, 64, 1)[sprite, 31 - y, 31 - x]``.
    """
    shape, scale, turn = (axis.ravel() for axis in np.indices(GRID.sizes[:3]))
    sprites = render(shape, np.array(GRID.factors["scale"].values)[scale], turn / 39)
    canvas = np.zeros((len(sprites), SIDE + POSITIONS - 1, SIDE + POSITIONS - 1), np.uint8)
    canvas[:, POSITIONS : POSITIONS + _WIDE, POSITIONS : POSITIONS + _WIDE] = sprites
    canvas.flags.writeable = False
    return canvas


def render(
    shape: Int64[np.ndarray, " n"], scale: Float64[np.ndarray, " n"], turn: Float64[np.ndarray, " n"]
) -> UInt8[np.ndarray, "n h w"]:
    """Draw sprites alone, (n, 32, 32), 0 or 255: a pixel is white when its centre is inside.

    shape: place in SHAPES; scale: 1 is the largest that fits; turn: fraction of a full one, counter-clockwise. Turns
    by quarters are exact, so a square turned by one is the same square, bit for bit, an ellipse turned by two.
    """
    pixels = np.arange(_WIDE) + 1.5  # the centres of those that position (0, 0) may touch, from the second on
    right = (pixels - CENTRE[0])[None, None, :] / scale[:, None, None]
    down = (pixels - CENTRE[1])[None, :, None] / scale[:, None, None]
    sine, cosine = (value[:, None, None] for value in _turned(turn))
    along = right * cosine - down * sine  # in the sprite's own directions
    up = 0 - right * sine - down * cosine
    inside = np.empty(along.shape, bool)
    for number, fills in enumerate((_square, _ellipse, _heart)):
        here = shape == number
        inside[here] = fills(along[here], up[here])
    return inside.astype(np.uint8) * np.uint8(255)


def _turned(turn: Float64[np.ndarray, " n"]) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Sine and cosine of fractions of a turn; whole quarters only swap the two and change signs."""
    quarters = np.floor(turn * 4 + 0.5)
    sine, cosine = sine_cosine((turn * 4 - quarters) * (np.pi / 2))
    quarter = quarters.astype(np.int64) % 4
    return (
        np.choose(quarter, [sine, cosine, -sine, -cosine]),
        np.choose(quarter, [cosine, -sine, -cosine, sine]),
    )


def _square(x: Float64[np.ndarray, "n h w"], y: Float64[np.ndarray, "n h w"]) -> Bool[np.ndarray, "n h w"]:
    return np.maximum(np.abs(x), np.abs(y)) <= _SQUARE


def _ellipse(x: Float64[np.ndarray, "n h w"], y: Float64[np.ndarray, "n h w"]) -> Bool[np.ndarray, "n h w"]:
    along, across = x / _ELLIPSE[0], y / _ELLIPSE[1]
    return along * along + across * across <= 1


def _heart(x: Float64[np.ndarray, "n h w"], y: Float64[np.ndarray, "n h w"]) -> Bool[np.ndarray, "n h w"]:
    """Inside (x^2 + y^2 - 1)^3 = x^2 y^3, about its centre of gravity."""
    x, y = x / _HEART, y / _HEART + _HEART_LIFT
    square, circle = x * x, x * x + y * y - 1
    return circle * circle * circle <= square * (y * y * y)
