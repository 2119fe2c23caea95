"""Learners whose inner gradients pass a learned linear map: Meta-Curvature and KFO, learn2learn's GBML."""

from typing import ClassVar

from torch import Tensor, nn

from metalearn.gradient import MAML
from metalearn.transforms import KroneckerFactors, MetaCurvatureFactors, Transform


class MetaCurvature(MAML):
    """Meta-Curvature: as ``MAML``, with gradients multiplied by a learned matrix along each axis of a weight.

    Park & Oliva 2019, eqs. 5 to 7: ``theta' = theta - inner_lr * MC(gradient)``, where MC multiplies a convolution's
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

    Arnold et al. 2021, section 4 (Meta-KFO): ``theta' = theta - inner_lr * (R o L) gradient``; in learn2learn's
    ``GBML`` with ``KroneckerTransform(KroneckerLinear)``, which this is, L and R are ``F' F`` of learned F, without a
    bias: of inputs and places of a convolution, of outputs and inputs of a linear layer, of the numbers of a vector.
    All begin as the identity and stay as they are while a task is adapted to (``adapt_transform=False``). Options and
    errors are those of ``MetaCurvature``.
    """

    reference = "Arnold, Iqbal & Sha 2021, When MAML Can Adapt Fast and How to Assist When It Cannot, AISTATS"
    name = "kfo"
    transform = KroneckerFactors
