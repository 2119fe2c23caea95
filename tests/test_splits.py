"""Parts without a common class, and the splits of Omniglot; the last tests read the real one."""

import functools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_omniglot import BACKGROUND, DRAWINGS, EVALUATION, PARTS, write_zip

from tasks import datasets as datasets_module
from tasks import omniglot as omniglot_module
from tasks.class_lists import vinyals
from tasks.datasets import DATASETS, describe, omniglot
from tasks.episodes import EpisodeSampler
from tasks.errors import DataError
from tasks.splits import Dataset, Partition, lake, rotated, seeded_order, shuffled, training_turned
from tasks.store import Store

NAMES = ("A/character01", "A/character02", "B/character01", "B/character02")


def store() -> Store:
    rng = np.random.default_rng(0)
    return Store(
        name="four",
        images=rng.integers(0, 256, (11, 2, 5, 5), np.uint8),
        offsets=np.array([0, 3, 5, 9, 11], np.int64),
        class_names=NAMES,
        factors={"scale": np.arange(11, dtype=np.float32)},
    )


def test_partition_takes_the_rows_of_its_classes() -> None:
    part = Partition.of_classes(store(), "val", [NAMES[2], NAMES[1]])
    assert part.class_names == (NAMES[1], NAMES[2]) and part.image_shape == (2, 5, 5)
    assert part.index.tolist() == [3, 4, 5, 6, 7, 8]
    assert part.labels.tolist() == [0, 0, 1, 1, 1, 1]
    assert part.factors["scale"].tolist() == [3, 4, 5, 6, 7, 8]
    np.testing.assert_array_equal(part.images(), store().images[3:9])
    np.testing.assert_array_equal(part.gather(np.array([[5, 0]])), store().images[[[8, 3]]])


def test_rotations_turn_counter_clockwise() -> None:
    data = store()
    part = Partition.of_classes(data, "train", rotated([NAMES[1]]))
    assert part.class_names == tuple(f"{NAMES[1]}/rot{d}" for d in ("000", "090", "180", "270"))
    assert part.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and part.base_classes == {NAMES[1]}
    for turns in range(4):
        for i in range(2):
            expected = np.rot90(data.images[3 + i], turns, axes=(1, 2))
            np.testing.assert_array_equal(part.images()[2 * turns + i], expected)
    # by hand: what is at the top right goes to the top left
    np.testing.assert_array_equal(part.images()[2][:, 0, 0], data.images[3][:, 0, 4])


def test_reflections_mirror_left_and_right_and_then_turn() -> None:
    data = store()
    turned, mirrored = (
        Partition.of_classes(data, "train", training_turned({"train": [NAMES[1]]}, reflections=True, **more)["train"])
        for more in ({"rotations": True}, {})
    )
    assert mirrored.class_names == (NAMES[1], f"{NAMES[1]}/mir000") and mirrored.base_classes == {NAMES[1]}
    degrees = ("000", "090", "180", "270")
    assert turned.class_names == tuple(f"{NAMES[1]}/{how}{d}" for how in ("mir", "rot") for d in degrees)
    for place, mirror in enumerate((True, False)):
        for turns in range(4):
            for i in range(2):
                image = data.images[3 + i][:, :, ::-1] if mirror else data.images[3 + i]
                expected = np.rot90(image, turns, axes=(1, 2))
                np.testing.assert_array_equal(turned.images()[8 * place + 2 * turns + i], expected)
    # by hand: what is at the top right goes to the top left, and, mirrored and turned by 90 degrees, to the bottom left
    np.testing.assert_array_equal(mirrored.images()[2][:, 0, 0], data.images[3][:, 0, 4])
    np.testing.assert_array_equal(turned.images()[2][:, 4, 0], data.images[3][:, 0, 4])


def test_fingerprint_depends_on_rows_and_turns() -> None:
    parts = [Partition.of_classes(store(), "train", names) for names in (NAMES[:1], NAMES[1:2])]
    turned = [Partition.of_classes(store(), "train", [f"{NAMES[0]}/{how}"]) for how in ("rot090", "mir000", "mir090")]
    assert len({part.fingerprint for part in [*parts, *turned]}) == 5
    renamed = replace(parts[0], name="test", class_names=("x",))
    assert renamed.fingerprint == parts[0].fingerprint


def test_missing_and_repeated_classes() -> None:
    with pytest.raises(DataError, match="part 'train': Z/character09 not in the store 'four'"):
        Partition.of_classes(store(), "train", ["Z/character09", NAMES[0]])
    with pytest.raises(DataError, match="part 'train' names A/character01 twice"):
        Partition.of_classes(store(), "train", [NAMES[0], NAMES[0]])


