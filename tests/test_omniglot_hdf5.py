"""Omniglot as torchmeta writes it: found by its contents, packed to the pixels of the zips, each mistake named."""

import functools
import io
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image, ImageOps
from tiny_omniglot import BACKGROUND, DRAWINGS, EVALUATION, PARTS, write_zip

from metalearn.data import overview
from tasks import download as download_module
from tasks import omniglot as omniglot_module
from tasks.datasets import omniglot
from tasks.errors import DataError
from tasks.omniglot import find, omniglot_store
from tasks.origins import ORIGINS

pack = functools.partial(omniglot_store, parts=PARTS)
ALL = BACKGROUND | EVALUATION
FIRST = "images_background/Greek/character01"


def characters(files: dict[str, bytes]) -> dict[str, np.ndarray]:
    """Drawings as torchmeta stores them: 8 bits, inverted, by ``images_background/Alphabet/characterNN``."""
    found: dict[str, list[np.ndarray]] = {}
    for name, data in sorted(files.items()):
        drawing = ImageOps.invert(Image.open(io.BytesIO(data)).convert("L"))
        found.setdefault(name.rpartition("/")[0], []).append(np.asarray(drawing))
    return {name: np.stack(drawings) for name, drawings in found.items()}


def write(path: Path, datasets: dict[str, np.ndarray], **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in datasets.items():
            file.create_dataset(name, data=array, **options)
    return path


@pytest.fixture
def offline(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download_module, "_ATTEMPTS", 1)


@pytest.fixture
def zips(tmp_path: Path) -> Path:
    write_zip(tmp_path / "zips" / "images_background.zip", BACKGROUND)
    write_zip(tmp_path / "zips" / "images_evaluation.zip", EVALUATION)
    return tmp_path / "zips"


@pytest.mark.parametrize("place", ["omniglot/data.hdf5", "data.hdf5", "some/where/data.hdf5"])
@pytest.mark.parametrize("options", [{}, {"chunks": True, "compression": "gzip"}], ids=["plain", "gzip"])
def test_the_pixels_are_those_of_the_zips(tmp_path: Path, zips: Path, place: str, options: dict) -> None:
    root = tmp_path / "root"
    path = write(root / place, characters(ALL), **options)
    assert find(root, PARTS) == [(path, "torchmeta's HDF5 file")]
    store, expected = pack(root), pack(zips)
    np.testing.assert_array_equal(store.images, expected.images)
    assert store.images.max() == 255 and np.median(store.images) == 0
    assert store.class_names == expected.class_names and store.info["parts"] == expected.info["parts"]
    assert store.offsets.tolist() == expected.offsets.tolist()
    assert list(store.image_names[:2]) == [f"{FIRST}/00", f"{FIRST}/01"]
    assert "order of its own" in store.info["notes"][0] and not expected.info["notes"]
    assert pack(root).images.filename == store.images.filename


def test_the_splits_are_those_of_the_zips(tmp_path: Path, zips: Path, monkeypatch) -> None:
    write(tmp_path / "root" / "data.hdf5", characters(ALL))
    monkeypatch.setattr("tasks.datasets.omniglot_store", pack)
    one, other = omniglot(tmp_path / "root"), omniglot(zips)
    for part in ("train", "val", "test"):
        assert getattr(one, part).class_names == getattr(other, part).class_names


def test_the_tables_know_it(tmp_path: Path) -> None:
    path = write(tmp_path / "omniglot" / "data.hdf5", characters(ALL))
    assert ORIGINS["omniglot"].find(tmp_path) == [(path, "torchmeta's HDF5 file")]
    assert f"found: {path} (torchmeta's HDF5 file)" in overview(tmp_path)


def test_zips_come_first(zips: Path) -> None:
    write(zips / "data.hdf5", {})
    path = write(zips / "omniglot" / "data.hdf5", characters(ALL))
    assert [what for _, what in find(zips, PARTS)] == ["zip", "zip"]
    (zips / "images_evaluation.zip").unlink()
    assert find(zips, PARTS) == [(zips / "images_background.zip", "zip"), (path, "torchmeta's HDF5 file")]
    assert len(pack(zips).images) == 6 * DRAWINGS  # one part from each


def test_a_file_of_another_dataset_is_left_alone(tmp_path: Path, offline: None) -> None:
    write(tmp_path / "cifar100" / "data.hdf5", {"apple": np.zeros((2, 32, 32, 3), np.uint8)})
    (tmp_path / "data.hdf5").write_text("<html></html>")
    assert find(tmp_path, PARTS) == []
    with pytest.raises(DataError, match="no images_background.zip and no folder images_background under"):
        pack(tmp_path)


WHITE = np.zeros((DRAWINGS, 105, 105), np.uint8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({FIRST: None}, "data.hdf5, images_background holds 3 characters, expected 4; fetch it again"),
        ({"images_background/New/character01": WHITE}, "data.hdf5, images_background holds 5 characters, expected 4"),
        ({FIRST: WHITE[1:]}, "data.hdf5, images_background: Greek/character01 has 2 images, expected 3; fetch"),
        ({FIRST: WHITE[:, 1:]}, f"data.hdf5: {FIRST}/00 is 105x104 pixels, expected 105x105"),
        ({FIRST: WHITE / 255}, rf"{FIRST} holds float64 \(3, 105, 105\), expected uint8 \(3, 105, 105\); fetch it"),
        ({FIRST: WHITE[0]}, rf"{FIRST} holds uint8 \(105, 105\), expected uint8 \(3, 105, 105\)"),
        (
            {"images_background/Tifinagh/character01": WHITE, FIRST: None},
            "Tifinagh/character01 is in .*data.hdf5 and in .*data.hdf5; fetch them again",
        ),
        (
            {name: None for name in characters(EVALUATION)},
            "data.hdf5, images_evaluation holds 0 characters, expected 2",
        ),
    ],
)
def test_wrong_contents(tmp_path: Path, change: dict, words: str) -> None:
    datasets = {name: array for name, array in (characters(ALL) | change).items() if array is not None}
    write(tmp_path / "omniglot" / "data.hdf5", datasets)
    with pytest.raises(DataError, match=words):
        pack(tmp_path)
    assert not list(tmp_path.glob("stores/omniglot*"))


