"""Glyphs: procedural characters that look handwritten, embedded in the code, with every factor known.

A class is a program of 1 to 4 strokes, each a cubic Bezier curve: a line, an arc or a free curve, that starts
somewhere new or on the stroke before. An instance moves each control point a little, then shears, scales,
rotates and shifts the whole and picks a pen width.

The bytes are the same on every machine because each step is exact or correctly rounded by IEEE 754. Random
numbers come from 64-bit integer hashes (tasks.hashing); the rest uses only +, -, *, /, sqrt, min, max and
floor, one numpy call an operation, so that no compiler fuses two of them; sine and cosine are polynomials;
there is no matrix product and no sum whose order a library chooses.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from tasks.errors import DataError
from tasks.folders import stores_folder
from tasks.hashing import below, uniform, words
from tasks.progress import Progress, silent
from tasks.store import Store, open_store, write_store

VERSION = 2  # of drawing and naming: another one gives another store
STROKES = 4
EXTENT = 0.64  # half side of the box that a character fills, in units of half the image's side
_SAMPLES = 36  # points on a stroke: at most about a pixel apart at 28 x 28
_CHUNK = 256  # images drawn at once: the working arrays then stay in the processor's cache

# half width of the uniform range of each factor, around its middle; lengths in units of half the image's side
FACTORS = {
    "jitter": (0.07, 0.05),  # largest displacement of a control point
    "rotation": (0.0, 0.35),  # radians, counter-clockwise
    "scale": (0.9, 0.2),
    "shear": (0.0, 0.28),
    "shift_x": (0.0, 0.18),  # to the right
    "shift_y": (0.0, 0.18),  # downwards
    "thickness": (0.11, 0.03),  # full width of the pen
}


def glyph_store(
    classes: int = 1200,
    instances: int = 20,
    seed: int = 0,
    image_size: int = 28,
    *,
    root: Path | None = None,
    cache: Path | None = None,
    report: Progress = silent,
) -> Store:
    """Draw all glyphs, or open them from ``root/stores`` (``cache`` when root is read-only).

    Images (classes * instances, 1, image_size, image_size) uint8, ink 255 on 0; factors as in FACTORS, in its
    units. Class k and its instance i depend on seed, k and i only. Without root nothing is written.
    Raises DataError for a setting out of range.
    """
    for name, value, low, high in (
        ("classes", classes, 1, 100_000),
        ("instances", instances, 1, 100_000),
        ("image_size", image_size, 8, 256),
        ("glyph seed", seed, 0, 2**63 - 1),
    ):
        if not low <= value <= high:
            raise DataError(f"{name}={value}: allowed are whole numbers from {low} to {high}")
    name = f"glyphs-{classes}x{instances}-{image_size}-seed{seed}-v{VERSION}"
    if root is None:
        return draw(name, classes, instances, seed, image_size, report)
    for folder in (root / "stores", stores_folder(root, cache)):
        if (folder / name).is_dir():
            return open_store(folder / name)
    store = draw(name, classes, instances, seed, image_size, report)
    return write_store(stores_folder(root, cache) / name, store)


def draw(name: str, classes: int, instances: int, seed: int, image_size: int, report: Progress = silent) -> Store:
    """Draw the glyphs of ``classes`` classes into a store in memory; see glyph_store."""
    kind, instance = np.divmod(np.arange(classes * instances), instances)
    programs, strokes = stroke_programs(classes, seed)
    factors = instance_factors(kind, instance, seed)
    images = np.empty((len(kind), 1, image_size, image_size), np.uint8)
    for start in range(0, len(kind), _CHUNK):
        part = slice(start, start + _CHUNK)
        here = {key: values[part] for key, values in factors.items()}
        points = place(programs[kind[part]], kind[part], instance[part], seed, here)
        images[part, 0] = render(points, strokes[kind[part]], here["thickness"], image_size)
        report("draw glyphs", min(start + _CHUNK, len(kind)), len(kind))
    digits = max(4, len(str(classes - 1)))
    first = f"seed{seed}/" if seed else ""  # other seeds draw other characters, which need other names
    return Store(
        name=name,
        images=images,
        offsets=np.arange(classes + 1, dtype=np.int64) * instances,
        class_names=tuple(f"{first}glyph{k:0{digits}d}" for k in range(classes)),
        factors={key: values.astype(np.float32) for key, values in factors.items()},
        info={"seed": seed, "instances": instances, "version": VERSION},
    )


def stroke_programs(classes: int, seed: int) -> tuple[Float64[np.ndarray, "k s p xy"], Int64[np.ndarray, " k"]]:
    """Invent the characters: control points (classes, 4 strokes, 4 points, x y), strokes used (classes,).

    Each character is centred and fills a box of half side EXTENT, so that place and size do not tell it.
    """
    random = words(seed, 0, np.arange(classes)[:, None], np.arange(64))
    strokes = np.array([1, 2, 2, 3, 3, 3, 4, 4], np.int64)[below(random[:, 0], 8)]
    points = np.empty((classes, STROKES, 4, 2))
    for s in range(STROKES):
        draws = random[:, 1 + 15 * s : 16 + 15 * s]
        start, end = uniform(draws[:, 0:2], -1.0, 1.0), uniform(draws[:, 2:4], -1.0, 1.0)
        if s:  # three in four start on the stroke before: twice as often at its end as at its start
            touch = points[np.arange(classes), s - 1, np.array([0, 3, 3])[below(draws[:, 4], 3)]]
            start = np.where((below(draws[:, 5], 4) > 0)[:, None], touch, start)
        step = end - start
        length = np.sqrt(step[:, :1] * step[:, :1] + step[:, 1:] * step[:, 1:])
        step = step * (np.clip(length, 0.7, 1.6) / np.maximum(length, 1e-3))
        across = np.concatenate([-step[:, 1:], step[:, :1]], 1)
        # control points off the chord: none on a line, both to one side on an arc, anywhere on a free curve
        form = np.where(strokes == 1, 7, below(draws[:, 6], 8))[:, None]
        side = np.where(below(draws[:, 7:8], 2) == 0, -1.0, 1.0)
        arc = side * uniform(draws[:, 8:9], 0.3, 0.8)
        bends = np.where(form < 3, 0.0, np.where(form < 6, arc, uniform(draws[:, 9:11], -1.0, 1.0)))
        points[:, s, 0], points[:, s, 3] = start, start + step
        points[:, s, 1] = start + step * 0.25 + across * bends[:, :1]
        points[:, s, 2] = start + step * 0.75 + across * bends[:, 1:]
    points = np.where((np.arange(STROKES) < strokes[:, None])[..., None, None], points, points[:, :1])
    curves = bezier(points.reshape(-1, 4, 2)).reshape(classes, -1, 2)
    low, high = curves.min(1), curves.max(1)
    half = np.maximum(high - low, 1e-3).max(1)[:, None, None, None] / 2
    return (points - ((low + high) / 2)[:, None, None]) / half * EXTENT, strokes


def instance_factors(
    kind: Int64[np.ndarray, " n"], instance: Int64[np.ndarray, " n"], seed: int
) -> dict[str, np.ndarray]:
    """Draw each factor of FACTORS uniformly for each (class, instance): name -> (n,) float64."""
    return {
        name: uniform(words(seed, 1, number, kind, instance), middle - half, middle + half)
        for number, (name, (middle, half)) in enumerate(FACTORS.items())
    }


def place(
    programs: Float64[np.ndarray, "n s p xy"],
    kind: Int64[np.ndarray, " n"],
    instance: Int64[np.ndarray, " n"],
    seed: int,
    factors: dict[str, np.ndarray],
) -> Float64[np.ndarray, "n s p xy"]:
    """Move the control points of each instance: jitter, then shear, scale, rotation, shift."""
    slots = np.arange(STROKES * 8).reshape(1, STROKES, 4, 2)
    wide = (slice(None), None, None, None)
    moves = uniform(words(seed, 2, kind[wide], instance[wide], slots), -1.0, 1.0)
    points = programs + moves * factors["jitter"][wide]
    flat = (slice(None), None, None)
    sine, cosine = sine_cosine(factors["rotation"][flat])
    y = points[..., 1] * factors["scale"][flat]
    x = points[..., 0] * factors["scale"][flat] - y * factors["shear"][flat]
    # y points down in an image, so counter-clockwise to the eye turns x towards -y
    turned_x = x * cosine + y * sine
    turned_y = y * cosine - x * sine
    return np.stack([turned_x + factors["shift_x"][flat], turned_y + factors["shift_y"][flat]], -1)


def render(
    points: Float64[np.ndarray, "n s p xy"],
    strokes: Int64[np.ndarray, " n"],
    thickness: Float64[np.ndarray, " n"],
    image_size: int,
) -> UInt8[np.ndarray, "n h w"]:
    """Draw the strokes: ink falls from 255 to 0 over one pixel at the pen's edge."""
    centres = (np.arange(image_size) + 0.5) * 2 / image_size - 1
    nearest = np.full((len(points), image_size, image_size), 16, np.float32)  # squared distance
    for s in range(STROKES):
        curve = bezier(points[used := strokes > s, s])
        best, square = nearest[used], np.empty((len(curve), image_size, image_size), np.float32)
        for t in range(_SAMPLES):
            x = (centres - curve[:, t, :1]).astype(np.float32)
            y = (centres - curve[:, t, 1:]).astype(np.float32)
            np.add((x * x)[:, None, :], (y * y)[:, :, None], out=square)
            np.minimum(best, square, out=best)
        nearest[used] = best
    pixels = image_size / 2
    edge = (thickness * pixels * 0.5 + 0.5).astype(np.float32)[:, None, None]
    ink = np.clip(edge - np.sqrt(nearest) * np.float32(pixels), 0, 1)
    return np.floor(ink * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def bezier(control: Float64[np.ndarray, "n p xy"]) -> Float64[np.ndarray, "n t xy"]:
    """Points on cubic Bezier curves: (n, 36, x and y) at even steps of the parameter."""
    t = (np.arange(_SAMPLES) / (_SAMPLES - 1))[:, None]
    u = 1 - t
    weights = u * u * u, 3 * u * u * t, 3 * u * t * t, t * t * t
    curve = control[:, None, 0] * weights[0]
    for p in (1, 2, 3):
        curve = curve + control[:, None, p] * weights[p]
    return curve


def sine_cosine(
    angle: Float64[np.ndarray, "..."],
) -> tuple[Float64[np.ndarray, "..."], Float64[np.ndarray, "..."]]:
    """Sine and cosine within +-1 radian, to 1e-8, by Taylor's polynomials: the same bits everywhere."""
    square = angle * angle
    sine, cosine = np.ones_like(angle), np.ones_like(angle)
    for k in (10, 8, 6, 4, 2):  # Horner's scheme: 1 - x^2 / (2 * 3) * (1 - x^2 / (4 * 5) * ...)
        sine = 1 - square / (k * (k + 1)) * sine
        cosine = 1 - square / (k * (k - 1)) * cosine
    return angle * sine, cosine
