"""The variational autoencoder whose posterior mean is the feature: encode, sample, decode."""

from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gvae.errors import ModelError
from gvae.nets import ImageShape, build_trunk


class Posterior(NamedTuple):
    """q(z|x) = N(mean, exp(logvar)), both (n, d)."""

    mean: Float[Tensor, "n d"]
    logvar: Float[Tensor, "n d"]

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "n d"]:
        """Draw z = mean + sd * noise, (n, d): the reparameterisation of Kingma & Welling 2014, section 2.4."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return self.mean + torch.exp(0.5 * self.logvar) * noise


class SetPosterior(nn.Module):
    """Hidden vectors (n, h) to mean and log-variance side by side (n, 2 d), of an image alone or of a set.

    ``instance_dim``: length of the vectors, one an image, that are pooled over a set.
    """

    instance_dim: int

    def instances(self, hidden: Float[Tensor, "n h"]) -> Float[Tensor, "n k"]:
        """Return what is pooled, a vector for each image."""
        raise NotImplementedError

    def pooled(self, instances: Float[Tensor, "b s k"]) -> Float[Tensor, "b two_d"]:
        """Return mean and log-variance for sets of s images."""
        raise NotImplementedError


class LinearPosterior(nn.Linear, SetPosterior):
    """A linear layer; of a set, on the mean of its hidden vectors."""

    def __init__(self, hidden_dim: int, outputs: int):
        super().__init__(hidden_dim, outputs)
        self.instance_dim = hidden_dim

    def instances(self, hidden: Float[Tensor, "n h"]) -> Float[Tensor, "n h"]:
        """Return what is pooled: the hidden vectors."""
        return hidden

    def pooled(self, instances: Float[Tensor, "b s h"]) -> Float[Tensor, "b two_d"]:
        """Return mean and log-variance for sets of s images."""
        return self(instances.mean(1))


class VAE(nn.Module):
    """Encoder, Gaussian posterior and decoder over named latent slots.

    ``slots`` maps a name to how many latents it has, in order; they must add up to ``latents``. A plain VAE has
    the one slot ``content``. ``likelihood`` says what the decoder gives: ``bernoulli`` logits, ``gaussian`` means.
    ``beside``: how many numbers the decoder is given besides the latents; 0 but for networks built on this one.
    """

    posterior: SetPosterior

    def __init__(
        self,
        image_shape: ImageShape,
        *,
        trunk: str = "conv",
        latents: int = 64,
        slots: Mapping[str, int],
        likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
        beside: int = 0,
    ):
        super().__init__()
        if sum(slots.values()) != latents or min(slots.values()) < 1:
            raise ModelError(
                f"slots {dict(slots)} must each have at least one latent and add up to latents={latents}; "
                "raise latents or use fewer guided slots"
            )
        self.image_shape, self.likelihood = image_shape, likelihood
        self.trunk_name, self.latents, self.slot_sizes = trunk, latents, dict(slots)
        ends = torch.tensor(list(slots.values())).cumsum(0).tolist()
        self.slots = {name: slice(end - size, end) for (name, size), end in zip(slots.items(), ends, strict=True)}
        self.encoder, self.decoder = build_trunk(trunk, image_shape, latents + beside)
        self.posterior = LinearPosterior(self.encoder.hidden_dim, 2 * latents)

    @property
    def network(self) -> dict[str, Any]:
        """What it was built with besides network, latents, slots and likelihood; its ``kind`` for a checkpoint."""
        return {"kind": "vae"}

    def encode(self, images: Float[Tensor, "n c h w"]) -> Posterior:
        """Return q(z|x) for images in [0, 1]; raises ModelError when their shape is not the one trained on."""
        if tuple(images.shape[1:]) != self.image_shape:
            raise ModelError(
                f"images of shape {tuple(images.shape[1:])} given to an encoder for {self.image_shape} (c, h, w); "
                "prepare the dataset at that size or train an encoder for this one"
            )
        mean, logvar = self.posterior(self.encoder(images)).chunk(2, dim=1)
        return Posterior(mean, logvar)

    def decode(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n c h w"]:
        """Return what the likelihood is of: pixel logits (bernoulli) or pixel means (gaussian)."""
        return self.decoder(z)

    def mean_image(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n c h w"]:
        """Return the mean of p(x|z) as an image in [0, 1]."""
        output = self.decode(z)
        return output.sigmoid() if self.likelihood == "bernoulli" else output.clamp(0, 1)

    def slot(self, z: Float[Tensor, "n d"], name: str) -> Float[Tensor, "n k"]:
        """Return the latents of one named slot."""
        return z[:, self.slots[name]]

    def chosen(self, names: Collection[str], *, others: bool = False) -> list[slice]:
        """Return where the latents of some named slots lie, or all others: slices in order, neighbours in one."""
        found: list[slice] = []
        for name, at in self.slots.items():
            if (name in names) != others:
                joined = bool(found) and found[-1].stop == at.start
                found = [*found[:-1], slice(found[-1].start, at.stop)] if joined else [*found, at]
        return found


def take(z: Float[Tensor, "n d"], places: list[slice]) -> Float[Tensor, "n k"]:
    """Return the latents at ``VAE.chosen`` places: a view where they lie together."""
    return z[:, places[0]] if len(places) == 1 else torch.cat([z[:, at] for at in places], 1)


def width(places: list[slice]) -> int:
    """Return how many latents lie at ``VAE.chosen`` places."""
    return sum(at.stop - at.start for at in places)