def test_overlap_is_loud_and_names_classes_and_parts() -> None:
    parts = {
        "train": [NAMES[0], f"{NAMES[1]}/rot000"],
        "val": [NAMES[2]],
        "test": [f"{NAMES[1]}/rot090", NAMES[3]],
    }
    with pytest.raises(DataError, match=r"four/x: parts 'train' and 'test' overlap in 1 classes \(A/character02\)"):
        Dataset.of_classes("four", "x", store(), parts)
    fine = Dataset.of_classes("four", "x", store(), parts | {"test": [NAMES[3]]})
    assert fine.label == "four/x" and fine.test.name == "test"


def test_seeded_order_ignores_the_order_given() -> None:
    names = [f"c{i}" for i in range(50)]
    assert seeded_order(names, 1) == seeded_order(reversed(names), 1) != seeded_order(names, 2)
    assert seeded_order(["a", "b", "c"], 0) == ["c", "b", "a"]  # golden: published splits depend on it


def test_lake_holds_out_whole_alphabets() -> None:
    background = [f"{alphabet}/character{c:02d}" for alphabet in "ABCDEFGHIJ" for c in range(3)]
    parts = lake(background, ["Z/character01"], seed=0)
    alphabets = [{name[0] for name in parts[part]} for part in ("train", "val", "test")]
    assert [len(a) for a in alphabets] == [8, 2, 1] and not alphabets[0] & alphabets[1]
    assert parts["val"] != lake(background, [], seed=1)["val"]


def test_lake_holds_out_as_many_alphabets_as_it_is_told() -> None:
    background = [f"{alphabet}/character{c:02d}" for alphabet in "ABCDEFGHIJ" for c in range(3)]
    by_default = {name[0] for name in lake(background, [], 0)["val"]}
    for count in range(1, 10):
        parts = lake(background, [], 0, count)
        train, val = ({name[0] for name in parts[part]} for part in ("train", "val"))
        assert len(val) == count and len(train) == 10 - count and not train & val
        assert val <= by_default or val > by_default  # the last of one order
    for wrong in (0, -1, 10, 11):
        with pytest.raises(DataError, match=f"validation_alphabets={wrong}: the background set has 10 .* give 1 to 9"):
            lake(background, [], 0, wrong)


def test_shuffled_takes_each_class_once() -> None:
    parts = shuffled([f"c{i}" for i in range(10)], 0, train=6, val=1)
    assert [len(parts[p]) for p in ("train", "val", "test")] == [6, 1, 3]
    assert len({name for part in parts.values() for name in part}) == 10


letters = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), min_size=1, max_size=6)
class_names = st.sets(st.builds("{}/{}".format, letters, letters), max_size=40)
seeds = st.integers(0, 2**64 - 1)


def complete(parts: dict[str, list[str]], names: set[str]) -> None:
    """Every name is in one part, once."""
    assert sorted(name for part in parts.values() for name in part) == sorted(names)


@settings(max_examples=100, deadline=None)
@given(names=class_names, seed=seeds, train=st.integers(0, 50), val=st.integers(0, 50), data=st.data())
def test_any_shuffled_split_is_complete_and_knows_no_order(
    names: set[str], seed: int, train: int, val: int, data: st.DataObject
) -> None:
    parts = shuffled(sorted(names), seed, train=train, val=val)
    complete(parts, names)
    assert len(parts["train"]) == min(train, len(names)) and len(parts["val"]) == min(val, max(0, len(names) - train))
    assert shuffled(data.draw(st.permutations(sorted(names))), seed, train=train, val=val) == parts


@settings(max_examples=100, deadline=None)
@given(names=class_names, seed=seeds, data=st.data())
def test_any_lake_split_is_complete_and_keeps_alphabets_whole(
    names: set[str], seed: int, data: st.DataObject
) -> None:
    background = {name for name in names if data.draw(st.booleans())}
    parts = lake(sorted(background), sorted(names - background), seed)
    complete(parts, names)
    assert set(parts["test"]) == names - background
    train, val = ({name.split("/")[0] for name in parts[part]} for part in ("train", "val"))
    assert not train & val
    alphabets = len(train | val)
    assert len(val) == min(alphabets, max(1, round(0.2 * alphabets)))
    other = lake(data.draw(st.permutations(sorted(background))), sorted(names - background), seed)
    assert {part: sorted(listed) for part, listed in other.items()} == {
        part: sorted(listed) for part, listed in parts.items()
    }


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=3, max_size=12), seed=seeds, data=st.data())
def test_any_partition_holds_the_images_of_its_classes_and_no_others(
    sizes: list[int], seed: int, data: st.DataObject
) -> None:
    names = tuple(f"c{k:02d}" for k in range(len(sizes)))
    offsets = np.cumsum([0, *sizes]).astype(np.int64)
    images = np.arange(offsets[-1], dtype=np.uint8).reshape(-1, 1, 1, 1)
    train = data.draw(st.integers(1, len(sizes) - 2))
    parts = shuffled(names, seed, train=train, val=data.draw(st.integers(1, len(sizes) - train - 1)))
    dataset = Dataset.of_classes("any", "random", Store("any", images, offsets, names), parts)
    rows = [getattr(dataset, part).index.tolist() for part in parts]
    assert sorted(row for part in rows for row in part) == list(range(len(images)))
    for part in parts:
        partition = getattr(dataset, part)
        for row, label in zip(partition.index.tolist(), partition.labels.tolist(), strict=True):
            k = int(partition.class_names[label][1:])
            assert offsets[k] <= row < offsets[k + 1]


