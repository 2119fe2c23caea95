"""SimpleShot: the nearest class mean of features that were centred and scaled."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metalearn.errors import UserError
from metalearn.learners.distance import DistanceLearner


class SimpleShot(DistanceLearner):
    """Nearest class mean after centring on the training classes' mean and scaling to unit length (CL2N).

    Wang et al. 2019, section 3: ``transform`` is ``none``, ``l2n`` (``x / |x|``) or ``cl2n`` (``x - centre`` first,
    where the centre is the mean of the features of all training images); then minus the squared Euclidean distance to
    the mean of a class's support features. With ``cl2n`` it needs that mean: ``fit_base``, which a benchmark calls
    with the features of its training part, never with tested ones. It is made for features that are trained already:
    it cannot be meta-trained.
    """

    reference = "Wang et al. 2019, SimpleShot: Revisiting Nearest-Neighbor Classification, arXiv 1911.04623"
    centre: Tensor | None

    def __init__(self, extractor: nn.Module | None = None, *, transform: Literal["none", "l2n", "cl2n"] = "cl2n"):
        super().__init__(extractor)
        self.transform = transform
        self.needs_base = transform == "cl2n"
        self.register_buffer("centre", None)

    def fit_base(self, features: Float[Tensor, "n d"]) -> None:
        """Take the mean of the training classes' features as the centre."""
        self.centre = features.mean(0, dtype=torch.float64).to(features)

    def embed(self, features: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """See the class. Raises UserError without a centre, or with one of another number of features."""
        if self.needs_base:
            features = features - self.centre_of(features.shape[-1])
        return features if self.transform == "none" else F.normalize(features, dim=-1)

    def centre_of(self, dim: int) -> Float[Tensor, " dim"]:
        """The centre. Raises UserError when there is none of ``dim`` features."""
        if self.centre is None:
            raise UserError(
                "learner simpleshot with transform='cl2n' needs the mean of the training classes' features: call "
                "fit_base(features) with them, or choose transform 'l2n' or 'none'"
            )
        if len(self.centre) != dim:
            raise UserError(
                f"learner simpleshot was given training features with {len(self.centre)} numbers an image, now "
                f"features with {dim}: both must come from the same extractor"
            )
        return self.centre

    def require_meta_trainable(self) -> None:
        """Raises UserError: the centre would be that of another network after every step."""
        raise UserError(
            "learner simpleshot cannot be meta-trained: it tests features that are trained already; meta-train "
            "'prototypical', whose distance is the same"
        )
