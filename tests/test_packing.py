"""Packing: what a listing names is what the store holds, on any number of cores, after a kill, or nothing at all."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from tasks import scan as scan_module
from tasks.decode import Decoder
from tasks.errors import DataError
from tasks.listing import Image, Listing, Source
from tasks.packing import newest, packed, stores
from tasks.scan import CHUNK, Plan, scan
from tasks.store import open_store

SIDE = 6


class Arrays(Source):
    """Pixels made from the key; remembers what was read in which order; keys in ``bad`` cannot be read."""

    def __init__(self, path: Path, bad: tuple[int, ...] = (), backwards: bool = False):
        self.path, self.bad, self.backwards = path, bad, backwards
        self.seen: list[int] = []
        self.closed = 0

    def read(self, key: int) -> np.ndarray:
        self.seen.append(key)
        if key in self.bad:
            raise DataError(f"{self.path}: image {key} cannot be read")
        return pixels(key)

    def rank(self, key: int) -> int:
        return -key if self.backwards else 0

    def close(self) -> None:
        self.closed += 1


def pixels(key: int) -> np.ndarray:
    return np.random.default_rng(key).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)


def listing(images: int = 300, sources: int = 2, **more) -> Listing:
    """Classes b and a, whose images alternate between the sources; keys count up over all."""
    found = [Arrays(Path(f"source{s}.zip"), **more) for s in range(sources)]
    classes: dict[str, list[Image]] = {"b": [], "a": []}
    for key in range(images):
        classes["b" if key < images // 3 else "a"].append(Image(f"{key}.png", found[key % sources], key))
    return Listing("arrays", Path("data.zip"), classes, "stamp", {"train": ["b"], "test": ["a"]}, ("a note",), "mine")


DECODER = Decoder(3, SIDE)


def expected(images: int = 300) -> np.ndarray:
    keys = [*range(images // 3, images), *range(images // 3)]
    return np.stack([pixels(key).transpose(2, 0, 1) for key in keys])


def test_classes_are_sorted_and_images_keep_their_order(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    store = packed(
        "toy", listing(), DECODER, root=tmp_path, report=lambda what, done, total: seen.append((done, total))
    )
    np.testing.assert_array_equal(store.images, expected())
    assert store.class_names == ("a", "b") and store.offsets.tolist() == [0, 200, 300]
    assert store.image_names[0] == "100.png" and store.image_names[299] == "99.png"
    assert store.info["parts"] == {"train": ["b"], "test": ["a"]}
    assert (store.info["format"], store.info["notes"], store.info["label"]) == ("arrays", ["a note"], "mine")
    assert store.info["source"] == "data.zip"
    assert seen[-1] == (300, 300) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert open_store(stores("toy", root=tmp_path)[0], verify=True).fingerprint == store.fingerprint


def test_packed_once(tmp_path: Path) -> None:
    first = packed("toy", listing(), DECODER, root=tmp_path)
    again = listing()
    assert packed("toy", again, DECODER, root=tmp_path).images.filename == first.images.filename
    assert not next(iter(again.classes["a"])).source.seen


@pytest.mark.parametrize("change", [{"stamp": "other"}, {"decoder": Decoder(3, SIDE, invert=True)}, {"size": 4}])
def test_other_content_or_decoding_is_another_store(tmp_path: Path, change: dict) -> None:
    first = packed("toy", listing(), DECODER, root=tmp_path)
    given = listing()
    object.__setattr__(given, "stamp", change.get("stamp", "stamp"))
    decoder = change.get("decoder", Decoder(3, change.get("size", SIDE)))
    other = packed("toy", given, decoder, root=tmp_path)
    assert other.images.filename != first.images.filename
    assert newest("toy", SIDE, root=tmp_path) is not None and newest("toy", 99, root=tmp_path) is None
    assert newest("to", SIDE, root=tmp_path) is None


def test_each_source_is_read_forward_once_and_then_closed() -> None:
    given = listing(backwards=True)
    plan = Plan.of(given)
    assert sum(len(chunk.rows) for _, chunk in scan(plan, DECODER)) == 300
    for image in given.classes["a"][:2]:
        assert isinstance(image.source, Arrays)
        assert image.source.seen == sorted(image.source.seen, reverse=True) and len(set(image.source.seen)) == 150
        assert image.source.closed == 1


def test_other_processes_decode_to_the_same_pixels(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(scan_module, "_FEW", 0)
    monkeypatch.setattr(scan_module.loky, "cpu_count", lambda: 2)
    np.testing.assert_array_equal(packed("toy", listing(), DECODER, root=tmp_path).images, expected())


def test_reading_runs_ahead_by_a_few_chunks_only(monkeypatch) -> None:
    given = listing(images=CHUNK * 40, sources=1)
    source = given.classes["a"][0].source
    assert isinstance(source, Arrays)
    monkeypatch.setattr(scan_module, "_FEW", 0)
    monkeypatch.setattr(scan_module.loky, "cpu_count", lambda: 2)
    for number, _ in scan(Plan.of(given), DECODER):
        assert len(source.seen) <= (number + 6) * CHUNK
        time.sleep(0.005)  # slower than those who decode
        if number == 20:
            break


class Deadly(Decoder):
    """Ends the process that decodes."""

    def __call__(self, image, where):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_decoding_process_that_is_killed_is_said(monkeypatch) -> None:
    monkeypatch.setattr(scan_module, "_FEW", 0)
    monkeypatch.setattr(scan_module.loky, "cpu_count", lambda: 2)
    with pytest.raises(DataError, match="a process that decodes images was ended .* goes on where it stood"):
        list(scan(Plan.of(listing()), Deadly(3, SIDE)))
    assert len(list(scan(Plan.of(listing()), DECODER))) == 5


def test_a_bad_image_leaves_no_store_and_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="source1.zip: image 101 cannot be read") as caught:
        packed("toy", listing(bad=(101, 103, 105, 107, 109)), DECODER, root=tmp_path)
    assert "and 2 more: `metalearn data check` names all" in str(caught.value)
    assert not stores("toy", root=tmp_path)


def test_a_class_without_images(tmp_path: Path) -> None:
    empty = Listing("arrays", Path("data.zip"), {"a": []}, "stamp")
    with pytest.raises(DataError, match="data.zip: class a has no image; fetch it again"):
        packed("toy", empty, DECODER, root=tmp_path)


SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_packing as toy
from tasks.packing import packed
def report(what, done, total):
    if done >= {kill}: os.kill(os.getpid(), signal.SIGKILL)
packed("toy", toy.listing(3000), toy.DECODER, root=Path({root!r}), report=report)
"""