@settings(max_examples=30, deadline=None)
@given(names=class_names.filter(bool), data=st.data())
def test_any_class_in_two_parts_is_named(names: set[str], data: st.DataObject) -> None:
    kinds = tuple(sorted(names))
    offsets = np.arange(len(kinds) + 1)
    data_store = Store("any", np.zeros((len(kinds), 1, 1, 1), np.uint8), offsets, kinds)
    shared = data.draw(st.sampled_from(kinds))
    one, other = data.draw(st.permutations(("train", "val", "test")))[:2]
    parts = {"train": [], "val": [], "test": []} | {one: [shared], other: [f"{shared}/rot090"]}
    with pytest.raises(DataError) as caught:
        Dataset.of_classes("any", "x", data_store, parts)
    assert "overlap in 1 classes" in str(caught.value) and shared in str(caught.value)


def test_splits_are_the_same_in_another_process() -> None:
    code = (
        "import json; from tasks.splits import lake, shuffled\n"
        "names = {f'{a}/{c}' for a in 'ABCDEFGHIJ\\u00e9' for c in range(9)}\n"  # a set: another order each time
        "print(json.dumps([lake(sorted(names), [], 3), shuffled(list(names), 2**64 - 1, train=50, val=9)]))"
    )
    for hash_seed in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout  # fmt: skip
        names = sorted({f"{a}/{c}" for a in "ABCDEFGHIJ\u00e9" for c in range(9)})
        assert json.loads(told) == [lake(names, [], 3), shuffled(names, 2**64 - 1, train=50, val=9)]


def write_lists(root: Path, train: str, val: str = f"{NAMES[2]}/rot000", test: str = f"{NAMES[3]}/rot000") -> None:
    (root / "data" / "vinyals").mkdir(parents=True)
    for name, text in {"train": train, "val": val, "test": test}.items():
        (root / "data" / "vinyals" / f"{name}.txt").write_text(text + "\n")


def test_vinyals_lists_are_found_anywhere(tmp_path: Path) -> None:
    write_lists(tmp_path, f"{NAMES[0]}/rot000\n{NAMES[0]}/rot270\n\n")
    assert vinyals(tmp_path, NAMES)["train"] == [f"{NAMES[0]}/rot000", f"{NAMES[0]}/rot270"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "A/character01/rot000\nA/character01",
            "train.txt, line 2: 'A/character01' is not Alphabet/characterNN/rotDDD",
        ),
        (
            "A/character01/rot045",
            "line 1: 'A/character01/rot045' is not Alphabet/characterNN/rotDDD with DDD 000, 090",
        ),
        ("<!DOCTYPE html>", "line 1: '<!DOCTYPE html>' is not Alphabet"),
        (
            "A/character01/rot000\n\nA/character01/rot000",
            "line 3: 'A/character01/rot000' is already on line 1",
        ),
        (
            "A/character09/rot000",
            "line 1: 'A/character09/rot000' is no class of this dataset; correct or remove",
        ),
        ("", "train.txt lists no class"),
    ],
)
def test_wrong_lists(tmp_path: Path, text: str, words: str) -> None:
    write_lists(tmp_path, text)
    with pytest.raises(DataError, match=words):
        vinyals(tmp_path, NAMES)


def test_absent_lists(tmp_path: Path) -> None:
    words = "needs its class lists and .* holds none; put train.txt, val.txt and test.txt .*splits/vinyals"
    with pytest.raises(DataError, match=words):
        vinyals(tmp_path, NAMES)


