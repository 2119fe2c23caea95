"""Similarities between queries and class representatives, batched over episodes by matrix products."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Metric = Literal["euclidean", "cosine"]


def similarity(query: Float[Tensor, "b q d"], points: Float[Tensor, "b k d"], metric: Metric) -> Float[Tensor, "b q k"]:
    """Minus the squared Euclidean distance, or the cosine of the angle.

    ``-|q - p|^2 = 2 q.p - |q|^2 - |p|^2``. Both sides are first centred on the points' mean, which leaves
    distances as they are and keeps a large common offset from cancelling the digits of a float32. Only one array as
    large as the queries is made: a second one costs more than the products (its memory comes anew from the system).
    """
    if metric == "cosine":
        return F.normalize(query, dim=-1) @ F.normalize(points, dim=-1).mT
    centre = points.mean(1, keepdim=True)
    query, points = query - centre, points - centre
    likeness = torch.baddbmm(points.square().sum(-1).unsqueeze(1), query, points.mT, beta=-1, alpha=2)
    return likeness - torch.linalg.vector_norm(query, dim=-1, keepdim=True).square()
