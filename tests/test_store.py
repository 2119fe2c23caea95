"""The packed store: what is written is what is opened, and nothing half-written is ever opened."""

import json
import resource
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.errors import DataError
from tasks.folders import stores_folder
from tasks.store import Store, open_store, write_store


def small(images: int = 6, side: int = 4) -> Store:
    return Store(
        name="small",
        images=np.arange(images * side * side, dtype=np.uint8).reshape(images, 1, side, side),
        offsets=np.array([0, 2, images], np.int64),
        class_names=("a", "b"),
        image_names=tuple(f"{i}.png" for i in range(images)),
        factors={"scale": np.linspace(0, 1, images, dtype=np.float32)},
        info={"seed": 3},
    )


def test_round_trip_is_memory_mapped(tmp_path: Path) -> None:
    store = small()
    opened = write_store(tmp_path / "x", store)
    assert isinstance(opened.images, np.memmap) and not opened.images.flags.writeable
    np.testing.assert_array_equal(opened.images, store.images)
    np.testing.assert_array_equal(opened.offsets, store.offsets)
    np.testing.assert_array_equal(opened.factors["scale"], store.factors["scale"])
    assert (opened.class_names, tuple(opened.image_names)) == (store.class_names, store.image_names)
    assert (opened.fingerprint, dict(opened.info)) == (store.fingerprint, {"seed": 3})
    assert open_store(tmp_path / "x", verify=True).fingerprint == store.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_fingerprint_depends_on_everything() -> None:
    store = small()
    pixel = store.images.copy()
    pixel[0, 0, 0, 0] += 1
    others = [
        replace(store, images=pixel, fingerprint=""),
        replace(store, class_names=("a", "c"), fingerprint=""),
        replace(store, offsets=np.array([0, 3, 6], np.int64), fingerprint=""),
        replace(store, factors={}, fingerprint=""),
        replace(store, image_names=(), fingerprint=""),
    ]
    assert len({s.fingerprint for s in [store, *others]}) == 6


def test_writing_again_replaces(tmp_path: Path) -> None:
    write_store(tmp_path / "x", small())
    assert len(write_store(tmp_path / "x", small(images=8)).images) == 8
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_many_writers_at_once_leave_one_store(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda _: write_store(tmp_path / "x", small()), range(40)))
    assert {store.images.sum() for store in stores} == {small().images.sum()}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_damaged_store_is_replaced(tmp_path: Path) -> None:
    write_store(tmp_path / "x", small())
    (tmp_path / "x" / "meta.json").write_text("{")
    assert write_store(tmp_path / "x", small()).name == "small"


def test_full_disk_leaves_the_previous_store(tmp_path: Path) -> None:
    before = write_store(tmp_path / "x", small())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # a real failing write, as on a full disk
    try:
        with pytest.raises(DataError, match="cannot write the store .*: File too large; 1 MB are needed: free space"):
            write_store(tmp_path / "x", small(images=100, side=100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert open_store(tmp_path / "x", verify=True).fingerprint == before.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("name", ["images.npy", "meta.json", "factors.npz", "image_names.json"])
def test_missing_part(tmp_path: Path, name: str) -> None:
    write_store(tmp_path / "x", small())
    (tmp_path / "x" / name).unlink()
    with pytest.raises(DataError, match=f"x is incomplete: {name} is missing; delete the folder .* packed again"):
        open_store(tmp_path / "x")


@pytest.mark.parametrize("name", ["images.npy", "meta.json", "factors.npz"])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_truncated_part(tmp_path: Path, name: str, keep: float) -> None:
    write_store(tmp_path / "x", small())
    path = tmp_path / "x" / name
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(DataError, match="x is damaged: .*; delete the folder"):
        open_store(tmp_path / "x")


def test_flipped_pixel_is_found_by_verify_only(tmp_path: Path) -> None:
    write_store(tmp_path / "x", small())
    path = tmp_path / "x" / "images.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    open_store(tmp_path / "x")
    with pytest.raises(DataError, match="contents do not match its fingerprint"):
        open_store(tmp_path / "x", verify=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 99}, "has schema 99, this version reads 2; delete the folder"),
        ({"offsets": [0, 2, 5]}, "offsets do not divide 6 images among 2 classes"),
        ({"offsets": []}, "offsets do not divide"),
        ({"offsets": [0, 0, 6]}, "of at least one image"),
        ({"class_names": ["b", "a"]}, "class names must be sorted"),
        ({"image_names": ["one"]}, "1 image names for 6 images"),
        ({"factors": ["unknown"]}, "is damaged: .*unknown"),
    ],
)
def test_contradicting_meta(tmp_path: Path, change: dict, words: str) -> None:
    write_store(tmp_path / "x", small())
    path = tmp_path / "x" / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=words):
        open_store(tmp_path / "x")


def test_image_names_are_read_when_asked_for_and_only_then(tmp_path: Path) -> None:
    opened = write_store(tmp_path / "x", small())
    (tmp_path / "x" / "image_names.json").write_text("[")
    assert len(opened.image_names) == 6
    with pytest.raises(DataError, match="image_names.json cannot be read .*; delete the folder"):
        opened.image_names[0]
    (tmp_path / "x" / "image_names.json").write_text('["one"]')
    with pytest.raises(DataError, match="image_names.json has 1 names for 6 images; delete the folder"):
        open_store(tmp_path / "x").image_names[0]


def test_a_store_of_the_first_schema_is_read(tmp_path: Path) -> None:
    store = write_store(tmp_path / "x", small())
    path = tmp_path / "x" / "meta.json"
    names = json.loads((tmp_path / "x" / "image_names.json").read_text())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 1, "image_names": names}))
    (tmp_path / "x" / "image_names.json").unlink()
    first = open_store(tmp_path / "x", verify=True)
    assert (first.fingerprint, list(first.image_names)) == (store.fingerprint, names)


def test_wrong_images_are_refused() -> None:
    with pytest.raises(DataError, match="factors .'scale'. are not one number an image"):
        replace(small(), factors={"scale": np.zeros(5, np.float32)})


def test_stores_go_to_the_cache_when_the_root_is_read_only(tmp_path: Path, monkeypatch) -> None:
    root = tmp_path / "root"
    root.mkdir()
    assert stores_folder(root) == root / "stores"
    root.chmod(0o555)
    try:
        assert stores_folder(root, tmp_path / "cache") == tmp_path / "cache" / "stores"
        monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "elsewhere"))
        assert stores_folder(root) == tmp_path / "elsewhere" / "stores"
        monkeypatch.delenv("METALEARN_CACHE")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert stores_folder(root) == tmp_path / ".cache" / "metalearn" / "stores"
    finally:
        root.chmod(0o755)
