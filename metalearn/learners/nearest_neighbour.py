"""One nearest neighbour among the support features."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metalearn.learners.base import FeatureLearner
from metalearn.learners.distance import Metric, similarity


class NearestNeighbour(FeatureLearner):
    """Nearest neighbour: minus the smallest squared Euclidean distance to a class's support features.

    Cover & Hart 1967. With one shot it is ``Prototypical``. Options: ``metric`` (``cosine``: the largest
    cosine similarity instead), ``normalise`` (features to unit length first).
    """

    reference = "Cover & Hart 1967, Nearest neighbor pattern classification, IEEE Trans. Information Theory 13"

    def __init__(self, extractor: nn.Module | None = None, *, metric: Metric = "euclidean", normalise: bool = False):
        super().__init__(extractor)
        self.metric, self.normalise = metric, normalise

    def classify(
        self, support: Float[Tensor, "b ways shots d"], query: Float[Tensor, "b q d"]
    ) -> Float[Tensor, "b q ways"]:
        """See the class: ``max over shots of -|q - s|^2``, or of ``cos(q, s)``."""
        if self.normalise:
            support, query = F.normalize(support, dim=-1), F.normalize(query, dim=-1)
        likeness = similarity(query, support.flatten(1, 2), self.metric)
        return likeness.unflatten(-1, support.shape[1:3]).amax(-1)
