"""Distance heads on many episodes, class by class: one matrix product serves all episodes that have a class."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from metalearn.learners.distance import DistanceLearner
from tasks.episodes import EpisodeIndices, EpisodeSampler

_TOGETHER = 1 << 28  # bytes of support images and points of the episodes that go together
_BLOCK = 1 << 23  # bytes of points of the classes that go together
_WORTH = 4  # how many times the queries of a way a class may have images: all of them are compared


class ClassByClass:
    """How many queries of each episode a head gets right; no query is copied.

    The queries of a way are among the images of its class. So the points that episodes compare queries with are
    brought together for every class that the episodes have, meet all its images in one product, and what was said of
    the images that an episode asks for is looked up. Classes that about as many episodes have go together in blocks
    that stay in the processor's cache.

    ``at_once``: episodes that go together, as many as take 256 MB, and at least one. ``pays``: whether this takes less
    time than copying queries, as where an episode has no more points than a way has queries and classes are small.

    features: (n, d), what ``learner.prepare`` made of them. labels: (n,) of the images, in any order.
    """

    def __init__(
        self,
        learner: DistanceLearner,
        features: Float[Tensor, "n d"],
        labels: Int[np.ndarray, " n"],
        sampler: EpisodeSampler,
    ):
        order = np.argsort(labels, kind="stable")
        self.learner, self.device, self.given, self.order = learner, features.device, features, order
        self.place = np.empty_like(order)  # of an image: its row
        self.place[order] = np.arange(len(order))
        self.labels, self.first, self.sizes = np.unique(labels[order], return_index=True, return_counts=True)
        self.largest = int(self.sizes.max())
        points = learner.points(features.new_empty(1, sampler.ways, sampler.shots, 1)).shape[1]
        self.pays = points <= sampler.queries and self.largest <= _WORTH * sampler.queries
        numbers = (sampler.ways * sampler.shots + points) * features.shape[1]
        self.at_once = max(1, _TOGETHER // (numbers * features.element_size()))

    @cached_property
    def rows(self) -> Float[Tensor, "n d"]:
        """The features, class after class; copied only where they do not lie like that already."""
        ordered = (self.order[1:] > self.order[:-1]).all()
        return self.given if ordered else self.given[self.here(self.order)]

    def __call__(self, drawn: EpisodeIndices) -> Int[Tensor, " b"]:
        """Correct queries of each of b episodes."""
        b, ways = drawn.classes.shape
        support = self.rows.index_select(0, self.here(self.place[drawn.support].reshape(-1)))
        points, offset = self.learner.sides(support.unflatten(0, drawn.support.shape))
        numbers = np.searchsorted(self.labels, drawn.classes).reshape(-1)  # of the class of each episode's each way
        asked = self.place[drawn.query].reshape(b * ways, -1) - self.first[numbers][:, None]
        right = torch.empty(b * ways, dtype=torch.int64, device=self.device)
        lot = list(blocks(numbers, _BLOCK // (points[0].numel() * points.element_size())))
        meeting = Meeting(points, offset, max(pairs.size for _, pairs in lot), self.largest)
        for classes, pairs in lot:
            here = self.here(pairs.reshape(-1))
            scores = meeting(here // ways, self.images(classes))
            said = self.learner.by_class(scores, ways).max(1).indices  # the first, where several are equal
            said = said.gather(1, self.here(asked[pairs.reshape(-1)]))
            right[here] = (said == (here % ways)[:, None]).sum(1)
        return right.view(b, ways).sum(1)

    def images(self, classes: Int[np.ndarray, " c"]) -> Float[Tensor, "c m d"]:
        """All images of some classes; m: of the largest class; a smaller one has its last image several times."""
        each = np.minimum(np.arange(self.largest), self.sizes[classes][:, None] - 1)
        found = self.rows.index_select(0, self.here((self.first[classes][:, None] + each).reshape(-1)))
        return found.unflatten(0, each.shape)

    def here(self, array: np.ndarray) -> Any:
        """An array as a tensor on the device."""
        return torch.from_numpy(array).to(self.device)


class Meeting:
    """Scores of images with the points of episodes, in the same memory each time: fresh memory costs more than they do.

    points: (b, k, d) and offset (b, k, 1) of all episodes. most: pairs of a class and an episode at once, at most.
    largest: images of a class.
    """

    def __init__(self, points: Float[Tensor, "b k d"], offset: Float[Tensor, "b k 1"], most: int, largest: int):
        self.points, self.offset = points, offset
        self.met = points.new_empty(most, *points.shape[1:])
        self.scores = points.new_empty(most, points.shape[1], largest)

    def __call__(self, episode: Int[Tensor, " pairs"], images: Float[Tensor, "c m d"]) -> Float[Tensor, "pairs k m"]:
        """Scores of all images of c classes, each with the points of as many episodes, the first class's first."""
        classes, largest, d = images.shape
        met, scores = self.met[: len(episode)], self.scores[: len(episode)]
        torch.index_select(self.points, 0, episode, out=met)
        torch.bmm(met.view(classes, -1, d), images.mT, out=scores.view(classes, -1, largest))
        return scores.add_(self.offset.index_select(0, episode))


def blocks(numbers: Int[np.ndarray, " pairs"], size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Classes (c,) and, for each, the places (c, k) in ``numbers`` where it stands; those of all blocks are all places.

    A block has about ``size`` places, or one class. Where one of its classes stands in fewer than k places, its last is
    repeated; classes are taken in the order of how often they stand there, so that this is seldom.
    """
    order = np.argsort(numbers, kind="stable")
    present, starts, counts = np.unique(numbers[order], return_index=True, return_counts=True)
    frequent = np.argsort(-counts, kind="stable")
    start = 0
    while start < len(present):
        most = counts[frequent[start]]
        block = frequent[start : start + max(1, size // most)]
        each = np.minimum(np.arange(most), counts[block][:, None] - 1)
        yield present[block], order[starts[block][:, None] + each]
        start += len(block)
