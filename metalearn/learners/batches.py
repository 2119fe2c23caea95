"""What the heads that are solved for many episodes at once share: their targets, and how many go together."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Classify = Callable[[Tensor, Tensor], Tensor]
"""Support (b, ways, shots, d) and queries (b, q, d) -> logits (b, q, ways)."""


def one_hot(ways: int, shots: int, like: Tensor) -> Float[Tensor, "n {ways}"]:
    """Rows ``e_0 .. e_0 e_1 ..``, shots of each: labels of ``support.flatten(1, 2)``, in the dtype of ``like``."""
    return torch.eye(ways, dtype=like.dtype, device=like.device).repeat_interleave(shots, 0)


def in_chunks(
    classify: Classify, support: Float[Tensor, "b ways shots d"], query: Float[Tensor, "b q d"], numbers: int
) -> Float[Tensor, "b q ways"]:
    """``classify`` a part of the episodes at a time; ``numbers``: how many float64 an episode needs in each pass.

    On a CPU 2 MB go together, which stay in the processor's cache from pass to pass; on a GPU 512 MB.
    """
    chunk = max(1, (2**18 if support.device.type == "cpu" else 2**26) // numbers)
    parts = zip(support.split(chunk), query.split(chunk), strict=True)
    return torch.cat([classify(*part) for part in parts])
