"""ANIL: gradient steps of the head alone."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from metalearn import inner
from metalearn.batched.run import Norms
from metalearn.gradient import MAML, Moved, Trail, loop
from metalearn.inner import Weights
from metalearn.norms import frozen


class ANIL(MAML):
    """Almost no inner loop (Raghu et al. 2020, section 4): as ``MAML``, but only the head takes the inner steps."""

    reference = "Raghu et al. 2020, Rapid Learning or Feature Reuse?, ICLR, arXiv 1909.09157"
    name = "anil"
    pixels_at_once = 1280 * 28 * 28  # features are computed once, and a chunk costs its own inner loop

    def moved(
        self, images: Tensor, labels: Tensor, norms: Norms, steps: int, second_order: bool, trail: Trail = None
    ) -> Moved:
        """One extractor for all tasks, and heads after so many steps on the support sets' features."""
        extractor = inner.for_all(self.extractor.parameters())
        seen = Norms(seen=[]) if self.batch_norm == "support" else norms
        features = inner.answers(self.extractor, images, extractor, seen, once=True)
        heads, checks = self.head_steps(features, labels, steps, second_order, trail)
        return extractor | heads, frozen(seen) if self.batch_norm == "support" else norms, checks

    def head_steps(
        self, features: Float[Tensor, "b n d"], labels: Int[Tensor, " n"], steps: int, second_order: bool, trail: Trail
    ) -> tuple[Weights, Float[Tensor, " b"]]:
        """`inner.inner_loop`, the gradient of a linear layer under the mean cross-entropy written out.

        With logits ``x W + b`` that of a row's logits is ``(softmax - one hot) / n``.
        """
        moving, heads = inner.start(self.head, len(features))
        truth = F.one_hot(labels, self.ways).to(features)
        weight, bias = id(self.head.weight), id(self.head.bias)

        def gradients(now: Weights) -> list[Tensor]:
            with torch.set_grad_enabled(second_order and torch.is_grad_enabled()):
                logits = features @ now[weight] + now[bias][..., None, :]
                error = (logits.softmax(-1) - truth) / len(labels)
                found = {weight: features.mT @ error, bias: error.sum(1)}
            return [found[id(parameter)] for parameter in moving.values()]

        return inner.descent(gradients, heads, moving, steps=steps, rates=self.inner_lr, trail=trail)

    def looped(self, images: Tensor, labels: Tensor, steps: int, second_order: bool, **more: Any) -> Any:
        """One task by learn2learn."""
        options = {"rates": self.rates, "batch_norm": self.batch_norm, "second_order": second_order, **more}
        return loop().adapted_head(self.extractor, self.head, images, labels, steps=steps, **options)
