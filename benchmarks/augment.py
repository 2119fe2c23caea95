"""Images a second that augmentation gives, beside torchvision's v2 transforms, side by side in one run.

Run: python benchmarks/augment.py [rounds]

The same work for all: rotation, translation, scale and shear by bilinear interpolation, horizontal flip, colour jitter
(brightness and contrast; saturation and hue too for colour). "image by image" is v2.RandomAffine, RandomHorizontalFlip
and ColorJitter called for each image, which gives each its own parameters as ours does. "whole batch" calls them once
for all: every image then gets the same parameters, which is another augmentation, and stands here as a floor.
The last two lines are a part of the warp: where each pixel is read, by our broadcasting and by F.affine_grid.
"""

import sys
import time
from collections.abc import Callable

import numpy as np

import metalearn  # noqa: F401  (before torch: it says how torch's threads wait)

# isort: split
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from gvae.augment import Augment, reading_matrix
from gvae.warp import sampling_grid

BATCH = 256
GREY = {"brightness": 0.4, "contrast": 0.4}
JITTER = {1: GREY, 3: {**GREY, "saturation": 0.4, "hue": 0.1}}


def torchvisions(channels: int) -> v2.Compose:
    affine = v2.RandomAffine(20, (0.1, 0.1), (0.8, 1.2), (-10, 10), interpolation=v2.InterpolationMode.BILINEAR)
    return v2.Compose([affine, v2.RandomHorizontalFlip(0.5), v2.ColorJitter(**JITTER[channels])])


def seconds(work: Callable[[], object], device: str, least: float = 0.5) -> float:
    """Seconds a call takes, over calls of at least ``least`` seconds together."""
    calls, began = 0, time.perf_counter()
    while time.perf_counter() - began < least:
        work()
        calls += 1
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / calls


def compare(images: Tensor, device: str, rounds: int) -> None:
    channels = images.shape[1]
    augment = Augment(rotation=20, translation=0.1, scale=(0.8, 1.2), shear=10, flip=0.5, **JITTER[channels])
    warp = Augment(rotation=20, translation=0.1, scale=(0.8, 1.2), shear=10, flip=0.5)
    generator, theirs = torch.Generator(device).manual_seed(0), torchvisions(channels)
    height, width = images.shape[2:]
    matrix = reading_matrix(warp.draw(BATCH, generator, images.device), height, width)
    works = {
        "ours": lambda: augment(images, generator),
        "ours, warp alone": lambda: warp(images, generator),
        "torchvision image by image": lambda: torch.stack([theirs(image) for image in images]),
        "torchvision whole batch": lambda: theirs(images),
        "the warp's grid": lambda: sampling_grid(matrix, height, width),
        "the grid by F.affine_grid": lambda: F.affine_grid(matrix[:, :2], list(images.shape), align_corners=False),
    }
    taken = np.empty((rounds, len(works)))
    for row in taken:  # turn by turn, so that a busy moment hits all
        row[:] = [seconds(work, device) for work in works.values()]
    speed = BATCH / np.median(taken, 0)
    title = f"{BATCH} images {'x'.join(map(str, images.shape[1:]))}, {device}, {torch.get_num_threads()} threads"
    print(f"{title}: images/s, median of {rounds} (least to most); ours / this, median of the ratios in a round")
    ratios = taken / taken[:, :1]
    for number, name in enumerate(works):
        least, most = BATCH / taken[:, number].max(), BATCH / taken[:, number].min()
        ratio = np.median(ratios[:, number])
        print(f"  {name:28} {speed[number]:12,.0f} ({least:,.0f} to {most:,.0f}) {ratio:10.2f}")


def main(rounds: int) -> None:
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for shape in ((1, 28, 28), (3, 84, 84)):
            images = torch.rand(BATCH, *shape, generator=torch.Generator().manual_seed(0)).to(device)
            compare(images, device, rounds)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
