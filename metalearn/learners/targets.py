"""What the linear heads fit: one-hot labels of a support set that is sorted by class."""

import torch
from jaxtyping import Float
from torch import Tensor


def one_hot(ways: int, shots: int, like: Tensor) -> Float[Tensor, "n ways"]:
    """Rows ``e_0 .. e_0 e_1 ..``, shots of each: labels of ``support.flatten(1, 2)``, in the dtype of ``like``."""
    return torch.eye(ways, dtype=like.dtype, device=like.device).repeat_interleave(shots, 0)
