"""What can be wrong with lists, folders, HDF5 and parquet files, each told in words; archives that several sets fit."""

import builtins
import json
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_images import CLASSES, SIDE, data, write_caches, write_csv, write_folders, write_hdf5, write_parquet, zipped

from tasks.datasets import mini_imagenet
from tasks.errors import DataError

ALL = sorted(kind for kinds in CLASSES.values() for kind in kinds)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def refused(root: Path, words: str, **options) -> str:
    with pytest.raises(DataError) as caught:
        mini_imagenet(root, image_size=SIDE, **options)
    assert re.search(words, str(caught.value)), str(caught.value)
    assert not list(root.glob("stores/mini*"))
    return str(caught.value)


def lines(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("\n".join(change(path.read_text().splitlines())))


FIRST = CLASSES["train"][0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda rows: ["a,b", *rows[1:]],
            r"train.csv has the columns a, b; expected a header with one of filename, file_name",
        ),
        (lambda rows: ["filename,b", *rows[1:]], r"expected a header with one of label, class_name"),
        (
            lambda rows: [rows[0], "x.png", *rows[1:]],
            r"train.csv, line 2: 'x.png' does not give filename, label; correct it",
        ),
        (lambda rows: [rows[0], ",n1", *rows[1:]], r"line 2: ',n1' does not give filename, label"),
        (
            lambda rows: [*rows, rows[1]],
            rf"line 194: '{FIRST}_0.png' is listed already in .*train.csv, line 2; list each",
        ),
        (
            lambda rows: [*rows, "no.png,n1", "nor.png,n1"],
            r"line 194: there is no file 'no.png', nor are the files of 1 other lines there; put the images beside",
        ),
        (
            lambda rows: rows[:1],
            r"train.csv lists no image; it needs a header, such as filename,label, and a line an image",
        ),
        (lambda rows: [], r"train.csv is empty"),
        (
            lambda rows: ["<html>", *rows],
            r"train.csv is an HTML page .*; expected comma-separated values with a header",
        ),
        (lambda rows: [rows[0], '"a,b', *rows[1:]], r"train.csv, line \d+: .*; expected comma-separated values"),
    ],
)
def test_csv_lists(root: Path, change, words: str) -> None:
    write_csv(root, data(), ("filename", "label"))
    lines(root / "train.csv", change)
    refused(root, words)


def test_a_csv_list_with_a_byte_order_mark_and_empty_lines_is_read(root: Path) -> None:
    write_csv(root, data(), ("filename", "label"))
    text = (root / "train.csv").read_text()
    (root / "train.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\n\n").encode())
    assert len(mini_imagenet(root, image_size=SIDE).train.class_names) == 64


def test_files_that_are_no_images_are_left_out_with_a_note(root: Path) -> None:
    write_folders(root, data())
    (root / "train" / FIRST / "notes.txt").write_text("")
    (root / "val" / "list.csv").write_text("")
    store = mini_imagenet(root, image_size=SIDE).train.store
    assert (
        "2 files are no images by their names or in no class, and left out: "
        f"train/{FIRST}/notes.txt, val/list.csv" in store.info["notes"]
    )


def test_an_image_file_that_is_none_is_named(root: Path) -> None:
    write_folders(root, data())
    (root / "train" / FIRST / "0.png").write_bytes(b"<html>")
    refused(root, rf"train/{FIRST}/0.png is not a readable image .it is an HTML or XML page")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("nonsense", r"train_labels.json is no JSON .*; fetch it again, or remove it"),
        (json.dumps(CLASSES["val"]), r"train_labels.json lists other classes than the 64 of the data beside it"),
        (json.dumps({"a": 1}), r"train_labels.json lists other classes"),
    ],
)
def test_labels_beside_hdf5(root: Path, content: str, words: str) -> None:
    write_hdf5(root, data())
    (root / "train_labels.json").write_text(content)
    refused(root, words)


def test_hdf5_needs_no_labels_beside_it_but_classes_of_images(root: Path) -> None:
    write_hdf5(root, data())
    for part in ("train", "val", "test"):
        (root / f"{part}_labels.json").unlink()
    assert len(mini_imagenet(root, image_size=SIDE).test.class_names) == 20
    with h5py.File(root / "train_data.hdf5", "a") as file:
        file.create_dataset("other", data=np.zeros(3, np.uint8))
    with pytest.raises(
        DataError, match=r"train_data.hdf5: other \(3,\) is no class of images; expected datasets/CLASS"
    ):
        mini_imagenet(root, image_size=SIDE)


