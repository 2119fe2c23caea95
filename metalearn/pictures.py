"""Figures of a measured encoder: latent traversals, and how important each latent is for each factor."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from gvae.traverse import tile

_CELL = 0.5  # inches a picture takes in a traversal


def traversals(swept: Float[Tensor, "k steps c h w"], names: Sequence[str], title: str) -> Figure:
    """Draw the sweeps of ``k`` named latents, a row each, from images in [0, 1]."""
    rows, steps, _, height, _ = swept.shape
    figure = Figure(figsize=(_CELL * steps + 1.6, _CELL * rows + 0.6), layout="constrained")
    axes = figure.add_subplot()
    picture = tile(swept)[0].permute(1, 2, 0).cpu().numpy()
    axes.imshow(picture if picture.shape[2] == 3 else picture[..., 0], cmap="gray", vmin=0, vmax=1)
    axes.set_yticks((np.arange(rows) + 0.5) * height - 0.5, names, fontsize=7)
    axes.set_xticks([])
    figure.suptitle(title, fontsize=7)
    return figure


def heat_map(matrix: Float[np.ndarray, "d k"], latents: Sequence[str], factors: Sequence[str], title: str) -> Figure:
    """Draw what each latent (row) is worth for each factor (column), 0 to 1."""
    figure = Figure(figsize=(0.7 * len(factors) + 2.4, 0.22 * len(latents) + 1.6), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(matrix, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(len(latents)), latents, fontsize=7)
    axes.set_xticks(range(len(factors)), factors, fontsize=7, rotation=45, ha="right")
    figure.colorbar(picture)
    figure.suptitle(title, fontsize=8)
    return figure
