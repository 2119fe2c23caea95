"""learn2learn 0.2.0's mini-ImageNet: its normalisation, and what it does with files. See docs/learn2learn-notes.md."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from upstream import still_wrong

from metalearn.evaluate import episode_images
from tasks import safe_pickle
from tasks.episodes import EpisodeSampler
from tasks.errors import DataError
from tasks.resident import DeviceImages
from tasks.splits import Dataset
from tasks.store import Store

BRIGHT = 250
MEAN = np.array([120.39586422, 115.59361427, 104.54012653]) / 255  # of mini-ImageNet, as lee2019 gives them
SD = np.array([70.68188272, 68.27635443, 72.54505529]) / 255


def write(root: Path, part: str, labels: list[int]) -> Path:
    """Write a part in learn2learn's layout: bright images, their classes in the order of ``labels``."""
    rows: dict[str, list[int]] = {f"n{label:08d}": [] for label in sorted(set(labels))}
    for row, label in enumerate(labels):
        rows[f"n{label:08d}"].append(row)
    path = root / f"mini-imagenet-cache-{part}.pkl"
    images = np.full((len(labels), 84, 84, 3), BRIGHT, np.uint8)
    path.write_bytes(pickle.dumps({"image_data": images, "class_dict": rows}))
    return path


@pytest.fixture
def lee2019(l2l, tmp_path):
    for part in ("train", "validation", "test"):
        write(tmp_path, part, [0, 0, 1, 1])
    return l2l.vision.benchmarks.get_tasksets(
        "mini-imagenet", train_ways=2, test_ways=2, train_samples=1, test_samples=1, root=tmp_path,
        data_augmentation="lee2019",
    )  # fmt: skip


def test_lee2019_trains_on_negatives(lee2019):
    """Its ToPILImage takes floats for fractions: 0 to 255, times 255, modulo 256 is the negative of the image."""
    to_image = lee2019.train.dataset.dataset.transform.transforms[0]
    grey = torch.arange(256, dtype=torch.float32).reshape(1, 16, 16)
    seen = np.asarray(to_image(grey)).ravel()
    still_wrong(np.array_equal(seen, (256 - np.arange(256)) % 256), "lee2019 trains on images as they are")
    images, _ = lee2019.train.sample()  # bright images, which colour jitter cannot make dark
    still_wrong(bool((images < 0).all()), "lee2019 trains on images as they are")


def test_lee2019_tests_on_numbers_in_the_hundreds(lee2019):
    """It takes the mean of fractions from, and divides by the deviation of fractions, images of 0 to 255."""
    images, _ = lee2019.test.sample()
    right = (BRIGHT / 255 - MEAN) / SD
    assert right.min() > 1.8 and right.max() < 2.1
    given = images.mean((0, 2, 3)).numpy()
    still_wrong(given == pytest.approx((BRIGHT - MEAN) / SD) and given.min() > 850, f"lee2019 tests on {given}")


def test_ours_training_and_test_images_come_in_the_same_range():
    images = np.full((8, 3, 4, 4), BRIGHT, np.uint8)
    store = Store("bright", images, np.arange(0, 9, 2), ("a", "b", "c", "d"))
    data = Dataset.of_classes("bright", "x", store, {"train": ["a", "b"], "val": ["c"], "test": ["d"]})
    for part, ways in ((data.train, 2), (data.test, 1)):
        sampler = EpisodeSampler(part.labels, ways=ways, shots=1, queries=1, seed=0)
        support, _, query, _ = next(episode_images(DeviceImages(part, "cpu"), sampler, 0, 1))
        torch.testing.assert_close(torch.cat([support, query]), torch.full((2 * ways, 3, 4, 4), BRIGHT / 255))


def test_it_reads_one_name_of_the_validation_file_only(l2l, tmp_path):
    """The pickles as everybody else has them end in -val.pkl."""
    write(tmp_path, "val", [0, 0, 1, 1])
    try:
        l2l.vision.datasets.MiniImagenet(tmp_path, mode="validation")
        found = True
    except FileNotFoundError as error:
        assert "mini-imagenet-cache-validation.pkl" in str(error)
        found = False
    still_wrong(not found, "MiniImagenet reads mini-imagenet-cache-val.pkl")


def test_its_bookkeeping_outlives_the_data(l2l, tmp_path):
    """Where the classes' images are is kept in a file beside them, and believed when the data is another."""

    def kept(labels: list[int]) -> list[int]:
        write(tmp_path, "train", labels)
        data = l2l.data.MetaDataset(l2l.vision.datasets.MiniImagenet(tmp_path, mode="train"))
        assert [data[row][1] for row in range(4)] == labels
        return [data.indices_to_labels[row] for row in range(4)]

    assert kept([0, 0, 1, 1]) == [0, 0, 1, 1]
    still_wrong(kept([0, 1, 0, 1]) == [0, 0, 1, 1], "MetaDataset notices that its bookkeeping is of other data")


class Harmful:
    """What a pickle may do while it is read: here, make a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_it_executes_what_a_pickle_says_and_ours_does_not(l2l, tmp_path):
    made = tmp_path / "made"
    path = tmp_path / "mini-imagenet-cache-train.pkl"
    path.write_bytes(pickle.dumps(Harmful(made)))
    with path.open("rb") as file, pytest.raises(DataError, match="mkdir"):
        safe_pickle.load(file, str(path))
    assert not made.exists()
    with pytest.raises(TypeError):  # afterwards, for what was read is no data
        l2l.vision.datasets.MiniImagenet(tmp_path, mode="train")
    still_wrong(made.exists(), "MiniImagenet reads pickles without executing them")
