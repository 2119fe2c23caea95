"""Sprites: dSprites' grid in its order, each factor doing what it says, the same bytes everywhere."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from tasks.errors import DataError
from tasks.sprites import CENTRE, GRID, SHAPES, SIDE, atlas, draw, render, sprites

COUNTS = {"shape": 3, "scale": 6, "orientation": 40, "position_x": 32, "position_y": 32}
AREAS = {"square": 17.0**2, "ellipse": np.pi * 13.5 * 7, "heart": 3.66197 * 9**2}


def rows(**chosen: object) -> np.ndarray:
    """Rows of the grid: factors by index, broadcast together, at the middle of the image where not given."""
    rest = {"shape": 0, "scale": 5, "orientation": 0, "position_x": 16, "position_y": 16}
    index = np.broadcast_arrays(*(rest | chosen).values())
    return np.ravel_multi_index(tuple(axis.ravel() for axis in index), tuple(COUNTS.values()))


def drawn(**chosen: object) -> np.ndarray:
    """Images (n, 64, 64), 0.0 or 1.0."""
    return draw(rows(**chosen))[:, 0] / 255.0


def centre(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre of the white pixels in pixels from the left and the top."""
    axis = np.arange(SIDE) + 0.5
    area = images.sum((1, 2))
    return (images.sum(1) * axis).sum(1) / area, (images.sum(2) * axis).sum(1) / area


def test_the_grid_is_dsprites() -> None:
    assert GRID.count == 737_280 and dict(zip(GRID.factors, GRID.sizes, strict=True)) == COUNTS
    values = {name: np.array(factor.values) for name, factor in GRID.factors.items()}
    np.testing.assert_allclose(values["scale"], np.linspace(0.5, 1, 6), rtol=1e-15)
    np.testing.assert_allclose(values["orientation"], np.linspace(0, 2 * np.pi, 40), rtol=1e-15)
    np.testing.assert_allclose(values["position_x"], np.linspace(0, 1, 32), rtol=1e-15)
    assert values["shape"].tolist() == [1, 2, 3] and len(SHAPES) == 3
    kinds = {name: factor.kind for name, factor in GRID.factors.items()}
    assert kinds.pop("shape") == "categorical" and kinds.pop("orientation") == "cyclic" and set(kinds.values()) == {
        "ordinal"
    }
    # position_y varies fastest, then position_x, orientation, scale and shape
    first = GRID.indices(np.array([0, 1, 32, 1024, 40 * 1024, 6 * 40 * 1024, GRID.count - 1]))
    assert np.stack(list(first.values()), 1).tolist() == [
        [0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 1, 0], [0, 0, 1, 0, 0], [0, 1, 0, 0, 0], [1, 0, 0, 0, 0],
        [2, 5, 39, 31, 31],
    ]  # fmt: skip


def test_golden_bytes() -> None:
    """The same on every machine: a change here makes every result on sprites a new one."""
    every = draw(np.arange(0, GRID.count, 97))
    assert every.shape == (7601, 1, SIDE, SIDE) and every.dtype == np.uint8
    told = hashlib.sha256(every.tobytes()).hexdigest()
    assert told == "0825487b9e94d50550309f2133e6ddf90cf30fda53fd59f4815bfa321a7709ae"
    dataset = sprites(images=500)
    assert dataset.train.store.fingerprint == "aeecc727c12b7b2628497ac6c7aa7e7084942174cf78e7822e58cee407798345"


