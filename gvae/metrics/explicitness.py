"""Explicitness."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from gvae.metrics.codes import FactorCodes, Result


def explicitness(
    codes: FactorCodes, generator: np.random.Generator, *, train: int = 10_000, test: int = 5_000
) -> Result:
    """Explicitness: are a factor's levels linearly readable from all latents? (Ridgeway and Mozer 2018, section 2).

    Mean over factors of the mean over levels of the area under the ROC curve, one level against the rest, of a
    logistic regression on images that it was not fitted to. 0.5 is chance, 1 is best.
    """
    fitted, tested = codes.split(train, test, generator)
    areas = [_area(codes.values[fitted], y[fitted], codes.values[tested], y[tested]) for y in codes.levels.values()]
    drawn = f"{len(fitted):,} images to train, {len(tested):,} to test"
    return Result({"explicitness": float(np.mean(areas))}, drawn)


def _area(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> float:
    """Mean area over the levels that both sets have; 0.5 where the draw leaves nothing to tell apart."""
    if len(np.unique(y)) < 2:
        return 0.5
    model = LogisticRegression(max_iter=10_000).fit(x, y)
    score = model.decision_function(x_test)
    score = np.stack([-score, score], 1) if score.ndim == 1 else score
    truth = y_test[:, None] == model.classes_
    both = truth.any(0) & ~truth.all(0)
    return float(roc_auc_score(truth[:, both], score[:, both], average="macro")) if both.any() else 0.5
