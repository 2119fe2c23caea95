"""The FactorVAE score."""

import numpy as np

from gvae.errors import ModelError
from gvae.metrics.codes import FactorCodes, Result, check_counts

_PIECE = 128  # batches encoded at once


def factor_vae_score(
    codes: FactorCodes,
    generator: np.random.Generator,
    *,
    batch: int = 64,
    train: int = 10_000,
    test: int = 5_000,
    samples: int = 10_000,
    least_deviation: float = 0.05,
) -> Result:
    """FactorVAE score: with one factor held, does the latent that varies least say which one it is?

    Kim and Mnih 2018, section 4: in a batch at one level of a factor, the vote is the latent of the least variance,
    each relative to its variance over ``samples`` images; the score is the test accuracy of naming the factor by the
    majority of the training votes for that latent. Latents whose standard deviation is below ``least_deviation`` are
    left out: they would vary least whatever is held. 0 when none is left.
    """
    check_counts(train=train, test=test)
    if batch < 2:
        raise ModelError(f"batch={batch}: a variance needs whole numbers from 2")
    rows = codes.sample(samples, generator)
    deviation = codes.values[rows].std(0, ddof=1) if len(rows) > 1 else np.zeros(codes.values.shape[1])
    active = np.flatnonzero(deviation >= max(least_deviation, 1e-12))
    drawn = f"{train:,} batches of {batch} to train, {test:,} to test; {len(active)} of {len(deviation)} latents active"
    if not len(active):
        return Result({"factor_vae": 0.0}, drawn)
    relative = codes.values[:, active] / deviation[active]
    target = generator.integers(len(codes.factors), size=train + test)
    vote = np.empty(train + test, np.int64)
    for k, factor in enumerate(codes.factors):
        chosen = np.flatnonzero(target == k)
        for start in range(0, len(chosen), _PIECE):
            piece = chosen[start : start + _PIECE]
            held = codes.draw_with_fixed(factor, len(piece), batch, generator)
            vote[piece] = relative[held].var(1, ddof=1).argmin(1)
    counts = np.zeros((len(active), len(codes.factors)), np.int64)
    np.add.at(counts, (vote[:train], target[:train]), 1)
    named = counts.argmax(1)[vote[train:]]
    return Result({"factor_vae": float((named == target[train:]).mean())}, drawn)
