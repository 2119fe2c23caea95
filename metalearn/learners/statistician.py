"""The few-shot rule of the Neural Statistician: the class whose context posterior is nearest to the query's."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metalearn.errors import UserError
from metalearn.extractors import SetExtractor
from metalearn.learners.base import FeatureLearner

_CHUNK = 1 << 22  # numbers of the queries' posteriors that are compared at once


class Statistician(FeatureLearner):
    """Least KL divergence between the context posteriors of a class's support set and of the query alone.

    Edwards & Storkey 2017, section 5.3 and algorithm 4: N_w = q(c|D_w) of the support set, N_x = q(c|{x}) of the query,
    argmin over w of KL(N_w || N_x), "the KL divergence from the test context to the training context". Logits are minus
    that divergence, nats. ``direction``: ``query_support`` is KL(N_x || N_w) instead. It
    reads what an extractor pools over sets, not its features: the extractor must be a
    `metalearn.extractors.SetExtractor`, as those of kinds pretrain, checkpoint and random are.
    """

    reference = "Edwards & Storkey 2017, Towards a Neural Statistician, ICLR, arXiv 1606.02185"
    reads = "instances"

    def __init__(
        self,
        extractor: nn.Module | None = None,
        *,
        direction: Literal["support_query", "query_support"] = "support_query",
    ):
        super().__init__(extractor)
        if extractor is not None and not isinstance(extractor, SetExtractor):
            raise UserError(
                f"learner statistician: given an extractor {type(extractor).__name__}, which has no posterior of a "
                "set of images; allowed: extractors of kind pretrain, checkpoint or random"
            )
        self.direction = direction

    def extract(self, images: Float[Tensor, "  n *shape"]) -> Float[Tensor, "n k"]:
        """Return what the extractor pools over sets, a vector an image. UserError without an extractor."""
        return self._extractor().instances(images)

    def classify(
        self, support: Float[Tensor, "b ways shots k"], query: Float[Tensor, "b q k"]
    ) -> Float[Tensor, "b q ways"]:
        """See the class. UserError without an extractor: its network makes posteriors of what it pools."""
        extractor = self._extractor()
        ways, queries = support.shape[1], query.shape[1]
        found = []
        each = max(1, _CHUNK // (queries * support.shape[-1]))
        for one, other in zip(support.split(each), query.split(each), strict=True):
            classes = [part.unflatten(0, (-1, ways)) for part in extractor.summary(one.flatten(0, 1))]
            asked = [part.unflatten(0, (-1, queries)) for part in extractor.summary(other.flatten(0, 1)[:, None])]
            forward = self.direction == "support_query"
            found.append(-divergence(*classes, *asked).mT if forward else -divergence(*asked, *classes))
        return torch.cat(found)

    def _extractor(self) -> SetExtractor:
        if not isinstance(self.extractor, SetExtractor):
            raise UserError(
                "learner statistician: given features alone; it needs the extractor whose network they are of: build "
                "it with an extractor of kind pretrain, checkpoint or random"
            )
        return self.extractor


def divergence(
    mean: Float[Tensor, "b n d"],
    logvar: Float[Tensor, "b n d"],
    other_mean: Float[Tensor, "b m d"],
    other_logvar: Float[Tensor, "b m d"],
) -> Float[Tensor, "b n m"]:
    """KL(N(mean, exp(logvar)) || N(other_mean, exp(other_logvar))), nats, of every pair, summed over d.

    By matrix products, on means centred on the others' mean: sum_d of `gvae.losses.kl_between_gaussians`.
    """
    centre = other_mean.mean(1, keepdim=True)
    mean, other_mean, precision = mean - centre, other_mean - centre, torch.exp(-other_logvar)
    spread = (logvar.exp() + mean.square()) @ precision.mT - 2 * mean @ (precision * other_mean).mT
    own = (other_logvar + precision * other_mean.square()).sum(-1)
    return 0.5 * (spread + own[:, None] - (logvar + 1).sum(-1)[:, :, None])
