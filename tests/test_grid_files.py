"""dSprites and 3D Shapes from their files: found, compared with their grid, packed by rows, each mistake named."""

import dataclasses
import io
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from metalearn.data import check, overview, prepare
from tasks import datasets as datasets_module
from tasks import npz as npz_module
from tasks import origins
from tasks.datasets import dsprites, shapes3d
from tasks.dsprites import DSPRITES
from tasks.errors import DataError
from tasks.grids import Factor, Grid
from tasks.npz import Npz
from tasks.progress import silent
from tasks.shapes3d import SHAPES3D
from tasks.splits import PARTS, Dataset

NPZ = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
KINDS = {"dsprites": dsprites, "shapes3d": shapes3d}
TINY = Grid(
    {
        "shape": Factor("categorical", (1.0, 2.0)),
        "scale": Factor("ordinal", (0.5, 0.75, 1.0)),
        "orientation": Factor("cyclic", (0.0, 3.0)),
        "position_x": Factor("ordinal", (0.0, 0.25, 0.5, 1.0)),
    },
    classes={"shape": 1, "scale": 1, "orientation": 1},
)
ROWS = np.arange(TINY.count)
GREY = np.random.default_rng(0).integers(0, 2, (TINY.count, 64, 64), np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (TINY.count, 64, 64, 3), np.uint8)
LABELS = np.stack(list(TINY.values(ROWS).values()), 1).astype(np.float64)


class Loud:
    """Would say so if it was unpickled."""

    def __reduce__(self):
        return pytest.fail, ("the metadata was unpickled",)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root, and both datasets with a grid of 48 images."""
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    for name, file in (("DSPRITES", DSPRITES), ("SHAPES3D", SHAPES3D)):
        tiny = dataclasses.replace(file, grid=TINY)
        monkeypatch.setattr(datasets_module, name, tiny)
        monkeypatch.setitem(origins.ORIGINS, file.name, origins._of(tiny))
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def write_npz(path: Path, **changed: object) -> Path:
    arrays = {
        "metadata": np.array({"title": Loud()}, object),
        "imgs": GREY,
        "latents_values": np.concatenate([np.ones((TINY.count, 1)), LABELS], 1),
        "latents_classes": np.zeros((TINY.count, 5), np.int64),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    given = {name: array for name, array in (arrays | changed).items() if array is not None}
    np.savez_compressed(path, **given)  # type: ignore[arg-type]
    return path


def write_h5(path: Path, **changed: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in ({"images": COLOUR, "labels": LABELS} | changed).items():
            if array is not None:
                file.create_dataset(name, data=array, chunks=True, compression="gzip")
    return path


def write(root: Path, kind: str, **changed: object) -> Path:
    if kind == "dsprites":
        return write_npz(root / "some/where" / NPZ, **changed)
    return write_h5(root / "3dshapes.h5", **changed)


def whole(dataset: Dataset) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images and factors of all parts, in the order of the grid."""
    parts = [getattr(dataset, part) for part in PARTS]
    factors = {name: np.concatenate([part.factors[name] for part in parts]) for name in TINY.factors}
    order = np.lexsort(list(factors.values())[::-1])
    return np.concatenate([part.images() for part in parts])[order], {name: f[order] for name, f in factors.items()}