def test_hdf5_in_an_archive(root: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    write_hdf5(tmp_path / "made", data())
    zipped(tmp_path / "made", root / "mini-imagenet.zip")
    refused(root, r"mini-imagenet.zip: HDF5 files are read from a folder only; unpack the archive")


def test_hdf5_that_is_a_page(root: Path) -> None:
    write_hdf5(root, data())
    (root / "val_data.hdf5").write_bytes(b"<html></html>")
    refused(root, r"val_data.hdf5 is an HTML page")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"image": [b""], "coarse": [1]}, r"has the columns image, coarse; expected image and label"),
        ({"image": [b""], "label": [1.5]}, r"the column label must hold whole numbers or text in every row"),
        ({"image": [b""], "label": [None]}, r"the column label must hold whole numbers or text in every row"),
        ({"image": [b"x"], "label": ["a"]}, r"train-00002-of-00003.parquet row 0 is not a readable image"),
        (
            {"image": ["x"], "label": ["a"]},
            r"train-00002-of-00003.parquet: row 0 holds no image file in its column image",
        ),
    ],
)
def test_parquet_files(root: Path, columns: dict, words: str) -> None:
    write_parquet(root, data({**CLASSES, "train": CLASSES["train"][:63]}), ALL)
    pq.write_table(pa.table(columns), root / "train-00002-of-00003.parquet")
    refused(root, words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html>", r"train-00000-of-00002.parquet is an HTML page .*, expected a parquet file"),
        (b"PAR1 and nothing", r"train-00000-of-00002.parquet is no intact parquet file"),
    ],
)
def test_parquet_files_that_are_none(root: Path, content: bytes, words: str) -> None:
    write_parquet(root, data(), ALL)
    (root / "train-00000-of-00002.parquet").write_bytes(content)
    refused(root, words)


def test_parquet_with_a_label_that_has_no_name(root: Path) -> None:
    write_parquet(root, data(), ALL)
    path = root / "train-00000-of-00002.parquet"
    found = pq.read_table(path)
    wrong = found.set_column(1, "label", pa.array([100] * len(found)))
    pq.write_table(wrong, path)
    refused(root, r"train-00000-of-00002.parquet: the column label must hold numbers from 0 to 99")


def test_parquet_without_pyarrow(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(root, data(), ALL)
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("pyarrow"):
            raise ImportError("No module named 'pyarrow'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    refused(
        root,
        r"is a parquet file and reading it needs pyarrow, which cannot be imported .*pip install 'metalearn",
    )


def test_several_places_ask_which(root: Path, tmp_path: Path) -> None:
    (root / "caches").mkdir()
    write_caches(root / "caches", data())
    write_folders(root / "folders", data())
    message = refused(root, "2 places under .* hold mini-ImageNet: .*caches, .*folders; say which by source")
    assert "--set source=PATH" in message
    assert mini_imagenet(root, image_size=SIDE, source="folders").label == "folders/ravi"
    assert mini_imagenet(root, image_size=SIDE, source=str(root / "caches")).label == "caches/ravi"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nowhere", r"source 'nowhere': .*nowhere does not exist; give a file or folder of the data root"),
        ("empty", r"source .*empty must hold mini-ImageNet once, none found; known forms: pickles mini-imagenet-cache"),
        ("page.zip", r"page.zip is an HTML page"),
    ],
)
def test_a_source_that_holds_nothing(root: Path, source: str, words: str) -> None:
    (root / "empty").mkdir()
    (root / "page.zip").write_bytes(b"<html>")
    refused(root, words, source=source)


def test_an_archive_that_is_a_page(root: Path) -> None:
    (root / "mini-imagenet.zip").write_bytes(b"<!DOCTYPE html><html>")
    refused(root, r"mini-imagenet.zip is an HTML page")


def test_the_newest_packed_images_serve_when_the_source_is_gone(root: Path) -> None:
    write_folders(root / "here", data())
    first = mini_imagenet(root, image_size=SIDE)
    for name in ("train", "val", "test"):
        (root / "here" / name).rename(root / "here" / f"no-{name}")
    again = mini_imagenet(root, image_size=SIDE)
    assert again.label == first.label == "here/ravi"
    assert again.test.fingerprint == first.test.fingerprint
