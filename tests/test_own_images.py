"""Folders and csv lists of one's own, and CIFAR-FS and FC100: what is read, how it is divided, what is refused."""

import csv
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_images import SIDE, colours, data, png, write_csv, write_folders, write_labelled, zipped

from tasks import datasets
from tasks.errors import DataError
from tasks.own_images import Division
from tasks.splits import PARTS

KINDS = [f"bird{k}" for k in range(10)]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def birds(root: Path) -> Path:
    """A folder a class."""
    for seed, kind in enumerate(KINDS):
        (root / "birds" / kind / "deep").mkdir(parents=True)
        for number, image in enumerate(colours(seed)):
            place = "deep/" if number else ""
            Image.fromarray(image).save(root / "birds" / kind / f"{place}{number}.bmp")
    return root


def refused(build, root: Path, words: str, **options) -> None:
    before = list(root.glob("stores/*"))
    with pytest.raises(DataError) as caught:
        build(root, image_size=SIDE, **options)
    assert re.search(words, str(caught.value)), str(caught.value)
    assert [path for path in root.glob("stores/*-4-*") if path not in before] == []


def test_folders_of_parts(root: Path) -> None:
    given = data({"train": ["a", "b"], "val": ["c"], "test": ["d", "e"]})
    write_folders(root / "mine", given)
    dataset = datasets.folder(root, path="mine", image_size=SIDE)
    assert dataset.label == "mine/folders"
    assert [getattr(dataset, part).class_names for part in PARTS] == [("a", "b"), ("c",), ("d", "e")]
    np.testing.assert_array_equal(dataset.val.images(), given["val"]["c"].transpose(0, 3, 1, 2))


def test_a_seed_divides_the_classes_and_another_divides_them_otherwise(birds: Path) -> None:
    one, again, other = (
        datasets.folder(birds, path="birds", split="random", split_seed=seed, image_size=SIDE) for seed in (1, 1, 2)
    )
    assert [len(getattr(one, part).class_names) for part in PARTS] == [6, 2, 2]
    assert one.test.class_names == again.test.class_names != other.test.class_names
    assert one.label == "birds/random" and len(list(birds.glob("stores/*-4-*"))) == 1  # packed once
    row = one.train.labels == 0
    expected = colours(int(one.train.class_names[0].removeprefix("bird")))
    np.testing.assert_array_equal(one.train.images()[row], expected.transpose(0, 3, 1, 2))


@settings(max_examples=100, deadline=None)
@given(count=st.integers(3, 60), val=st.floats(0.01, 0.98), test=st.floats(0.01, 0.98), seed=st.integers(0, 2**63 - 1))
def test_every_class_is_in_one_part(count: int, val: float, test: float, seed: int) -> None:
    names = [f"class{k}" for k in range(count)]
    try:
        parts = Division(val, test, seed).parts(names)
    except DataError as error:
        assert "leave some to" in str(error) or "none is left to train on" in str(error)
        return
    assert sorted(sum(parts.values(), [])) == sorted(names)
    assert all(parts[part] for part in PARTS)
    assert parts == Division(val, test, seed).parts(names[::-1])
    assert abs(len(parts["val"]) - val * count) <= 1 and abs(len(parts["test"]) - test * count) <= 1


def test_lists_divide_the_classes_and_what_is_in_none_is_said(birds: Path) -> None:
    (birds / "birds/lists").mkdir()
    for part, kinds in zip(PARTS, (KINDS[:5], KINDS[5:7], KINDS[7:9]), strict=True):
        (birds / f"birds/lists/{part}.txt").write_text("\n".join(kinds))
    dataset = datasets.folder(birds, path="birds", split="lists", lists="lists", image_size=SIDE, name="my birds")
    assert dataset.label == "my birds/lists" and dataset.test.class_names == ("bird7", "bird8")
    assert dataset.train.store.info["notes"] == ["1 classes are in no list and left out: bird9"]
    (birds / "birds/lists/val.txt").write_text("bird5\nbird5")
    twice = r"val.txt, line 2: 'bird5' is already on line 1; list each class once"
    refused(datasets.folder, birds, twice, path="birds", split="lists", lists="lists")
    (birds / "birds/lists/val.txt").write_text("bird5\neagle")
    with pytest.raises(DataError, match="val.txt, line 2: 'eagle' is no class of this dataset"):
        datasets.folder(birds, path="birds", split="lists", lists="lists")
    (birds / "birds/lists/val.txt").write_text("bird0")
    with pytest.raises(DataError, match="parts 'train' and 'val' share 1 classes .bird0."):
        datasets.folder(birds, path="birds", split="lists", lists="lists")


