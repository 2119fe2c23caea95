"""Mutual information gap."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int, Shaped

BINS = 20


def mutual_information_gap(codes: Float[np.ndarray, "n d"], factors: Mapping[str, Shaped[np.ndarray, " n"]]) -> float:
    """Mean over factors of (I_1 - I_2) / H, 0 to 1: Chen et al. 2018, equation 6.

    I_1 and I_2 are the largest and second largest mutual information of one latent with the factor, H the factor's
    entropy. Latents, and factors of more than 20 values, are cut into 20 bins of equal width, as is usual. A factor
    that never changes has no entropy and is left out; with none left the score is 0.
    """
    binned = [_binned(column) for column in codes.T]
    gaps = []
    for values in factors.values():
        factor = _binned(values) if len(np.unique(values)) > BINS else np.unique(values, return_inverse=True)[1]
        entropy = _information(factor, factor)
        if entropy <= 1e-12:
            continue
        found = sorted((_information(code, factor) for code in binned), reverse=True) + [0.0]
        gaps.append((found[0] - found[1]) / entropy)
    return float(np.mean(gaps)) if gaps else 0.0


def _binned(values: Shaped[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    edges = np.linspace(values.min(), values.max(), BINS + 1)[1:-1]
    return np.searchsorted(edges, values, side="right")


def _information(one: Int[np.ndarray, " n"], other: Int[np.ndarray, " n"]) -> float:
    """Mutual information of two discrete samples, nats."""
    joint = np.zeros((int(one.max()) + 1, int(other.max()) + 1))
    np.add.at(joint, (one, other), 1 / len(one))
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / independent[seen])).sum())
