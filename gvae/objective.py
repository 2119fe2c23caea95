"""What an objective is: named terms, and the optimiser phases of one batch. The plain VAE is the base of all."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gvae import losses
from gvae.guidance import LightOutput
from gvae.nets import ImageShape, initialise
from gvae.vae import VAE, Posterior

Terms = dict[str, Tensor]
"""Named scalar terms of a loss, unweighted unless the name says so; what TensorBoard shows."""


class Batch(NamedTuple):
    """A minibatch: images (n, c, h, w) in [0, 1], class labels (n,), and the generator of this step's noise."""

    images: Float[Tensor, "n c h w"]
    labels: Int[Tensor, " n"]
    generator: torch.Generator


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast on the device of ``like``: float32 for what is small and delicate.

    Guidance is: a grid coordinate in bfloat16 is off by up to a tenth of a pixel, distances to prototypes cancel,
    and binary cross-entropy of probabilities refuses to run under autocast on CUDA.
    """
    return torch.autocast(like.device.type, enabled=False)


class Phase(NamedTuple):
    """One optimiser step of a batch. Phases that name the same ``optimiser`` share its state.

    ``loss`` maps a batch to (scalar to minimise, its named terms).
    """

    name: str
    optimiser: str
    parameters: list[nn.Parameter]
    loss: Callable[[Batch], tuple[Tensor, Terms]]


class VAEObjective(nn.Module):
    """VAE (Kingma & Welling 2014) and beta-VAE (Higgins et al. 2017).

    Maximises ELBO = E_q log p(x|z) - beta KL(q(z|x) || N(0, 1)).

    ``regularizer="tc"`` adds (beta - 1) TC(z) to the plain KL instead of weighting it: beta-TCVAE, Chen et al.
    2018, equation 4 with alpha = gamma = 1. ``likelihood="gaussian"`` sums squared errors, the release's choice for
    photographs.

    ``classes`` and ``dataset_size`` describe the training part; ``seed`` draws the first weights.
    """

    labels_used: ClassVar[str] = "none"

    def __init__(
        self,
        image_shape: ImageShape,
        classes: int,
        dataset_size: int,
        seed: int,
        trunk: str,
        latents: int,
        *,
        beta: float = 1.0,
        regularizer: Literal["kl", "tc"] = "kl",
        likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
    ):
        super().__init__()
        self.beta, self.regularizer, self.likelihood, self.dataset_size = (
            beta,
            regularizer,
            likelihood,
            dataset_size,
        )
        slots = self.slots(latents)
        self.vae = VAE(image_shape, trunk=trunk, latents=latents, slots=slots, likelihood=likelihood)
        self.add_guidance(image_shape, classes)
        initialise(self, torch.Generator().manual_seed(seed))
        self.after_initialise()

    def slots(self, latents: int) -> dict[str, int]:
        """Return the named slots of the latents, in order."""
        return {"content": latents}

    def add_guidance(self, image_shape: ImageShape, classes: int) -> None:
        """Build the parts that guide; a plain VAE has none."""

    def after_initialise(self) -> None:
        """Set weights that must not start at random."""

    def settings(self) -> dict[str, Any]:
        """Return the plain settings that the losses are a function of, besides the network and the batch."""
        kept = {name: value for name, value in vars(self).items() if not name.startswith("_") and name != "training"}
        return {"method": type(self).__name__, "slots": self.vae.slot_sizes, **kept}

    def elbo(self, batch: Batch) -> tuple[Tensor, Posterior, Tensor, Terms]:
        """Return (negative ELBO, posterior, z, terms), batch means in nats."""
        posterior = self.vae.encode(batch.images)
        posterior = Posterior(posterior.mean.float(), posterior.logvar.float())
        z = posterior.sample(batch.generator)
        logits = self.vae.decode(z).float()
        if self.likelihood == "bernoulli":
            reconstruction = losses.bernoulli_nll(logits, batch.images).mean()
        else:
            reconstruction = losses.squared_error(logits, batch.images).mean()
        kl = losses.kl_to_standard_normal(*posterior).sum(1).mean()
        terms = {"reconstruction": reconstruction, "kl": kl}
        if self.regularizer == "tc":
            terms["tc"] = losses.total_correlation(z, *posterior, self.dataset_size).mean()
            loss = reconstruction + kl + (self.beta - 1) * terms["tc"]
        else:
            loss = reconstruction + self.beta * kl
        return loss, posterior, z, terms

    def loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        """Return the main phase's loss and terms."""
        loss, _, _, terms = self.elbo(batch)
        return loss, terms

    def phases(self) -> list[Phase]:
        """Return the optimiser steps of one batch, in order."""
        return [Phase("main", "main", list(self.parameters()), self.loss)]

    def light(self, z: Float[Tensor, "n d"]) -> LightOutput | None:
        """Return the light decoder's view of latents, None where there is no light decoder."""
        return None

    @property
    def components(self) -> Float[Tensor, "k c h w"] | None:
        """The light decoder's basis as images, None where there is none."""
        return None
