"""Mutual information gap."""

import numpy as np

from gvae.metrics.codes import FactorCodes, Result
from gvae.metrics.information import information, information_matrix, top_gaps


def mutual_information_gap(codes: FactorCodes, generator: np.random.Generator, *, samples: int = 10_000) -> Result:
    """MIG: mean over factors of (I_1 - I_2) / H, 0 to 1 (Chen et al. 2018, equation 6).

    I_1 and I_2 are the largest and second largest mutual information of one latent with the factor, H the factor's
    entropy, over ``samples`` images. The matrix is I / H.
    """
    rows = codes.sample(samples, generator)
    entropy = np.array([information(levels[rows], levels[rows]) for levels in codes.levels.values()])
    shares = information_matrix(codes, rows) / np.maximum(entropy, 1e-12)
    return Result({"mig": float(top_gaps(shares).mean())}, f"{len(rows):,} images", shares)
