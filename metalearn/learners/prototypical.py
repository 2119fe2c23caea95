"""Prototypical Networks: the nearest class mean."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metalearn.learners.base import require_positive
from metalearn.learners.distance import DistanceLearner, Metric


class Prototypical(DistanceLearner):
    """Nearest class mean: minus the squared Euclidean distance to the mean of a class's support features.

    Snell et al. 2017 (arXiv 1703.05175), eqs. 1 and 2. Options: ``metric`` (``cosine``: cosine similarity
    to that mean instead), ``normalise`` (features to unit length before anything else; L2N of Wang et al.
    2019, SimpleShot), ``scale`` (logits are multiplied by it: an inverse temperature for training; ranks
    stay).
    """

    reference = "Snell, Swersky & Zemel 2017, Prototypical Networks for Few-shot Learning, NeurIPS, arXiv 1703.05175"

    def __init__(
        self,
        extractor: nn.Module | None = None,
        *,
        metric: Metric = "euclidean",
        normalise: bool = False,
        scale: float = 1.0,
    ):
        super().__init__(extractor, metric=metric, scale=scale)
        require_positive("prototypical", scale=scale)
        self.normalise = normalise

    def embed(self, features: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """See the class."""
        return F.normalize(features, dim=-1) if self.normalise else features
