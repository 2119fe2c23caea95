"""The one-shot runs of Omniglot: found, counted, their lists read, and the fixed tasks they make."""

import functools
from pathlib import Path

import numpy as np
import pytest
from tiny_omniglot import BACKGROUND, DRAWINGS, EVALUATION, part, png, write_folder, write_zip

from metalearn.data import check, overview
from metalearn.listing import listing as table_listing
from tasks import oneshot
from tasks.decode import Decoder
from tasks.episodes import EpisodeSampler
from tasks.errors import DataError
from tasks.oneshot import OBTAIN, Runs, omniglot_runs, one_shot_episodes
from tasks.splits import Partition

WAYS = 3
SHOWN = {"run01": [2, 1, 3], "run02": [3, 1, 2]}  # item k of a run shows class SHOWN[run][k - 1]


def toys() -> dict[str, bytes]:
    """Two runs of three characters; every drawing differs from every other, and from the background set's."""
    files: dict[str, bytes] = {}
    for r, (run, shown) in enumerate(SHOWN.items()):
        for k in range(1, WAYS + 1):
            files[f"{run}/training/class{k:02d}.png"] = png(40 + 10 * r + k)
            files[f"{run}/test/item{k:02d}.png"] = png(60 + 10 * r + k)
        lines = [f"{run}/test/item{i:02d}.png {run}/training/class{k:02d}.png" for i, k in enumerate(shown, start=1)]
        files[f"{run}/class_labels.txt"] = ("\n".join(lines) + "\n").encode()
    return files


FILES = toys()


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path_factory) -> None:
    """Two runs of three characters are expected, and a background set of two alphabets; nothing is kept elsewhere."""
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path_factory.mktemp("cache")))
    small = functools.partial(oneshot.listing, runs=Runs(2, WAYS), background=part("images_background", 4))
    monkeypatch.setattr(oneshot, "listing", small)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_zip(tmp_path / "images_background.zip", BACKGROUND)
    return tmp_path


def as_folder(root: Path, files: dict[str, bytes] = FILES, place: str = "") -> None:
    write_folder(root / place, files)


def as_zip(root: Path, files: dict[str, bytes] = FILES, place: str = "", above: str = "") -> None:
    write_zip(root / place / "all_runs.zip", {above + name: data for name, data in files.items()})


def pixels(name: str) -> np.ndarray:
    return Decoder(1, 28, invert=True)(FILES[name], name).pixels


def test_classes_of_two_drawings_after_the_background_set(root: Path) -> None:
    as_folder(root)
    dataset = omniglot_runs(root)
    assert dataset.label == "omniglot-runs/lake"
    assert dataset.test.class_names == tuple(f"{run}/class{k:02d}" for run in SHOWN for k in range(1, WAYS + 1))
    assert dataset.test.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert sorted([*dataset.train.class_names, *dataset.val.class_names]) == [
        f"{alphabet}/character{c:02d}" for alphabet in ("Greek", "Latin") for c in (1, 2)
    ]
    assert len(dataset.train.index) == 2 * DRAWINGS
    names = [dataset.test.store.image_names[row] for row in dataset.test.index.tolist()]
    assert names[:4] == [
        "run01/training/class01.png", "run01/test/item02.png", "run01/training/class02.png", "run01/test/item01.png",
    ]  # fmt: skip
    for name, image in zip(names, dataset.test.images(), strict=True):
        np.testing.assert_array_equal(image, pixels(name))


def test_training_classes_may_be_turned_and_no_others(root: Path) -> None:
    as_folder(root)
    plain, turned = omniglot_runs(root), omniglot_runs(root, rotations=True)
    assert turned.test.fingerprint == plain.test.fingerprint and turned.val.fingerprint == plain.val.fingerprint
    assert turned.train.class_names == tuple(
        f"{name}/rot{degrees:03d}" for name in plain.train.class_names for degrees in (0, 90, 180, 270)
    )
    images = plain.train.images().reshape(2, DRAWINGS, 1, 28, 28)
    expected = np.stack([np.rot90(images, quarter, (3, 4)) for quarter in range(4)], 1)
    np.testing.assert_array_equal(turned.train.images(), expected.reshape(-1, 1, 28, 28))
    both = omniglot_runs(root, rotations=True, reflections=True)
    assert len(both.train.class_names) == 2 * len(turned.train.class_names)
    assert both.val.fingerprint == plain.val.fingerprint


def test_how_many_alphabets_validate(root: Path) -> None:
    as_folder(root)
    one = omniglot_runs(root, validation_alphabets=1)
    assert one.val.fingerprint == omniglot_runs(root).val.fingerprint
    with pytest.raises(DataError, match="validation_alphabets=2: the background set has 2 alphabets.* give 1 to 1"):
        omniglot_runs(root, validation_alphabets=2)


