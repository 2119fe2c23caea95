"""Baseline and Baseline++: a head trained by gradient descent on the support set of each episode."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metalearn.errors import UserError
from metalearn.learners.base import FeatureLearner, require_positive
from metalearn.learners.batches import in_chunks, one_hot

MOMENTUM, DAMPENING = 0.9, 0.9  # of the authors' code


class Baseline(FeatureLearner):
    """A linear head, trained by SGD on each support set (Baseline of Chen et al. 2019).

    Section 3.2: the encoder, pretrained on the training classes, stays as it is; a new linear head ``W x + b``
    minimises the mean cross-entropy of the support set by the SGD of the authors' code: ``steps`` of
    ``learning_rate``, momentum and dampening 0.9, ``weight_decay`` on W and b. Two choices differ from that code:
    every step sees the whole support set (theirs: 100 passes in random batches of 4), and the head starts at zero
    (theirs: at random numbers), so there is no chance in it and the names of the classes do not matter.

    W then stays in the span of the support features, ``W = A' X``, and descent on W and b is, step by step,
    ``A <- A - learning_rate * (momentum average of (P - Y) / n + weight_decay A)`` with ``P = softmax((X X' + 1) A)``:
    that is computed, in float64, so the number of features costs nothing. Gives no gradient to the features.
    """

    reference = "Chen et al. 2019, A Closer Look at Few-shot Classification, ICLR, arXiv 1904.04232"
    differentiable = False
    iterative = True

    def __init__(
        self,
        extractor: nn.Module | None = None,
        *,
        steps: int = 100,
        learning_rate: float = 0.01,
        weight_decay: float = 0.001,
    ):
        super().__init__(extractor)
        name = "baseline++" if isinstance(self, BaselinePlusPlus) else "baseline"
        require_positive(name, steps=steps, learning_rate=learning_rate)
        if not 0 <= weight_decay < float("inf"):
            raise UserError(f"learner {name}: weight_decay={weight_decay!r} is neither zero nor a positive number")
        self.steps, self.learning_rate, self.weight_decay = steps, learning_rate, weight_decay

    @torch.no_grad()
    def classify(
        self, support: Float[Tensor, "b ways shots d"], query: Float[Tensor, "b q d"]
    ) -> Float[Tensor, "b q ways"]:
        """See the class."""
        ways, shots = support.shape[1:3]
        return in_chunks(self._classify, support, query, ways * shots * (ways * shots + ways))

    def _classify(
        self, support: Float[Tensor, "b ways shots d"], query: Float[Tensor, "b q d"]
    ) -> Float[Tensor, "b q ways"]:
        x = support.flatten(1, 2).double()
        kernel = x @ x.mT + 1  # as if each image had one more feature, 1, whose weights are the bias
        y = one_hot(support.shape[1], support.shape[2], x)
        dual = self.descend(torch.zeros_like(y).expand(len(x), -1, -1), lambda a: residual(kernel @ a, y))
        return query @ (x.mT @ dual).to(query.dtype) + dual.sum(1, keepdim=True).to(query.dtype)

    def descend(
        self, start: Float[Tensor, "b n ways"], gradient: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "b n ways"]:
        """Coefficients after ``steps`` steps by the rule of ``torch.optim.SGD``."""
        now, velocity = start, None
        for _ in range(self.steps):
            slope = gradient(now) + self.weight_decay * now
            velocity = slope if velocity is None else MOMENTUM * velocity + (1 - DAMPENING) * slope
            now = now - self.learning_rate * velocity
        return now


class BaselinePlusPlus(Baseline):
    """A cosine head, trained by SGD on each support set (Baseline++ of Chen et al. 2019).

    As ``Baseline``, but the logits are ``scale cos(x, w_j)`` without a bias (section 3.2; ``scale`` is 2 in the
    authors' code). Their release lets each class also learn a factor (weight norm); here a cosine is a cosine, as in
    the paper. A head of zeros has no direction: each ``w_j`` starts at the mean of its class's unit features (theirs:
    at random numbers).
    """

    def __init__(
        self,
        extractor: nn.Module | None = None,
        *,
        steps: int = 100,
        learning_rate: float = 0.01,
        weight_decay: float = 0.001,
        scale: float = 2.0,
    ):
        super().__init__(extractor, steps=steps, learning_rate=learning_rate, weight_decay=weight_decay)
        require_positive("baseline++", scale=scale)
        self.scale = scale

    def _classify(
        self, support: Float[Tensor, "b ways shots d"], query: Float[Tensor, "b q d"]
    ) -> Float[Tensor, "b q ways"]:
        ways, shots = support.shape[1:3]
        x = F.normalize(support.flatten(1, 2).double(), dim=-1)
        kernel = x @ x.mT
        y = one_hot(ways, shots, x)

        def gradient(a: Tensor) -> Tensor:
            """``d cos(x_i, w) / dw = x_i / |w| - cos(x_i, w) w / |w|^2``, in the coordinates of the features."""
            along = kernel @ a
            length = (a * along).sum(1, keepdim=True).clamp_min(1e-24).sqrt()
            cosine = along / length
            error = self.scale * residual(self.scale * cosine, y)
            return error / length - (error * cosine).sum(1, keepdim=True) * a / length.square()

        weights = x.mT @ self.descend((y / shots).expand(len(x), -1, -1), gradient)
        return self.scale * F.normalize(query, dim=-1) @ F.normalize(weights, dim=1).to(query.dtype)


def residual(logits: Float[Tensor, "b n ways"], y: Float[Tensor, "n ways"]) -> Float[Tensor, "b n ways"]:
    """Gradient of the mean cross-entropy in the logits."""
    return (logits.softmax(-1) - y) / len(y)
