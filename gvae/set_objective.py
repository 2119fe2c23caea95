"""The Neural Statistician as an objective: batches of sets, the bound of equation 4, guidance on the context."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from gvae import losses
from gvae.batch import Batch, Seen, Terms, full_precision
from gvae.errors import ModelError
from gvae.mixup import ContextClass
from gvae.nets import ImageShape
from gvae.objective import VAEObjective
from gvae.part import Part
from gvae.regularizers import Regularizer
from gvae.statistician import Statistician

Likelihood = Literal["bernoulli", "gaussian"]


class SetObjective(VAEObjective):
    """Minimises -L_D / |D| + the terms of parts on the context, batch means (Edwards & Storkey 2017, equation 4).

    A batch is sets of ``set_size`` images of one class, one after the other: class labels form the sets, so that
    ``labels_used`` is class even where no part reads one. ``sample_dropout``: chance of each image but a set's first to
    be left out of the pooling of a training step (section 5.3 of the paper says a random subset).
    """

    vae: Statistician

    def __init__(self, *data: Any, sample_dropout: float, parts: Sequence[Part], likelihood: Likelihood, **sizes: Any):
        if not 0 <= sample_dropout < 1:
            raise ModelError(f"sample_dropout: given {sample_dropout}; allowed: 0 to less than 1, a chance")
        network = partial(Statistician, **sizes)
        super().__init__(*data, regularizer=Regularizer(), parts=parts, likelihood=likelihood, network=network)
        self.set_size, self.sample_dropout = self.vae.set_size, sample_dropout

    @property
    def labels_used(self) -> str:
        """What its training sees of labels: class, which its sets are formed by."""
        return "class"

    def settings(self) -> dict[str, Any]:
        """Return the plain settings that the losses are a function of, besides trunk and batch."""
        return {**super().settings(), "network": self.vae.network, "sample_dropout": self.sample_dropout}

    def look(self, batch: Batch) -> Seen:
        """Encode a batch: hidden vectors of all images, and of each set the posterior of its context and a sample."""
        hidden = self.vae.encoder(batch.images).float()
        posterior = self.vae.context(hidden, self._kept(len(hidden) // self.set_size, batch.generator, hidden))
        return Seen(batch.images, None, posterior, posterior.sample(batch.generator), None, hidden)

    def _kept(self, sets: int, generator: torch.Generator, like: Tensor) -> Bool[Tensor, "b s"] | None:
        if not (self.training and self.sample_dropout):
            return None
        drawn = torch.rand(sets, self.set_size, generator=generator, device=generator.device)
        drawn[:, 0] = 1.0  # sets come in random order
        return (drawn >= self.sample_dropout).to(like.device)

    def elbo(self, batch: Batch, seen: Seen) -> tuple[Tensor, Terms]:
        """Return (-L_D of an image: the bound over images, mean over sets; terms), nats.

        ``reconstruction`` and ``kl_latents`` are means over images, ``kl``, of the context, over sets.
        """
        assert seen.hidden is not None
        context = seen.z.repeat_interleave(self.set_size, 0)
        drawn = self.vae.infer(seen.hidden, context, batch.generator)
        output = self.vae.render(context, [one.z for one in drawn]).float()
        error = losses.bernoulli_nll if self.likelihood == "bernoulli" else losses.squared_error
        with full_precision(seen.z):
            reconstruction = error(output, seen.images)
            kl = torch.stack([losses.kl_between_gaussians(*one.posterior, *one.prior).sum(1) for one in drawn]).sum(0)
            likelihood, of_images = (values.unflatten(0, (-1, self.set_size)) for values in (-reconstruction, kl))
            bound = losses.set_bound(likelihood, of_images, losses.kl_to_standard_normal(*seen.posterior).sum(1))
        terms = {"reconstruction": reconstruction.mean(), "kl": seen.kl(), "kl_latents": kl.mean()}
        return -bound.mean() / self.set_size, terms


def neural_statistician(
    image_shape: ImageShape,
    classes: int,
    dataset_size: int,
    seed: int,
    trunk: str,
    latents: int,
    *,
    set_size: int = 5,
    z_latents: int = 16,
    z_layers: int = 1,
    width: int = 256,
    sample_dropout: float = 0.5,
    likelihood: Likelihood = "bernoulli",
) -> SetObjective:
    """Neural Statistician (Edwards & Storkey 2017): a VAE of sets of one class; its latents are a set's context.

    The paper on Omniglot: sets of 5, ``latents`` 512, trunk statistician28, batches of 16 sets. Not as in the paper:
    images are not made binary at random nor dilated, batch norm is in the trunk alone.
    """
    return SetObjective(
        image_shape, classes, dataset_size, seed, trunk, latents, set_size=set_size, z_latents=z_latents,
        z_layers=z_layers, width=width, sample_dropout=sample_dropout, parts=(), likelihood=likelihood,
    )  # fmt: skip


def guided_neural_statistician(
    image_shape: ImageShape,
    classes: int,
    dataset_size: int,
    seed: int,
    trunk: str,
    latents: int,
    *,
    set_size: int = 5,
    z_latents: int = 16,
    z_layers: int = 1,
    width: int = 256,
    sample_dropout: float = 0.5,
    likelihood: Likelihood = "bernoulli",
    class_latents: int = 48,
    head: Literal["softmax", "prototype", "cosine"] = "softmax",
    excitation: float = 50.0,
    inhibition: float = 50.0,
    adversary_hidden: int = 128,
    mixup: float = 1.0,
    guide: Literal["set", "image"] = "set",
) -> SetObjective:
    """Neural Statistician whose context is guided by class, with mixup in the head (Ding et al. 2020, section 4.3).

    See ``neural_statistician`` and ``gvae.mixup.ContextClass``.
    """
    part = ContextClass(
        class_latents=class_latents, head=head, excitation=excitation, inhibition=inhibition,
        adversary_hidden=adversary_hidden, mixup=mixup, guide=guide,
    )  # fmt: skip
    return SetObjective(
        image_shape, classes, dataset_size, seed, trunk, latents, set_size=set_size, z_latents=z_latents,
        z_layers=z_layers, width=width, sample_dropout=sample_dropout, parts=[part], likelihood=likelihood,
    )  # fmt: skip
