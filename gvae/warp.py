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
    images: Float[Tensor, "n c h w"],
    matrix: Float[Tensor, "n 3 3"],
    outside: Literal["zeros", "border"] = "zeros",
    bend: Float[Tensor, "n 2 h w"] | None = None,
) -> Float[Tensor, "n c h w"]:
    """Read ``images`` through sampling matrices: bilinear, pixel centres (align_corners=False).

    ``outside``: what stands beyond the image, zeros or its nearest pixel. ``bend``: what is added to where each pixel
    is read, (x, y) in [-1, 1] coordinates.
    """
    grid = sampling_grid(matrix, images.shape[2], images.shape[3])
    if bend is not None:
        grid = grid + bend.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, padding_mode=outside, align_corners=False)


def sampling_grid(matrix: Float[Tensor, "n 3 3"], height: int, width: int) -> Float[Tensor, "n height width 2"]:
    """Return where each output pixel is read, (x, y) in [-1, 1]: ``affine_grid`` without align_corners.

    Two planes by broadcasting, where ``affine_grid`` makes a matrix product for every image: on a CPU several times
    faster, and planes are what ``grid_sample`` reads fastest. ``benchmarks/augment.py`` measures both.
    """
    x = (2 * torch.arange(width, dtype=matrix.dtype, device=matrix.device) + 1) / width - 1
    y = (2 * torch.arange(height, dtype=matrix.dtype, device=matrix.device) + 1) / height - 1
    rows = matrix[:, :2, None, None]
    return (rows[..., 0] * x + rows[..., 1] * y[:, None] + rows[..., 2]).permute(0, 2, 3, 1)