def test_an_archive_of_a_folder_is_entered(birds: Path) -> None:
    zipped(birds / "birds", birds / "birds.zip", top="birds/")
    one = datasets.folder(birds, path="birds.zip", split="random", image_size=SIDE)
    other = datasets.folder(birds, path="birds", split="random", image_size=SIDE)
    np.testing.assert_array_equal(one.train.images(), other.train.images())


def test_every_kind_of_image_file_one_channel_inverted_and_cropped(root: Path) -> None:
    wide = np.zeros((8, 12, 3), np.uint8)
    wide[:, :2] = wide[:, -2:] = 255  # what a crop of the centre leaves out
    for kind, ending in zip("abcde", ("png", "jpg", "jpeg", "webp", "bmp"), strict=True):
        (root / "mine" / kind).mkdir(parents=True)
        Image.fromarray(wide).save(root / f"mine/{kind}/0.{ending.upper()}")
    dataset = datasets.folder(root, path="mine", split="random", image_size=8, channels=1, invert=True)
    assert dataset.train.image_shape == (1, 8, 8)
    assert dataset.train.store.images.min() > 250  # jpeg is not exact


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path": "none"}, r"path 'none': .*none does not exist; give a folder or an archive of the data root"),
        ({"path": "birds"}, r"birds has no folders train, val and test; for a folder a class give split: random"),
        (
            {"path": "birds", "split": "lists"},
            r"birds has no train.txt; lists of classes need a file for each of train",
        ),
        (
            {"path": "birds", "split": "random", "val": 0.0},
            r"val=0.0: shares of the classes to hold out must lie between",
        ),
        ({"path": "birds", "split": "random", "val": 0.5, "test": 0.5}, r"leave some to train on, val \+ test < 1"),
        (
            {"path": "birds", "split": "random", "val": 0.49, "test": 0.5},
            r"10 classes cannot be divided .* none is left",
        ),
    ],
)
def test_folders_refused(birds: Path, options: dict, words: str) -> None:
    refused(datasets.folder, birds, words, **options)


@pytest.mark.parametrize("size", [0, 513])
def test_image_size_out_of_range(birds: Path, size: int) -> None:
    with pytest.raises(DataError, match=rf"image_size={size}: allowed are 1 to 512 pixels a side"):
        datasets.folder(birds, path="birds", split="random", image_size=size)
    with pytest.raises(DataError, match=rf"image_size={size}: allowed are 1 to 512 pixels a side"):
        datasets.mini_imagenet(birds, image_size=size)


def test_a_folder_without_one_part(root: Path) -> None:
    write_folders(root / "mine", data({"train": ["a"], "val": ["b"]}))
    refused(datasets.folder, root, r"mine has no folder test; train, val and test are needed", path="mine")


