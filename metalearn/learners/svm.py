"""A multi-class support vector machine on the support set, differentiable (MetaOptNet)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metalearn.errors import UserError
from metalearn.learners.base import FeatureLearner, require_positive
from metalearn.learners.batches import in_chunks, one_hot
from metalearn.learners.dual_svm import DualSVM


class SVM(FeatureLearner):
    """Support vector machine of Crammer and Singer on the support set (MetaOptNet-SVM, Lee et al. 2019).

    Their eq. 6 and 7, with the one that their code and learn2learn's ``SVClassifier`` add to the kernel's diagonal:
    ``min over A of tr(A' (X X' + I) A) / 2 - <Y, A>``, where ``A <= C Y`` and every row of A sums to 0; logits are
    ``scale q X' A``. That is scikit-learn's ``LinearSVC(multi_class="crammer_singer", fit_intercept=False)`` on support
    features with the identity matrix beside them. ``normalise``: features to unit length first. ``learnable`` makes
    the logarithm of a factor of ``scale`` a parameter for meta-training, as their code does with the scale.

    Solved in float64 for all episodes of a batch at once, until A is within ``tolerance`` * C sqrt(n) of the optimum,
    which is proven (see ``dual_svm``); UserError when an episode is not there after ``max_iterations``. Gradients pass
    by the implicit function theorem.
    """

    reference = "Lee et al. 2019, Meta-Learning with Differentiable Convex Optimization, CVPR, arXiv 1904.03758"
    iterative = True

    def __init__(
        self,
        extractor: nn.Module | None = None,
        *,
        C: float = 0.1,
        normalise: bool = False,
        scale: float = 1.0,
        learnable: bool = False,
        tolerance: float = 1e-6,
        max_iterations: int = 20_000,
    ):
        super().__init__(extractor)
        require_positive("svm", C=C, scale=scale, tolerance=tolerance, max_iterations=max_iterations)
        self.C, self.normalise, self.scale = C, normalise, scale
        self.tolerance, self.max_iterations = tolerance, max_iterations
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=learnable)

    def classify(
        self, support: Float[Tensor, "b ways shots d"], query: Float[Tensor, "b q d"]
    ) -> Float[Tensor, "b q ways"]:
        """See the class. Raises UserError when the solver does not converge."""
        if self.normalise:
            support, query = F.normalize(support, dim=-1), F.normalize(query, dim=-1)
        ways, shots = support.shape[1:3]
        return in_chunks(self._classify, support, query, ways * shots * (ways * shots + ways))

    def _classify(
        self, support: Float[Tensor, "b ways shots d"], query: Float[Tensor, "b q d"]
    ) -> Float[Tensor, "b q ways"]:
        x = support.flatten(1, 2).double()
        y = one_hot(support.shape[1], support.shape[2], x)
        dual, converged = DualSVM.apply(x @ x.mT, y, self.C, self.tolerance, self.max_iterations)
        if not converged.all():
            raise UserError(
                f"learner svm did not converge on {int((~converged).sum())} of {len(x)} episodes in "
                f"{self.max_iterations} iterations (C={self.C}, tolerance={self.tolerance}): set normalise, raise "
                "max_iterations or tolerance, or bring the features to a smaller scale"
            )
        return self.scale * self.log_scale.exp() * (query @ (x.mT @ dual).to(query.dtype))


class MetaOptNet(SVM):
    """MetaOptNet-SVM: an extractor meta-trained through a support vector machine, with a scale that is learned.

    Lee et al. 2019, eqs. 6 to 12: the head is ``SVM`` (the problem of learn2learn's ``SVClassifier``, solved to
    ``tolerance`` instead of 15 steps of an interior point method), the loss the cross-entropy of ``scale q X' A``, and
    the scale is learned with the extractor; ``scale`` is what it starts from. Options and errors are those of ``SVM``.
    """

    def __init__(
        self,
        extractor: nn.Module | None = None,
        *,
        C: float = 0.1,
        normalise: bool = False,
        scale: float = 1.0,
        tolerance: float = 1e-6,
        max_iterations: int = 20_000,
    ):
        super().__init__(
            extractor, C=C, normalise=normalise, scale=scale, learnable=True, tolerance=tolerance,
            max_iterations=max_iterations,
        )  # fmt: skip

    def tables(self) -> dict[str, Tensor]:
        """See ``Learner.tables``: the scale."""
        return {"scale": self.scale * self.log_scale.detach().exp()}
