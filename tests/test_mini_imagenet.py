"""mini-ImageNet in every form that is about: the same images from each, and what is wrong named for what it is."""

import dataclasses
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_images import (
    CLASSES,
    EACH,
    SIDE,
    Data,
    cache,
    data,
    write_caches,
    write_csv,
    write_folders,
    write_hdf5,
    write_labelled,
    write_parquet,
    zipped,
)  # fmt: skip

from tasks.datasets import mini_imagenet
from tasks.errors import DataError
from tasks.image_sets import ImageSet
from tasks.mini_imagenet import MINI_IMAGENET
from tasks.splits import PARTS, Dataset

ALL = sorted(kind for kinds in CLASSES.values() for kind in kinds)
NAMES = {
    "train": "miniImageNet_category_split_train_phase_train.pickle",
    "val": "miniImageNet_category_split_val.pickle",
    "test": "miniImageNet_category_split_test.pickle",
}
FIRST = {"train": 0, "val": 64, "test": 80}
WRITERS: dict[str, Callable[[Path, Data], None]] = {
    "pickles by class": write_caches,
    "learn2learn's name of val": lambda root, given: write_caches(root, given, val="validation"),
    "bytes keys": lambda root, given: write_caches(root, given, keys=str.encode),
    "torchmeta": write_hdf5,
    "csv": lambda root, given: write_csv(root, given, ("filename", "label")),
    "csv, images by class": lambda root, given: write_csv(
        root, given, ("class_name", "image_name"), "images/{kind}/{name}"
    ),
    "csv, classes at the top": lambda root, given: write_csv(
        root, given, ("class_name", "image_name"), "{kind}/{name}"
    ),
    "csv in a folder": lambda root, given: write_csv(root, given, ("filename", "label"), lists="split"),
    "folders": write_folders,
    "folders, valid": lambda root, given: write_folders(root, given, val="valid"),
    "parquet with names": lambda root, given: write_parquet(root, given, ALL),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/mini").mkdir(parents=True)
    return tmp_path / "root"


def expect(dataset: Dataset, given: Data) -> None:
    for part in PARTS:
        found = getattr(dataset, part)
        assert found.class_names == tuple(sorted(given[part]))
        wanted = np.concatenate([given[part][kind] for kind in found.class_names]).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(found.images(), wanted)


@pytest.mark.parametrize("form", WRITERS)
def test_each_form_gives_the_same_images(root: Path, form: str) -> None:
    given = data()
    WRITERS[form](root / "mini", given)
    expect(mini_imagenet(root, image_size=SIDE), given)


@pytest.mark.parametrize("form", ["pickles by class", "csv", "csv in a folder", "folders", "parquet with names"])
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_each_form_within_an_archive(root: Path, tmp_path: Path, form: str, kind: str) -> None:
    given = data()
    (tmp_path / "made").mkdir()
    WRITERS[form](tmp_path / "made", given)
    if kind == "zip":
        zipped(tmp_path / "made", root / "miniImagenet.zip", top="mini/")
    else:
        with tarfile.open(root / "mini-imagenet.tar.gz", "w:gz") as archive:
            archive.add(tmp_path / "made", arcname=".")
    expect(mini_imagenet(root, image_size=SIDE), given)


def test_labelled_pickles_number_their_classes(root: Path) -> None:
    given = data()
    write_labelled(root, given, NAMES, FIRST)
    (root / "miniImageNet_category_split_train_phase_val.pickle").write_bytes(b"")
    dataset = mini_imagenet(root, image_size=SIDE)
    assert dataset.val.class_names == tuple(f"class{k:03d}" for k in range(64, 80))
    np.testing.assert_array_equal(dataset.test.images()[0], given["test"][CLASSES["test"][0]][0].transpose(2, 0, 1))
    assert "left out, as they show training classes: miniImageNet_category_split_train_phase_val.pickle" in str(
        dataset.train.store.info["notes"]
    )


def test_labelled_pickles_that_each_number_from_zero(root: Path) -> None:
    write_labelled(root, data(), NAMES, dict.fromkeys(PARTS, 0))
    dataset = mini_imagenet(root, image_size=SIDE)
    assert dataset.val.class_names == tuple(f"val{k:03d}" for k in range(16))
    assert "each part numbers its classes from 0" in str(dataset.train.store.info["notes"])


def test_parquet_without_names_numbers_the_classes(root: Path) -> None:
    given = data()
    write_parquet(root, given, None)
    dataset = mini_imagenet(root, image_size=SIDE)
    numbers = [f"class{ALL.index(kind):03d}" for kind in CLASSES["val"]]
    assert dataset.val.class_names == tuple(sorted(numbers))


def test_data_with_other_counts_goes_by_its_own_name(root: Path, tmp_path: Path) -> None:
    write_csv(tmp_path / "made", data(), ("filename", "label"))
    zipped(tmp_path / "made", root / "tiny-mini-imagenet.zip")
    dataset = mini_imagenet(root, image_size=SIDE)
    assert dataset.label == "tiny-mini-imagenet/ravi"
    assert (
        "this is not mini-ImageNet: its classes hold 3 images, mini-ImageNet's 600. Reports call it tiny-mini-imagenet"
        in str(dataset.train.store.info["notes"])
    )


def small(**changes) -> ImageSet:
    """The dataset as if it had three images a class."""
    return dataclasses.replace(MINI_IMAGENET, a_class=EACH, **changes)


def test_the_data_itself_goes_by_the_datasets_name(root: Path) -> None:
    write_caches(root, data())
    dataset = small().build(root, SIDE, None)
    assert dataset.label == "mini-imagenet/ravi" and not dataset.train.store.info["notes"]


def test_other_classes_in_the_same_numbers_are_told(root: Path) -> None:
    given = data({**CLASSES, "test": [*CLASSES["test"][1:], "n99999999"]})
    write_caches(root / "mini", given)
    dataset = small().build(root, SIDE, None)
    assert dataset.label == "mini/ravi"
    assert "this is not mini-ImageNet: 1 of the 20 classes of test are others" in str(dataset.train.store.info["notes"])


def test_numbered_classes_are_not_compared_by_name(root: Path) -> None:
    write_labelled(root, data(), NAMES, FIRST)
    assert small().build(root, SIDE, None).label == "mini-imagenet/ravi"


def test_sizes_are_stretched(root: Path) -> None:
    write_caches(root, data())
    assert mini_imagenet(root).train.image_shape == (3, 84, 84)
    assert mini_imagenet(root, image_size=64).train.image_shape == (3, 64, 64)


def refused(root: Path, **options) -> str:
    with pytest.raises(DataError) as caught:
        mini_imagenet(root, image_size=SIDE, **options)
    assert not list(root.glob("stores/mini*"))
    return str(caught.value)


def test_nothing_there_says_how_to_get_it(root: Path) -> None:
    message = refused(root)
    assert message.startswith(f"no mini-ImageNet under {root}: ")
    assert "mini-imagenet-cache-{train,val,test}.pkl" in message and "learn2learn" in message


def test_val_and_test_swapped(root: Path) -> None:
    given = data()
    write_caches(root, {**given, "val": given["test"], "test": given["val"]})
    message = refused(root)
    assert "val and test are swapped (val holds 20 classes, test 16; mini-ImageNet has 16 and 20)" in message
    assert "rename the files of each to the other's name" in message


def test_classes_of_val_as_test_in_equal_numbers_are_told_by_name(root: Path) -> None:
    given = data(
        {"train": CLASSES["train"], "val": CLASSES["test"][:16], "test": [*CLASSES["val"], "n1", "n2", "n3", "n4"]}
    )
    write_caches(root, given)
    with pytest.raises(DataError, match="val and test are swapped"):
        small(known={**MINI_IMAGENET.known, "val": frozenset(given["test"])}).build(root, SIDE, None)


def test_a_missing_class_is_named(root: Path) -> None:
    given = data()
    gone = CLASSES["test"][3]
    del given["test"][gone]
    write_caches(root, given)
    message = refused(root)
    assert "holds train 64, val 16, test 19 classes, mini-ImageNet has train 64, val 16, test 20" in message
    assert f"missing: {gone} of test" in message and "kind: folder" in message


def test_the_same_classes_in_every_part(root: Path) -> None:
    same = {part: ALL for part in PARTS}
    write_parquet(root, data(same, images=1), ALL)
    message = refused(root)
    assert (
        "has the same 100 classes in train, val and test: an ordinary classification split (as timm/mini-imagenet"
        in message
    )
    assert "get the few-shot split" in message


def test_one_class_in_two_parts(root: Path) -> None:
    write_caches(root, data({**CLASSES, "test": [*CLASSES["test"][1:], CLASSES["val"][0]]}))
    assert f"parts 'val' and 'test' share 1 classes ({CLASSES['val'][0]})" in refused(root)


def test_a_part_that_is_missing(root: Path) -> None:
    write_caches(root, data())
    (root / "mini-imagenet-cache-val.pkl").unlink()
    message = refused(root)
    assert f"{root} has no mini-imagenet-cache-val.pkl or mini-imagenet-cache-validation.pkl" in message


def test_both_names_of_val(root: Path) -> None:
    write_caches(root, data())
    write_caches(root, data(), val="validation")
    assert "both for the part 'val'; remove one" in refused(root)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"<!DOCTYPE html><html>Google Drive - Virus scan warning</html>",
            "is an HTML page that a download link returned",
        ),
        (b"", "is empty"),
        (pickle.dumps([1, 2]), r"holds a list; expected a dict with image_data and class_dict"),
        (
            pickle.dumps({"data": 1}),
            r"holds a dict with the keys \['data'\]; expected a dict with image_data and class_dict",
        ),
        (pickle.dumps({"image_data": 1, "class_dict": {}}), "image_data is a int; expected uint8"),
        (pickle.dumps(cache({"a": np.zeros((2, 4, 4, 3))})), r"image_data is float64 \(2, 4, 4, 3\); expected uint8"),
        (
            pickle.dumps({**cache({"a": np.zeros((2, 4, 4, 3), np.uint8)}), "class_dict": {"a": [0, 2]}}),
            "the rows of class a are not numbers from 0 to 1",
        ),
        (
            pickle.dumps({**cache({"a": np.zeros((3, 4, 4, 3), np.uint8)}), "class_dict": {"a": [0, 0]}}),
            "3 of 3 images are in no class or in several by class_dict, the first in row 0",
        ),
        (
            pickle.dumps({**cache({"a": np.zeros((3, 4, 4, 3), np.uint8)}), "class_dict": [1]}),
            "class_dict is a list; expected a dict from class to rows",
        ),
    ],
)
def test_pickles_that_are_none(root: Path, content: bytes, words: str) -> None:
    write_caches(root, data())
    (root / "mini-imagenet-cache-train.pkl").write_bytes(content)
    message = refused(root)
    assert "mini-imagenet-cache-train.pkl" in message
    assert re.search(words, message), message