def test_a_file_that_torchmeta_did_not_finish(tmp_path: Path) -> None:
    write(tmp_path / "omniglot" / "data.hdf5", {})
    with pytest.raises(DataError, match="data.hdf5, images_background holds 0 characters, expected 4; fetch it again"):
        pack(tmp_path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<html></html>", "omniglot/data.hdf5 is an HTML page"),
        (None, "omniglot/data.hdf5 is an HDF5 file that cannot be opened"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, data: bytes | None, words: str) -> None:
    path = write(tmp_path / "omniglot" / "data.hdf5", characters(ALL))
    path.write_bytes(path.read_bytes()[:5000] if data is None else data)
    with pytest.raises(DataError, match=words):
        pack(tmp_path)


def test_without_h5py_the_file_is_found_and_the_extra_named(tmp_path: Path) -> None:
    write(tmp_path / "omniglot" / "data.hdf5", characters(ALL))
    code = (
        "import sys; sys.modules['h5py'] = None\n"
        "from pathlib import Path; from tasks.errors import DataError\n"
        "from tasks.omniglot import find, omniglot_store\n"
        "root = Path(sys.argv[1]); print(len(find(root)))\n"
        "try: omniglot_store(root)\n"
        "except DataError as error: print(error)\n"
    )
    told = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True).stdout
    assert told.startswith("1\n") and "data.hdf5 is an HDF5 file and reading it needs h5py" in told


def test_real_drawings_through_torchmetas_form(tmp_path: Path, data_root: Path) -> None:
    """A few hundred real drawings, written as torchmeta does and as a zip, pack to the same pixels."""
    (place, _), *_ = find(data_root, (omniglot_module.BACKGROUND,))
    tree = omniglot_module.open_tree(place)
    names = [name for name in tree.names if "/Greek/" in name]
    files = {name[name.index("images_background") :]: tree.read(name) for name in names}
    part = omniglot_module.Part("images_background", 24, 20, "", "")
    write_zip(tmp_path / "zip" / "images_background.zip", files)
    write(tmp_path / "hdf5" / "data.hdf5", characters(files))
    one, other = (omniglot_store(tmp_path / kind, parts=(part,)) for kind in ("zip", "hdf5"))
    assert len(one.images) == 480
    np.testing.assert_array_equal(one.images, other.images)
