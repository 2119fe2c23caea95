"""Heads on features, a few episodes at a time, each with copies of its images' features."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from metalearn.learners.base import FeatureLearner
from metalearn.learners.distance import DistanceLearner
from tasks.episodes import EpisodeIndices, EpisodeSampler

_CACHED, _LARGE = 1 << 21, 1 << 26  # bytes of features that are gathered at once: see `EpisodeByEpisode`


class EpisodeByEpisode:
    """How many queries of each episode a head gets right.

    ``at_once``: episodes that go together, as many as have 2 MB of features, or 64 MB, and at least one. 2 MB stay in a
    processor's cache until they are used; heads that iterate (``iterative``) and GPUs want many episodes in each
    operation.

    features: (n, d), for a `DistanceLearner` what its ``prepare`` made of them.
    """

    def __init__(self, learner: FeatureLearner, features: Float[Tensor, "n d"], sampler: EpisodeSampler):
        self.answer = learner.rank if isinstance(learner, DistanceLearner) else learner.classify
        self.support, self.query = Gather(features), Gather(features)
        images = sampler.ways * (sampler.shots + sampler.queries)
        many = learner.iterative or features.is_cuda
        self.at_once = max(1, (_LARGE if many else _CACHED) // (images * features.shape[1] * features.element_size()))

    def __call__(self, drawn: EpisodeIndices) -> Int[Tensor, " b"]:
        """Correct queries of each of b episodes."""
        support, query = self.support(drawn.support), self.query(drawn.query)
        said = self.answer(support, query.flatten(1, 2)).argmax(-1).view(query.shape[:3])
        return (said == torch.arange(said.shape[1], device=said.device)[:, None]).sum((1, 2))


class Gather:
    """Rows of a table, gathered into the same memory every time: fresh memory costs more than the copy."""

    def __init__(self, table: Float[Tensor, "n d"]):
        self.table, self.place = table, table.new_empty(0)

    def __call__(self, rows: Int[np.ndarray, "*shape"]) -> Float[Tensor, "*shape d"]:
        """Rows; they are valid until the next call."""
        flat = torch.from_numpy(rows.reshape(-1)).to(self.table.device)
        if len(self.place) < len(flat):
            self.place = self.table.new_empty(len(flat), self.table.shape[1])
        return torch.index_select(self.table, 0, flat, out=self.place[: len(flat)]).unflatten(0, rows.shape)
