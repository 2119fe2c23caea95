"""Unsupervised guidance: an objective whose light decoder explains the image by transformations and components."""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from gvae import losses
from gvae.errors import ModelError
from gvae.guidance import TRANSFORMS, LightDecoder, LightOutput
from gvae.nets import ImageShape
from gvae.objective import Batch, Terms, VAEObjective, full_precision


class GuidedVAEObjective(VAEObjective):
    """Unsupervised Guided-VAE: max ELBO - L_DPCA (Ding et al. 2020, equations 3 to 5).

    L_DPCA = weight * E_q || x - tau(z_def) o (z_cont B^T) ||^2 + orthogonality_weight * sum_{k != j} (b_k.b_j)^2.
    Slots: the ``transforms`` in the order of ``slot_order`` (default: as applied), then ``content``.
    The defaults are the paper's objective; ``guided_vae_release`` in ``OBJECTIVES`` is the authors' code.
    """

    light_decoder: LightDecoder

    def __init__(
        self,
        image_shape: ImageShape,
        classes: int,
        dataset_size: int,
        seed: int,
        trunk: str,
        latents: int,
        *,
        transforms: Sequence[str] = ("rotation", "scale"),
        slot_order: Sequence[str] | None = None,
        weight: float = 1.0,
        orthogonality_weight: float = 1.0,
        light_likelihood: Literal["squared", "bernoulli"] = "squared",
        penalty: Literal["square", "absolute"] = "square",
        unit_norm: bool = True,
        bounded: bool = False,
        linear_scale: bool = False,
        resample_each: bool = False,
        random_start: bool = False,
        beta: float = 1.0,
        regularizer: Literal["kl", "tc"] = "kl",
        likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
    ):
        wrong = [name for name in transforms if name not in TRANSFORMS]
        if wrong or len(set(transforms)) != len(transforms):
            raise ModelError(f"transforms {list(transforms)}: each once, from {', '.join(TRANSFORMS)}")
        if slot_order is not None and sorted(slot_order) != sorted(transforms):
            raise ModelError(f"slot_order {list(slot_order)} must name the same slots as transforms {list(transforms)}")
        if light_likelihood == "bernoulli" and not bounded:
            raise ModelError("light_likelihood 'bernoulli' needs bounded: true (a sigmoid after the basis)")
        self.transforms, self.slot_order = tuple(transforms), tuple(slot_order or transforms)
        self.weight, self.orthogonality_weight = weight, orthogonality_weight
        self.light_likelihood, self.penalty = light_likelihood, penalty
        self.random_start = random_start
        self.light_options = dict(
            unit_norm=unit_norm, bounded=bounded, linear_scale=linear_scale, resample_each=resample_each
        )
        super().__init__(
            image_shape, classes, dataset_size, seed, trunk, latents,
            beta=beta, regularizer=regularizer, likelihood=likelihood,
        )  # fmt: skip

    def slots(self, latents: int) -> dict[str, int]:
        """Return the geometric slots, then ``content`` with what is left."""
        sizes = {name: TRANSFORMS[name] for name in self.slot_order}
        return {**sizes, "content": latents - sum(sizes.values())}

    def add_guidance(self, image_shape: ImageShape, classes: int) -> None:
        """Build the light decoder."""
        content = self.vae.slot_sizes["content"]
        self.light_decoder = LightDecoder(image_shape, content, self.transforms, **self.light_options)

    def after_initialise(self) -> None:
        """Start the transformation at the identity, unless the release's random start is asked for."""
        if not self.random_start:
            self.light_decoder.start_at_identity()

    def light(self, z: Float[Tensor, "n d"]) -> LightOutput:
        """Return the light decoder's view of latents z."""
        return self.light_decoder(
            {name: self.vae.slot(z, name) for name in self.transforms}, self.vae.slot(z, "content")
        )

    @property
    def components(self) -> Float[Tensor, "k c h w"]:
        """The basis as images."""
        return self.light_decoder.basis.T.reshape(-1, *self.vae.image_shape)

    def guidance(self, batch: Batch, z: Float[Tensor, "n d"]) -> tuple[Tensor, Terms]:
        """Return (weighted L_DPCA, its terms)."""
        with full_precision(z):
            image = self.light(z).image
            if self.light_likelihood == "squared":
                light = losses.squared_error(image, batch.images).mean()
            else:
                image = image.clamp(0, 1)  # bilinear sums of values in [0, 1] can leave it by one rounding
                light = F.binary_cross_entropy(image, batch.images, reduction="none").flatten(1).sum(1).mean()
            orthogonality = losses.orthogonality(self.light_decoder.basis, self.penalty)
        terms = {"light": light, "orthogonality": orthogonality}
        return self.weight * light + self.orthogonality_weight * orthogonality, terms

    def loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        """Return negative ELBO + L_DPCA and the terms."""
        loss, _, z, terms = self.elbo(batch)
        guidance, more = self.guidance(batch, z)
        return loss + guidance, {**terms, **more}
