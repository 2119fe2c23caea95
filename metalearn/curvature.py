"""Learners whose inner steps are learned: Meta-SGD's rates; Meta-Curvature and KFO, learn2learn's GBML."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from metalearn.gradient import MAML
from metalearn.transforms import KroneckerFactors, MetaCurvatureFactors, Transform


class MetaSGD(MAML):
    """Meta-SGD: as ``MAML``, with a learned inner learning rate for every number of every parameter.

    Li et al. 2017, eq. 2: ``theta' = theta - alpha o gradient``, alpha meta-learned with theta; ``inner_lr`` is where
    all of alpha starts, as in learn2learn (Li et al. draw it at random). Options and errors are those of ``MAML``.
    """

    reference = "Li et al. 2017, Meta-SGD: Learning to Learn Quickly for Few-Shot Learning, arXiv 1707.09835"
    name = "meta_sgd"

    def make_learned(self) -> nn.Module:
        """A rate for each number of each parameter of ``network``."""
        return nn.ParameterList(torch.full_like(p, self.inner_lr) for p in self.network.parameters())

    def tables(self) -> dict[str, Tensor]:
        """See ``Learner.tables``: the rates, by parameter."""
        named = zip(dict(self.network.named_parameters()), self.learned, strict=True)
        return {f"rates/{name}": rate.detach() for name, rate in named}


class MetaCurvature(MAML):
    """Meta-Curvature: as ``MAML``, with gradients multiplied by a learned matrix along each axis of a weight.

    Park & Oliva 2019, section 3: ``theta' = theta - inner_lr * MC(gradient)``, where MC multiplies a convolution's
    gradient along outputs, inputs and places of the kernel, a linear layer's along outputs and inputs, and a vector's
    number by number. All begin as the identity, where the learner is MAML, are meta-learned with theta, and stay as
    they are while a task is adapted to. That is learn2learn's ``GBML`` with its ``MetaCurvatureTransform``. Options and
    errors are those of ``MAML``, and UserError for a parameter that is neither a vector nor such a weight.
    """

    reference = "Park & Oliva 2019, Meta-Curvature, NeurIPS, arXiv 1902.03356"
    name = "meta_curvature"
    transform: ClassVar[type[Transform]] = MetaCurvatureFactors

    def make_learned(self) -> nn.Module:
        """A transform for each parameter of ``network``."""
        named = self.network.named_parameters()
        return nn.ModuleList(self.transform(name, parameter, self.inner_lr) for name, parameter in named)

    def tables(self) -> dict[str, Tensor]:
        """See ``Learner.tables``: how much each factor of each parameter's map stretches directions."""
        named = zip(dict(self.network.named_parameters()), self.learned, strict=True)
        strengths = {name: transform.strengths() for name, transform in named}
        return {f"stretch/{name}/{factor}": found[factor] for name, found in strengths.items() for factor in found}


class KFO(MetaCurvature):
    """Kronecker-factored optimiser: as ``MAML``, with gradients multiplied by a learned Kronecker product.

    Arnold et al. 2021 (Meta-KFO): ``theta' = theta - inner_lr * (R o L) gradient``; in learn2learn's
    ``GBML`` with ``KroneckerTransform(KroneckerLinear)``, which this is, L and R are ``F' F`` of learned F, without a
    bias: of inputs and places of a convolution, of outputs and inputs of a linear layer, of the numbers of a vector.
    All begin as the identity and stay as they are while a task is adapted to (``adapt_transform=False``). Options and
    errors are those of ``MetaCurvature``.
    """

    reference = "Arnold, Iqbal & Sha 2021, When MAML Can Adapt Fast and How to Assist When It Cannot, AISTATS"
    name = "kfo"
    transform = KroneckerFactors
