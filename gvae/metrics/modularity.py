"""Modularity."""

import numpy as np

from gvae.metrics.codes import FactorCodes, Result
from gvae.metrics.information import information_matrix


def modularity(codes: FactorCodes, generator: np.random.Generator, *, samples: int = 10_000) -> Result:
    """Modularity: does each latent tell of one factor only? 0 to 1 (Ridgeway and Mozer 2018, equation 2).

    Mean over latents of 1 - sum of I(latent; other factors)^2 / (I_1^2 (K - 1)), I_1 that of its best factor, K the
    number of factors. A latent that tells nothing scores 0, as in Locatello et al. 2019; one factor alone scores 1.
    """
    rows = codes.sample(samples, generator)
    found = information_matrix(codes, rows)
    best = found.max(1, keepdims=True)
    shares = np.where(best > 1e-12, found / np.maximum(best, 1e-12), 0.0)
    spilled = (np.square(shares).sum(1) - 1) / max(1, found.shape[1] - 1)
    scores = np.where(best[:, 0] > 1e-12, 1 - spilled, 0.0)
    return Result({"modularity": float(scores.mean())}, f"{len(rows):,} images")
