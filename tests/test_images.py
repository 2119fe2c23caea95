"""Images by index: the same as plain fancy indexing and np.rot90, from any store, into any memory."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import images as module
from tasks.errors import DataError
from tasks.images import SCALE, ImageReader
from tasks.splits import Partition, rotated
from tasks.store import Store, open_store, write_store

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 1, 6, 6), np.uint8)
COLOUR = RNG.integers(0, 256, (40, 3, 5, 5), np.uint8)
LAYOUTS = {
    "all": np.arange(40),
    "piece": np.arange(7, 29),
    "one": np.array([39]),
    "two pieces": np.concatenate([np.arange(20, 30), np.arange(3, 9)]),
    "repeated": np.repeat(np.arange(4, 9), 3),
    "backwards": np.arange(40)[::-1].copy(),
}


def plain(images: np.ndarray, index: np.ndarray, turns: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The definition."""
    found = np.empty((*indices.shape, *images.shape[1:]), np.uint8)
    for at, i in np.ndenumerate(indices):
        image = images[index[i]][:, :, ::-1] if turns[i] >= 4 else images[index[i]]
        found[at] = np.rot90(image, turns[i] % 4, axes=(1, 2))
    return found


def asked(size: int) -> list[np.ndarray]:
    """Positions in order, repeated, of several shapes and none at all."""
    rng = np.random.default_rng(1)
    return [np.arange(size), rng.integers(0, size, (2, 3, 4)), np.zeros((0, 3), np.int64), np.array(size - 1)]


@pytest.mark.parametrize("block", [1, 100, 1 << 19], ids=["an image at a time", "small blocks", "one block"])
@pytest.mark.parametrize("turned", [False, True], ids=["upright", "turned"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
def test_equal_to_the_plain_definition(images, layout: str, turned: bool, block: int, monkeypatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    index = LAYOUTS[layout]
    turns = (np.arange(len(index)) // 2 % 4 if turned else np.zeros(len(index))).astype(np.int8)
    reader = ImageReader(images, index, turns)
    for indices in asked(len(index)):
        expected = plain(images, index, turns, indices)
        found, floats = reader.uint8(indices), reader.float32(indices)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(floats, expected.astype(np.float32) * np.float32(SCALE))
        np.testing.assert_array_equal(reader.uint8(indices, turned=False), images[index[indices]])
        assert found.dtype == np.uint8 and floats.dtype == np.float32 and type(found) is np.ndarray


def test_floats_run_from_0_to_1() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(4, 1, 8, 8)
    floats = ImageReader(every, np.arange(4), np.zeros(4, np.int8)).float32(np.arange(4)).ravel()
    assert (floats[0], floats[-1]) == (0, 1) and (np.diff(floats) > 0).all()
    np.testing.assert_allclose(floats, np.arange(256) / 255, rtol=2**-23)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), count=st.integers(1, 60), size=st.integers(1, 40))
def test_any_positions_of_any_rows(data, count: int, size: int) -> None:
    index = np.array(data.draw(st.lists(st.integers(0, 39), min_size=size, max_size=size)))
    turns = np.array(data.draw(st.lists(st.integers(0, 7), min_size=size, max_size=size)), np.int8)
    indices = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=count, max_size=count)))
    reader = ImageReader(COLOUR, index, turns)
    np.testing.assert_array_equal(reader.uint8(indices), plain(COLOUR, index, turns, indices))


@pytest.mark.parametrize("names", [["a", "c"], rotated(["a", "b"])], ids=["upright", "turned"])
def test_a_part_of_a_memory_mapped_store(names: list[str], tmp_path: Path) -> None:
    made = Store("three", COLOUR, np.array([0, 10, 25, 40]), ("a", "b", "c"))
    write_store(tmp_path / "three", made)
    mapped, held = (Partition.of_classes(store, "train", names) for store in (open_store(tmp_path / "three"), made))
    assert isinstance(mapped.store.images, np.memmap)
    for indices in asked(len(held.index)):
        expected = plain(COLOUR, held.index, held.orientations, indices)
        for part in (mapped, held):
            np.testing.assert_array_equal(part.gather(indices), expected)
            np.testing.assert_array_equal(part.gather_floats(indices), expected.astype(np.float32) * np.float32(SCALE))


