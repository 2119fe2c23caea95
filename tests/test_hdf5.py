"""HDF5 files as sources of images: rows read in bounded blocks, and all that is no such file or leads out of it."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from tasks import hdf5 as hdf5_module
from tasks import hdf5_index
from tasks.errors import DataError
from tasks.hdf5 import Hdf5

DRAWINGS = np.random.default_rng(0).integers(0, 256, (7, 5, 4), np.uint8)
PHOTOS = np.random.default_rng(1).integers(0, 256, (9, 6, 6, 3), np.uint8)


def write(path: Path, **datasets) -> Path:
    """A file of the two arrays and of more, each a value or a function of the file."""
    with h5py.File(path, "w") as file:
        file["set/of/drawings"] = DRAWINGS
        file.create_dataset("photos", data=PHOTOS, chunks=(4, 6, 6, 3), compression="gzip", fletcher32=True)
        for name, value in datasets.items():
            if callable(value):
                value(file, name)
            else:
                file[name] = value
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "x.hdf5")


def refused(path: Path, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        Hdf5(path).datasets()
    assert str(path) in str(caught.value)


def test_datasets_by_path(path: Path) -> None:
    source = Hdf5(path)
    assert list(source.datasets().items()) == [
        ("photos", ((9, 6, 6, 3), np.dtype(np.uint8))),
        ("set/of/drawings", ((7, 5, 4), np.dtype(np.uint8))),
    ]
    assert source.top() == ("photos", "set")
    np.testing.assert_array_equal(source.array("photos"), PHOTOS)


@pytest.mark.parametrize("held", [1, 4 * 108, 10**6])
def test_every_row_in_any_order(path: Path, held: int, monkeypatch) -> None:
    monkeypatch.setattr(hdf5_module, "_HELD", held)
    source = Hdf5(path)
    for row in [8, 0, 3, 4, 7, 1]:
        np.testing.assert_array_equal(source.read(("photos", row)), PHOTOS[row])
        np.testing.assert_array_equal(source.read(("set/of/drawings", row % 7)), DRAWINGS[row % 7])
    source.close()
    np.testing.assert_array_equal(source.read(("photos", 5)), PHOTOS[5])


def test_a_row_is_the_readers_own(path: Path) -> None:
    source = Hdf5(path)
    source.read(("photos", 0))[:] = 0
    np.testing.assert_array_equal(source.read(("photos", 0)), PHOTOS[0])


def counted(source: Hdf5, monkeypatch) -> list[slice]:
    taken: list[slice] = []
    slice_of = source._slice
    monkeypatch.setattr(source, "_slice", lambda what, name, where: taken.append(where) or slice_of(what, name, where))
    return taken


@pytest.mark.parametrize(
    ("held", "blocks"),
    [
        (10**6, [(0, 9259)]),
        (9 * 108, [(0, 8), (8, 16)]),  # whole chunks of 4 rows
        (3 * 108, [(0, 3), (3, 6), (6, 9)]),  # no chunk fits
        (1, [(row, row + 1) for row in range(9)]),
    ],
)
def test_rows_in_order_take_each_block_once(path: Path, held: int, blocks: list, monkeypatch) -> None:
    monkeypatch.setattr(hdf5_module, "_HELD", held)
    source = Hdf5(path)
    taken = counted(source, monkeypatch)
    for row in range(9):
        np.testing.assert_array_equal(source.read(("photos", row)), PHOTOS[row])
    assert [(where.start, where.stop) for where in taken][1:] == blocks[1:]
    assert len(taken) == len(blocks)


def test_rank_follows_the_file(tmp_path: Path) -> None:
    def late(file: h5py.File, name: str) -> None:
        file.create_dataset(name, data=DRAWINGS[:2], track_times=False)

    source = Hdf5(write(tmp_path / "x.hdf5", a=late, B=np.zeros((3, 4, 4), np.uint8)))
    with h5py.File(source.path) as file:
        begins = {name: file[name].id.get_offset() for name in ("a", "B", "set/of/drawings")}
    keys = [(name, row) for name, (shape, _) in source.datasets().items() for row in range(shape[0])]
    ranks = [source.rank(key) for key in keys]
    assert sorted(ranks) == list(range(len(keys)))
    ordered = [key for _, key in sorted(zip(ranks, keys, strict=True))]
    assert [key[1] for key in ordered if key[0] == "photos"] == list(range(9))
    contiguous = list(dict.fromkeys(name for name, _ in ordered if name in begins))
    assert contiguous == sorted(begins, key=lambda name: begins[name])


def test_stamp_follows_names_shapes_size_and_time(path: Path, tmp_path: Path) -> None:
    first = Hdf5(path).stamp()
    assert len(first) == 64 and Hdf5(path).stamp() == first
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert Hdf5(path).stamp() != first
    renamed = write(tmp_path / "y.hdf5")
    with h5py.File(renamed, "a") as file:
        file.move("photos", "pictures")
    os.utime(renamed, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert renamed.stat().st_size == state.st_size and Hdf5(renamed).stamp() != first


# keys that lead nowhere


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (("photos", 9), "x.hdf5: photos has 9 rows, there is no row 9"),
        (("photos", -1), "x.hdf5: photos has 9 rows, there is no row -1"),
        (("pictures", 0), "x.hdf5: there is no dataset 'pictures' in this file"),
        (("labels", 0), r"x.hdf5: labels holds int64 \(3,\); images are uint8 \(n, height, width\) or"),
        (("floats", 0), r"x.hdf5: floats holds float32 \(2, 3, 3\); images are uint8"),
        (("one", 0), r"x.hdf5: one holds uint8 \(\); images are uint8"),
        (("nothing", 0), r"x.hdf5: nothing holds uint8 \(0,\); images are uint8"),
        (("words", 0), r"x.hdf5: words holds object \(2,\); images are uint8"),
    ],
)
def test_what_is_no_image(tmp_path: Path, key: tuple, words: str) -> None:
    path = write(
        tmp_path / "x.hdf5", labels=np.arange(3), floats=np.zeros((2, 3, 3), np.float32), one=np.uint8(3),
        nothing=h5py.Empty("u1"), words=["a", "bc"],
    )  # fmt: skip
    with pytest.raises(DataError, match=words):
        Hdf5(path).read(key)


def test_objects_and_large_arrays_are_not_read_whole(tmp_path: Path) -> None:
    def references(file: h5py.File, name: str) -> None:
        file.create_dataset(name, data=[file.ref], dtype=h5py.ref_dtype)

    def pairs(file: h5py.File, name: str) -> None:
        file.create_dataset(name, (2,), dtype=np.dtype([("a", "i4"), ("b", h5py.string_dtype())]))

    source = Hdf5(write(tmp_path / "x.hdf5", words=["a", "bc"], refs=references, pairs=pairs, fixed=np.array([b"ab"])))
    assert source.array("fixed").tolist() == [b"ab"]
    for name in ("words", "refs", "pairs"):
        with pytest.raises(DataError, match=f"x.hdf5: {name} holds items that vary in length or refer to others; save"):
            source.array(name)
    with pytest.raises(DataError, match="x.hdf5: photos has 972 bytes, allowed are 971"):
        source.array("photos", 971)


# files that are none


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<!DOCTYPE html><html>", "is an HTML page that a download link returned.*; expected an HDF5 file: download"),
        (b"", "is empty; expected an HDF5 file: fetch it again"),
        (b"PK\x03\x04" + bytes(60), "is a zip archive; expected an HDF5 file: unpack it"),
        (bytes(range(128, 255)), "is of an unknown kind .*; expected an HDF5 file"),
    ],
)
def test_another_kind_of_file(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "x.hdf5").write_bytes(data)
    refused(tmp_path / "x.hdf5", words)


def test_no_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.hdf5", "cannot be opened .No such file or directory.; give an HDF5 file")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_cut_short(path: Path, keep: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    refused(path, "is an HDF5 file that cannot be opened .*: cut short, damaged or still being written; fetch")


def test_a_damaged_chunk_costs_its_rows_alone(path: Path) -> None:
    with h5py.File(path) as file:
        chunk = file["photos"].id.get_chunk_info(1)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 255
    path.write_bytes(bytes(data))
    source = Hdf5(path)
    for row in (0, 3, 8):
        np.testing.assert_array_equal(source.read(("photos", row)), PHOTOS[row])
    for row in (4, 7):
        with pytest.raises(DataError, match=f"x.hdf5: photos, row {row}, cannot be read .*; fetch the file again"):
            source.read(("photos", row))


def test_flipped_bytes_end_in_words(path: Path) -> None:
    """Whatever byte of the structure is damaged: either all can be read, or one clear error."""
    intact = path.read_bytes()
    met = 0
    for place in range(0, len(intact), 7):
        path.write_bytes(intact[:place] + bytes([intact[place] ^ 0xFF]) + intact[place + 1 :])
        source = Hdf5(path)
        try:
            for name in source.datasets():
                source.array(name)
        except DataError as error:
            assert str(path) in str(error)
            met += 1
        source.close()
    assert met > 20


def test_a_file_with_a_head_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["photos"] = PHOTOS
    with path.open("r+b") as file:
        file.write(b"\x00MATLAB 7.3 MAT-file")
    np.testing.assert_array_equal(Hdf5(path).read(("photos", 2)), PHOTOS[2])


# what leads out of the file, and traps


def outside(file: h5py.File, name: str) -> None:
    file[name] = h5py.ExternalLink("secret.hdf5", "/data")


def raw_outside(file: h5py.File, name: str) -> None:
    file.create_dataset(name, (4, 5, 5), np.uint8, external=[("secret.raw", 0, 100)])


def virtual(file: h5py.File, name: str) -> None:
    layout = h5py.VirtualLayout((4, 5, 5), np.uint8)
    layout[:] = h5py.VirtualSource("secret.hdf5", "data", (4, 5, 5))
    file.create_virtual_dataset(name, layout)


def growing(file: h5py.File, name: str) -> None:
    """A virtual dataset whose very shape is that of the other file."""
    whole = h5py.h5s.create_simple((0, 5, 5), (h5py.h5s.UNLIMITED, 5, 5))
    whole.select_hyperslab((0, 0, 0), (1, 1, 1), block=(h5py.h5s.UNLIMITED, 5, 5))
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_virtual(whole, b"secret.hdf5", b"data", whole)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.NATIVE_UINT8, whole, made)


def circle(file: h5py.File, name: str) -> None:
    file[f"set/of/{name}"] = file["set"]


def large_chunks(file: h5py.File, name: str) -> None:
    file.create_dataset(name, (100, 1000, 1000), np.uint8, chunks=(68, 1000, 1000), compression="gzip")


def bomb(file: h5py.File, name: str) -> None:
    file.create_dataset(name, (10**7, 100, 100), np.uint8, chunks=(1, 100, 100))


def no_text(file: h5py.File, name: str) -> None:
    file[b"\xff\xfe"] = 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (outside, "x.hdf5: bad is a link to '/data' of another file, 'secret.hdf5'; refused: copy the data"),
        (h5py.SoftLink("/photos"), "x.hdf5: bad is a soft link to '/photos'; refused: copy the data in its place"),
        (h5py.SoftLink("../../x"), "x.hdf5: bad is a soft link to '../../x'; refused"),
        (raw_outside, "x.hdf5: bad keeps its data in another file; refused"),
        (virtual, "x.hdf5: bad is virtual: its data is in other datasets or files; refused"),
        (growing, "x.hdf5: bad is virtual"),
        (circle, "x.hdf5: group 'set/of/bad' is also 'set'; groups that are linked twice are refused"),
        (large_chunks, "x.hdf5: bad is stored in chunks of 68,000,000 bytes, allowed are 67,108,864; rewrite"),
        (bomb, "x.hdf5 unpacks .* bytes to 100,.* or more.*: refused as a decompression bomb"),
        (no_text, r"x.hdf5: '\\udcff\\udcfe' is no UTF-8 text; rename it"),
    ],
)
def test_traps(tmp_path: Path, make, words: str) -> None:
    with h5py.File(tmp_path / "secret.hdf5", "w") as file:
        file["data"] = np.full((4, 5, 5), 7, np.uint8)
    (tmp_path / "secret.raw").write_bytes(bytes([7]) * 100)
    refused(write(tmp_path / "x.hdf5", bad=make), words)


def test_a_filter_that_is_not_installed(tmp_path: Path, monkeypatch) -> None:
    path = write(tmp_path / "x.hdf5")
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda number: number != 1)
    refused(path, "x.hdf5: photos is compressed by the filter 1 .deflate., which is not installed; rewrite the file")


def test_the_limits_are_those_of_the_messages() -> None:
    assert (hdf5_module._HELD, hdf5_index.LARGEST_CHUNK) == (16 << 20, 64 << 20)


def test_without_h5py_the_extra_is_named(path: Path, tmp_path: Path) -> None:
    (tmp_path / "page.hdf5").write_text("<html></html>")
    code = (
        "import sys; sys.modules['h5py'] = None\n"
        "from pathlib import Path; from tasks.errors import DataError; from tasks.hdf5 import Hdf5\n"
        "for path in sys.argv[1:]:\n"
        "    try: Hdf5(Path(path)).datasets()\n"
        "    except DataError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path, tmp_path / "page.hdf5"], capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    assert first == (
        f"{path} is an HDF5 file and reading it needs h5py, which is not installed: pip install 'metalearn[formats]'"
    )
    assert "is an HTML page" in second
