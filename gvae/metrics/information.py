"""Mutual information of single latents with factors, by histograms."""

import numpy as np
from jaxtyping import Float, Int

from gvae.metrics.codes import FactorCodes, bins


def information_matrix(codes: FactorCodes, rows: Int[np.ndarray, " m"]) -> Float[np.ndarray, "d k"]:
    """Return I(latent; factor) in nats over some rows: latents in 20 bins of equal width, factors by their levels."""
    binned = [bins(column) for column in codes.values[rows].T]
    return np.array([[information(code, levels[rows]) for levels in codes.levels.values()] for code in binned])


def information(one: Int[np.ndarray, " n"], other: Int[np.ndarray, " n"]) -> float:
    """Return the mutual information of two discrete samples, nats; of a sample with itself, its entropy."""
    width = int(other.max()) + 1
    counts = np.bincount(one * width + other, minlength=(int(one.max()) + 1) * width)
    joint = counts.reshape(-1, width) / len(one)
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / independent[seen])).sum())


def top_gaps(scores: Float[np.ndarray, "d k"]) -> Float[np.ndarray, " k"]:
    """Return for each factor the largest score of a latent less the second largest; less 0 with one latent only."""
    ordered = np.sort(np.vstack([scores, np.zeros_like(scores[:1])]) if len(scores) == 1 else scores, axis=0)
    return ordered[-1] - ordered[-2]
