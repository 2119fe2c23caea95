"""Heads that answer by the most similar point of the support set: distances, batched by matrix products."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metalearn.learners.base import FeatureLearner

Metric = Literal["euclidean", "cosine"]


class DistanceLearner(FeatureLearner):
    """A head that compares queries with points of the support set: here with the mean of each class.

    ``embed`` is what it does to the features of every image alone. ``classify`` is the definition. For many episodes
    on the same features, ``rank`` gives scores of the same order for features that ``prepare`` has seen, once for all:
    what all classes of a query share is left out, and so is everything but one matrix product.
    """

    def __init__(self, extractor: nn.Module | None = None, *, metric: Metric = "euclidean", scale: float = 1.0):
        super().__init__(extractor)
        self.metric, self.scale = metric, scale

    def embed(self, features: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Features as the distance sees them."""
        return features

    def points(self, support: Float[Tensor, "b ways shots d"]) -> Float[Tensor, "b k d"]:
        """What queries are compared with."""
        return support.mean(2)

    def by_class(self, likeness: Float[Tensor, "b q k"], ways: int) -> Float[Tensor, "b q {ways}"]:
        """Likeness to points as likeness to classes."""
        return likeness

    def classify(
        self, support: Float[Tensor, "b ways shots d"], query: Float[Tensor, "b q d"]
    ) -> Float[Tensor, "b q ways"]:
        """``scale`` times minus the squared distance, or the cosine, of what ``embed`` makes of the features."""
        likeness = similarity(self.embed(query), self.points(self.embed(support)), self.metric)
        return self.scale * self.by_class(likeness, support.shape[1])

    def prepare(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Embedded features; for distances, which that does not change, less their mean, so that no digits are lost."""
        features = self.embed(features)
        return features if self.metric == "cosine" else features - features.mean(0)

    def rank(
        self, support: Float[Tensor, "b ways shots d"], query: Float[Tensor, "b q d"]
    ) -> Float[Tensor, "b q ways"]:
        """Scores that are largest where those of ``classify`` are: ``q.p - |p|^2 / 2`` lacks only ``|q|^2 / 2``."""
        points = self.points(support)
        if self.metric == "cosine":
            likeness = similarity(query, points, "cosine")
        else:
            likeness = torch.baddbmm(points.square().sum(-1).unsqueeze(1), query, points.mT, beta=-0.5)
        return self.by_class(likeness, support.shape[1])


def similarity(query: Float[Tensor, "b q d"], points: Float[Tensor, "b k d"], metric: Metric) -> Float[Tensor, "b q k"]:
    """Minus the squared Euclidean distance, or the cosine of the angle.

    ``-|q - p|^2 = 2 q.p - |q|^2 - |p|^2``. Both sides are first centred on the points' mean, which leaves
    distances as they are and keeps a large common offset from cancelling the digits of a float32.
    """
    if metric == "cosine":
        return F.normalize(query, dim=-1) @ F.normalize(points, dim=-1).mT
    centre = points.mean(1, keepdim=True)
    query, points = query - centre, points - centre
    squares = query.square().sum(-1, keepdim=True) + points.square().sum(-1).unsqueeze(1)
    return 2 * (query @ points.mT) - squares
