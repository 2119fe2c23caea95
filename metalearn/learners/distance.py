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
        return support.mean(2) if support.shape[2] > 1 else support[:, :, 0]  # which needs no copy

    def by_class(self, likeness: Float[Tensor, "b k q"], ways: int) -> Float[Tensor, "b {ways} q"]:
        """Likeness to points as likeness to classes."""
        return likeness

    def classify(
        self, support: Float[Tensor, "b ways shots d"], query: Float[Tensor, "b q d"]
    ) -> Float[Tensor, "b q ways"]:
        """``scale`` times minus the squared distance, or the cosine, of what ``embed`` makes of the features."""
        likeness = similarity(self.embed(query), self.points(self.embed(support)), self.metric)
        return self.scale * self.by_class(likeness.mT, support.shape[1]).mT

    def prepare(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Embedded features; for distances, which that does not change, less their mean, so that no digits are lost."""
        features = self.embed(features)
        return features if self.metric == "cosine" else features - features.mean(0)

    def rank(
        self, support: Float[Tensor, "b ways shots d"], query: Float[Tensor, "b q d"]
    ) -> Float[Tensor, "b q ways"]:
        """Scores that are largest where those of ``classify`` are: see ``sides``."""
        points, offset = self.sides(support)
        return self.by_class(torch.baddbmm(offset, points, query.mT), support.shape[1]).mT

    def sides(self, support: Float[Tensor, "b ways shots d"]) -> tuple[Float[Tensor, "b k d"], Float[Tensor, "b k 1"]]:
        """Points p and an offset of each, so that ``q.p + offset`` orders the points of a query q as its likeness does.

        Minus half the squared distance lacks only ``|q|^2 / 2``, and the cosine only a factor, both the same for all p.
        """
        points = self.points(support)
        if self.metric == "cosine":
            return F.normalize(points, dim=-1), points.new_zeros(*points.shape[:2], 1)
        return points, torch.linalg.vector_norm(points, dim=-1, keepdim=True).square() / -2


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
