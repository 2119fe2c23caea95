"""Matching Networks: attention over the support images."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metalearn.learners.base import FeatureLearner, require_positive
from metalearn.learners.distance import similarity


class MatchingNetworks(FeatureLearner):
    """Attention over the support images: a softmax of the cosine similarities, summed by class.

    Vinyals et al. 2016, eq. 1 and section 2.1.1: ``P(w | q) = sum of a(q, s_i) over the images s_i of class w``, with
    ``a`` the softmax over the support set of ``scale cos(q, s_i)``; logits are the logarithms of P, so the
    cross-entropy of ``meta_loss`` is their training loss. The features are those of the extractor alone: the full
    context embeddings of section 2.1.2 (an LSTM over the support set) are not built. ``scale`` is 1 in the paper; a
    larger one sharpens the attention, which between -1 and 1 stays close to even.
    """

    reference = "Vinyals et al. 2016, Matching Networks for One Shot Learning, NeurIPS, arXiv 1606.04080"

    def __init__(self, extractor: nn.Module | None = None, *, scale: float = 1.0):
        super().__init__(extractor)
        require_positive("matching", scale=scale)
        self.scale = scale

    def classify(
        self, support: Float[Tensor, "b ways shots d"], query: Float[Tensor, "b q d"]
    ) -> Float[Tensor, "b q ways"]:
        """See the class: ``log P``."""
        attention = F.log_softmax(self.scale * similarity(query, support.flatten(1, 2), "cosine"), dim=-1)
        return attention.unflatten(-1, support.shape[1:3]).logsumexp(-1)