@pytest.mark.parametrize("place", ["", "deep/below"])
@pytest.mark.parametrize("write", [as_folder, as_zip, functools.partial(as_zip, above="all_runs/")])
def test_folders_and_zips_anywhere_are_alike(root: Path, tmp_path_factory, write, place: str) -> None:
    write(root, FILES | {"run01/.DS_Store": b"x", "README.txt": b"x"}, place=place)
    other = tmp_path_factory.mktemp("other")
    write_zip(other / "images_background.zip", BACKGROUND)
    as_folder(other, place="x/y/z")
    assert omniglot_runs(root).test.store.fingerprint == omniglot_runs(other).test.store.fingerprint


def test_runs_at_the_root_do_not_make_the_rest_of_it_theirs(root: Path) -> None:
    as_folder(root)
    (root / "lost").symlink_to(root / "nowhere")  # a tree of the whole root would refuse it
    (root / "run99").write_text("a file")
    assert len(omniglot_runs(root).test.class_names) == 2 * WAYS


def test_the_fixed_tasks(root: Path) -> None:
    as_zip(root)
    test = omniglot_runs(root).test
    tasks = one_shot_episodes(test)
    assert (tasks.support.shape, tasks.query.shape, tasks.classes.shape) == ((2, WAYS, 1), (2, WAYS, 1), (2, WAYS))
    assert {a.dtype for a in (tasks.support, tasks.query, tasks.classes)} == {np.dtype(np.int64)}
    for r, (run, shown) in enumerate(SHOWN.items()):
        for k in range(WAYS):
            item = shown.index(k + 1) + 1
            learned, tested = test.gather(tasks.support[r, k])[0], test.gather(tasks.query[r, k])[0]
            np.testing.assert_array_equal(learned, pixels(f"{run}/training/class{k + 1:02d}.png"))
            np.testing.assert_array_equal(tested, pixels(f"{run}/test/item{item:02d}.png"))
            assert test.class_names[tasks.classes[r, k]] == f"{run}/class{k + 1:02d}"


def test_a_sampler_draws_no_more_than_the_two_drawings(root: Path) -> None:
    as_zip(root)
    with pytest.raises(DataError, match="has 2 images, but shots=1 . queries=15 need 16"):
        EpisodeSampler(omniglot_runs(root).test.labels, ways=3, shots=1, queries=15, seed=0)


def test_only_runs_make_fixed_tasks(root: Path) -> None:
    as_zip(root)
    dataset = omniglot_runs(root)
    store, names = dataset.test.store, dataset.test.class_names
    for wrong in (
        dataset.train,
        Partition.of_classes(store, "test", names[:-1]),
        Partition.of_classes(store, "test", [*names, dataset.train.class_names[0]]),
        Partition.of_classes(store, "test", [f"{name}/rot090" for name in names]),
        Partition.of_classes(store, "test", []),
    ):
        with pytest.raises(DataError, match="part '.*' is not made of one-shot runs, .*; give the part test of the"):
            one_shot_episodes(wrong)


def test_the_published_numbers_are_expected() -> None:
    assert (oneshot.ALL_RUNS.count, oneshot.ALL_RUNS.ways) == (20, 20)


def test_the_store_serves_when_the_runs_are_gone(root: Path) -> None:
    as_zip(root)
    first = omniglot_runs(root)
    (root / "all_runs.zip").unlink()
    assert omniglot_runs(root).test.fingerprint == first.test.fingerprint


def test_the_commands_know_them(root: Path) -> None:
    assert "omniglot-runs" in table_listing("datasets")
    assert f"missing: {OBTAIN}" in overview(root)
    as_zip(root, place="runs")
    assert f"found: {root / 'runs' / 'all_runs.zip'} (zip)" in overview(root)
    told = check("omniglot-runs", root, lambda *_: None)
    assert f"\n  from {root / 'runs' / 'all_runs.zip'} (zip)\n" in told
    assert "test      6 classes x 2 images" in told and "no image in two parts" in told
    assert "note: the runs show characters of the evaluation set under other names: an encoder that was" in told


def test_a_drawing_of_the_background_set_among_the_runs_is_found(root: Path) -> None:
    as_zip(root, FILES | {"run01/test/item01.png": BACKGROUND["images_background/Greek/character01/0000_00.png"]})
    told = check("omniglot-runs", root, lambda *_: None)
    assert "WARNING: 1 images are in two parts" in told and "run01/test/item01.png (test, run01/class02)" in told


# what can be wrong


def changed(**more: bytes | None) -> dict[str, bytes]:
    return {name: data for name, data in (FILES | more).items() if data is not None}


