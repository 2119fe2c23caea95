"""What goes between the loop and an objective: a batch, what the encoder made of it, and the steps that it is for."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gvae import losses
from gvae.augment import Parameters
from gvae.share import ALONE, Share
from gvae.vae import Posterior

Terms = dict[str, Tensor]
"""Named scalar terms of a loss, unweighted unless the name says so; what TensorBoard shows."""


class Batch(NamedTuple):
    """A minibatch: images (m, c, h, w) in [0, 1], class labels (n,), and the generator of this step's noise.

    ``step`` counts batches from 0; ``factors`` has the known factors that the objective asked for, each (n,). Where
    several processes train together the images are those of this one's ``share``, m of the n; all else is of the whole
    batch, and the generator is everywhere the same: what is drawn is drawn for the whole batch.
    """

    images: Float[Tensor, "m c h w"]
    labels: Int[Tensor, " n"]
    generator: torch.Generator
    step: int = 0
    factors: Mapping[str, Tensor] = MappingProxyType({})
    share: Share = ALONE


class Seen(NamedTuple):
    """What the encoder made of a batch.

    ``images`` are those that were encoded: warped where the objective warps, as ``drawn`` says. ``z`` is a sample of
    ``posterior``; ``other`` is the posterior of a second warp of the same images, where a part asked for one. Images
    are this process's share (m, c, h, w), as those of the batch; all else has a row for each of the n images of the
    whole batch, so that what compares images compares them all. ``batch.share.mine(z)`` goes with the images.

    Where images come in sets, ``posterior`` and ``z`` have a row a set, and ``hidden`` is what the trunk made of each
    image.
    """

    images: Float[Tensor, "m c h w"]
    drawn: Parameters | None
    posterior: Posterior
    z: Float[Tensor, "n d"]
    other: Posterior | None
    hidden: Float[Tensor, "n h"] | None = None

    def kl(self) -> Float[Tensor, ""]:
        """KL(q(z|x) || N(0, 1)), the batch mean in nats."""
        return losses.kl_to_standard_normal(*self.posterior).sum(1).mean()

    def without_gradient(self) -> "Seen":
        """Return the same, detached: what the phases after the main one work on."""
        posterior = Posterior(self.posterior.mean.detach(), self.posterior.logvar.detach())
        hidden = None if self.hidden is None else self.hidden.detach()
        return self._replace(posterior=posterior, z=self.z.detach(), other=None, hidden=hidden)


class Phase(NamedTuple):
    """One optimiser step of a batch. Phases that name the same ``optimiser`` share its state.

    ``loss`` maps a batch to (scalar to minimise, its named terms). ``rate``: the optimiser's own learning rate, on the
    training's schedule; None for the training's. ``betas``: its Adam's.
    """

    name: str
    optimiser: str
    parameters: list[nn.Parameter]
    loss: Callable[[Batch], tuple[Tensor, Terms]]
    rate: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast on the device of ``like``: float32 for what is small and delicate.

    Guidance is: a grid coordinate in bfloat16 is off by up to a tenth of a pixel, distances to prototypes cancel,
    and binary cross-entropy of probabilities refuses to run under autocast on CUDA.
    """
    return torch.autocast(like.device.type, enabled=False)


def plain_settings(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module that are neither private nor torch's: what it was built with."""
    return {name: value for name, value in vars(module).items() if not name.startswith("_") and name != "training"}
