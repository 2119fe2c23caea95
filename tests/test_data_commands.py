"""``metalearn data``: what a user reads of data that is there, missing, wrong, or greyscale, doubled and odd-sized."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_images import CLASSES, colours, data, png, write_caches, write_folders

from metalearn.cli import main
from metalearn.data import check, overview, prepare
from metalearn.errors import DataError
from tasks.datasets import DATASETS
from tasks.progress import silent


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def command(*words: object, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["metalearn", *map(str, words)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_every_dataset_is_listed_with_what_to_do_next(root: Path) -> None:
    said = overview(root)
    assert said.startswith(f"data root: {root}")
    column = 2 + max(map(len, DATASETS)) + 1
    assert all(line[:column].endswith(" ") and line[column] != " " for line in said.splitlines()[1:])
    assert [name for line in said.splitlines()[1:] if (name := line[:column].strip())] == sorted(DATASETS)
    assert said.count("missing: ") == 8 and said.count("yours: say where by --set path=FOLDER") == 2
    assert "embedded: nothing to fetch" in said


def test_what_is_found_and_packed_is_listed(root: Path) -> None:
    write_caches(root, data())
    assert f"found: {root} (pickles mini-imagenet-cache-" in overview(root)
    assert "not packed yet: metalearn data prepare mini-imagenet" in overview(root)
    assert prepare("mini-imagenet", root, silent, {"image_size": 8}).startswith(
        "root/ravi: 100 classes, 300 images of (3, 8, 8), ready\n  note: this is not mini-ImageNet"
    )
    packed = next(root.glob("stores/mini*"))
    assert f"packed: 300 images of root, (3, 8, 8) each, 0 MB, in {packed}" in overview(root)


def test_the_files_of_omniglot_are_listed_with_the_lists_of_its_split(data_root: Path) -> None:
    said = overview(data_root)
    assert f"found: {data_root / 'images_evaluation.zip'} (zip)" in said
    assert f"found: {data_root / 'splits/vinyals'} (class lists of the split vinyals)" in said


def test_one_unreadable_dataset_does_not_hide_the_others(root: Path) -> None:
    (root / "mini-imagenet.zip").write_bytes(b"<html>")
    (root / "stores/fc100-32-v2-0123456789ab").mkdir(parents=True)
    said = overview(root)
    assert "cannot be read: " in said and "mini-imagenet.zip is an HTML page" in said
    assert "packed, but store" in said and "is incomplete: meta.json is missing" in said
    assert "embedded: nothing to fetch" in said


def test_check_tells_counts_sizes_greys_and_doubles(root: Path) -> None:
    given = data({"train": ["a", "b"], "val": ["c"], "test": ["d"]})
    write_folders(root / "mine", given)
    Image.fromarray(np.repeat(colours(99, 1)[0][..., :1], 3, 2)).save(root / "mine/train/a/grey.png")
    Image.fromarray(np.full((9, 7), 50, np.uint8)).save(root / "mine/train/b/flat.png")
    (root / "mine/test/d/again.png").write_bytes(png(given["train"]["a"][0]))
    (root / "mine/val/c/twice.png").write_bytes(png(given["val"]["c"][1]))
    said = check("folder", root, silent, {"path": "mine", "image_size": 4})
    assert "mine/folders: no class in two parts; every packed image as it was packed" in said
    assert "train     2 classes x 4 images" in said
    assert "originals: 4x4 (15), 7x9 (1); all of them can be read" in said
    assert "without colour: 2: train/a/grey.png, train/b/flat.png" in said
    assert "WARNING: 1 images are in two parts; a test of them is no test. Remove one of each:" in said
    assert "train/a/0.png (train, a) = test/d/again.png (test, d)" in said
    assert "images that occur again in their part: 1: val/c/1.png = val/c/twice.png" in said


def test_check_lists_every_class_where_they_differ_in_size(root: Path) -> None:
    write_folders(root / "mine", data({"train": ["a", "b"], "val": ["c"], "test": ["d"]}))
    (root / "mine/train/b/2.png").unlink()
    said = check("folder", root, silent, {"path": "mine", "image_size": 4})
    assert "train     2 classes x 2 to 3 images:\n        a 3, b 2" in said


def test_check_names_every_image_that_cannot_be_read(root: Path) -> None:
    write_folders(root / "mine", data({"train": ["a", "b"], "val": ["c"], "test": ["d"]}))
    broken = ["train/a/0.png", "train/b/1.png", "val/c/2.png", "test/d/0.png", "test/d/1.png"]
    for name in broken:
        (root / "mine" / name).write_bytes(b"\x89PNG")
    with pytest.raises(DataError) as caught:
        check("folder", root, silent, {"path": "mine", "image_size": 4})
    assert str(caught.value).startswith(f"5 images of {root / 'mine'} cannot be used:")
    assert all(name in str(caught.value) for name in broken)
    assert not list(root.glob("stores/folder*"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("swapped", "val and test are swapped"),
        ("page", "is an HTML page that a download link returned in place of the file, expected a pickle"),
        ("absent", "no mini-ImageNet under"),
    ],
)
@pytest.mark.parametrize("job", ["check", "prepare"])
def test_wrong_data_ends_with_one_message(root: Path, capsys, monkeypatch, wrong: str, words: str, job: str) -> None:
    given = data()
    if wrong == "swapped":
        write_caches(root, {**given, "val": given["test"], "test": given["val"]})
    elif wrong == "page":
        write_caches(root, given)
        (root / "mini-imagenet-cache-test.pkl").write_bytes(b"<!DOCTYPE html>")
    status = command("data", job, "mini-imagenet", "--data-root", root, monkeypatch=monkeypatch)
    said = capsys.readouterr().err
    assert status == 2 and words in said and "Traceback" not in said


def test_bytes_keys_are_noted(root: Path) -> None:
    write_caches(root, data(), keys=str.encode)
    assert "note: mini-imagenet-cache-train.pkl: its keys are bytes, as Python 2 wrote them" in check(
        "mini-imagenet", root, silent, {"image_size": 4}
    )


def test_the_option_that_says_where(root: Path, capsys, monkeypatch) -> None:
    write_folders(root / "mine", data({"train": ["a"], "val": ["c"], "test": ["d"]}))
    assert command("data", "prepare", "folder", "--data-root", root, monkeypatch=monkeypatch) == 2
    assert "path" in capsys.readouterr().err
    words = ("data", "prepare", "folder", "--set", "path=mine", "--set", "image_size=6", "--data-root", root)
    assert command(*words, monkeypatch=monkeypatch) == 0
    assert "mine/folders: 3 classes, 9 images of (3, 6, 6), ready" in capsys.readouterr().out


def test_the_stand_in_is_checked_whole(data_root: Path, root: Path) -> None:
    """16,000 JPEG files in a zip: counts, greyscale files and a photograph that is there under two classes."""
    (root / "tiny-mini-imagenet.zip").symlink_to(data_root / "tiny-mini-imagenet.zip")
    said = check("mini-imagenet", root, silent, {"image_size": 64})
    assert said.startswith("tiny-mini-imagenet/ravi: no class in two parts")
    for line in ("train    64 classes x 160", "val      16 classes x 160", "test     20 classes x 160"):
        assert line in said
    assert "originals: 64x64 (16000); all of them can be read" in said
    assert "without colour: 309: " in said and "no image in two parts" in said
    assert "images/n07711569_95.JPEG = images/n07871810_330.JPEG" in said
    assert "this is not mini-ImageNet: its classes hold 160 images, mini-ImageNet's 600" in said
    dataset = DATASETS["mini-imagenet"](root, image_size=64)
    assert dataset.train.image_shape == (3, 64, 64)
    assert set(CLASSES["val"]) & set(dataset.val.class_names) and not set(CLASSES["test"]) & set(
        dataset.val.class_names
    )
