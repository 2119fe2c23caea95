"""One nearest neighbour among the support features."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metalearn.learners.distance import DistanceLearner, Metric


class NearestNeighbour(DistanceLearner):
    """Nearest neighbour: minus the smallest squared Euclidean distance to a class's support features.

    Cover & Hart 1967. With one shot it is ``Prototypical``. Options: ``metric`` (``cosine``: the largest
    cosine similarity instead), ``normalise`` (features to unit length first).
    """

    reference = "Cover & Hart 1967, Nearest neighbor pattern classification, IEEE Trans. Information Theory 13"

    def __init__(self, extractor: nn.Module | None = None, *, metric: Metric = "euclidean", normalise: bool = False):
        super().__init__(extractor, metric=metric)
        self.normalise = normalise

    def embed(self, features: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """See the class."""
        return F.normalize(features, dim=-1) if self.normalise else features

    def points(self, support: Float[Tensor, "b ways shots d"]) -> Float[Tensor, "b k d"]:
        """Every support image."""
        return support.flatten(1, 2)

    def by_class(self, likeness: Float[Tensor, "b k q"], ways: int) -> Float[Tensor, "b {ways} q"]:
        """The largest of a class's."""
        return likeness.unflatten(1, (ways, -1)).amax(2)
