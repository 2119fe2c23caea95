"""Affine warps of a batch of images, each image its own: the light decoder's transformations and augmentation's."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from gvae.errors import ModelError

VALUES = {"rotation": 1, "scale": 2, "translation": 2, "shear": 1, "zoom": 1, "stretch": 2, "affine": 6}
"""Transforms and how many values each takes for an image."""


def sampling_matrix(name: str, values: Float[Tensor, "n k"]) -> Float[Tensor, "n 3 3"]:
    """Homogeneous matrix taking an output position to where the image is read, in [-1, 1] coordinates (x, y).

    ``values``: rotation, radians (n, 1), counter-clockwise as seen; scale, two factors (n, 2), a factor of 0.5
    doubles the size; translation, (n, 2) in half image widths; shear, (n, 1); zoom, one factor for both axes (n, 1);
    stretch, two factors (n, 2), as scale; affine, what is added to the identity's two rows (n, 6). As ``affine_grid``
    reads it.
    """
    matrix = torch.eye(3, dtype=values.dtype, device=values.device).repeat(len(values), 1, 1)
    if name == "rotation":
        cos, sin = values[:, 0].cos(), values[:, 0].sin()
        matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 1, 0], matrix[:, 1, 1] = cos, -sin, sin, cos
    elif name in ("scale", "zoom", "stretch"):
        matrix[:, 0, 0], matrix[:, 1, 1] = values[:, 0], values[:, -1]
    elif name == "translation":
        matrix[:, 0, 2], matrix[:, 1, 2] = values[:, 0], values[:, 1]
    elif name == "shear":
        matrix[:, 0, 1] = values[:, 0]
    elif name == "affine":
        matrix[:, :2] += values.view(-1, 2, 3)
    else:
        raise ModelError(f"unknown transform {name!r}; allowed: {', '.join(VALUES)}")
    return matrix


def warp(
    images: Float[Tensor, "n c h w"], matrix: Float[Tensor, "n 3 3"], outside: Literal["zeros", "border"] = "zeros"
) -> Float[Tensor, "n c h w"]:
    """Read ``images`` through sampling matrices: bilinear, pixel centres (align_corners=False).

    ``outside``: what stands beyond the image, zeros or its nearest pixel.
    """
    grid = F.affine_grid(matrix[:, :2], list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode=outside, align_corners=False)
