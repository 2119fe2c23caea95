"""Episodes as other libraries sample them, for benchmarks/sampling.py: uint8 images of 28x28, in memory or in files."""

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

Setting = tuple[int, int, int]
"""Ways, shots, queries."""
FILED = 100  # classes that are written as files: the library opens the images of an episode, however many there are


class InMemory(Dataset):
    """Images as one tensor, and their classes as ``get_labels`` tells: numbers, or tensors as TensorDataset gives.

    ``split``: a list with a tensor an image, made ahead; no library does that for its user, but it is the fastest.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, tensors: bool = False, split: bool = False) -> None:
        self.images = list(torch.from_numpy(images)) if split else torch.from_numpy(images)
        self.labels = list(torch.from_numpy(labels)) if tensors else labels.tolist()

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.images)

    def __getitem__(self, item: int) -> tuple:
        return self.images[item], self.labels[item]

    def get_labels(self) -> list:
        """Class of every image."""
        return self.labels


class InFiles(Dataset):
    """PNG files of 105x105, opened, shrunk and turned into tensors as learn2learn's benchmark of Omniglot does."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, folder: Path) -> None:
        from torchvision import transforms

        self.labels = labels[labels < FILED].tolist()
        self.files = [folder / f"{i}.png" for i in range(len(self.labels))]
        for file, image in zip(self.files, images, strict=False):
            ink = Image.fromarray(255 - image[0]).resize((105, 105), Image.Resampling.BICUBIC)
            ink.point(lambda value: 255 * (value > 127)).convert("1").save(file)
        shrink = transforms.Resize(28, transforms.InterpolationMode.LANCZOS)
        self.transform = transforms.Compose([shrink, transforms.ToTensor(), lambda x: 1.0 - x])

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.labels)

    def __getitem__(self, item: int) -> tuple:
        return self.transform(Image.open(self.files[item]).convert("L")), self.labels[item]


def learn2learn(dataset: Dataset) -> Callable[[Setting], Callable[[], object]]:
    """Taskset with the transforms of its own benchmarks: a setting -> a function that gives one episode."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # gym's banner
        import learn2learn as l2l
    known = l2l.data.MetaDataset(dataset)

    def of(setting: Setting) -> Callable[[], object]:
        ways, shots, queries = setting
        transforms = [
            l2l.data.transforms.FusedNWaysKShots(known, n=ways, k=shots + queries),
            l2l.data.transforms.LoadData(known),
            l2l.data.transforms.RemapLabels(known),
            l2l.data.transforms.ConsecutiveLabels(known),
        ]
        return l2l.data.Taskset(known, transforms, num_tasks=-1).sample

    return of


def easyfsl(dataset: InMemory, workers: int) -> Callable[[Setting], Callable[[], object]]:
    """TaskSampler in a DataLoader: a setting -> a function that gives one episode; workers stay between episodes."""
    # easyfsl 1.5.0 gives its base class data_source=None, which torch >= 2.8 refuses: let it be taken
    Sampler.__init__ = lambda self, data_source=None: None
    from easyfsl.samplers import TaskSampler

    def of(setting: Setting) -> Callable[[], object]:
        sampler = TaskSampler(dataset, *setting, n_tasks=10**9)
        collate = sampler.episodic_collate_fn
        episodes: list[Iterator] = []

        def sample() -> object:
            if not episodes:
                loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=workers)
                episodes.append(iter(loader))
            return next(episodes[0])

        return sample

    return of
