"""Large arrays of a pickle on disk lie in the mapped file: equal to those read into memory, and taking none."""

import gzip
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from mmap import mmap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from python2 import PROTOCOLS, array, cache, text
from test_safe_pickle import same

from tasks import pickle_machine, safe_pickle
from tasks.errors import DataError
from tasks.safe_pickle import load
from tasks.tree import open_tree

LARGE = pickle_machine.LARGE
IMAGES = np.random.default_rng(0).integers(0, 256, (LARGE // 4, 5), np.uint8)


def unmapped(data: bytes):
    return load(io.BytesIO(data), "cache.pkl")


def mapped(folder: Path, data: bytes):
    path = folder / "cache.pkl"
    path.write_bytes(data)
    with path.open("rb") as file:
        return load(file, "cache.pkl")


def is_mapped(items: np.ndarray) -> bool:
    """Whether an array is a view of a mapped file."""
    base = items
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, mmap)


VALUES = {
    "images": IMAGES,
    "columns first": np.asfortranarray(IMAGES),
    "big endian": np.arange(LARGE // 4, dtype=">i4").reshape(2, -1),
    "floats": np.random.default_rng(1).normal(size=LARGE // 8),
    "bytes": np.full(LARGE, b"a"),
    "twice": [IMAGES, IMAGES, IMAGES + 1],
    "cache": {"image_data": IMAGES, "class_dict": {"n01": list(range(300))}},
}
COPIED = {
    "booleans": IMAGES > 100,
    "text": np.full(LARGE // 4, "ä"),
    "bytes": IMAGES.tobytes(),
    "bytes beside an array": {"a": IMAGES, "b": [("x", IMAGES.tobytes())]},
    "a key": {IMAGES.tobytes(): 1},
    "in a set": {IMAGES.tobytes()},
    "bytearray": bytearray(IMAGES.tobytes()),
}


def arrays(value) -> list[np.ndarray]:
    if isinstance(value, np.ndarray):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [found for item in inner for found in arrays(item)]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", VALUES)
def test_arrays_of_python_3_are_mapped_from_protocol_3_on_and_equal_those_in_memory(name, protocol, tmp_path):
    data = pickle.dumps(VALUES[name], protocol)
    result = mapped(tmp_path, data)
    assert same(result, unmapped(data)) and same(result, VALUES[name])
    assert all(is_mapped(found) == (protocol >= 3) for found in arrays(result))
    assert not any(found.flags.writeable for found in arrays(result))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ["images", "big endian", "floats", "bytes"])
def test_arrays_of_python_2_are_mapped_from_protocol_1_on(name, protocol, tmp_path):
    data = cache(protocol, VALUES[name], {"n01": [1, 2]})
    result = mapped(tmp_path, data)
    assert same(result, unmapped(data)) and same(result, {"image_data": VALUES[name], "class_dict": {"n01": [1, 2]}})
    assert is_mapped(result["image_data"]) == (protocol >= 1)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", COPIED)
def test_what_is_no_array_of_numbers_is_copied(name, protocol, tmp_path):
    data = pickle.dumps(COPIED[name], protocol)
    result = mapped(tmp_path, data)
    assert same(result, unmapped(data)) and same(result, COPIED[name])
    assert not any(map(is_mapped, arrays(result)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_large_text_of_python_2_that_is_no_array_is_text(protocol, tmp_path):
    data = b"(" + text(protocol, IMAGES.tobytes()) + array(protocol, IMAGES) + b"t."
    result = mapped(tmp_path, data)
    assert same(result, unmapped(data)) and same(result, (IMAGES.tobytes().decode("latin-1"), IMAGES))


def test_small_strings_are_read(tmp_path):
    for size, expected in ((LARGE - 1, False), (LARGE, True)):
        assert is_mapped(mapped(tmp_path, pickle.dumps(np.zeros(size, np.uint8)) + b" " * 10)) == expected


def test_refusals_say_the_same(tmp_path):
    large = b"B" + struct.pack("<I", LARGE) + bytes(LARGE)
    bomb = large + b"q\x00" + b"c__builtin__\nbytearray\nh\x00\x85R0" * 3 + b"N."
    latin = b"c_codecs\nencode\n" + large + b"\x85R."
    lie = pickle.dumps(IMAGES, 4).replace(b"K\x05\x86", b"K\x06\x86")
    truth = np.ones(LARGE, bool)
    for data in (
        bomb,
        latin,
        lie,
        large[:-1],
        b"]" + large + b"b.",
        pickle.dumps(truth).replace(b"\x01" * 64, b"\x02" * 64),
    ):
        with pytest.raises(DataError) as in_memory:
            unmapped(data)
        with pytest.raises(DataError) as on_disk:
            mapped(tmp_path, data)
        assert str(on_disk.value) == str(in_memory.value)


def test_a_file_of_a_folder_is_mapped_and_members_of_archives_are_not(tmp_path):
    data = pickle.dumps(IMAGES)
    (tmp_path / "at").mkdir()
    (tmp_path / "at" / "cache.pkl").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("cache.pkl", data)
    (tmp_path / "cache.pkl.gz").write_bytes(gzip.compress(data, 1))
    found = []
    for tree in (open_tree(tmp_path / "at"), open_tree(tmp_path / "a.zip")):
        with tree.open("cache.pkl") as file:
            found.append(load(file, "x"))
    with gzip.open(tmp_path / "cache.pkl.gz") as file:  # its fileno is that of the compressed bytes
        found.append(load(file, "x"))
    assert [is_mapped(one) for one in found] == [True, False, False]
    assert all(same(one, IMAGES) for one in found)


def test_a_pickle_behind_others_is_mapped_at_its_place(tmp_path):
    path = tmp_path / "two.pkl"
    path.write_bytes(b"head" + pickle.dumps(IMAGES) + pickle.dumps(IMAGES + 1))
    with path.open("rb") as file:
        file.seek(4)
        one, two = load(file, "x"), load(file, "x")
    assert same(one, IMAGES) and same(two, IMAGES + 1) and is_mapped(one) and is_mapped(two)


def test_where_files_cannot_be_mapped_they_are_read(tmp_path, monkeypatch):
    def fail(*arguments, **more):
        raise OSError("no such device")

    monkeypatch.setattr(safe_pickle.mmap, "mmap", fail)
    result = mapped(tmp_path, pickle.dumps(IMAGES))
    assert same(result, IMAGES) and not is_mapped(result)


MEMORY = """
import sys
from tasks.safe_pickle import load
def held():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024
with open(sys.argv[1], "rb") as file:
    before = held()
    images = load(file, "x")["image_data"]
assert images.sum() == 64 * 2**20  # every page is touched
print(held() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is counted by Linux")
@pytest.mark.parametrize("written_by", ["python 2", "python 3"])
def test_a_large_array_on_disk_takes_no_memory_of_its_own(written_by, tmp_path):
    images = np.ones(64 * 2**20, np.uint8)
    path = tmp_path / "cache.pkl"
    path.write_bytes(cache(2, images, {}) if written_by == "python 2" else pickle.dumps({"image_data": images}))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, path],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < images.nbytes / 5


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mapped_and_read_pickles_are_the_same_whatever_they_hold(tmp_path_factory, data):
    strings = st.sampled_from([b"", b"abc", bytes(16), bytes(range(64)), b"\xff" * 17])
    value = data.draw(
        st.recursive(
            strings | strings.map(lambda item: np.frombuffer(item, np.uint8)) | strings.map(bytearray) | st.integers(),
            lambda inner: (
                st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=3) | st.tuples(inner, inner)
            ),
            max_leaves=8,
        )
    )
    written = pickle.dumps(value, data.draw(st.integers(3, 5)))
    with pytest.MonkeyPatch.context() as patch:
        for module in (pickle_machine, safe_pickle):
            patch.setattr(module, "LARGE", 1)
        assert same(mapped(tmp_path_factory.mktemp("at"), written), value)