def listed(run: str, *lines: str) -> dict[str, bytes]:
    return {f"{run}/class_labels.txt": "\n".join(lines).encode()}


LINES = FILES["run02/class_labels.txt"].decode().splitlines()
WRONG = [
    (listed("run02", *LINES[:2]), "run02/class_labels.txt has no line for run02/test/item03.png; fetch"),
    (listed("run02"), "run02/class_labels.txt has no line for run02/test/item01.png"),
    (
        listed("run02", LINES[0], "", "run02/test/item02.png"),
        "class_labels.txt, line 3: 'run02/test/item02.png' is not run02/test/itemKK.png run02/training/classKK.png",
    ),
    (listed("run02", "<html>"), "run02/class_labels.txt, line 1: '<html>' is not run02/test/itemKK.png run02/tr"),
    (
        listed("run02", *LINES[:2], "run02/test/item04.png run02/training/class02.png"),
        "class_labels.txt, line 3: there is no file run02/test/item04.png; fetch all_runs.zip again",
    ),
    (
        listed("run02", *LINES[:2], "run02/test/item01.png run02/training/class02.png"),
        "class_labels.txt, line 3: run02/test/item01.png is already on line 1; fetch",
    ),
    (
        listed("run02", *LINES[:2], "run02/test/item03.png run02/training/class03.png"),
        "class_labels.txt, line 3: run02/training/class03.png is already on line 1",
    ),
    (
        listed("run02", "run02/training/class03.png run02/test/item01.png"),
        "class_labels.txt, line 1: 'run02/training/class03.png' is not run02/test/itemKK.png",
    ),
    (
        listed("run02", "run02/test/../../secret.png run02/training/class03.png"),
        "class_labels.txt, line 1: 'run02/test/../../secret.png' lies outside of the folder run02; fetch",
    ),
    (
        listed("run02", "run02/test/item01.png /etc/class03.png"),
        "class_labels.txt, line 1: '/etc/class03.png' lies outside of the folder run02",
    ),
    (
        listed("run02", "run01/test/item01.png run02/training/class03.png"),
        "class_labels.txt, line 1: 'run01/test/item01.png' lies outside of the folder run02",
    ),
    ({"run02/test/item02.png": None}, "run02 has 2 drawings in test, expected 3; fetch all_runs.zip again"),
    ({"run01/training/class04.png": png(1)}, "run01 has 4 drawings in training, expected 3"),
    ({"run02/class_labels.txt": None}, "run02 has no class_labels.txt; fetch all_runs.zip again"),
    ({name: None for name in FILES if "run02" in name}, "holds 1 runs, expected 2: run02 is missing; fetch"),
    ({"run03/class_labels.txt": b""}, "holds 3 runs, expected 2: run03 is not one of them; fetch"),
    ({"run01/class_labels.txt": b"x" * (2 << 20)}, "class_labels.txt has 2,097,152 bytes, allowed are 1,048,576"),
]


@pytest.mark.parametrize("write", [as_folder, as_zip])
@pytest.mark.parametrize(("change", "words"), WRONG)
def test_wrong_runs(root: Path, write, change: dict[str, bytes | None], words: str) -> None:
    write(root, changed(**change))
    with pytest.raises(DataError, match=words) as caught:
        omniglot_runs(root)
    assert str(root) in str(caught.value)
    assert not list(root.glob("stores/omniglot*"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (png(1, size=(104, 105)), "run01: run01/test/item01.png is 104x105 pixels, expected 105x105"),
        (b"<html>", "run01/test/item01.png is not a readable image .it is an HTML or XML page"),
    ],
)
def test_wrong_drawings(root: Path, data: bytes, words: str) -> None:
    as_folder(root, FILES | {"run01/test/item01.png": data})
    with pytest.raises(DataError, match=words):
        omniglot_runs(root)


def test_a_zip_of_something_else(root: Path) -> None:
    write_zip(root / "all_runs.zip", EVALUATION)
    with pytest.raises(DataError, match="all_runs.zip holds 0 runs, expected 2: run01 is missing; fetch all_runs.zip"):
        omniglot_runs(root)


def test_no_runs(root: Path) -> None:
    with pytest.raises(DataError) as caught:
        omniglot_runs(root)
    words = f"no all_runs.zip and no folder run01 with a class_labels.txt under {root}; put all_runs.zip of github.com"
    assert str(caught.value).startswith(words)


def test_a_wrong_background_set_is_named(root: Path) -> None:
    as_zip(root)
    write_zip(root / "images_background.zip", {"images_background/A/character01/1.png": png(1)})
    with pytest.raises(DataError, match="images_background.zip holds 1 characters, expected 4"):
        omniglot_runs(root)
