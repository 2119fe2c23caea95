"""Separated attribute predictability."""

import numpy as np
from jaxtyping import Float
from sklearn.svm import LinearSVC

from gvae.metrics.codes import FactorCodes, Result
from gvae.metrics.information import top_gaps


def separated_attribute_predictability(
    codes: FactorCodes, generator: np.random.Generator, *, train: int = 10_000, test: int = 5_000, penalty: float = 0.01
) -> Result:
    """SAP: mean over factors of the best single latent's score less the second best's (Kumar et al. 2018, section 3).

    The score of a latent is, for a discrete factor, the test accuracy of a linear SVM on it alone (C = ``penalty``,
    balanced classes); for a continuous one, its squared correlation with the factor over the training images. The
    matrix holds these scores.
    """
    fitted, tested = codes.split(train, test, generator)
    columns = []
    for name, factor in codes.factors.items():
        if codes.continuous[name]:
            columns.append(_squared_correlation(codes.values[fitted], factor[fitted]))
        else:
            y = codes.levels[name]
            one = [codes.values[:, [latent]] for latent in range(codes.values.shape[1])]
            columns.append(np.array([_accuracy(x[fitted], y[fitted], x[tested], y[tested], penalty) for x in one]))
    scores = np.stack(columns, 1)
    drawn = f"{len(fitted):,} images to train, {len(tested):,} to test"
    return Result({"sap": float(top_gaps(scores).mean())}, drawn, scores)


def _squared_correlation(x: Float[np.ndarray, "n d"], y: np.ndarray) -> Float[np.ndarray, " d"]:
    x, y = x - x.mean(0), y - y.astype(np.float64).mean()
    spread = np.square(x).sum(0) * np.square(y).sum()
    return np.where(spread > 1e-12, np.square(y @ x) / np.maximum(spread, 1e-12), 0.0)


def _accuracy(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, penalty: float) -> float:
    if len(np.unique(y)) < 2:
        return float((y_test == y[0]).mean())
    model = LinearSVC(C=penalty, class_weight="balanced", dual=False).fit(x, y)
    return float(model.score(x_test, y_test))