def test_the_same_without_vector_instructions() -> None:
    """numpy's own switch turns off its AVX and FMA paths: not a bit may change."""
    code = "from tasks.sprites import atlas; import hashlib; print(hashlib.sha256(atlas().tobytes()).hexdigest())"
    features = "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX"
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True,
        env={"NPY_DISABLE_CPU_FEATURES": features, "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert told.stdout.strip() == hashlib.sha256(atlas().tobytes()).hexdigest()


def test_images_are_black_and_white_and_never_touch_the_border() -> None:
    assert set(np.unique(atlas())) == {0, 255}
    corners = np.array([0, 31])
    turns = np.arange(40)[:, None, None]
    for shape in range(3):
        images = drawn(shape=shape, orientation=turns, position_x=corners[:, None], position_y=corners)
        assert images.shape == (160, SIDE, SIDE)
        assert not images[:, [0, 1, -2, -1]].any() and not images[:, :, [0, 1, -2, -1]].any()
        # whole, not cut by the window: as much of it in each corner as in the middle
        middle = drawn(shape=shape, orientation=turns).sum((1, 2))
        np.testing.assert_array_equal(images.sum((1, 2)).reshape(40, 4), middle[:, None].repeat(4, 1))


@pytest.mark.parametrize("shape", range(3))
def test_area_grows_with_the_square_of_scale(shape: int) -> None:
    scales = np.array(GRID.factors["scale"].values)
    turns = np.arange(39)[:, None]
    area = drawn(shape=shape, scale=np.arange(6), orientation=turns).sum((1, 2)).reshape(39, 6)
    expected = AREAS[SHAPES[shape]] * scales**2
    # a pixel counts by its centre: an upright square is off by up to half a pixel all around, mean and others by less
    np.testing.assert_allclose(area.mean(0), expected, rtol=0.02)
    assert (np.abs(area - expected) < 2 * np.sqrt(expected)).all()


def test_ink_is_that_of_dsprites() -> None:
    assert atlas().sum() / 255 / 720 / SIDE**2 == pytest.approx(0.0425, abs=0.0005)


@pytest.mark.parametrize("shape", range(3))
def test_position_moves_the_centre_by_a_pixel_a_step(shape: int) -> None:
    step = np.arange(32)
    for name, axis, start in (("position_x", 0, CENTRE[0]), ("position_y", 1, CENTRE[1])):
        centres = centre(drawn(shape=shape, **{name: step}))
        np.testing.assert_allclose(centres[axis] - centres[axis][0], step, atol=1e-9)
        np.testing.assert_allclose(centres[axis], start + step, atol=0.25)
        np.testing.assert_allclose(centres[1 - axis], centres[1 - axis][0], atol=1e-9)


def test_rotation_leaves_the_centre_where_it_is() -> None:
    for shape in range(3):
        x, y = centre(drawn(shape=shape, orientation=np.arange(40)))
        np.testing.assert_allclose(x, CENTRE[0] + 16, atol=0.35)
        np.testing.assert_allclose(y, CENTRE[1] + 16, atol=0.35)


def test_the_ellipse_turns_counter_clockwise_by_its_moments() -> None:
    images = drawn(shape=1, orientation=np.arange(40))
    x, y = centre(images)
    right = np.arange(SIDE)[None, None, :] + 0.5 - x[:, None, None]
    up = y[:, None, None] - (np.arange(SIDE)[None, :, None] + 0.5)
    xx, yy, xy = ((images * product).sum((1, 2)) for product in (right * right, up * up, right * up))
    angle = 0.5 * np.arctan2(2 * xy, xx - yy)
    expected = np.array(GRID.factors["orientation"].values)
    off = (angle - expected + np.pi / 2) % np.pi - np.pi / 2  # an axis has no direction
    assert np.abs(off).max() < np.deg2rad(2)
    ratio = np.sqrt((xx + yy + np.hypot(xx - yy, 2 * xy)) / (xx + yy - np.hypot(xx - yy, 2 * xy)))
    np.testing.assert_allclose(ratio, 13.5 / 7, rtol=0.05)


def test_the_heart_is_upright_at_rotation_0_and_its_tip_turns_counter_clockwise() -> None:
    upright = drawn(shape=2)[0]
    filled = np.flatnonzero(upright.any(1))
    widths = upright[filled].sum(1)
    assert widths[-1] <= 3 < 8 < widths[1]  # a tip below, lobes above
    top = upright[filled[0]]
    edges = np.abs(np.diff(top)).sum()
    assert edges == 4  # the lobes are two separate runs of pixels in the highest row
    # it reaches farthest where its tip is: below, then to the right after a quarter turn
    for turn, direction in ((0.0, (0, 1)), (0.25, (1, 0)), (0.5, (0, -1)), (0.75, (-1, 0))):
        y, x = np.nonzero(render(np.array([2]), np.array([1.0]), np.array([turn]))[0])
        away = np.stack([x + 1.5 - CENTRE[0], y + 1.5 - CENTRE[1]], 1)
        along = away @ np.array(direction)
        assert along.max() > -along.min() + 2


def test_symmetric_shapes_turned_onto_themselves_are_the_same_bit_for_bit() -> None:
    turns = np.arange(64) / 256  # exact in binary, as quarters are
    ones = np.ones(64)
    for shape, symmetry in ((0, 0.25), (1, 0.5), (2, 1.0)):
        kind = np.full(64, shape)
        first = render(kind, ones, turns)
        for k in (1, 2, 3, -1):
            np.testing.assert_array_equal(render(kind, ones, turns + k * symmetry), first)
    for shape, less in ((1, 0.25), (2, 0.25), (2, 0.5)):
        kind = np.full(64, shape)
        assert (render(kind, ones, turns) != render(kind, ones, turns + less)).any((1, 2)).all()


def test_every_image_is_another_but_for_the_last_rotation() -> None:
    """As in dSprites, rotation 39 is 2 pi and shows rotation 0 again; nothing else occurs twice."""
    by_turn = atlas().reshape(18, 40, -1)
    np.testing.assert_array_equal(by_turn[:, 39], by_turn[:, 0])
    different = by_turn[:, :39].reshape(18 * 39, -1)
    assert len({sprite.tobytes() for sprite in different}) == 18 * 39
    # sprites differ in shape, not only in place: moved to the same corner, they still are different
    corners = set()
    for sprite in different.reshape(-1, 95, 95):
        top, left = np.flatnonzero(sprite.any(1))[0], np.flatnonzero(sprite.any(0))[0]
        corners.add(np.roll(sprite, (-top, -left), (0, 1)).tobytes())
    assert len(corners) == 18 * 39


def test_a_window_of_the_atlas_is_the_image_on_any_device() -> None:
    chosen = np.arange(0, GRID.count, 7919)
    sprite, x, y = np.unravel_index(chosen, (720, 32, 32))
    windows = torch.tensor(atlas()).unfold(1, SIDE, 1).unfold(2, SIDE, 1)
    np.testing.assert_array_equal(windows[sprite, 31 - y, 31 - x].numpy(), draw(chosen)[:, 0])


def test_draws_are_uniform_over_every_factor() -> None:
    dataset = sprites(images=20_000, seed=3)
    parts = (dataset.train, dataset.val, dataset.test)
    factors = {name: np.concatenate([part.factors[name] for part in parts]) for name in COUNTS}
    for name, count in COUNTS.items():
        values, counts = np.unique(factors[name], return_counts=True)
        np.testing.assert_array_equal(values, np.array(GRID.factors[name].values, np.float32))
        assert len(values) == count and counts.sum() == 20_000
        assert chisquare(counts).pvalue > 1e-3
    for one, other in (("shape", "orientation"), ("scale", "position_x"), ("position_x", "position_y")):
        pairs = np.unique(np.stack([factors[one], factors[other]]), axis=1, return_counts=True)[1]
        assert len(pairs) == COUNTS[one] * COUNTS[other] and chisquare(pairs).pvalue > 1e-3


def test_factors_are_those_of_the_images() -> None:
    dataset = sprites(images=600)
    for part in (dataset.train, dataset.val, dataset.test):
        assert part.image_shape == (1, SIDE, SIDE)
        x, y = centre(part.images()[:, 0] / 255.0)
        np.testing.assert_allclose(x, CENTRE[0] + 31 * part.factors["position_x"], atol=0.5)
        np.testing.assert_allclose(y, CENTRE[1] + 31 * part.factors["position_y"], atol=0.5)
        area = part.images()[:, 0].sum((1, 2)) / 255
        wanted = np.array(list(AREAS.values()))[part.factors["shape"].astype(int) - 1] * part.factors["scale"] ** 2
        assert (np.abs(area - wanted) < 2 * np.sqrt(wanted)).all()
        names = [part.class_names[k] for k in part.labels]
        index = {
            name: np.searchsorted(np.array(factor.values, np.float32), part.factors[name])
            for name, factor in GRID.factors.items()
        }
        for name, factor in GRID.factors.items():
            np.testing.assert_array_equal(np.array(factor.values, np.float32)[index[name]], part.factors[name])
        for name, width in GRID.classes.items():
            assert all(f"{name}{k}" in full.split("-") for k, full in zip(index[name] // width, names, strict=True))
        # rows of the grid give the images again
        rows = np.ravel_multi_index(tuple(index[name] for name in GRID.factors), GRID.sizes)
        np.testing.assert_array_equal(draw(rows), part.images())
    info = dataset.train.store.info
    assert info["factor_kinds"]["orientation"] == "cyclic" and len(info["factor_values"]["orientation"]) == 40


def test_settings_out_of_range() -> None:
    for setting, words in (
        ({"images": 287}, "images=287: allowed are whole numbers from 288 to 737280"),
        ({"images": 737_281}, "images=737281: allowed"),
        ({"seed": -1}, "seed=-1: allowed"),
        ({"split_seed": -1}, "split_seed=-1: allowed"),
    ):
        with pytest.raises(DataError, match=words):
            sprites(**setting)
