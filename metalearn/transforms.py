"""Learned linear maps of a parameter's gradients in the inner loop, factored over the parameter's axes."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metalearn.errors import UserError

Axes = tuple[Tensor | None, Tensor | None, Tensor | None]
"""A square matrix for each axis of a weight: outputs, inputs, places of a kernel; None: nothing happens along it."""


class Transform(nn.Module):
    """What a parameter's gradient is multiplied by before a step of ``lr``: the identity, until it is learned.

    The parameter is a vector, a linear layer's weight (out, in) or that of a convolution (out, in, height, width). The
    factors have the names, and in `learn2learn_loop` the meaning, of those of a transform of learn2learn's. Raises
    UserError for a parameter of other dimensions.
    """

    def __init__(self, name: str, parameter: Tensor, lr: float):
        super().__init__()
        shape = tuple(parameter.shape)
        if len(shape) not in (1, 2, 4):
            raise UserError(
                f"no transform for the gradients of {name}, of shape {shape}: allowed are vectors, weights of linear "
                "layers and of convolutions in two dimensions; take meta_sgd, which learns rates for any"
            )
        self.lr, self.dimensions = lr, len(shape)
        out, into, places = shape[0], (*shape, 1)[1], parameter[0, 0].numel() if len(shape) == 4 else 1
        self.sizes = (places, into, out)
        for factor, size in self.factors().items():
            start = torch.eye(size) if size else torch.ones(out)
            setattr(self, factor, nn.Parameter(start.to(parameter.detach())))

    def factors(self) -> dict[str, int]:
        """The sizes of the square factors by their names; 0: a number for each output instead."""
        raise NotImplementedError

    def axes(self) -> Axes:
        """The matrices, in the order of `Axes`: each multiplies the gradient's axis from the left."""
        raise NotImplementedError

    def forward(self, gradient: Float[Tensor, "  b *stored"]) -> Float[Tensor, "  b *stored"]:
        """The gradients of b tasks, laid out by ``metalearn.batched.run.stored``: what to subtract, ``lr`` included."""
        moved = gradient.reshape(len(gradient), *self.sizes)
        out, into, places = self.axes()
        if out is not None:
            moved = moved @ out.mT
        if into is not None:
            moved = into @ moved
        if places is not None:
            moved = (places @ moved.flatten(2)).view(moved.shape)
        return self.lr * moved.reshape(gradient.shape)

    def strengths(self) -> dict[str, Tensor]:
        """How much each factor stretches directions: its singular values, by its name; ones at first."""
        found = {}
        for factor, size in self.factors().items():
            values = getattr(self, factor).detach()
            found[factor] = torch.linalg.svdvals(values) if size else values.abs()
        return found


class MetaCurvatureFactors(Transform):
    """A matrix for each axis of a weight, a number for each number of a vector (Park & Oliva 2019, section 3)."""

    mc: Tensor
    mc_in: Tensor
    mc_out: Tensor
    mc_f: Tensor

    def factors(self) -> dict[str, int]:
        """As learn2learn's ``MetaCurvatureTransform`` calls them: ``mc_in`` is along outputs, ``mc_out`` inputs."""
        places, into, out = self.sizes
        if self.dimensions == 1:
            return {"mc": 0}
        return {"mc_in": out, "mc_out": into, **({"mc_f": places} if self.dimensions == 4 else {})}

    def axes(self) -> Axes:
        """See ``Transform``."""
        if self.dimensions == 1:
            return torch.diag(self.mc), None, None
        return self.mc_in, self.mc_out.mT, self.mc_f if self.dimensions == 4 else None


class KroneckerFactors(Transform):
    """Two factors, each as ``F' F``: of inputs and places of a convolution, else of outputs and inputs.

    learn2learn's ``KroneckerTransform(KroneckerLinear)``: positive semi-definite, without a bias.
    """

    left: Tensor
    right: Tensor

    def factors(self) -> dict[str, int]:
        """As learn2learn's ``KroneckerLinear`` calls them."""
        places, into, out = self.sizes
        return {"left": into, "right": places} if self.dimensions == 4 else {"left": out, "right": into}

    def axes(self) -> Axes:
        """See ``Transform``."""
        left, right = self.left.mT @ self.left, self.right.mT @ self.right
        return (None, left, right) if self.dimensions == 4 else (left, right, None)

    def strengths(self) -> dict[str, Tensor]:
        """See ``Transform``: of ``F' F``."""
        return {factor: values.square() for factor, values in super().strengths().items()}
