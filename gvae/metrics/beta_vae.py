"""The BetaVAE score, or Z-diff."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from gvae.metrics.codes import FactorCodes, Result, check_counts

_PIECE = 128  # batches encoded at once


def z_diff(
    codes: FactorCodes,
    generator: np.random.Generator,
    *,
    batch: int = 64,
    train: int = 10_000,
    test: int = 5_000,
) -> Result:
    """BetaVAE score (Z-diff): can the factor that two images share be told from how their codes differ?

    Higgins et al. 2017, section 3: of a batch of pairs, each pair at one level of a factor drawn for the batch, the
    mean absolute difference of codes is a point; the score is the test accuracy of a logistic regression that names
    the factor, from 1 / number of factors to 1; of one factor alone it is 1.
    """
    check_counts(batch=batch, train=train, test=test)
    target = generator.integers(len(codes.factors), size=train + test)
    points = np.empty((train + test, codes.values.shape[1]))
    for k, factor in enumerate(codes.factors):
        chosen = np.flatnonzero(target == k)
        for start in range(0, len(chosen), _PIECE):
            piece = chosen[start : start + _PIECE]
            first = codes.draw((len(piece), batch), generator)
            second = codes.partners(factor, first, generator)
            points[piece] = np.abs(codes.values[first] - codes.values[second]).mean(1)
    accuracy = 1.0
    if len(np.unique(target[:train])) > 1:
        model = LogisticRegression(max_iter=10_000).fit(points[:train], target[:train])
        accuracy = float(model.score(points[train:], target[train:]))
    return Result({"beta_vae": accuracy}, f"{train:,} batches of {batch} pairs to train, {test:,} to test")