def test_a_killed_packing_goes_on_where_it_stood(tmp_path: Path) -> None:
    script = SCRIPT.format(tests=str(Path(__file__).parent), root=str(tmp_path), kill=2500)
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[1], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert not stores("toy", root=tmp_path)
    assert newest("toy", SIDE, root=tmp_path) is None
    given = listing(3000)
    store = packed("toy", given, DECODER, root=tmp_path)
    np.testing.assert_array_equal(store.images, expected(3000))
    read = sum(len(image.source.seen) for image in given.classes["a"][:2] if isinstance(image.source, Arrays))
    assert 500 <= read < 1000 + 64  # of 3,000: what had not been marked as written
    assert sorted(os.listdir(tmp_path / "stores")) == [".packing.lock", Path(store.images.filename).parent.name]


@pytest.mark.parametrize("damage", ["mark", "chunk", "images"])
def test_what_a_kill_left_is_not_trusted_blindly(tmp_path: Path, damage: str) -> None:
    with pytest.raises(DataError):
        packed("toy", listing(bad=(299,)), DECODER, root=tmp_path)
    (staging,) = (tmp_path / "stores").glob(".*.partial")
    mark = staging / "packed.json"
    if damage == "mark":
        mark.write_text("{")
    elif damage == "chunk":
        mark.write_text(json.dumps({**json.loads(mark.read_text()), "chunk": 7}))
    else:
        (staging / "images.npy").write_bytes(b"")
    np.testing.assert_array_equal(packed("toy", listing(), DECODER, root=tmp_path).images, expected())


def test_a_full_disk_says_so_and_packing_goes_on_later(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # a real failing write, as on a full disk
    try:
        with pytest.raises(DataError, match="cannot write the store .*: File too large; 0 MB are needed: free space"):
            packed("toy", listing(), DECODER, root=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not stores("toy", root=tmp_path)
    np.testing.assert_array_equal(packed("toy", listing(), DECODER, root=tmp_path).images, expected())


def test_two_at_once_pack_once(tmp_path: Path) -> None:
    given, results = [listing(), listing()], []
    lock = FileLock(tmp_path / "stores" / ".packing.lock")
    (tmp_path / "stores").mkdir()
    waits = threading.Event()

    def report(what: str, done: int, total: int) -> None:
        if what.startswith("wait"):
            waits.set()

    def work(one: Listing) -> None:
        results.append(packed("toy", one, DECODER, root=tmp_path, report=report).fingerprint)

    with lock:
        threads = [threading.Thread(target=work, args=(one,)) for one in given]
        for thread in threads:
            thread.start()
        assert waits.wait(20)
    for thread in threads:
        thread.join()
    read = [sum(len(i.source.seen) for i in one.classes["a"][:2] if isinstance(i.source, Arrays)) for one in given]
    assert sorted(read) == [0, 300] and len(set(results)) == 1


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(0o555)
    yield root
    root.chmod(0o755)


def test_a_read_only_root_packs_into_the_cache(read_only: Path, tmp_path: Path) -> None:
    store = packed("toy", listing(), DECODER, root=read_only, cache=tmp_path / "cache")
    assert Path(store.images.filename).is_relative_to(tmp_path / "cache" / "stores")
    assert newest("toy", SIDE, root=read_only, cache=tmp_path / "cache") is not None


def test_the_newest_serves(tmp_path: Path) -> None:
    first = packed("toy", listing(), DECODER, root=tmp_path)
    other = listing(60)
    object.__setattr__(other, "stamp", "newer")
    packed("toy", other, DECODER, root=tmp_path)
    old = Path(first.images.filename).parent
    os.utime(old, (time.time() - 100,) * 2)
    found = newest("toy", SIDE, root=tmp_path)
    assert found is not None and len(found.images) == 60