@pytest.mark.parametrize("turned", [False, True], ids=["upright", "turned"])
def test_into_memory_that_is_there(turned: bool) -> None:
    turns = np.full(40, 3 if turned else 0, np.int8)
    reader, indices = ImageReader(COLOUR, np.arange(40), turns), np.arange(12).reshape(3, 4)
    around = np.full((5, 4, 3, 5, 5), 7, np.uint8)
    assert reader.uint8(indices, around[1:4]).base is around
    np.testing.assert_array_equal(around[1:4], plain(COLOUR, np.arange(40), turns, indices))
    assert (around[[0, 4]] == 7).all()
    floats = np.empty((3, 4, 3, 5, 5), np.float32)
    assert reader.float32(indices, floats) is floats
    np.testing.assert_array_equal(floats, reader.float32(indices))


def test_a_call_takes_no_memory_beyond_blocks() -> None:
    images = np.zeros((20_000, 1, 28, 28), np.uint8)
    turns = (np.arange(20_000) % 4).astype(np.int8)
    reader, out = ImageReader(images, np.arange(20_000), turns), np.empty((20_000, 1, 28, 28), np.float32)
    indices = np.arange(20_000)[::-1].copy()
    tracemalloc.start()
    reader.float32(indices, out)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4 * 2**20 < images.nbytes


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        (np.array([0, 40]), "image 40 of a part of 40: give whole numbers from 0 to 39"),
        (np.array([[3, -1]]), "image -1 of a part of 40: give whole numbers from 0 to 39"),
        (np.array([0.0]), "image numbers are float64; give whole numbers from 0 to 39"),
        (np.zeros(40, bool), "image numbers are bool; give whole numbers from 0 to 39"),
    ],
)
def test_positions_that_are_not_there(indices: np.ndarray, words: str) -> None:
    reader = ImageReader(GREY, np.arange(40), np.zeros(40, np.int8))
    for gather in (ImageReader.uint8, ImageReader.float32):
        with pytest.raises(DataError, match=words):
            gather.__wrapped__(reader, indices)


@pytest.mark.parametrize(
    ("out", "words"),
    [
        (np.empty((2, 1, 6, 5), np.uint8), r"out is uint8 \(2, 1, 6, 5\); needed: uint8 \(2, 1, 6, 6\), contiguous"),
        (np.empty((2, 1, 6, 6), np.int8), r"out is int8 \(2, 1, 6, 6\); needed: uint8"),
        (np.empty((4, 1, 6, 6), np.uint8)[::2], r"out is uint8 \(2, 1, 6, 6\), with gaps; needed"),
        (np.frombuffer(bytes(72), np.uint8).reshape(2, 1, 6, 6), r"out is uint8 \(2, 1, 6, 6\), read-only; needed"),
    ],
)
def test_memory_that_cannot_hold_them(out: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        ImageReader(GREY, np.arange(40), np.zeros(40, np.int8)).uint8(np.arange(2), out)


def test_rows_and_turns_that_cannot_be() -> None:
    with pytest.raises(DataError, match="row 40 of a store of 40: give whole numbers from 0 to 39"):
        ImageReader(GREY, np.arange(1, 41), np.zeros(40, np.int8))
    wide = np.zeros((2, 1, 4, 6), np.uint8)
    with pytest.raises(DataError, match="images of 4x6 cannot be turned by 90 degrees: only square ones can"):
        ImageReader(wide, np.arange(2), np.array([0, 1], np.int8))
    upside_down = ImageReader(wide, np.arange(2), np.array([0, 2], np.int8))
    np.testing.assert_array_equal(upside_down.uint8(np.arange(2)), wide)
