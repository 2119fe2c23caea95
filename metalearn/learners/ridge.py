"""Ridge regression to one-hot targets in closed form; R2D2."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metalearn.learners.base import FeatureLearner, require_positive
from metalearn.learners.batches import one_hot


class Ridge(FeatureLearner):
    """Ridge regression of one-hot labels on features, in the dual (Bertinetto et al. 2019, eqs. 4 to 6).

    With X the n = ways * shots support features and Y their one-hot labels, both centred when
    ``intercept``: ``W = X' (X X' + penalty I)^-1 Y``, logits = ``scale ((q - mean) W + mean_Y)``: the
    predictions of ``sklearn.linear_model.Ridge(alpha=penalty, fit_intercept=intercept)``, hence the classes
    of ``RidgeClassifier``. The n x n system is solved in float64. ``learnable`` makes log-multipliers of
    penalty and scale parameters for meta-training (R2D2's additive constant, equal for all classes, does nothing to
    a softmax, so there is none here).
    """

    reference = "Bertinetto et al. 2019, Meta-learning with differentiable closed-form solvers, arXiv 1805.08136"

    def __init__(
        self,
        extractor: nn.Module | None = None,
        *,
        penalty: float = 1.0,
        intercept: bool = True,
        scale: float = 1.0,
        learnable: bool = False,
    ):
        super().__init__(extractor)
        require_positive("ridge", penalty=penalty, scale=scale)
        self.penalty, self.intercept, self.scale = penalty, intercept, scale
        self.log_penalty = nn.Parameter(torch.zeros(()), requires_grad=learnable)
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=learnable)

    def classify(
        self, support: Float[Tensor, "b ways shots d"], query: Float[Tensor, "b q d"]
    ) -> Float[Tensor, "b q ways"]:
        """See the class."""
        ways, shots = support.shape[1:3]
        x = support.flatten(1, 2).double()
        y = one_hot(ways, shots, x)
        mean_x = x.mean(1, keepdim=True) if self.intercept else torch.zeros_like(x[:, :1])
        mean_y = 1 / ways if self.intercept else 0.0
        x = x - mean_x
        eye = torch.eye(ways * shots, dtype=x.dtype, device=x.device)
        gram = x @ x.mT + self.penalty * self.log_penalty.exp() * eye
        dual = torch.cholesky_solve((y - mean_y).expand(len(x), -1, -1), torch.linalg.cholesky(gram))
        weights = (x.mT @ dual).to(query.dtype)
        logits = (query - mean_x.to(query.dtype)) @ weights + mean_y
        return self.scale * self.log_scale.exp() * logits


class R2D2(Ridge):
    """Ridge regression without an intercept, whose penalty, scale and bias are meta-learned (R2D2).

    Bertinetto et al. 2019, section 3.2: ``logits = scale q X' (X X' + penalty I)^-1 Y + bias`` (eqs. 5 and 6), the
    three numbers learned with the extractor; ``penalty`` and ``scale`` are what they start from, the bias from 0.
    Without meta-training it is ``Ridge(intercept=False)``. The bias, one number for all classes, is there because the
    paper has it: a softmax does not see it.
    """

    def __init__(self, extractor: nn.Module | None = None, *, penalty: float = 1.0, scale: float = 1.0):
        super().__init__(extractor, penalty=penalty, intercept=False, scale=scale, learnable=True)
        self.bias = nn.Parameter(torch.zeros(()))

    def classify(
        self, support: Float[Tensor, "b ways shots d"], query: Float[Tensor, "b q d"]
    ) -> Float[Tensor, "b q ways"]:
        """See the class."""
        return super().classify(support, query) + self.bias