def test_overlapping_lists_are_refused_whole(tmp_path: Path, monkeypatch) -> None:
    write_zip(tmp_path / "images_background.zip", BACKGROUND)
    write_zip(tmp_path / "images_evaluation.zip", EVALUATION)
    tiny = functools.partial(omniglot_module.omniglot_store, parts=PARTS)
    monkeypatch.setattr(datasets_module, "omniglot_store", tiny)
    both = "Greek/character01/rot000"
    write_lists(tmp_path, both, "Latin/character01/rot000", "Greek/character01/rot090")
    with pytest.raises(DataError, match="omniglot/vinyals: parts 'train' and 'test' overlap in 1 classes .Greek/char"):
        omniglot(tmp_path, split="vinyals")
    assert len(omniglot(tmp_path, split="lake").train.index) == 2 * DRAWINGS


def test_table_of_datasets() -> None:
    assert sorted(DATASETS) == list(DATASETS)
    assert all(describe(name).endswith(".") and len(describe(name)) < 110 for name in DATASETS)
    with pytest.raises(
        DataError, match="unknown dataset 'omniglt'; did you mean 'omniglot'. allowed: .*glyphs, .*omniglot"
    ):
        describe("omniglt")


def test_unknown_split() -> None:
    code = "from pathlib import Path; from tasks.datasets import omniglot; omniglot(Path('.'), split='lak')"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr
    assert "unknown Omniglot split 'lak'; did you mean 'lake'? allowed: lake, random, vinyals" in told


# on the real Omniglot


opened = functools.cache(omniglot)


def sizes(dataset: Dataset) -> list[tuple[int, int, int]]:
    parts = (dataset.train, dataset.val, dataset.test)
    return [(len(p.class_names), len(p.base_classes), len(p.index)) for p in parts]


def test_real_lake(omniglot_root: Path) -> None:
    dataset = opened(omniglot_root)
    train, val, test = sizes(dataset)
    assert train[0] + val[0] == 964 and test == (659, 659, 13180)
    assert dataset.train.store.images.shape == (32460, 1, 28, 28)
    alphabets = [
        {name.split("/")[0] for name in part.class_names} for part in (dataset.train, dataset.val, dataset.test)
    ]
    assert [len(a) for a in alphabets] == [24, 6, 20] and not alphabets[0] & alphabets[1]
    assert sorted(alphabets[1]) == [
        "Balinese",
        "Inuktitut_(Canadian_Aboriginal_Syllabics)",
        "Japanese_(hiragana)",
        "Ojibwe_(Canadian_Aboriginal_Syllabics)",
        "Sanskrit",
        "Tagalog",
    ]  # golden: which alphabets validate by default
    assert opened(omniglot_root, split_seed=1).val.class_names != dataset.val.class_names


def test_real_lake_with_rotations(omniglot_root: Path) -> None:
    upright, turned = opened(omniglot_root), opened(omniglot_root, rotations=True)
    assert sizes(turned)[2] == (659 * 4, 659, 13180 * 4)
    assert turned.val.base_classes == upright.val.base_classes


def test_real_vinyals(omniglot_root: Path) -> None:
    dataset = opened(omniglot_root, split="vinyals")
    assert sizes(dataset) == [(4112, 1028, 82240), (688, 172, 13760), (1692, 423, 33840)]
    flat = opened(omniglot_root, split="vinyals", rotations=False)
    assert sizes(flat) == [(1028, 1028, 20560), (172, 172, 3440), (423, 423, 8460)]
    background = opened(omniglot_root, split="lake")
    known = background.train.base_classes | background.val.base_classes
    assert len(dataset.train.base_classes & known) == 792
    assert not dataset.test.base_classes & known
    train, test = ({name.split("/")[0] for name in part.base_classes} for part in (dataset.train, dataset.test))
    assert train & test == {"Gurmukhi"}


def test_real_random(omniglot_root: Path) -> None:
    dataset = opened(omniglot_root, split="random")
    assert sizes(dataset) == [(1100, 1100, 22000), (100, 100, 2000), (423, 423, 8460)]


def test_real_pixels_reach_the_known_accuracy(omniglot_root: Path) -> None:
    """Nearest neighbour on pixels, 5-way 1-shot: 41.7 % in Hsu et al. 2019, on another split."""
    test = opened(omniglot_root).test
    episodes = EpisodeSampler(test.labels, ways=5, shots=1, queries=15, seed=0)[0:300]
    support = test.gather(episodes.support).reshape(300, 5, -1).astype(np.float32)
    query = test.gather(episodes.query).reshape(300, 75, -1).astype(np.float32)
    distance = (support**2).sum(-1)[:, None] - 2 * query @ support.swapaxes(1, 2)
    accuracy = (distance.argmin(-1) == np.repeat(np.arange(5), 15)).mean()
    assert 0.40 < accuracy < 0.47