@pytest.mark.parametrize("split", ["classes", "images"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_image_with_its_factors(root: Path, kind: str, split: str) -> None:
    write(root, kind)
    dataset = KINDS[kind](root, images=TINY.count, split=split)
    images, factors = whole(dataset)
    np.testing.assert_array_equal(images, GREY[:, None] * 255 if kind == "dsprites" else COLOUR.transpose(0, 3, 1, 2))
    for name, values in TINY.values(ROWS).items():
        np.testing.assert_array_equal(factors[name], values)
    assert dataset.label == f"{kind}/{split}"
    assert dataset.train.store.info["factor_kinds"] == {
        "shape": "categorical", "scale": "ordinal", "orientation": "cyclic", "position_x": "ordinal"
    }  # fmt: skip
    assert dataset.train.store.info["factor_values"]["position_x"] == [0, 0.25, 0.5, 1]
    sizes = [len(getattr(dataset, part).index) for part in PARTS]
    assert sizes == ([8 * 4, 2 * 4, 2 * 4] if split == "classes" else [30, 9, 9])


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_is_that_of_the_grid_and_is_packed_once(root: Path, kind: str) -> None:
    path = write(root, kind)
    dataset = KINDS[kind](root, images=20, seed=5)
    rows = np.sort(np.concatenate(list(TINY.drawn(datasets_module.Draw(20, 5, "classes", 0)).values())))
    images, _ = whole(dataset)
    np.testing.assert_array_equal(images, GREY[rows, None] * 255 if kind == "dsprites" else COLOUR[rows].transpose(
        0, 3, 1, 2
    ))  # fmt: skip
    other = KINDS[kind](root, images=20, seed=5, split_seed=1)  # only groups the classes anew
    assert other.train.store.fingerprint == dataset.train.store.fingerprint
    assert other.test.class_names != dataset.test.class_names
    assert len(list(root.glob("stores/[ds]*"))) == 1
    KINDS[kind](root, images=20, seed=6)
    assert len(list(root.glob("stores/[ds]*"))) == 2
    path.unlink()  # each draw is found again without the file, and no other serves in its place
    assert KINDS[kind](root, images=20, seed=5).train.fingerprint == dataset.train.fingerprint
    with pytest.raises(DataError, match="no (dSprites|3D Shapes) under .*: put (dsprites_ndarray|3dshapes.h5)"):
        KINDS[kind](root, images=21, seed=5)


@pytest.mark.parametrize("kind", KINDS)
def test_data_commands(root: Path, kind: str) -> None:
    words = f"missing: {datasets_module.__dict__[kind.upper()].obtain}"
    assert words in overview(root)
    path = write(root, kind)
    said = overview(root)
    assert words not in said and f"found: {path} ({'numpy .npz' if kind == 'dsprites' else 'HDF5'})" in said
    assert f"not packed yet: metalearn data prepare {kind}" in said
    channels = 1 if kind == "dsprites" else 3
    ready = prepare(kind, root, silent, {"images": 48})
    assert ready == f"{kind}/classes: 12 classes, 48 images of ({channels}, 64, 64), ready"
    checked = check(kind, root, silent, {"images": 48})
    assert "no class in two parts; every packed image as it was packed" in checked and f"from {path}" in checked
    assert "train     8 classes x 4 images" in checked
    assert "originals: 64x64 (48); all of them can be read" in checked and "no image in two parts" in checked
    assert "packed: 48 images" in overview(root)


@pytest.mark.parametrize("kind", KINDS)
def test_two_files_and_the_option_that_says_which(root: Path, kind: str) -> None:
    first = write(root, kind)
    second = first.with_name(f"{first.stem}-again{first.suffix}") if kind == "dsprites" else root / "b/3dshapes.h5"
    second.parent.mkdir(exist_ok=True)
    second.write_bytes(first.read_bytes())
    with pytest.raises(DataError, match=f"2 files under .* are named as .*'s: .*{first.name}.*; say which by source"):
        KINDS[kind](root, images=48)
    assert KINDS[kind](root, images=48, source=str(second.relative_to(root))).train.index.size
    with pytest.raises(DataError, match="source 'absent': .* is no file; give (dSprites|3D Shapes)'s file"):
        KINDS[kind](root, images=48, source="absent")


SHORT = {"dsprites": {"imgs": GREY[:47]}, "shapes3d": {"images": COLOUR[:47]}}
SHUFFLED = {
    "dsprites": {"latents_values": np.concatenate([np.ones((48, 1)), LABELS[::-1]], 1)},
    "shapes3d": {"labels": LABELS[::-1]},
}
NONE = {"dsprites": {"imgs": None}, "shapes3d": {"images": None}}
DEEP = {"dsprites": {"imgs": GREY.astype(np.uint16)}, "shapes3d": {"images": COLOUR.astype(np.uint16)}}
TEXT = {"dsprites": {"latents_values": np.full((48, 5), "1")}, "shapes3d": {"labels": np.full((48, 4), b"1")}}
BROKEN = {
    "dsprites": {"latents_values": np.full((48, 5), np.nan)},
    "shapes3d": {"labels": np.full((48, 4), np.nan)},
}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (SHORT, r"(imgs|images) holds uint8 \(47, 64, 64.*, expected uint8 \(48, 64, 64.*; fetch the file again"),
        (SHUFFLED, r": row 0 has shape 2, expected 1; rows are in another order or the file is another one"),
        (NONE, r"has no (array|dataset) '(imgs|images)', only "),
        (DEEP, r"holds uint16 .*, expected uint8"),
        (TEXT, r"(latents_values|labels) holds .*, expected floating"),
        (BROKEN, r"row 0 has shape nan, expected 1"),
    ],
    ids=["short", "shuffled", "none", "deep", "text", "nan"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_another_layout_is_refused(root: Path, kind: str, changed: dict, words: str) -> None:
    path = write(root, kind, **changed[kind])
    with pytest.raises(DataError, match=words) as caught:
        KINDS[kind](root, images=48)
    assert str(path) in str(caught.value)
    assert not list(root.glob("stores/*"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html>", "is an HTML page that a download link returned in place of the file"),
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"),
    ],
    ids=["page", "empty", "pointer"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_such_file_is_named(root: Path, kind: str, content: bytes, words: str) -> None:
    path = write(root, kind)
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        KINDS[kind](root, images=48)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_short(root: Path, kind: str) -> None:
    path = write(root, kind)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(DataError, match="fetch (it|the file) again"):
        KINDS[kind](root, images=48)


def test_a_grey_pixel_in_dsprites(root: Path) -> None:
    grey = GREY.copy()
    grey[17, 3, 4] = 128
    write(root, "dsprites", imgs=grey)
    with pytest.raises(DataError, match="row 17 of imgs has a pixel of 128, expected 0 and 1"):
        dsprites(root, images=48)


def test_a_damaged_row_after_the_last_that_is_drawn_is_found(tmp_path: Path) -> None:
    """The array is read to its end, where its checksum is compared, though the images end before."""
    path = tmp_path / "x.npz"
    np.savez_compressed(path, imgs=np.tile(GREY, (10, 1, 1)))
    data = bytearray(path.read_bytes())
    data[len(data) * 9 // 10] ^= 1
    path.write_bytes(data)
    np.testing.assert_array_equal(Npz(path).read(("imgs", 40)), GREY[40])
    with pytest.raises(DataError, match="x.npz: imgs.npy cannot be read .*; the archive is damaged: fetch it again"):
        Npz(path, last=40).read(("imgs", 40))


def test_rows_in_any_order_and_whole_arrays(tmp_path: Path) -> None:
    source = Npz(write_npz(tmp_path / "x.npz", more=np.arange(6, dtype=">i4").reshape(2, 3)))
    assert source.names == ("imgs", "latents_classes", "latents_values", "metadata", "more")
    for row in (3, 4, 47, 0, 20):
        np.testing.assert_array_equal(source.read(("imgs", row)), GREY[row])
    np.testing.assert_array_equal(source.array("more"), np.arange(6).reshape(2, 3))
    source.close()
    np.testing.assert_array_equal(source.read(("imgs", 1)), GREY[1])


def test_what_is_no_plain_array_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_npz(tmp_path / "x.npz", f=np.asfortranarray(np.ones((3, 4))), flat=np.zeros((3, 4), np.uint8))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("text.npy", "no array")
        whole_array = io.BytesIO()
        np.save(whole_array, np.ones(10))
        archive.writestr("cut.npy", whole_array.getvalue()[:-8])
    source = Npz(path)
    for name, words in (
        ("metadata", "metadata holds pickled Python objects, which are not read; save it as numbers"),
        ("f", "f is stored column by column; save it by numpy.ascontiguousarray"),
        ("text", "text is no numpy array .*; fetch the file again"),
        ("cut", r"cut holds 72 bytes, float64 \(10,\) has 80; fetch the file again"),
        ("absent", "has no array 'absent', only cut, f, flat, imgs, "),
    ):
        with pytest.raises(DataError, match=words):
            source.array(name)
    with pytest.raises(DataError, match=r"flat holds uint8 \(3, 4\); images are uint8 \(n, height, width\)"):
        source.read(("flat", 0))
    with pytest.raises(DataError, match="imgs has 48 rows, there is no row 48; correct the row"):
        source.read(("imgs", 48))
    monkeypatch.setattr(npz_module, "_LARGEST", 100)
    with pytest.raises(DataError, match="latents_values"):
        source.array("latents_values")


def test_the_published_sizes() -> None:
    assert DSPRITES.grid.count == 737_280 and SHAPES3D.grid.count == 480_000
    assert DSPRITES.files.fullmatch(NPZ) and SHAPES3D.files.fullmatch("3dshapes.h5")
    values = {name: factor.values for name, factor in SHAPES3D.grid.factors.items()}
    np.testing.assert_allclose(values["floor_hue"], np.linspace(0, 0.9, 10))
    np.testing.assert_allclose(values["scale"], np.linspace(0.75, 1.25, 8))
    np.testing.assert_allclose(values["orientation"], np.linspace(-30, 30, 15))
    assert values["shape"] == (0, 1, 2, 3)
    assert list(values) == ["floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation"]