def write_list(root: Path, header: tuple[str, ...], parts: dict[str, str] | None = None) -> None:
    """One csv list of ten classes of three images in birds/."""
    (root / "birds").mkdir()
    with (root / "birds/all.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for seed, kind in enumerate(KINDS):
            for number, image in enumerate(colours(seed)):
                (root / f"birds/{kind}-{number}.png").write_bytes(png(image))
                writer.writerow((f"{kind}-{number}.png", kind, *([parts.get(kind, "spare")] if parts else [])))


def test_one_list_with_a_column_of_parts(root: Path) -> None:
    parts = {**dict.fromkeys(KINDS[:5], "train"), **dict.fromkeys(KINDS[5:7], "val"), KINDS[7]: "test"}
    write_list(root, ("path", "class", "split"), parts)
    dataset = datasets.csv(root, path="birds", list="all.csv", image_size=SIDE)
    assert dataset.label == "birds/list" and dataset.test.class_names == ("bird7",)
    assert dataset.train.store.info["notes"] == ["6 lines are of other parts and left out: spare"]
    np.testing.assert_array_equal(dataset.test.images(), colours(7).transpose(0, 3, 1, 2))


def test_one_list_divided_by_a_seed_and_columns_by_name(root: Path) -> None:
    write_list(root, ("picture", "species"))
    dataset = datasets.csv(
        root, path="birds", list="all.csv", file_column="picture", class_column="species", image_size=SIDE
    )
    assert [len(getattr(dataset, part).class_names) for part in PARTS] == [6, 2, 2]
    refused(datasets.csv, root, r"all.csv has the columns picture, species; expected a header with one of filename",
            path="birds", list="all.csv")  # fmt: skip
    refused(datasets.csv, root, r"expected a header with the column kind", path="birds", list="all.csv",
            file_column="picture", class_column="kind")  # fmt: skip
    refused(datasets.csv, root, r"birds has no file 'some.csv'; give list: the csv file", path="birds", list="some.csv")


def test_another_column_of_the_same_list_makes_another_store(root: Path) -> None:
    (root / "birds").mkdir()
    rows = ["file,species,colour"]
    for seed in range(9):
        (root / f"birds/{seed}.png").write_bytes(png(colours(seed)[0]))
        rows.append(f"{seed}.png,s{seed},c{seed // 3}")
    (root / "birds/all.csv").write_text("\n".join(rows))
    by_species, by_colour = (
        datasets.csv(root, path="birds", list="all.csv", class_column=column, image_size=SIDE)
        for column in ("species", "colour")
    )
    assert len(by_species.train.store.class_names) == 9 and len(by_colour.train.store.class_names) == 3


def test_lists_a_part(root: Path) -> None:
    given = data({"train": ["a", "b"], "val": ["c"], "test": ["d", "e"]})
    write_csv(root / "mine", given, ("image_name", "class_name"))
    dataset = datasets.csv(root, path="mine", image_size=SIDE)
    assert dataset.label == "mine/lists"
    np.testing.assert_array_equal(dataset.val.images(), given["val"]["c"].transpose(0, 3, 1, 2))


CIFAR = {
    "train": [f"k{k:03d}" for k in range(64)],
    "val": [f"l{k}" for k in range(16)],
    "test": [f"m{k}" for k in range(20)],
}


def test_cifar_fs_as_pickles(root: Path) -> None:
    write_labelled(
        root, data(CIFAR), {part: f"CIFAR_FS_{part}.pickle" for part in PARTS}, {"train": 0, "val": 64, "test": 80}
    )
    dataset = datasets.cifar_fs(root, image_size=SIDE)
    assert [len(getattr(dataset, part).class_names) for part in PARTS] == [64, 16, 20]
    assert dataset.label == "root/bertinetto"  # three images a class are not CIFAR-FS
    assert datasets.cifar_fs(root).train.image_shape == (3, 32, 32)


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_cifar_fs_as_learn2learn_fetches_it(root: Path, tmp_path: Path, form: str) -> None:
    made = tmp_path / "cifar100" if form == "zip" else root / "cifarfs/cifar100"
    (made / "splits/bertinetto").mkdir(parents=True)
    given = data(CIFAR)
    for part, classes in given.items():
        (made / f"splits/bertinetto/{part}.txt").write_text("\n".join(classes))
        for kind, images in classes.items():
            (made / "data" / kind).mkdir(parents=True)
            for number, image in enumerate(images):
                (made / f"data/{kind}/{number}.png").write_bytes(png(image))
    if form == "zip":
        zipped(made, root / "cifarfs.zip", top="cifar100/")
    dataset = datasets.cifar_fs(root, image_size=SIDE)
    assert dataset.test.class_names == tuple(sorted(CIFAR["test"]))
    wanted = np.concatenate([given["test"][kind] for kind in sorted(CIFAR["test"])]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(dataset.test.images(), wanted)


def test_fc100(root: Path) -> None:
    kinds = {
        "train": [f"k{k}" for k in range(60)],
        "val": [f"l{k}" for k in range(20)],
        "test": [f"m{k}" for k in range(20)],
    }
    names = {part: f"FC100_{part}.pickle" for part in PARTS}
    write_labelled(root, data(kinds), names, {"train": 0, "val": 60, "test": 80})
    assert len(datasets.fc100(root, image_size=SIDE).train.class_names) == 60
    (root / "FC100_val.pickle").unlink()
    with pytest.raises(DataError, match="has no FC100_val.pickle; the pickles of FC100 need a file for each of train"):
        datasets.fc100(root, image_size=8)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"data": np.zeros((2, 4, 4, 3), np.uint8), "labels": [0]}, "has 1 labels for 2 images"),
        ({"data": np.zeros((1, 4, 4, 3), np.uint8), "labels": [0.5]}, "labels must be all whole numbers or all text"),
        ({"data": np.zeros((1, 4, 4, 3), np.uint8), "labels": 7}, "labels are a int; expected a list or an array"),
    ],
)
def test_labels_refused(root: Path, content: dict, words: str) -> None:
    write_labelled(
        root, data(CIFAR), {part: f"CIFAR_FS_{part}.pickle" for part in PARTS}, {"train": 0, "val": 64, "test": 80}
    )
    (root / "CIFAR_FS_val.pickle").write_bytes(pickle.dumps(content))
    refused(datasets.cifar_fs, root, words)
