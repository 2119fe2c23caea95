"""What guides the latents: the light decoder of transformations and components, and the label heads.

Ding et al., Guided Variational Autoencoder for Disentanglement Learning, CVPR 2020, arXiv 2004.01255.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gvae.errors import ModelError
from gvae.nets import ImageShape
from gvae.warp import VALUES, sampling_matrix, warp

TRANSFORMS = {"rotation": 1, "scale": 1, "translation": 2, "shear": 1, "zoom": 1, "stretch": 2, "affine": 6}
"""Geometric slots and how many latents each takes.

``zoom``: one factor of the size. ``stretch``: a latent and a factor for each axis. ``scale``: the release's, one
latent and from it a factor for each axis. ``affine``: all six numbers of the map.
"""

_STEPS = {  # effect of one posterior sd at the start
    "rotation": 0.3, "scale": 0.1, "translation": 0.1, "shear": 0.2, "zoom": 0.1, "stretch": 0.1, "affine": 0.1,
}  # fmt: skip
_FACTORS = ("scale", "zoom", "stretch")  # what is the exponential of a map


class LightOutput(NamedTuple):
    """The light decoder's canonical image and the same under the transformation, both (n, c, h, w)."""

    canonical: Float[Tensor, "n c h w"]
    image: Float[Tensor, "n c h w"]


class LightDecoder(nn.Module):
    """tau(z_def) o (z_cont B^T): a linear basis under a geometric transformation (Ding et al. 2020, section 3.1).

    ``transforms`` are applied to the canonical image in the order listed. ``unit_norm``: the basis has columns of
    length one, since a free basis can shrink to cheat the orthogonality penalty; a learned gain for each component
    scales z_cont instead. ``bounded``: the canonical image goes through a bias and a sigmoid, as in the release.
    ``linear_scale``: factors of size are an affine map of the latent, which may be negative, as in the release;
    otherwise its exponential. ``resample_each``: one bilinear resampling a transform, as in the release, rather
    than one for their product.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        content: int,
        transforms: Sequence[str],
        *,
        unit_norm: bool = True,
        bounded: bool = False,
        linear_scale: bool = False,
        resample_each: bool = False,
    ):
        super().__init__()
        self.image_shape, self.transforms = tuple(image_shape), tuple(transforms)
        self.unit_norm, self.bounded = unit_norm, bounded
        self.linear_scale, self.resample_each = linear_scale, resample_each
        pixels = image_shape[0] * image_shape[1] * image_shape[2]
        self.components = nn.Linear(content, pixels)
        self.gain = nn.Parameter(torch.ones(content)) if unit_norm else None
        self.maps = nn.ModuleDict({name: nn.Linear(TRANSFORMS[name], VALUES[name]) for name in self.transforms})

    @torch.no_grad()
    def start_at_identity(self) -> None:
        """Set every map so that z_def = 0 transforms nothing and one unit transforms a little."""
        for name, linear in self.maps.items():
            assert isinstance(linear, nn.Linear)
            linear.bias.zero_()
            linear.weight.copy_(torch.eye(linear.in_features) if linear.in_features > 1 else torch.ones(1))
            linear.weight.mul_(_STEPS[name])

    @property
    def basis(self) -> Float[Tensor, "pixels k"]:
        """B, the components as columns; unit length when ``unit_norm``."""
        weight = self.components.weight
        return F.normalize(weight, dim=0) if self.unit_norm else weight

    def matrices(self, z_def: dict[str, Tensor]) -> list[Float[Tensor, "n 3 3"]]:
        """Return the sampling matrix of each transform, in the order applied, from its latents (n, k)."""
        found = []
        for name in self.transforms:
            values = self.maps[name](z_def[name])
            if name in _FACTORS and not self.linear_scale:
                values = values.exp()
            found.append(sampling_matrix(name, values))
        return found

    def variances(self, z_content: Float[Tensor, "n k"]) -> Float[Tensor, " k"]:
        """Return the variance over images that each component accounts for, summed over pixels, before any sigmoid."""
        if self.gain is not None:
            z_content = z_content * self.gain
        return z_content.var(0, correction=0) * self.basis.square().sum(0)

    def forward(self, z_def: dict[str, Tensor], z_content: Float[Tensor, "n k"]) -> LightOutput:
        """Return the canonical image and its transformation; values unbounded unless ``bounded``."""
        if self.gain is not None:
            z_content = z_content * self.gain
        flat = F.linear(z_content, self.basis, self.components.bias)
        canonical = (flat.sigmoid() if self.bounded else flat).view(-1, *self.image_shape)
        image = canonical
        matrices = self.matrices(z_def)
        if self.resample_each:
            for matrix in matrices:
                image = warp(image, matrix)
        elif matrices:
            product = matrices[0]
            for matrix in matrices[1:]:
                product = product @ matrix
            image = warp(image, product)
        return LightOutput(canonical, image)


class SoftmaxHead(nn.Module):
    """Excitation by a linear softmax classifier: z_t (n, d) to class logits (n, classes)."""

    def __init__(self, latents: int, classes: int):
        super().__init__()
        self.linear = nn.Linear(latents, classes)

    def forward(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n classes"]:
        """Return class logits."""
        return self.linear(z)


class PrototypeHead(nn.Module):
    """Excitation by learned class prototypes: logits = -|| z - p_k ||^2 / temperature (after Snell et al. 2017).

    The geometry of nearest class mean, so that excited latents are good features for it; ``log_temperature`` is
    learned and starts at the number of latents.
    """

    def __init__(self, latents: int, classes: int):
        super().__init__()
        self.linear = nn.Linear(latents, classes, bias=False)  # row k: prototype k
        self.log_temperature = nn.Parameter(torch.tensor(float(latents)).log())

    def forward(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n classes"]:
        """Return class logits."""
        prototypes = self.linear.weight
        distances = z.square().sum(1, keepdim=True) - 2 * self.linear(z) + prototypes.square().sum(1)
        return -distances * torch.exp(-self.log_temperature)


class CosineHead(nn.Module):
    """Excitation by a cosine softmax with a learned scale: logits = s cos(z, w_k) (Gidaris & Komodakis 2018)."""

    def __init__(self, latents: int, classes: int):
        super().__init__()
        self.linear = nn.Linear(latents, classes, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(16.0).log())

    def forward(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n classes"]:
        """Return class logits."""
        return self.log_scale.exp() * F.linear(F.normalize(z, dim=1), F.normalize(self.linear.weight, dim=1))


HEADS: dict[str, type[nn.Module]] = {"softmax": SoftmaxHead, "prototype": PrototypeHead, "cosine": CosineHead}


def build_head(kind: Literal["softmax", "prototype", "cosine"], latents: int, classes: int) -> nn.Module:
    """Build an excitation head; raises ModelError on an unknown kind."""
    if kind not in HEADS:
        raise ModelError(f"unknown head {kind!r}; allowed: {', '.join(sorted(HEADS))}")
    return HEADS[kind](latents, classes)


def build_adversary(latents: int, classes: int, hidden: int) -> nn.Sequential:
    """Build the inhibition adversary C: (n, latents) to class logits; hidden layers as in the release.

    Two hidden layers with batch norm and LeakyReLU 0.2 (the release has 32 units for one binary attribute).
    """
    return nn.Sequential(
        nn.Linear(latents, hidden),
        nn.BatchNorm1d(hidden),
        nn.LeakyReLU(0.2),
        nn.Linear(hidden, hidden),
        nn.BatchNorm1d(hidden),
        nn.LeakyReLU(0.2),
        nn.Linear(hidden, classes),
    )
