"""How hard one-shot runs are: the error of nearest neighbour by modified Hausdorff distance, which learns nothing.

Run: python benchmarks/one_shot_hausdorff.py DATA_ROOT [--dataset omniglot-runs] [--size 105] [--seeds 3]

The distance is that of Dubuisson and Jain (1994): of each ink pixel of an image the distance to the nearest of the
other image, in the mean, and the larger of both ways; images lie with their centres of ink on each other, as in the
demonstration that comes with Omniglot's runs (Lake et al. 2015), whose published error is 38.8 % on the official runs.
An error on generated runs beside that tells whether these are harder. Prints a line a seed of the runs (the official
ones have seed 0 alone): error over the runs with its 95 % interval, in percent.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from metalearn import stats
from metalearn.data import build_dataset
from metalearn.schema import Kind
from tasks.made_runs import NAME
from tasks.oneshot import NAME as OFFICIAL


def ink(image: np.ndarray) -> cKDTree:
    """The ink pixels of an image (h, w) of 0 to 255, about their centre."""
    points = np.argwhere(image > 127).astype(float)
    return cKDTree(points - points.mean(0))


def distance(one: cKDTree, other: cKDTree) -> float:
    """The modified Hausdorff distance, in pixels."""
    return max(one.query(other.data)[0].mean(), other.query(one.data)[0].mean())


def errors(images: np.ndarray, support: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Share of wrong answers of each run; positions of one support and query image a class, (runs, ways)."""
    found = []
    for learned, asked in zip(support, query, strict=True):
        known, seen = ([ink(images[place, 0]) for place in places] for places in (learned, asked))
        answers = np.array([[distance(one, other) for other in known] for one in seen]).argmin(1)
        found.append((answers != np.arange(len(known))).mean())
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("--dataset", default=NAME)
    parser.add_argument("--size", type=int, default=105)
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    options = {"kind": given.dataset, "image_size": given.size}
    dataset = build_dataset(Kind.model_validate(options), given.root)
    if dataset.fixed is None:
        sys.exit(f"--dataset {given.dataset} has no runs; allowed: {NAME}, {OFFICIAL}")
    images = dataset.test.images()
    for seed in range(given.seeds):
        episodes = dataset.fixed(seed)
        found = errors(images, episodes.support[..., 0], episodes.query[..., 0])
        error = stats.mean_interval(found[None])
        said = f"{100 * error.mean:.1f} ± {100 * error.half_width:.1f} % error, {len(found)} runs"
        print(f"{given.dataset} seed {seed}: {said}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:  # UserError and DataError: what is wrong with what was given
        sys.exit(str(error))
