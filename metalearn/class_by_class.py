"""Distance heads on many episodes, class by class: one matrix product serves all episodes that have a class."""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from metalearn.learners.distance import DistanceLearner
from tasks.episodes import EpisodeIndices, EpisodeSampler

_TOGETHER = 1 << 28  # bytes of points and scores of the episodes that go together
_WORTH = 4  # how many times the queries of a way a class may have images: all of them are compared


class ClassByClass:
    """How many queries of each episode a head gets right; no query is copied.

    The queries of a way are among the images of its class. So the points that episodes compare queries with are
    brought together for every class that the episodes have, meet all its images in one product, and what was said of
    the images that an episode asks for is looked up.

    ``at_once``: episodes that go together, as many as take 256 MB, and at least one. ``pays``: whether this takes less
    time than copying queries, as where an episode has no more points than a way has queries and classes are small.

    features: (n, d), what ``learner.prepare`` made of them. labels: (n,) of the images, in any order.
    """

    def __init__(
        self,
        learner: DistanceLearner,
        features: Float[Tensor, "n d"],
        labels: Int[np.ndarray, "n"],
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
        images, d = sampler.ways * sampler.shots, features.shape[1]
        numbers = (images + points) * d + sampler.ways * points * self.largest
        self.at_once = max(1, _TOGETHER // (numbers * features.element_size()))

    @cached_property
    def rows(self) -> Float[Tensor, "n d"]:
        """The features, class after class; copied only where they do not lie like that already."""
        ordered = (self.order[1:] > self.order[:-1]).all()
        return self.given if ordered else self.given[self.here(self.order)]

    def __call__(self, drawn: EpisodeIndices) -> Int[Tensor, "b"]:
        """Correct queries of each of b episodes."""
        b, ways = drawn.classes.shape
        support = self.rows.index_select(0, self.here(self.place[drawn.support].reshape(-1)))
        points, offset = self.learner.sides(support.unflatten(0, drawn.support.shape))
        numbers = np.searchsorted(self.labels, drawn.classes).reshape(-1)  # of the class of each episode's each way
        order = np.argsort(numbers, kind="stable")
        pairs = self.here(order)
        scores = self.scores(points, offset, pairs // ways, numbers[order])
        asked = self.place[drawn.query].reshape(b * ways, -1) - self.first[numbers][:, None]
        said = first_of_largest(self.learner.by_class(scores, ways)).gather(1, self.here(asked[order]))
        right = torch.empty(b * ways, dtype=torch.int64, device=self.device)
        right[pairs] = (said == (pairs % ways)[:, None]).sum(1)
        return right.view(b, ways).sum(1)

    def scores(
        self,
        points: Float[Tensor, "b k d"],
        offset: Float[Tensor, "b k 1"],
        episode: Int[Tensor, "pairs"],
        numbers: Int[np.ndarray, "pairs"],
    ) -> Float[Tensor, "pairs k m"]:
        """Scores of all images of class ``numbers[i]``, ascending, with the points of ``episode[i]``.

        m: images of the largest class; what is behind those of a smaller one is not set.
        """
        scores = offset[episode].expand(-1, -1, self.largest).contiguous()
        present, starts = np.unique(numbers, return_index=True)
        for one, start, stop in zip(present, starts, [*starts[1:], len(numbers)], strict=True):
            images = self.rows[self.first[one] : self.first[one] + self.sizes[one]]
            met = scores[start:stop].view(-1, self.largest)[:, : len(images)]
            met.addmm_(points.index_select(0, episode[start:stop]).flatten(0, 1), images.T)
        return scores

    def here(self, array: np.ndarray) -> Any:
        """An array as a tensor on the device."""
        return torch.from_numpy(array).to(self.device)


def first_of_largest(scores: Float[Tensor, "n ways m"]) -> Int[Tensor, "n m"]:
    """``scores.argmax(1)``, the first where several are equal, by operations that are quick across rows."""
    ways = scores.shape[1]
    left = torch.arange(ways, 0, -1, dtype=torch.int16, device=scores.device)[:, None]  # ways from each on
    return ways - ((scores == scores.amax(1, keepdim=True)) * left).amax(1).long()
