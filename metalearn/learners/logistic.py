"""Multinomial logistic regression with an L2 penalty, solved for a batch of episodes at once."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metalearn.errors import UserError
from metalearn.learners.base import FeatureLearner, require_positive
from metalearn.learners.batches import in_chunks, one_hot


class Logistic(FeatureLearner):
    """Multinomial logistic regression on the support set, as scikit-learn's ``LogisticRegression``.

    With its C and ``fit_intercept=intercept``: minimises ``C sum_i CE(x_i W + b, y_i) + |W|^2 / 2``; the intercept b
    is not penalised. The head of Chen et al. 2019 (Baseline) and Tian et al. 2020. By the representer theorem W lies
    in the span of the support features, so the problem is rotated there by a singular value decomposition
    (r <= ways * shots coordinates, exact), and solved in float64 by Newton's method. Converged means: gradient norm
    <= ``tolerance`` * C sqrt(n) |[X 1]|_F. As the objective is 1-strongly convex in W, that norm also bounds the
    distance of W from the optimum. UserError when an episode has not converged after ``max_iterations``. Gives no
    gradient to the features.
    """

    reference = "Tian et al. 2020, Rethinking few-shot image classification, ECCV, arXiv 2003.11539"
    differentiable = False
    iterative = True

    def __init__(
        self,
        extractor: nn.Module | None = None,
        *,
        C: float = 1.0,
        intercept: bool = True,
        tolerance: float = 1e-8,
        max_iterations: int = 50,
    ):
        super().__init__(extractor)
        require_positive("logistic", C=C, tolerance=tolerance, max_iterations=max_iterations)
        self.C, self.intercept, self.tolerance, self.max_iterations = C, intercept, tolerance, max_iterations

    @torch.no_grad()
    def classify(
        self, support: Float[Tensor, "b ways shots d"], query: Float[Tensor, "b q d"]
    ) -> Float[Tensor, "b q ways"]:
        """See the class. Raises UserError when the solver does not converge."""
        images, (ways, d) = support.shape[1] * support.shape[2], support.shape[1::2]
        return in_chunks(self._classify, support, query, images * (min(images, d) + ways))

    def _classify(
        self, support: Float[Tensor, "b ways shots d"], query: Float[Tensor, "b q d"]
    ) -> Float[Tensor, "b q ways"]:
        ways, shots = support.shape[1:3]
        x = support.flatten(1, 2).double()
        centre = x.mean(1, keepdim=True) if self.intercept else torch.zeros_like(x[:, :1])
        left, spectrum, right = torch.linalg.svd(x - centre, full_matrices=False)
        penalty, z = torch.ones_like(spectrum), left * spectrum.unsqueeze(1)
        if self.intercept:
            z = torch.cat([z, torch.ones_like(z[..., :1])], -1)
            penalty = torch.cat([penalty, torch.zeros_like(penalty[:, :1])], -1)
        y = one_hot(ways, shots, z).expand(len(z), -1, -1)
        solution, converged = fit_softmax(z, y, self.C, penalty, self.tolerance, self.max_iterations)
        if not converged.all():
            raise UserError(
                f"learner logistic did not converge on {int((~converged).sum())} of {len(z)} episodes in "
                f"{self.max_iterations} Newton steps (C={self.C}, tolerance={self.tolerance}): raise "
                "max_iterations, lower C, or bring the features to a common scale"
            )
        rank = spectrum.shape[1]
        weights = (right.mT @ solution[:, :rank]).to(query.dtype)
        logits = (query - centre.to(query.dtype)) @ weights
        return logits + solution[:, rank:].to(query.dtype) if self.intercept else logits


def fit_softmax(
    z: Float[Tensor, "b n r"],
    y: Float[Tensor, "b n w"],
    C: float,
    penalty: Float[Tensor, "b r"],
    tolerance: float,
    max_iterations: int,
) -> tuple[Float[Tensor, "b r w"], Bool[Tensor, " b"]]:
    """Minimise ``C sum CE(z T, y) + sum penalty T^2 / 2`` over T: Newton, each system by conjugate gradients.

    A step is halved until the objective falls (Armijo). An episode that has converged no longer moves, so the result
    does not depend on which episodes share a batch. Returns T and which episodes converged.
    """
    shrink = penalty.unsqueeze(-1)
    limit = tolerance * C * (z.shape[1] * z.square().sum((1, 2))).sqrt()

    def objective(t: Tensor) -> Tensor:
        logits = z @ t
        return C * (logits.logsumexp(-1) - (logits * y).sum(-1)).sum(-1) + (shrink * t * t).sum((1, 2)) / 2

    t = torch.zeros_like(z[:, 0].unsqueeze(-1).expand(-1, -1, y.shape[-1]))
    for iteration in range(max_iterations + 1):
        p = (z @ t).softmax(-1)
        gradient = C * z.mT @ (p - y) + shrink * t
        norm = gradient.square().sum((1, 2)).sqrt()
        converged = norm <= limit
        if iteration == max_iterations or converged.all():
            break
        accuracy = norm * (norm / C).sqrt().clamp(max=0.1)
        step = newton_step(z, p, C, shrink, gradient, torch.where(converged, norm, accuracy))
        slope = (step * gradient).sum((1, 2))
        value = objective(t)
        size = (~converged).to(t.dtype)
        for _ in range(40):
            moved = objective(t + size[:, None, None] * step)
            too_high = moved > value + 1e-4 * size * slope + 1e-12 * value.abs()
            if not too_high.any():
                break
            size = torch.where(too_high, size / 2, size)
        t = t + size[:, None, None] * step
    return t, converged


def newton_step(
    z: Float[Tensor, "b n r"],
    p: Float[Tensor, "b n w"],
    C: float,
    shrink: Float[Tensor, "b r 1"],
    gradient: Float[Tensor, "b r w"],
    accuracy: Float[Tensor, " b"],
    max_iterations: int = 200,
) -> Float[Tensor, "b r w"]:
    """Solve ``H step = -gradient`` by conjugate gradients until the residual's norm is below ``accuracy``.

    ``H v = C z'(p * u - p (p.u)) + penalty v`` with ``u = z v``, preconditioned by the diagonal of H. Stopping early
    still gives a descent direction.
    """
    diagonal = (C * z.square().mT @ (p * (1 - p)) + shrink).clamp_min(torch.finfo(z.dtype).tiny)
    step, residual = torch.zeros_like(gradient), -gradient
    direction = residual / diagonal
    energy = (residual * direction).sum((1, 2))
    for _ in range(max_iterations):
        going = residual.square().sum((1, 2)).sqrt() > accuracy
        if not going.any():
            break
        pu = p * (z @ direction)
        curved = C * z.mT @ (pu - p * pu.sum(-1, keepdim=True)) + shrink * direction
        curvature = (direction * curved).sum((1, 2))
        rate = torch.where(going, energy / curvature, 0.0)[:, None, None]
        step, residual = step + rate * direction, residual - rate * curved
        scaled = residual / diagonal
        previous, energy = energy, torch.where(going, (residual * scaled).sum((1, 2)), energy)
        direction = scaled + torch.where(going, energy / previous, 0.0)[:, None, None] * direction
    return step
