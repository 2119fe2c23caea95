"""Unsupervised guidance: a light decoder explains the image by transformations and components."""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from gvae import losses
from gvae.augment import Augment
from gvae.batch import Batch, Seen, Terms, full_precision
from gvae.errors import ModelError
from gvae.guidance import TRANSFORMS, LightDecoder, LightOutput
from gvae.part import Part, Setting


class Geometry(Part):
    """Deformable PCA: the light decoder's L_DPCA (Ding et al. 2020, equations 3 to 5).

    L_DPCA = weight * E_q || x - tau(z_def) o (z_cont B^T) ||^2 + orthogonality_weight * sum_{k != j} (b_k.b_j)^2.
    ``transforms`` are applied to the canonical image in the order listed; their slots come in ``slot_order`` (default:
    as applied), then ``content``. Where images are warped, ``canonical_weight`` holds the canonical image, of the
    content alone, to the image as it was before the warp.
    The defaults are the paper's objective; ``guided_vae_release`` in ``OBJECTIVES`` is the authors' code.
    """

    light_decoder: LightDecoder

    def __init__(
        self,
        *,
        transforms: Sequence[str] = ("rotation", "scale"),
        slot_order: Sequence[str] | None = None,
        weight: float = 1.0,
        orthogonality_weight: float = 1.0,
        canonical_weight: float = 0.0,
        light_likelihood: Literal["squared", "bernoulli"] = "squared",
        penalty: Literal["square", "absolute"] = "square",
        unit_norm: bool = True,
        bounded: bool = False,
        linear_scale: bool = False,
        resample_each: bool = False,
        random_start: bool = False,
    ):
        super().__init__()
        wrong = [name for name in transforms if name not in TRANSFORMS]
        if wrong or len(set(transforms)) != len(transforms):
            raise ModelError(f"transforms {list(transforms)}: each once, from {', '.join(TRANSFORMS)}")
        if slot_order is not None and sorted(slot_order) != sorted(transforms):
            raise ModelError(f"slot_order {list(slot_order)} must name the same slots as transforms {list(transforms)}")
        if light_likelihood == "bernoulli" and not bounded:
            raise ModelError("light_likelihood 'bernoulli' needs bounded: true (a sigmoid after the basis)")
        self.transforms, self.slot_order = tuple(transforms), tuple(slot_order or transforms)
        self.weight, self.orthogonality_weight = weight, orthogonality_weight
        self.canonical_weight, self.warped = canonical_weight, canonical_weight > 0
        self.light_likelihood, self.penalty = light_likelihood, penalty
        self.random_start = random_start
        self.light_options = dict(
            unit_norm=unit_norm, bounded=bounded, linear_scale=linear_scale, resample_each=resample_each
        )

    def slots(self, latents: int, warp: Augment | None) -> dict[str, int]:
        """Return the geometric slots."""
        return {name: TRANSFORMS[name] for name in self.slot_order}

    def build(self, setting: Setting) -> None:
        """Build the light decoder."""
        vae = setting.vae
        self._slots = {name: vae.slots[name] for name in (*self.transforms, "content")}
        self.light_decoder = LightDecoder(
            vae.image_shape, vae.slot_sizes["content"], self.transforms, **self.light_options
        )

    def start(self) -> None:
        """Start the transformation at the identity, unless the release's random start is asked for."""
        if not self.random_start:
            self.light_decoder.start_at_identity()

    def light(self, z: Float[Tensor, "n d"]) -> LightOutput:
        """Return the light decoder's view of latents z."""
        return self.light_decoder(
            {name: z[:, self._slots[name]] for name in self.transforms}, z[:, self._slots["content"]]
        )

    @property
    def components(self) -> Float[Tensor, "k c h w"]:
        """The basis as images, in the order of the content's latents."""
        return self.light_decoder.basis.T.reshape(-1, *self.light_decoder.image_shape)

    def sorted_components(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "k c h w"]:
        """Return the basis as images, the component first that accounts for most variance of canonical images of z."""
        return self.components[self.light_decoder.variances(z[:, self._slots["content"]]).argsort(descending=True)]

    def loss(self, batch: Batch, seen: Seen) -> tuple[Tensor, Terms]:
        """Return (weighted L_DPCA, its terms)."""
        with full_precision(seen.z):
            canonical, image = self.light(batch.share.mine(seen.z))
            light = self._error(image, seen.images)
            orthogonality = losses.orthogonality(self.light_decoder.basis, self.penalty)
            loss = self.weight * light + self.orthogonality_weight * orthogonality
            terms = {"light": light, "orthogonality": orthogonality}
            if self.canonical_weight:
                terms["light_canonical"] = self._error(canonical, batch.images)
                loss = loss + self.canonical_weight * terms["light_canonical"]
        return loss, terms

    def _error(self, image: Tensor, target: Tensor) -> Tensor:
        if self.light_likelihood == "squared":
            return losses.squared_error(image, target).mean()
        image = image.clamp(0, 1)  # bilinear sums of values in [0, 1] can leave it by one rounding
        return F.binary_cross_entropy(image, target, reduction="none").flatten(1).sum(1).mean()

    def pictures(self, z: Float[Tensor, "n d"]) -> dict[str, Float[Tensor, "n c h w"]]:
        """Return the light decoder's image and its canonical one."""
        canonical, image = self.light(z)
        return {"light": image.clamp(0, 1), "canonical": canonical.clamp(0, 1)}
