"""learn2learn 0.2.0's Omniglot benchmark mixes the classes of its parts; ours, on the real Omniglot, does not.

Each test of a fault is about learn2learn's own code, on drawings made here; see docs/learn2learn-notes.md.
"""

import functools
import hashlib
import math
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset
from upstream import still_wrong

from tasks.datasets import omniglot
from tasks.episodes import EpisodeSampler
from tasks.splits import PARTS, Partition, rotated
from tasks.store import Store

CLASSES, TRAIN, VAL = 1623, 1100, 100  # what learn2learn's benchmark means to do
TEST = CLASSES - TRAIN - VAL
WAYS = 5


@pytest.fixture(autouse=True)
def global_random():
    """learn2learn draws from Python's global generator: start it here, and leave it as it was."""
    state = random.getstate()
    random.seed(0)
    yield
    random.setstate(state)


# learn2learn's benchmark


class Drawings(Dataset):
    """In place of torchvision's Omniglot (which wants the original zips): two images a class, and the class is drawn.

    The grey of the middle and that of the border say which class it is, whatever quarter turn the image takes.
    """

    def __init__(self, root, background=True, target_transform=None, download=False):
        self._characters = range(964 if background else 659)
        self.first, self.target = 0 if background else 964, target_transform or (lambda label: label)

    def __len__(self):
        return 2 * len(self._characters)

    def __getitem__(self, item):
        if item >= len(self):
            raise IndexError(item)
        high, low = divmod(self.first + item // 2, 64)
        grey = np.full((28, 28), low, np.uint8)
        grey[10:18, 10:18] = high
        return Image.fromarray(grey), self.target(item // 2)


def drawn_classes(images: torch.Tensor) -> list[int]:
    """Read the classes from images (n, 1, 28, 28) of the benchmark, which inverts them."""
    grey = (255 * (1 - images[:, 0])).round().long()
    return (64 * grey[:, 14, 14] + grey[:, 4, 4]).tolist()


@pytest.fixture
def tasksets(l2l, monkeypatch, tmp_path):
    monkeypatch.setattr("learn2learn.vision.datasets.full_omniglot.Omniglot", Drawings)
    return lambda: l2l.vision.benchmarks.get_tasksets(
        "omniglot", train_ways=WAYS, train_samples=1, test_ways=WAYS, test_samples=1, root=tmp_path
    )


def classes_of(taskset) -> set[int]:
    return set(taskset.dataset.labels)


def test_every_part_draws_its_tasks_from_all_1623_classes(tasksets):
    """26 % of the training images are of test classes, 78 % of the 5-way tasks hold one, and so on round."""
    parts = tasksets()
    train, val, test = map(classes_of, parts)
    assert [len(train), len(val), len(test)] == [TRAIN, VAL, TEST] and len(train | val | test) == CLASSES
    drawn = {name: [drawn_classes(getattr(parts, name).sample()[0]) for _ in range(400)] for name in parts._fields}

    images = np.mean([label in test for task in drawn["train"] for label in task])
    holding = np.mean([bool(test & set(task)) for task in drawn["train"]])
    expected = 1 - math.comb(CLASSES - TEST, WAYS) / math.comb(CLASSES, WAYS)  # drawn from all, without replacement
    assert (round(TEST / CLASSES, 3), round(expected, 3)) == (0.261, 0.780)
    still_wrong(
        images == pytest.approx(TEST / CLASSES, abs=0.04) and holding == pytest.approx(expected, abs=0.08),
        f"omniglot_tasksets trains on test classes: {images:.1%} of the images, {holding:.1%} of the tasks",
    )
    for name in ("validation", "test"):
        trained = np.mean([label in train for task in drawn[name] for label in task])
        still_wrong(
            trained == pytest.approx(TRAIN / CLASSES, abs=0.04),
            f"omniglot_tasksets evaluates on training classes: {trained:.1%} of the images of {name}",
        )


def test_its_filtered_datasets_are_built_and_never_sampled(tasksets):
    parts = tasksets()
    sampled = [{len(transform.dataset.labels) for transform in part.task_transforms} for part in parts]
    still_wrong(sampled == [{CLASSES}] * 3, f"omniglot_tasksets samples from datasets of {sampled} classes")


def test_its_class_split_is_another_each_time(tasksets):
    first, second = tasksets(), tasksets()
    shared = len(classes_of(first.train) & classes_of(second.test)) / TEST
    still_wrong(  # the second tests on what the first trained on, as much as chance has it: 68 %
        shared == pytest.approx(TRAIN / CLASSES, abs=0.1), f"omniglot_tasksets splits alike: {shared:.1%} shared"
    )


# learn2learn's tasks in general


def marked(l2l):
    """20 classes of one image with a mark in its first corner, and their MetaDataset."""
    images = torch.zeros(20, 1, 4, 4)
    images[:, :, 0, 0] = 1
    return l2l.data.MetaDataset(TensorDataset(images, torch.arange(20)))


def corners(images) -> list[tuple[int, int]]:
    """Row and column of the brightest pixel of each image (n, 1, h, w)."""
    return [divmod(int(image.argmax()), image.shape[-1]) for image in images]


def test_random_class_rotation_turns_all_classes_of_a_task_alike(l2l):
    """In all of 200 10-way tasks; independent rotations would agree in one of 4^9 tasks."""
    data, transforms = marked(l2l), l2l.data.transforms
    taskset = l2l.data.Taskset(
        data,
        [
            transforms.FusedNWaysKShots(data, n=10, k=1),
            transforms.LoadData(data),
            l2l.vision.transforms.RandomClassRotation(data, [0.0, 90.0, 180.0, 270.0]),
        ],
    )
    tasks = [set(corners(taskset.sample()[0])) for _ in range(200)]
    assert len(set.union(*tasks)) == 4  # it does rotate
    still_wrong(
        all(len(seen) == 1 for seen in tasks),
        f"RandomClassRotation: up to {max(map(len, tasks))} rotations within a task",
    )


def test_sampling_draws_from_the_global_generator(l2l):
    """Whoever else draws a number changes every later task, and no other seed fixes the tasks."""
    data = marked(l2l)
    taskset = l2l.data.Taskset(data, [l2l.data.transforms.FusedNWaysKShots(data, n=5, k=1)])

    def tasks(seed: int, also_drawn: int = 0) -> list[list[int]]:
        random.seed(seed)
        torch.manual_seed(0)
        np.random.seed(0)
        for _ in range(also_drawn):
            random.random()
        return [[image.index for image in taskset.sample_task_description()] for _ in range(20)]

    with torch.random.fork_rng(devices=[]):
        assert tasks(0) == tasks(0)
        still_wrong(tasks(0) != tasks(1) and tasks(0) != tasks(0, also_drawn=1), "Taskset has a generator of its own")


# ours


opened = functools.cache(omniglot)


def characters(part: Partition, indices: np.ndarray) -> set[str]:
    """Alphabet and character of images of a part, as the names of their files say."""
    names = np.array(["/".join(name.split("/")[1:3]) for name in part.store.image_names])
    return set(names[part.index[indices]].ravel().tolist())


@pytest.mark.parametrize("split", ["lake", "vinyals", "random"])
def test_ours_no_episode_holds_a_character_of_another_part(omniglot_root, split):
    """5,000 episodes of each part reach every character of it, and none that another part has a file of."""
    dataset = opened(omniglot_root, split=split)
    parts = [getattr(dataset, name) for name in PARTS]
    filed = [characters(part, np.arange(len(part.index))) for part in parts]
    assert len(set.union(*filed)) == sum(map(len, filed))
    for part, own in zip(parts, filed, strict=True):
        episodes = EpisodeSampler(part.labels, ways=WAYS, shots=1, queries=15, seed=0)[0:5000]
        drawn = characters(part, episodes.support) | characters(part, episodes.query)
        assert drawn == own


def test_ours_splits_are_the_same_in_every_process(omniglot_root):
    """Whatever seed Python hashes with, and whatever was drawn from the global generators."""
    code = (
        "import sys, random, hashlib; from pathlib import Path; from tasks.datasets import omniglot\n"
        "random.seed(int(sys.argv[2]))\n"
        "for split in ('lake', 'vinyals', 'random'):\n"
        "    data = omniglot(Path(sys.argv[1]), split=split)\n"
        "    names = [part.class_names for part in (data.train, data.val, data.test)]\n"
        "    print(hashlib.sha256(repr(names).encode()).hexdigest())\n"
    )
    for seed in ("1", "2"):
        words, environment = [sys.executable, "-c", code, str(omniglot_root), seed], {"PYTHONHASHSEED": seed}
        told = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ | environment).stdout
        for digest, split in zip(told.split(), ("lake", "vinyals", "random"), strict=True):
            dataset = opened(omniglot_root, split=split)
            names = [getattr(dataset, name).class_names for name in PARTS]
            assert hashlib.sha256(repr(names).encode()).hexdigest() == digest, f"{split}, hash seed {seed}"


def test_ours_each_class_has_a_rotation_of_its_own():
    names = tuple(f"A/character{i:02d}" for i in range(20))
    images = np.zeros((40, 1, 4, 4), np.uint8)
    images[:, :, 0, 0] = 255
    store = Store("marked", images, np.arange(0, 41, 2), names)
    part = Partition.of_classes(store, "train", rotated(names))
    episodes = EpisodeSampler(part.labels, ways=10, shots=1, queries=1, seed=0)[0:200]
    where = {"rot000": (0, 0), "rot090": (3, 0), "rot180": (3, 3), "rot270": (0, 3)}  # counter-clockwise
    seen = []
    for classes, support, query in zip(episodes.classes, episodes.support[..., 0], episodes.query[..., 0], strict=True):
        expected = [where[part.class_names[label].rpartition("/")[2]] for label in classes]
        assert corners(part.gather(support)) == corners(part.gather(query)) == expected
        seen.append(len(set(expected)))
    assert np.mean(seen) > 3.5  # of 4


def test_ours_sampling_neither_reads_nor_moves_the_global_generators():
    """In a process of its own: the type checks that tests run under draw numbers themselves."""
    code = (
        "import random; import numpy as np; from tasks.episodes import EpisodeSampler\n"
        "def state(): return random.getstate(), np.random.get_state()[1].tolist()\n"
        "sampler = EpisodeSampler(np.arange(40) // 2, ways=5, shots=1, queries=1, seed=3)\n"
        "def draw(): return sampler[7].support.tolist()\n"
        "first = draw(); random.seed(1); np.random.seed(1); before = state()\n"
        "assert draw() == first and state() == before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
